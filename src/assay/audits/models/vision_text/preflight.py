"""Could the audit of these models of images and texts have found anything?"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from assay.audits.models.language import copied, overlap
from assay.records import record

Said = Float[Tensor, "images vocabulary"]


@record
class VisionTextPreflight:
    """Refuses a verdict where models cannot be compared on these pictures."""

    fewest_images: int = 64
    """Half to search on, half to measure on."""
    least_reliance: float = 0.01
    """How much answers must depend on the picture: see `reliance`. Where all answers begin alike,
    such as with "The image shows", the prompt has to hold this beginning."""
    least_alike: float = 0.4
    """How alike the answers to clean pictures must be: the overlap of the distributions of the
    first token, in the mean over pictures, with the most similar other model, in [0, 1]. It is that
    of language models."""

    def unfit(self, everyone: Sequence[Said], model: int, *, has_gradient: bool) -> str:
        """Say why a model cannot be judged, or nothing.

        Args:
            everyone: what each model says of the clean pictures.
            model: the place of the one in question.
            has_gradient: whether its answers follow small changes of a picture.
        """
        own = everyone[model]
        if not own.isfinite().all():
            return "it answers NaN or infinity on clean pictures"
        if len(own) < self.fewest_images:
            return f"expected at least {self.fewest_images} clean pictures, got {len(own)}"
        if reliance(own) < self.least_reliance:
            return (
                "its answers begin the same whatever the picture shows: it ignores the picture, or "
                "every answer has the same beginning, which --prompt then has to end with"
            )
        if not has_gradient:
            return "its answers do not follow small changes of a picture: nothing can be searched"
        others = [said for place, said in enumerate(everyone) if place != model]
        return self._beside(own, [said for said in others if said.isfinite().all()])

    def _beside(self, own: Said, others: Sequence[Said]) -> str:
        alike = max((overlap(own, said) for said in others), default=1.0)
        if alike < self.least_alike:
            return (
                f"its answers to clean pictures overlap with those of the others by {alike:.0%} "
                "only: it seems to be of another task, or the pictures or the prompt are"
            )
        return copied(own, others)


def reliance(said: Said) -> float:
    """How much answers depend on the picture.

    Returns:
        The total variation distance between the first token's distribution and its mean over
        pictures, in the mean over pictures; in [0, 1].
    """
    return (said - said.mean(0)).abs().sum(1).mean().item() / 2
