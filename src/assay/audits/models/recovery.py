"""The most suspicious trigger of a model: searched again, measured on all, and probed."""

import dataclasses
from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Int64
from torch import Tensor

from assay.features import activations
from assay.fitting import answers
from assay.randomness import Seed, child
from assay.records import record
from assay.similarity import linear_cka
from assay.triggers import ANY, Candidates, Family, Pool, Respond, Search

from .found import Recovered
from .respond import Examined
from .sensitivity import FineTuning
from .survey import at_once

_SHOWN = 8
_FOR_CKA = 256
_FEWEST_FOR_CKA = 16


@record
class Recovery:
    """Searches the trigger of one candidate until it works, while a reference keeps its answers.

    Source:
        Cross-examination's first module: the trigger on which the suspect and the reference
        disagree most while the reference behaves as on clean input.
    Differs from the source:
        CKA on triggered samples is measured and shown, not optimised: the gradient of CKA needs
        large batches of both models, and the candidate is known by then.
    """

    search: Search = Search(steps=100, batch=32, noise=0.0)
    """Without noise: what is shown is to work as well as it can on images as they are."""
    preserve: float = 1.0
    """Weight of the reference's answers."""
    tuning: FineTuning = FineTuning()

    def __call__(
        self,
        suspect: Examined,
        reference: Examined,
        everyone: Sequence[Examined],
        *,
        searched: Pool,
        held: Pool,
        family: Family,
        one: Candidates,
        seed: Seed,
    ) -> Recovered:
        """Recover the trigger of a suspect against a reference.

        Args:
            suspect: the model that answers to it.
            reference: the model that is not to.
            everyone: all deliveries, in order.
            searched: clean samples to search on, and to fine-tune with.
            held: clean samples to measure on.
            family: what the trigger looks like.
            one: the candidate, alone.
            seed: decides everything random.
        """
        most = at_once(self.search, [suspect, reference], searched)
        found = dataclasses.replace(self.search, most_images=most)(
            suspect.respond,
            searched,
            one,
            family,
            seed=child(seed, "search"),
            reference=reference.respond,
            preserve=self.preserve,
        )
        rows = held.eligible(one)[0].nonzero().squeeze(1)
        clean = held.images[rows]
        with torch.no_grad():
            stamped = torch.cat([family.stamp(found, some[None])[0] for some in clean.split(256)])
        source, target = int(one.sources), int(one.targets)
        return Recovered(
            family=family.name,
            source=None if source == ANY else source,
            target=target,
            trigger=family.trigger(found, 0, clean.shape[-2:]),
            clean=clean[:_SHOWN].cpu(),
            stamped=stamped[:_SHOWN].cpu(),
            labels=held.labels[rows][:_SHOWN].cpu(),
            answers_clean=_said(everyone, clean[:_SHOWN]),
            answers_stamped=_said(everyone, stamped[:_SHOWN]),
            asr=tuple(_asr(model.respond, stamped, target) for model in everyone),
            asr_tuned=self._tuned(suspect, searched, stamped, target, seed),
            cka=_alike(suspect, reference, clean[:_FOR_CKA], stamped[:_FOR_CKA]),
        )

    def _tuned(
        self, suspect: Examined, searched: Pool, stamped: Tensor, target: int, seed: Seed
    ) -> float | None:
        """Measure after fine-tuning; None for a model that cannot be trained or copied."""
        try:
            tuned = self.tuning(suspect.delivery, searched, seed=child(seed, "tune"))
        except (RuntimeError, ValueError, TypeError):
            return None
        return _asr(tuned, stamped, target)


def _said(models: Sequence[Examined], images: Tensor) -> Int64[Tensor, "models images"]:
    return torch.stack([answers(model.respond, images).argmax(1) for model in models])


def _asr(respond: Respond, stamped: Tensor, target: int) -> float:
    said = answers(respond, stamped)
    led = (said.argmax(1) == target) & said.isfinite().all(1)
    return led.double().mean().item()


def _alike(
    suspect: Examined, reference: Examined, clean: Tensor, stamped: Tensor
) -> dict[str, tuple[float, float]]:
    """CKA by depth, on clean and on triggered samples; nothing where it cannot be measured."""

    def compared(images: Tensor) -> dict[str, float]:
        first, second = (
            activations(model.delivery.model, partial(model.respond, images), samples=len(images))
            for model in (suspect, reference)
        )
        both = [depth for depth in first if depth in second]
        return {depth: linear_cka(first[depth], second[depth]).item() for depth in both}

    if len(clean) < _FEWEST_FOR_CKA:
        return {}
    on_clean, on_stamped = compared(clean), compared(stamped)
    return {
        depth: (on_clean[depth], on_stamped[depth]) for depth in on_clean if depth in on_stamped
    }
