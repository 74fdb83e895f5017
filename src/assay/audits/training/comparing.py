"""Distances between the deliveries of one sub-run."""

import itertools
from collections.abc import Callable, Mapping

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
        The distances, providers in the order of `ends`. Who answers NaN or infinity is as far from
        everybody as can be.

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
    zest, sound, answers, signatures = Zest(), [], [], []
    for place, end in enumerate(ends):
        model = _loaded(network, end).to(probes.device).eval()
        said = _answers(model, probes)
        signature = zest.signature(model, probes, seed=_SEED)
        if said.isfinite().all() and signature.isfinite().all():
            sound.append(place)
            answers.append(said)
            signatures.append(signature)
    found = (
        {
            OUTPUTS: total_variation(torch.stack(answers)),
            CKA: _unlike(answers),
            ZEST: zest_distances(torch.stack(signatures)),
        }
        if sound
        else {}
    )
    return {name: _placed(found.get(name), sound, len(ends), _FARTHEST[name]) for name in _FARTHEST}


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


def _unlike(answers: list[Tensor]) -> Float64[Tensor, "models models"]:
    shares = [each.double().softmax(-1) for each in answers]
    found = torch.zeros(len(answers), len(answers), dtype=torch.float64)
    for i, j in itertools.combinations(range(len(answers)), 2):
        found[i, j] = 1 - linear_cka(shares[i], shares[j])
    return found + found.T  # one way round: the other rounds differently


def _placed(
    found: Float64[Tensor, "sound sound"] | None, sound: list[int], count: int, farthest: float
) -> Float64[Tensor, "models models"]:
    """Put the distances of sound models beside those that cannot be measured."""
    placed = torch.full((count, count), farthest, dtype=torch.float64).fill_diagonal_(0.0)
    if found is not None:
        rows = torch.tensor(sound)
        placed[rows[:, None], rows] = found
    return placed
