import pytest
import torch
from torch import nn

from assay.audits.training import compare
from assay.errors import InputError
from assay.networks import mlp, resnet
from assay.randomness import Seed, isolated


def _network() -> nn.Module:
    return resnet(classes=3, width=4, blocks=(1,))


def _weights(seed: int, network=_network) -> dict[str, torch.Tensor]:
    with isolated(Seed(seed), torch.device("cpu")):
        return {name: value.clone() for name, value in network().state_dict().items()}


IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_equal_weights_are_at_no_distance_and_others_are_by_every_distance() -> None:
    start, first, other = _weights(0), _weights(1), _weights(2)
    ends = {"ada": first, "bob": first, "eve": other}
    found = compare(start, ends, sub_run=4, network=_network, probes=IMAGES)
    assert (found.sub_run, found.providers) == (4, ("ada", "bob", "eve"))
    assert set(found.distances) == {"update", "layers", "outputs", "cka", "zest"}
    for name, matrix in found.distances.items():
        assert matrix.dtype == torch.float64
        assert matrix[0, 1].item() == pytest.approx(0.0, abs=1e-6), name
        assert matrix[0, 2] > 0.01, name
        assert torch.equal(matrix, matrix.T), name
        assert not matrix.diagonal().any(), name


def test_without_probes_only_updates_are_compared() -> None:
    start, ends = _weights(0), {"ada": _weights(1), "eve": _weights(2)}
    for network, probes in ((None, IMAGES), (_network, None)):
        found = compare(start, ends, sub_run=0, network=network, probes=probes)
        assert set(found.distances) == {"update", "layers"}


def test_who_answers_nan_is_as_far_away_as_can_be() -> None:
    start, first = _weights(0), _weights(1)
    huge = {k: v * 1e30 if v.is_floating_point() else v for k, v in first.items()}
    found = compare(
        start, {"ada": first, "bob": first, "eve": huge}, sub_run=0, network=_network, probes=IMAGES
    )
    assert found.distances["outputs"][0].tolist() == pytest.approx([0.0, 0.0, 1.0])
    assert found.distances["zest"][2].tolist() == [2.0, 2.0, 0.0]
    assert all(matrix.isfinite().all() for matrix in found.distances.values())


def test_rows_can_be_probes() -> None:
    def network() -> nn.Module:
        return mlp(classes=2, dims=5, width=8)

    ends = {"ada": _weights(1, network), "eve": _weights(2, network)}
    found = compare(_weights(0, network), ends, sub_run=0, network=network, probes=torch.rand(8, 5))
    assert found.distances["zest"][0, 1] > 0


def test_weights_of_another_network_are_refused() -> None:
    start, ends = _weights(0), {"ada": _weights(1), "eve": _weights(2)}
    with pytest.raises(InputError, match="network"):
        compare(start, ends, sub_run=0, network=lambda: nn.Linear(2, 2), probes=IMAGES)


class _Tabled(nn.Module):
    """Reads the columns that a table among its weights names, of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.register_buffer("table", torch.arange(4))
        self.register_buffer("shown", torch.ones(3, dtype=torch.bool))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x[:, self.table])[:, self.shown]


@pytest.mark.parametrize(
    "planted",
    [{"table": torch.tensor([0, 1, 2, 10**6])}, {"shown": torch.tensor([True, True, False])}],
    ids=["raises", "answers in another shape"],
)
def test_whose_weights_make_the_network_raise_is_as_far_away_as_can_be(planted) -> None:
    start, first, other = (_weights(seed, _Tabled) for seed in range(3))
    ends = {"ada": {**first, **planted}, "bob": first, "eve": first, "fay": other}
    found = compare(start, ends, sub_run=0, network=_Tabled, probes=torch.rand(8, 4))
    for name, farthest in (("outputs", 1.0), ("cka", 1.0), ("zest", 2.0)):
        assert found.distances[name][0].tolist() == [0.0] + [farthest] * 3
        assert found.distances[name][1, 2] == pytest.approx(0.0, abs=1e-6)
        assert 0 < found.distances[name][1, 3] < farthest
