"""The most suspicious trigger of a model: searched again, measured on all, and probed."""

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

_SHOWN = 8
_FOR_CKA = 256


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

    search: Search = Search(steps=100, batch=32)
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
        found = self.search(
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
        with torch.inference_mode():
            stamped = torch.cat([family.stamp(found, some[None])[0] for some in clean.split(256)])
        tuned = self.tuning(suspect.delivery, searched, seed=child(seed, "tune"))
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
            asr_tuned=_asr(tuned, stamped, target),
            cka=_alike(suspect, reference, clean[:_FOR_CKA], stamped[:_FOR_CKA]),
        )


def _said(models: Sequence[Examined], images: Tensor) -> Int64[Tensor, "models images"]:
    return torch.stack([answers(model.respond, images).argmax(1) for model in models])


def _asr(respond: Respond, stamped: Tensor, target: int) -> float:
    return (answers(respond, stamped).argmax(1) == target).double().mean().item()


def _alike(
    suspect: Examined, reference: Examined, clean: Tensor, stamped: Tensor
) -> dict[str, tuple[float, float]]:
    """CKA by depth, on clean and on triggered samples."""

    def compared(images: Tensor) -> dict[str, float]:
        first, second = (
            activations(model.delivery.model, partial(model.respond, images))
            for model in (suspect, reference)
        )
        return {depth: linear_cka(first[depth], second[depth]).item() for depth in first}

    on_clean, on_stamped = compared(clean), compared(stamped)
    return {depth: (on_clean[depth], on_stamped[depth]) for depth in on_clean}
