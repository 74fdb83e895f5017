"""From margins to p-values: which candidate stands out beyond what honest models do?"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Float64, Int64
from scipy.stats import t as student
from torch import Tensor

from assay.records import record

from .survey import Survey, reference

_FEWEST_TYPICAL = 2  # targets that show the noise
_FEWEST_SOURCES = 4  # of each target, for what is put on one class to count in the mean of kinds


@record
class Standing:
    """How far the candidates of one model stand out; in units of honest noise."""

    excess: Float[Tensor, " candidates"]
    p_values: Float64[Tensor, " candidates"]


@record
class Together:
    """What all kinds say of the targets that each searched which is put on any image."""

    targets: Int64[Tensor, " targets"]
    standing: Standing
    best: tuple[tuple[int, int], ...]
    """One a target: the survey, and the candidate in it, whose trigger works on most samples."""
    asked: int
    """Targets that were searched at least shortly."""


@record
class Width:
    """How far candidates spread in a task, beside the usual spread of their kinds.

    It is one number for all kinds: tasks and networks differ in how far honest models lie apart.
    Those of Fashion-MNIST lie closer together than those of CIFAR-10 in every kind, by a factor
    from 1.2 (warps) to 4.6 (whole images): a first guess of each kind's own spread, no more.
    """

    between: float
    within: float


USUAL = Width(between=1.0, within=1.0)


@record
class Decision:
    """Compares each candidate with the same candidate on other models, and with its own kind.

    With s the margins of a model and r those of its reference, d = s - b r less its median over the
    candidates, which takes out that one model is more easily led than the other. The noise of d is
    estimated from its median absolute deviation, together with the spread that is usual between
    honest models (`Kind.between`, times the `Width` of all kinds in this task), and d over the
    noise is compared with Student's t.

    Source:
        Median absolute deviation over classes: Wang et al., "Neural Cleanse",
        S&P 2019. Moderated variance: Smyth, "Linear models and empirical Bayes methods", 2004.
    Differs from the source:
        The reference takes out what makes a class easy to reach, which is most of the spread over
        classes, and needs no search to the smallest trigger.
    """

    shared: float = 0.9
    """The factor b. Margins are noisy, so the best guess of one model's from another's is nearer to
    the middle. From 0.8 to 0.9 honest models of CIFAR-10 and Fashion-MNIST lay closest together in
    most kinds. A factor estimated from each pair was no better, and the backdoor of one model
    distorts it."""
    prior: float = 8.0
    """How many candidates' worth the usual spread counts."""
    freedom: float = 10.0
    """Degrees of freedom of Student's t for a model alone; beside others, `Kind.freedom`."""
    together_share: float = 0.4
    """Of the budget that the comparison with other models has, for all kinds together.

    This and the two below were chosen with `Kind.freedom` and `Kind.weight`, on 16 pairs of honest
    models (five of CIFAR-10, four of Fashion-MNIST) and on eleven poisoned ones of CIFAR-10 (seed
    0), after three of those pairs had been flagged, each for a class that stood out in one kind."""
    together_usual: float = 0.6
    """Usual spread of the mean excess over sorts of kinds."""
    together_freedom: float = 10.0
    """Degrees of freedom of Student's t that it is compared with."""
    narrowest: float = 0.25
    """The least `Width` that is believed."""

    def width(self, surveys: Sequence[Survey], model: int) -> Width:
        """Learn from all kinds how far honest candidates spread in this task."""
        return Width(
            between=self._wide(surveys, [self._beyond(s, model) for s in surveys], "between"),
            within=self._wide(surveys, [s.margins[model] for s in surveys], "within"),
        )

    def against_others(self, found: Survey, model: int, width: Width = USUAL) -> Standing:
        """Compare with the median of the other models."""
        usual = width.between * found.kind.between
        values = self._beyond(found, model)
        return self._standing(values, found.typical, usual, found.kind.freedom)

    def together(
        self, surveys: Sequence[Survey], model: int, width: Width = USUAL
    ) -> Together | None:
        """Average the excess of every target: over its sources, over kinds of one sort, over sorts.

        Kinds of one sort follow each other: the excesses of honest pairs of CIFAR-10 under patches
        on all images and on those of one class have a correlation of 0.6 to 0.8.

        Returns:
            None where fewer than two kinds are put on any image, or too few targets were searched
            by all of these, or there is no budget for it.
        """
        whole = [place for place, each in enumerate(surveys) if not each.kind.by_source]
        found = [surveys[place] for place in whole]
        searched = [each.candidates.targets.tolist() for each in found]
        is_asked = len(found) > 1 and self.together_share > 0
        targets = sorted(set.intersection(*map(set, searched))) if is_asked else []
        rows = [[each.index(target) for target in targets] for each in searched]
        typical = torch.ones(len(targets), dtype=torch.bool)
        for each, own in zip(found, rows, strict=True):
            typical &= each.typical[own]
        if typical.sum() < _FEWEST_TYPICAL:
            return None
        by_sort: dict[str, list[Tensor]] = {}
        for each in surveys:
            places = each.candidates.targets[:, None] == torch.tensor(targets)
            if each.kind.by_source and places.sum(0).min() < _FEWEST_SOURCES:
                continue
            excess = self.against_others(each, model, width).excess
            means = torch.stack([excess[own].mean() for own in places.T])
            by_sort.setdefault(each.kind.sort, []).append(means)
        sorts = [torch.stack(means).mean(0) for means in by_sort.values()]
        works = [
            each.asr[model, own] if each.kind.shown else torch.full((len(targets),), -1.0)
            for each, own in zip(found, rows, strict=True)
        ]
        best = torch.stack(works).argmax(0).tolist()
        return Together(
            targets=torch.tensor(targets),
            standing=self._standing(
                torch.stack(sorts).mean(0), typical, self.together_usual, self.together_freedom
            ),
            best=tuple((whole[k], rows[k][column]) for column, k in enumerate(best)),
            asked=max(each.asked for each in found),
        )

    def alone(self, found: Survey, model: int, width: Width = USUAL) -> Standing:
        """Compare with the other candidates of the same model."""
        usual = width.within * found.kind.within
        return self._standing(found.margins[model], found.typical, usual, self.freedom)

    alone_share: float = 0.1
    """Of a model's error budget, for the evidence that needs no other model: it is weak, because
    some classes are easier to reach than others."""

    least_asr: float = 0.5
    """Where a trigger stands out but, recovered, leads fewer of the samples to the target, in
    [0, 1], the model is not judged. (Added after a model of CIFAR-10, poisoned by TaCT, was flagged
    with the wrong target and a warp that works on 14 %; the triggers of the 12 models that were
    found rightly work on 62 % or more.)"""

    def corrected(self, standing: Standing, found: Survey, *, alone: bool) -> float:
        """Correct the smallest p-value of a kind for all that is asked of a model.

        Bonferroni over the candidates, with the weights of the kinds and of both sorts of evidence.
        """
        return min(1.0, standing.p_values.min().item() / self._budget(found, alone=alone))

    def threshold(self, alpha: float, found: Survey, *, models: int) -> float:
        """The excess over other models that is significant after all corrections."""
        level = alpha / models * self._budget(found, alone=False)
        return float(student.isf(level, df=found.kind.freedom))

    def corrected_together(self, found: Together) -> float:
        """Correct the smallest p-value of all kinds together for all that is asked of a model."""
        return min(1.0, found.standing.p_values.min().item() * found.asked / self._joint)

    def threshold_together(self, alpha: float, found: Together, *, models: int) -> float:
        """The mean excess over kinds that is significant after all corrections."""
        level = alpha / models * self._joint / found.asked
        return float(student.isf(level, df=self.together_freedom))

    @property
    def _joint(self) -> float:
        return (1 - self.alone_share) * self.together_share

    def _budget(self, found: Survey, *, alone: bool) -> float:
        """Share of a model's error budget that one candidate has."""
        evidence = self.alone_share if alone else 1 - self.alone_share - self._joint
        return evidence * found.kind.weight / found.asked

    def _beyond(self, found: Survey, model: int) -> Float[Tensor, " candidates"]:
        return found.margins[model] - self.shared * reference(found.margins, model)

    def _wide(self, surveys: Sequence[Survey], values: Sequence[Tensor], usual: str) -> float:
        """Take the median kind's deviation beside its usual one: one odd kind hardly counts."""
        ratios = [
            _deviation(apart[found.typical]) / getattr(found.kind, usual)
            for found, apart in zip(surveys, values, strict=True)
        ]
        return max(self.narrowest, torch.stack(ratios).quantile(0.5).item())

    def _standing(
        self,
        values: Float[Tensor, " candidates"],
        typical: Bool[Tensor, " candidates"],
        usual: float,
        freedom: float,
    ) -> Standing:
        apart = values - values[typical].quantile(0.5)
        deviation, count = _deviation(values[typical]), int(typical.sum())
        noise = ((self.prior * usual**2 + count * deviation**2) / (self.prior + count)).sqrt()
        excess = apart / noise
        p_values = torch.from_numpy(student.sf(excess.double().numpy(), df=freedom))
        return Standing(excess=excess, p_values=p_values)


def _deviation(typical: Float[Tensor, " candidates"]) -> Float[Tensor, ""]:
    """Median absolute deviation of the typical candidates, scaled to a standard deviation."""
    return 1.4826 * (typical - typical.quantile(0.5)).abs().quantile(0.5)
