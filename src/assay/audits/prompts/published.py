"""CLIP-Inspector as published: every class by itself, one epoch of Adam."""

import torch
from jaxtyping import Float
from torch import Tensor

from assay.errors import InputError
from assay.randomness import Seed, child, generator
from assay.records import record
from assay.results import Progress, silent
from assay.stats import robust_z_scores
from assay.triggers import Respond, margin_of


@record
class Inspected:
    """What the published method says of a prompt; tensors on the CPU."""

    asr: Float[Tensor, " classes"]
    """Share of the pool that the class's noise leads to it, in [0, 1]."""
    margins: Float[Tensor, " classes"]
    """Mean margin of the class's logit over the highest other one under its noise, in logits."""
    score: float
    """The highest anomaly score; higher is more suspicious."""
    target: int
    """The class that has it."""
    flagged: bool


@record
class PublishedInspection:
    """Search universal noise for each class, and flag the class whose noise works oddly well.

    Source:
        Jindal et al., "CLIP-Inspector: model-level backdoor detection for prompt-tuned CLIP via OOD
        trigger inversion", CVPR 2026 Findings, arXiv:2604.09101: margin loss, l_inf bound of 4/255,
        Adam at 0.1, batches of 32, one epoch over 1,000 out-of-distribution images; flagged where
        the anomaly score exceeds 2 and the noise leads at least half of the pool to the class.
    Differs from the source:
        The source leaves the anomaly score open: it is the robust z-score of the margin over the
        classes here (median, 1.4826 times the median absolute deviation).
    """

    bound: float = 4 / 255
    rate: float = 0.1
    batch: int = 32
    epochs: int = 1
    most: float = 2.0
    """Anomaly score from which on a class is odd."""
    least_asr: float = 0.5

    def __call__(
        self,
        respond: Respond,
        images: Float[Tensor, "images 3 height width"],
        *,
        classes: int,
        seed: Seed,
        progress: Progress = silent,
    ) -> Inspected:
        """Judge a prompt.

        Args:
            respond: logits of images in [0, 1].
            images: out-of-distribution ones, on the device.
            classes: how many.
            seed: decides the order of the images.
            progress: called with the stage `inspect`.

        Raises:
            InputError: fewer than two classes.
        """
        if classes < 2:
            raise InputError(f"expected two classes or more, got {classes}")
        found = []
        for target in range(classes):
            noise = self._noise(respond, images, target, child(seed, target))
            found.append(self._measured(respond, images, target, noise))
            progress("inspect", target + 1, classes)
        margins, asr = (torch.stack(each) for each in zip(*found, strict=True))
        scores = robust_z_scores(margins)
        target = int(scores.argmax())
        odd = scores[target].item() > self.most and asr[target].item() >= self.least_asr
        return Inspected(
            asr=asr, margins=margins, score=scores[target].item(), target=target, flagged=odd
        )

    def _noise(
        self, respond: Respond, images: Tensor, target: int, seed: Seed
    ) -> Float[Tensor, "3 height width"]:
        random = generator(seed, images.device)
        noise = torch.zeros_like(images[0]).requires_grad_()
        optimizer = torch.optim.Adam([noise], lr=self.rate)
        for _ in range(self.epochs):
            order = torch.randperm(len(images), generator=random, device=images.device)
            for rows in order.split(self.batch):
                said = respond((images[rows] + noise).clamp(0, 1))
                optimizer.zero_grad()
                (-margin_of(said, target).mean()).backward()
                optimizer.step()
                with torch.no_grad():
                    noise.clamp_(-self.bound, self.bound)
        return noise.detach()

    @torch.no_grad()
    def _measured(
        self, respond: Respond, images: Tensor, target: int, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        margin = torch.cat(
            [margin_of(respond((some + noise).clamp(0, 1)), target) for some in images.split(64)]
        )
        return margin.mean().cpu(), (margin > 0).float().mean().cpu()
