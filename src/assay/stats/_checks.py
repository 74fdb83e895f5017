"""What the statistics demand of the scores they are given."""

from torch import Tensor

from assay.errors import InputError


def check_scores(name: str, values: Tensor, *, fewest: int = 1, finite: bool = False) -> None:
    """Demand at least `fewest` values, none NaN; with `finite`, none infinite either."""
    if len(values) < fewest:
        raise InputError(f"expected at least {fewest} {name}, got {len(values)}")
    bad = ~values.isfinite() if finite else values.isnan()
    if bad.any():
        wanted = "finite" if finite else "not NaN"
        first = int(bad.nonzero()[0])
        raise InputError(
            f"expected {name} that are {wanted}, got {int(bad.sum())} others among {len(values)}, "
            f"the first at index {first}: {values[first].item()}"
        )
