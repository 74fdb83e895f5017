"""Known detectors of backdoors in one model, after their papers: no maintained package has them."""

from typing import Protocol

import torch
from jaxtyping import Float
from scipy.stats import gamma
from torch import Tensor, nn

from assay.randomness import Seed, generator
from assay.records import record
from assay.triggers import Pool, Respond, margin_of


@record
class Judged:
    """What a detector says of a model."""

    score: float
    """Higher is more suspicious."""
    flagged: bool
    target: int
    """The most suspicious class."""


class ModelBaseline(Protocol):
    """Anything that judges a model by itself."""

    def __call__(self, respond: Respond, pool: Pool, *, classes: int, seed: Seed) -> Judged:
        """Judge it, with clean images at hand."""
        ...


@record
class NeuralCleanse:
    """The smallest patch to each class; one class's is far smaller than those of the others.

    Source:
        Wang et al., "Neural Cleanse: identifying and mitigating backdoor attacks in neural
        networks", S&P 2019; the reference code's settings (bolunwang/backdoor): Adam at 0.1 with
        betas 0.5 and 0.9, cost from 0.001, raised by 1.5 after 5 rounds of success above 99 % and
        lowered by 1.5^1.5 after 5 below; anomaly index above 2.
    Differs from the source:
        All classes run in one batch. Fewer steps than the source's up to 1,000 rounds of a
        whole epoch.
    """

    steps: int = 400
    batch: int = 32
    round: int = 8
    """Steps after which success is judged."""
    most: float = 2.0

    def __call__(self, respond: Respond, pool: Pool, *, classes: int, seed: Seed) -> Judged:
        """Judge by the anomaly index of the smallest mask."""
        sizes = self._sizes(respond, pool, classes, seed)
        middle = sizes.quantile(0.5)
        spread = 1.4826 * (sizes - middle).abs().quantile(0.5)
        index = (middle - sizes) / spread.clamp(min=1e-9)
        score = index.max().item()
        return Judged(score=score, flagged=score > self.most, target=int(index.argmax()))

    def _sizes(
        self, respond: Respond, pool: Pool, classes: int, seed: Seed
    ) -> Float[Tensor, " classes"]:
        """Search all classes at once; the smallest mask of each that works, summed."""
        device, shape = pool.images.device, pool.images.shape[1:]
        random = generator(seed, device)
        mask = torch.randn(classes, 1, 1, *shape[1:], generator=random, device=device)
        pattern = torch.randn(classes, 1, *shape, generator=random, device=device)
        mask, pattern = mask.requires_grad_(), pattern.requires_grad_()
        optimizer = torch.optim.Adam([mask, pattern], lr=0.1, betas=(0.5, 0.9))
        targets = torch.arange(classes, device=device).repeat_interleave(self.batch)
        cost = torch.full((classes,), 1e-3, device=device)
        smallest = torch.full((classes,), float(shape[1] * shape[2]), device=device)
        streak = torch.zeros(2, classes, device=device)  # of rounds above and below
        won = torch.zeros(classes, device=device)
        for step in range(self.steps):
            rows = torch.randint(
                len(pool.images), (classes, self.batch), generator=random, device=device
            )
            shown = (mask.tanh() + 1) / 2
            images = pool.images[rows] * (1 - shown) + (pattern.tanh() + 1) / 2 * shown
            said = respond(images.flatten(0, 1)).float()
            loss = nn.functional.cross_entropy(said, targets, reduction="none")
            size = shown.sum((1, 2, 3, 4))
            optimizer.zero_grad()
            (loss.view(classes, -1).mean(1) + cost * size).sum().backward()
            optimizer.step()
            won += (said.argmax(1) == targets).view(classes, -1).float().mean(1) / self.round
            if step % self.round < self.round - 1:
                continue
            works = won > 0.99
            smallest = torch.where(works & (size < smallest), size.detach(), smallest)
            streak = torch.stack([(streak[0] + 1) * works, (streak[1] + 1) * ~works])
            cost = cost * torch.where(streak[0] >= 5, 1.5, 1.0)
            cost = cost / torch.where(streak[1] >= 5, 1.5**1.5, 1.0)
            streak = streak * (streak < 5)
            won = torch.zeros_like(won)
        return smallest.cpu()


@record
class MmBd:
    """The largest margin that any image reaches; one class's is far larger than the others'.

    Source:
        Wang, Xiang, Miller, Kesidis, "MM-BD: post-training detection of backdoor attacks with
        arbitrary backdoor pattern types using a maximum margin statistic", S&P 2024: 30 starts,
        300 steps, a gamma law fitted to the classes but the largest, its largest order statistic.
    Differs from the source:
        Normalised steps that shrink, so that no learning rate is to be found for each model.
    """

    starts: int = 30
    steps: int = 300
    level: float = 0.05

    def __call__(self, respond: Respond, pool: Pool, *, classes: int, seed: Seed) -> Judged:
        """Judge by the p-value of the largest margin; the score is its negative logarithm."""
        margins = torch.stack(
            [self._largest(respond, pool, target, seed) for target in range(classes)]
        ).double()
        target = int(margins.argmax())
        rest = torch.cat([margins[:target], margins[target + 1 :]]).clamp(min=1e-6).numpy()
        shape, _, scale = gamma.fit(rest, floc=0)
        below = float(gamma.cdf(margins[target].item(), shape, scale=scale))
        p_value = max(1e-12, 1 - below ** (classes - 1))
        score = -torch.tensor(p_value).log().item()
        return Judged(score=score, flagged=p_value < self.level, target=target)

    def _largest(self, respond: Respond, pool: Pool, target: int, seed: Seed) -> Float[Tensor, ""]:
        device, shape = pool.images.device, pool.images.shape[1:]
        images = torch.rand(self.starts, *shape, generator=generator(seed, device), device=device)
        for step in range(self.steps):
            images.requires_grad_()
            (gradient,) = torch.autograd.grad(margin_of(respond(images), target).sum(), images)
            length = gradient.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
            stride = 0.1 * gradient[0].numel() ** 0.5 * (1 - step / self.steps)
            images = (images.detach() + stride * gradient / length).clamp(0, 1)
        with torch.no_grad():
            return margin_of(respond(images), target).max().cpu()


MODEL_BASELINES: dict[str, ModelBaseline] = {"neural-cleanse": NeuralCleanse(), "mm-bd": MmBd()}
