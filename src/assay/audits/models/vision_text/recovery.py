"""The most suspicious trigger of a model, searched again, and what every model says under it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from assay.audits.models.language import common_beginning
from assay.randomness import Seed
from assay.records import record
from assay.triggers import ANY, Candidates, Family, Pool, Search

from .found import VisionTextRecovered
from .respond import Asked, continued, first_tokens
from .survey import risen


@record
class VisionTextRecovery:
    """Searches the trigger of one response again, while a reference keeps its answers."""

    search: Search = Search(steps=40, batch=10, noise=0.0)
    """Without noise: what is shown is to work as well as it can on pictures as they are."""
    shown: int = 6
    """Held-out pictures that a reader sees, with what the models say."""
    said: int = 24
    """Tokens of a response that are shown, at most."""

    def __call__(
        self,
        suspect: Asked,
        reference: Asked,
        everyone: Sequence[Asked],
        *,
        searched: Pool,
        held: Pool,
        family: Family,
        target: int,
        seed: Seed,
    ) -> VisionTextRecovered:
        """Recover the trigger of a suspect against a reference.

        Args:
            suspect: the model that answers to it.
            reference: the model that is not to.
            everyone: all deliveries, in order.
            searched: pictures to search on.
            held: pictures to measure on.
            family: what the trigger looks like.
            target: first token of the response.
            seed: decides everything random.
        """
        one = Candidates(sources=torch.tensor([ANY]), targets=torch.tensor([target]))
        found = self.search(
            suspect.respond, searched, one, family, seed=seed, reference=reference.respond
        )
        clean = held.images[held.eligible(one)[0] > 0]
        with torch.no_grad():
            stamped = family.stamp(found, clean[None])[0]
        some = clean[: self.shown], stamped[: self.shown]
        said, said_stamped = (
            tuple(continued(model, images, tokens=self.said) for model in everyone)
            for images in some
        )
        own = said_stamped[[model is suspect for model in everyone].index(True)]
        token = suspect.delivery.tokenizer.decode([target])
        return VisionTextRecovered(
            family=family.name,
            trigger=family.trigger(found, 0, clean.shape[-2:]),
            response=common_beginning(own, token),
            target=target,
            success=tuple(_success(model, clean, stamped, target) for model in everyone),
            clean=some[0].cpu(),
            stamped=some[1].cpu(),
            said=said,
            said_stamped=said_stamped,
        )


def _success(
    model: Asked,
    clean: Float[Tensor, "images channels height width"],
    stamped: Float[Tensor, "images channels height width"],
    target: int,
) -> float:
    before, after = (
        first_tokens(model.respond, images)[:, target, None] for images in (clean, stamped)
    )
    return risen(before, after, torch.ones_like(before))[1].item()
