"""Reading a plan, and everything that it names."""

import pathlib
import sys
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from assay.audits.training import (
    Profile,
    Replication,
    parse_profile,
    plan_replication,
)
from assay.errors import InputError
from assay.fitting import logits_of
from assay.randomness import Seed, isolated
from assay.records import record
from assay.storage import data as datasets
from assay.storage import documents
from assay.storage.files import digest_path, existing, read_bounded
from assay.storage.models import load_factory
from assay.storage.runs import Input
from assay.storage.weights import check_weights, read_weights

from .plan import Plan, read_plan

_MAX_MB = 2**20
_MAX_PROFILE = 2**26
_PROBES = 256
"""How many inputs networks are compared on, at most."""
_ATTACKED, _CONFIDENCE = 0.5, 0.95
"""What a plan that names a number of replicated sub-runs is measured against."""


@record
class Loaded:
    """What a plan names."""

    plan: Plan
    replication: Replication
    start: Mapping[str, Tensor]
    profile: Profile | None
    network: Callable[[], nn.Module] | None
    probes: Tensor | None
    inputs: Mapping[str, Input]


def load_plan(path: pathlib.Path) -> Loaded:
    """Read a plan and what it names.

    Raises:
        UsageError: something is not there.
        InputError: something cannot be used.
    """
    plan = read_plan(path)
    folder = path.absolute().parent
    start = read_weights(existing(folder / plan.start), max_mb=_MAX_MB)
    check_weights(start, plan.start)
    named = {"start": plan.start, "profile": plan.profile, "probes": plan.probes}
    files = {"plan": path} | {k: folder / name for k, name in named.items() if name is not None}
    network = None if plan.network is None else _network(plan.network, folder)
    probes = None if plan.probes is None else _probes(folder / plan.probes)
    if network is not None and probes is not None:
        _check_network(network, start, probes, str(plan.network))
    return Loaded(
        plan=plan,
        replication=replication(plan),
        start=start,
        profile=None if plan.profile is None else _profile(folder / plan.profile),
        network=network,
        probes=probes,
        inputs={
            name: Input(path=str(file.absolute()), sha256=digest_path(file))
            for name, file in files.items()
        },
    )


def replication(plan: Plan) -> Replication:
    """Work out how many sub-runs are replicated, what that costs, and what it would miss."""
    sub_runs, providers = plan.sub_runs, len(plan.providers)
    budget = None if plan.replicated is None else plan.replicated * (providers - 1) / sub_runs
    return plan_replication(
        sub_runs=sub_runs,
        providers=providers,
        attacked=plan.attack_share or _ATTACKED,
        confidence=plan.confidence or _CONFIDENCE,
        budget=budget,
    )


def _profile(path: pathlib.Path) -> Profile:
    return parse_profile(documents.load(read_bounded(path, _MAX_PROFILE)))


def _network(source: str, folder: pathlib.Path) -> Callable[[], nn.Module]:
    sys.path.append(str(folder))
    try:
        factory = load_factory(source)
    finally:
        sys.path.remove(str(folder))

    def make() -> nn.Module:
        with isolated(Seed(0), torch.device("cpu")):
            return factory()

    return make


def _check_network(
    network: Callable[[], nn.Module], start: Mapping[str, Tensor], probes: Tensor, name: str
) -> None:
    """Check, before anybody trains, that weights will fit the network and probes go through it."""
    try:
        model = network().eval()
        model.load_state_dict(dict(start))
        with torch.inference_mode():
            logits_of(model(probes[:2]))
    except Exception as error:
        raise InputError(
            f"expected a network of the start weights that takes the probes, from {name}: {error}"
        ) from error


def _probes(path: pathlib.Path) -> Tensor:
    """Read inputs as a network takes them: sequences of tokens, or numbers; images in [0, 1]."""
    if path.suffix == ".safetensors":
        tensors = read_weights(path, max_mb=_MAX_MB)
        if tensors.keys() == {"tokens"}:
            return tensors["tokens"][:_PROBES].long()
    rows = datasets.read_images(str(path))
    if len(rows) < 2:
        raise InputError(f"expected two probes or more in {path}, got {len(rows)}")
    shown = rows[: min(_PROBES, len(rows))]
    return shown.float() / 255 if shown.dtype == torch.uint8 else shown.float()
