import pytest
import torch

from assay.errors import InputError
from assay.similarity import total_variation, update_distances


def _weights(seed: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        "large": scale * torch.randn(40, 50, generator=random),
        "small": scale * torch.randn(3, 3, generator=random),
        "bias": scale * torch.randn(7, generator=random),
        "count": torch.tensor(seed),
    }


def test_distances_do_not_depend_on_scale() -> None:
    start = _weights(0)
    ends = [{**_weights(seed), "count": torch.tensor(9)} for seed in (1, 2, 3)]
    found = update_distances(start, ends)
    doubled = update_distances(
        start,
        [
            {k: v if k == "count" else start[k] + 2 * (v - start[k]) for k, v in end.items()}
            for end in ends
        ],
    )
    assert torch.allclose(found.whole, doubled.whole, atol=1e-6)
    assert torch.allclose(found.layers, doubled.layers, atol=1e-6)
    assert torch.equal(found.whole, found.whole.T)
    assert not found.whole.diagonal().any()


def test_a_tensor_of_indices_is_equal_or_as_far_apart_as_can_be() -> None:
    start, end = _weights(0), _weights(1)
    table = {"table": torch.arange(6), "mask": torch.tensor([True, False])}
    permuted = {**end, **table, "table": torch.arange(6).flip(0)}
    flipped = {**end, **table, "mask": torch.tensor([False, False])}
    found = update_distances({**start, **table}, [{**end, **table}, permuted, flipped])
    assert found.whole.tolist() == found.layers.tolist() == [[0, 2, 2], [2, 0, 2], [2, 2, 0]]


def test_weights_that_overflow_are_as_far_apart_as_can_be() -> None:
    start = {k: v.double() for k, v in _weights(0).items() if k != "count"}
    honest = [{k: v + s * 0.1 for k, v in start.items()} for s in (1, -1)]
    huge = {k: torch.full_like(v, 1e200) for k, v in start.items()}
    found = update_distances(start, [*honest, huge, huge])
    assert found.whole[0, 2] == found.layers[1, 2] == 2.0
    assert found.whole[2, 3] == 0
    assert found.whole[0, 1].item() == pytest.approx(2.0)


def test_a_change_in_a_small_layer_counts_among_layers() -> None:
    start, end = _weights(0), _weights(1)
    planted = {**end, "small": start["small"] - (end["small"] - start["small"])}
    found = update_distances(start, [end, planted])
    assert found.whole[0, 1] < 0.2
    assert found.layers[0, 1] > 1.0


def test_a_change_in_a_bias_counts_in_the_whole() -> None:
    start, end = _weights(0), _weights(1)
    found = update_distances(start, [end, {**end, "bias": end["bias"] + 100}])
    assert found.whole[0, 1] > 1.0


def test_what_did_not_move_is_at_no_distance_of_itself() -> None:
    start = _weights(0)
    found = update_distances(start, [start, start, {**_weights(1), "count": start["count"]}])
    assert found.whole[0, 1] == 0
    assert found.whole[0, 2].item() == pytest.approx(2**0.5)


def test_other_tensors_are_refused() -> None:
    start = _weights(0)
    for end in (
        {"large": start["large"]},
        {**start, "small": torch.zeros(2, 2)},
        {**start, "bias": start["bias"] * torch.nan},
    ):
        with pytest.raises(InputError, match="expected"):
            update_distances(start, [start, end])


def test_total_variation_is_the_share_of_answers_that_differ() -> None:
    sure = torch.tensor([[30.0, 0.0], [30.0, 0.0], [0.0, 30.0], [0.0, 30.0]])
    other = torch.tensor([[30.0, 0.0], [30.0, 0.0], [0.0, 30.0], [30.0, 0.0]])
    found = total_variation(torch.stack([sure, other]))
    assert found[0, 1].item() == pytest.approx(0.25)
    assert torch.equal(found, found.T)


def test_tensors_of_many_parts_are_measured_whole() -> None:
    random = torch.Generator().manual_seed(0)
    start = {"w": torch.randn(100, 1000, generator=random)}
    ends = [{"w": start["w"] + torch.randn(100, 1000, generator=random)} for _ in range(3)]
    moved = torch.stack([end["w"].double() - start["w"].double() for end in ends]).flatten(1)
    lengths = moved.square().sum(1)
    expected = torch.cdist(moved, moved) / ((lengths[:, None] + lengths) / 2).sqrt()
    found = update_distances(start, [*ends, ends[0]]).whole
    torch.testing.assert_close(found[:3, :3], expected.fill_diagonal_(0.0))
    assert found[0, 3] == 0.0
