"""Made-up replicas: points around a common update, as far from it as each one's noise says."""

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch

from assay.audits.training import Comparison, Delivery, Fault
from assay.randomness import Seed, child, generator

Made = tuple[list[Delivery], list[Comparison]]
Replicas = Callable[..., Made]


@pytest.fixture
def replicas() -> Replicas:
    """Make deliveries and comparisons from how far each provider strays in each sub-run.

    Providers with the same `plans` stray in the same direction; all are called a, b, c, ...
    """
    return _replicas


def _replicas(
    noises: Sequence[float],
    *,
    sub_runs: int = 2,
    seed: int = 0,
    environments: Mapping[str, str] | None = None,
    plans: Mapping[str, str] | None = None,
    faults: Mapping[tuple[str, int], Fault] | None = None,
    only_in: Mapping[str, Sequence[int]] | None = None,
    digests: Mapping[str, str] | None = None,
) -> Made:
    names = [chr(ord("a") + place) for place in range(len(noises))]
    deliveries, comparisons = [], []
    for sub_run in range(sub_runs):
        points = {}
        for name, noise in zip(names, noises, strict=True):
            fault = (faults or {}).get((name, sub_run))
            deliveries.append(
                Delivery(
                    provider=name,
                    sub_run=sub_run,
                    replicated=True,
                    environment=(environments or {}).get(name, "usual"),
                    digest=(digests or {}).get(name, f"{name}{sub_run}"),
                    fault=fault,
                    detail="" if fault is None else "made up",
                )
            )
            strays = sub_run in (only_in or {}).get(name, range(sub_runs))
            if fault is None:
                points[name] = _point(
                    noise if strays else noises[0], (plans or {}).get(name), name, sub_run, seed
                )
        apart = _distances(torch.stack(list(points.values())))
        comparisons.append(
            Comparison(
                sub_run=sub_run,
                providers=tuple(points),
                distances={"update": apart, "layers": apart},
            )
        )
    return deliveries, comparisons


def _point(noise: float, plan: str | None, name: str, sub_run: int, seed: int) -> torch.Tensor:
    def drawn(*what: str) -> torch.Tensor:
        random = generator(child(Seed(seed), *what, sub_run), torch.device("cpu"))
        return torch.nn.functional.normalize(
            torch.randn(400, generator=random, dtype=torch.float64), dim=0
        )

    if plan is None:
        return noise * drawn("noise", name)
    return noise * drawn("plan", plan) + 0.03 * drawn("noise", name)


def _distances(points: torch.Tensor) -> torch.Tensor:
    apart = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    return ((apart + apart.T) / 2).fill_diagonal_(0.0)
