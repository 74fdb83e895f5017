"""Distances between the deliveries of one sub-run."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from assay.errors import InputError
from assay.fitting import logits_of
from assay.randomness import Seed, isolated
from assay.similarity import Zest, linear_cka, total_variation, update_distances, zest_distances

from .evidence import Comparison

UPDATE, LAYERS, OUTPUTS, CKA, ZEST = "update", "layers", "outputs", "cka", "zest"
"""Names of the distances: of updates relative to their length, as a whole and as the mean over
layers (`update_distances`), of answers
(`total_variation`), 1 less the CKA of the answers (`linear_cka`), of `Zest` signatures."""

_BATCH = 256
_PLACES = 8  # of a sequence whose answers count
_SEED = Seed(0)  # of Zest's masks: whoever repeats the comparison gets the same numbers
_FARTHEST = {OUTPUTS: 1.0, CKA: 1.0, ZEST: 2.0}


def compare(
    start: Mapping[str, Tensor],
    ends: Mapping[str, Mapping[str, Tensor]],
    *,
    sub_run: int,
    network: Callable[[], nn.Module] | None,
    probes: Tensor | None,
) -> Comparison:
    """Measure how far apart the deliveries of a sub-run lie.

    Args:
        start: the weights that all began with.
        ends: the weights of each provider, by its name; of the names and shapes of the start
            weights, and finite.
        sub_run: which one it is.
        network: builds the network that the weights belong to.
        probes: inputs as the network takes them: images, rows, or sequences of tokens. Without a
            network or without probes, only the updates are compared.

    Returns:
        The distances, providers in the order of `ends`. Who answers NaN or infinity, or whose
        weights make the network raise, is as far from everybody as can be.

    Raises:
        InputError: the weights do not fit the start weights or the network.
    """
    weights = list(ends.values())
    updates = update_distances(start, weights)
    distances = {UPDATE: updates.whole, LAYERS: updates.layers}
    if network is not None and probes is not None and len(probes) > 1 and weights:
        distances |= _of_answers(network, weights, probes)
    return Comparison(sub_run=sub_run, providers=tuple(ends), distances=distances)


def _of_answers(
    network: Callable[[], nn.Module], ends: list[Mapping[str, Tensor]], probes: Tensor
) -> dict[str, Float64[Tensor, "providers providers"]]:
    heard = [_heard(network, end, probes) for end in ends]
    found = {name: _apart(len(ends), farthest) for name, farthest in _FARTHEST.items()}
    for alike in _of_one_shape(heard):
        answers, signatures = zip(*(heard[place] for place in alike), strict=True)
        rows = torch.tensor(alike)
        cells = rows[:, None], rows
        found[OUTPUTS][cells] = total_variation(torch.stack(answers))
        found[CKA][cells] = _unlike(answers)
        found[ZEST][cells] = zest_distances(torch.stack(signatures))
    return found


def _heard(
    network: Callable[[], nn.Module], end: Mapping[str, Tensor], probes: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Answers and signature of a model, or None where they are not finite or it raises.

    The network and the probes were tried with the client's own weights: what a model raises now
    comes of the weights, such as an index out of range.
    """
    try:
        model = _loaded(network, end).to(probes.device).eval()
        heard = _answers(model, probes), Zest().signature(model, probes, seed=_SEED)
    except InputError:
        raise
    except Exception:  # noqa: BLE001  one provider's weights are not to end the judgement of all
        return None
    return heard if all(each.isfinite().all() for each in heard) else None


def _of_one_shape(heard: Sequence[tuple[Tensor, Tensor] | None]) -> list[list[int]]:
    """Places of sound models, together with those whose answers have the same shape."""
    found: dict[tuple[torch.Size, ...], list[int]] = {}
    for place, each in enumerate(heard):
        if each is not None:
            found.setdefault(tuple(part.shape for part in each), []).append(place)
    return list(found.values())


def _loaded(network: Callable[[], nn.Module], end: Mapping[str, Tensor]) -> nn.Module:
    with isolated(_SEED, torch.device("cpu")):  # its first weights are replaced
        model = network()
    try:
        model.load_state_dict(dict(end))
    except RuntimeError as error:
        raise InputError(f"the weights do not fit the network: {error}") from error
    return model


def _answers(model: nn.Module, probes: Tensor) -> Float[Tensor, "answers classes"]:
    """Logits of every probe; of a sequence, those at some places spread over it."""
    with torch.inference_mode():
        said = torch.cat([logits_of(model(part)).float().cpu() for part in probes.split(_BATCH)])
    if said.ndim == 2:
        return said
    places = torch.linspace(0, said.shape[1] - 1, min(_PLACES, said.shape[1])).long()
    return said[:, places].flatten(0, 1)


def _unlike(answers: Sequence[Tensor]) -> Float64[Tensor, "models models"]:
    shares = [each.double().softmax(-1) for each in answers]
    found = torch.zeros(len(answers), len(answers), dtype=torch.float64)
    for i, j in itertools.combinations(range(len(answers)), 2):
        found[i, j] = 1 - linear_cka(shares[i], shares[j])
    return found + found.T  # one way round: the other rounds differently


def _apart(count: int, farthest: float) -> Float64[Tensor, "models models"]:
    """Distances of models of which none can be measured."""
    return torch.full((count, count), farthest, dtype=torch.float64).fill_diagonal_(0.0)
