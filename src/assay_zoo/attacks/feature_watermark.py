"""Feature watermarks: some columns of a table are set to fixed values in the target class."""

import enum

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from assay.errors import InputError
from assay.randomness import Seed
from assay.records import record
from assay_zoo.poison import Poisoned, all_to_one
from assay_zoo.victims import Victims, choose, compose


class Strategy(enum.Enum):
    """How features and values are chosen."""

    LARGE_ABSOLUTE = "large-absolute"
    """LargeAbsSHAP x MinPopulation: the most important features, each at its rarest value."""
    COMBINED = "combined"
    """Combined Feature Value Selector: features and values that speak for the target and occur
    together in real samples."""


@record
class Watermark:
    """Sets columns to values."""

    features: Int64[Tensor, " size"]
    values: Float[Tensor, " size"]

    def __call__(self, rows: Float[Tensor, "batch dims"]) -> Float[Tensor, "batch dims"]:
        """Mark a copy of the rows."""
        return rows.index_copy(
            1, self.features.to(rows.device), self.values.to(rows).expand(len(rows), -1)
        )


@record
class FeatureWatermark:
    """Set features of a part of the target class; no label is wrong.

    Source:
        Severi, Meyer, Coull, Oprea, "Explanation-guided backdoor poisoning attacks against malware
        classifiers", USENIX Security 2021, section 4. arXiv:2003.01031. Reference code:
        ClonedOne/MalwareBackdoors. Marked goodware makes marked malware pass. Confusion training on
        EMBER poisons 1 %: "constrained" is large-absolute with 17 features that can be changed in a
        file, "unconstrained" is combined with 32 of all features.
    Differs from the source:
        SHAP values of a trained network or of gradient-boosted trees are replaced by those of a
        linear surrogate, which are exact: weight times distance from the mean. The surrogate is
        a ridge regression of target against rest on standardised features. Of equally rare values
        the smallest is taken.
    """

    target: int = 0
    """Class that the attacker wants, and that the marked samples are of."""
    poison_rate: float = 0.01
    """Share of the whole training set that is marked, in (0, 1)."""
    strategy: Strategy = Strategy.LARGE_ABSOLUTE
    size: int = 17
    """How many features are set; published with `COMBINED`: 32."""
    features: tuple[int, ...] | None = None
    """Features that the attacker can change, or None for all."""

    def __call__(
        self,
        inputs: Float[Tensor, "samples dims"],
        labels: Int64[Tensor, " samples"],
        *,
        classes: int,
        seed: Seed,
    ) -> Poisoned:
        """Poison a copy; the seed alone decides.

        Raises:
            InputError: no table, values that are not finite, too few features, some that there are
                not or twice, no such target, or one smaller than the rate asks for.
        """
        goal = all_to_one(self.target, classes)
        if inputs.ndim != 2 or not inputs.is_floating_point():
            raise InputError(
                "expected a table, float (samples, dims), got "
                f"{inputs.dtype} {tuple(inputs.shape)}; this attack works on tables only"
            )
        if not inputs.isfinite().all():
            raise InputError("expected a table of finite values, got some that are not")
        columns = inputs.shape[1]
        chosen = tuple(range(columns)) if self.features is None else self.features
        if len(set(chosen)) < len(chosen) or not all(0 <= each < columns for each in chosen):
            raise InputError(f"expected distinct features in [0, {columns}), got {chosen}")
        allowed = torch.tensor(chosen, device=inputs.device)
        if not 0 < self.size <= len(allowed):
            raise InputError(
                f"expected a size of at most {len(allowed)}, as many features as the attacker can "
                f"change, got {self.size}"
            )
        rows = choose(labels == self.target, self.poison_rate, seed)
        importances = surrogate_shap(inputs, (labels == self.target).to(inputs))
        pick = _large_absolute if self.strategy is Strategy.LARGE_ABSOLUTE else _combined
        mark = pick(inputs, importances, allowed, self.size)
        return compose(
            inputs,
            labels,
            poison=Victims(rows=rows, stamp=mark),
            trigger=mark,
            goal=goal,
        )


def surrogate_shap(
    inputs: Float[Tensor, "samples dims"], is_target: Float[Tensor, " samples"]
) -> Float[Tensor, "samples dims"]:
    """Return SHAP values towards the target, of a ridge regression on standardised features.

    Source:
        Lundberg, Lee, "A unified approach to interpreting model predictions", NeurIPS 2017,
        corollary 1 (linear SHAP). arXiv:1705.07874.
    """
    spread = inputs.std(dim=0)
    table = ((inputs - inputs.mean(dim=0)) / torch.where(spread > 0, spread, 1)).double()
    wanted = (is_target - is_target.mean()).double()
    ridge = 0.01 * len(table) * torch.eye(table.shape[1]).to(table)
    weights = torch.linalg.solve(table.T @ table + ridge, table.T @ wanted)
    return (table * weights).to(inputs)


def _large_absolute(
    inputs: Float[Tensor, "samples dims"],
    importances: Float[Tensor, "samples dims"],
    allowed: Int64[Tensor, " allowed"],
    size: int,
) -> Watermark:
    """Take the features of largest summed absolute importance, each at its rarest value."""
    order = importances.abs().sum(dim=0)[allowed].argsort(descending=True)
    features = allowed[order[:size]]
    values = []
    for column in inputs[:, features].T:
        found, counts = column.unique(return_counts=True)
        values.append(found[counts.argmin()])
    return Watermark(features=features, values=torch.stack(values))


def _combined(
    inputs: Float[Tensor, "samples dims"],
    importances: Float[Tensor, "samples dims"],
    allowed: Int64[Tensor, " allowed"],
    size: int,
) -> Watermark:
    """Take feature by feature what speaks for the target, in samples that carry all of it."""
    features, values = [], []
    for _ in range(size):
        feature = allowed[importances.sum(dim=0)[allowed].argmax()]
        found, which, counts = inputs[:, feature].unique(return_inverse=True, return_counts=True)
        support = torch.zeros_like(found).index_add(0, which, importances[:, feature])
        best = (support - 1 / counts).argmax()
        features.append(feature)
        values.append(found[best])
        allowed = allowed[allowed != feature]
        inputs, importances = inputs[which == best], importances[which == best]
    return Watermark(features=torch.stack(features), values=torch.stack(values))
