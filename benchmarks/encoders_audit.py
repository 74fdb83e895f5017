"""Measure the models audit on encoders: SimCLR, honest, or poisoned in one of two ways.

BadEncoder plants a trigger into a trained encoder. A grid, or CTRL's frequencies, on images of one
class poison what an encoder is trained on.
"""

import argparse
import itertools
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import grid
from assay.audits.models import (
    ENCODER_SETTINGS,
    Delivery,
    Groups,
    ModelResult,
    ModelsSettings,
    audit_encoders,
)
from assay.fitting import Preprocess
from assay.randomness import Seed, child
from assay.triggers import Blend, Patch
from assay_zoo.data import Split, load
from assay_zoo.encoders import BadEncoder, SimClr, encoder, grip, nearest
from assay_zoo.poison import Poisoned
from assay_zoo.scenarios import CTRL, GRID
from assay_zoo.victims import stamping_bytes
from dataset_audit import shard

RESULTS = grid.HERE / "results" / "models-audit"
VERSION = 1
JUDGED = 2
"""To be raised when the audit judges what it finds in another way."""
SIZES = {"cifar10": (12_000, 2_000, 1_000), "digits": (1_000, 500, 297)}
"""Training, trusted and test images."""
PLANTED = ("patch", "blend")
"""Triggers of BadEncoder."""
POISONED = {"grid": GRID, "ctrl": CTRL}
"""Attacks on the images that an encoder is trained on: a trigger on images of the target class, as
in Saha et al., "Backdoor attacks on self-supervised learning", CVPR 2022 (a patch there)."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=SIZES, default="cifar10")
    kinds = [*PLANTED, *POISONED]
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=kinds)
    parser.add_argument("--honest", type=int, default=4, help="honest encoders")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shard", type=shard, default=(0, 1))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    honest = list(range(asked.honest))
    pairs = [
        *(
            (f"{kind}-{s}", f"honest-{(s + 1) % asked.honest}")
            for s in honest
            for kind in asked.kinds
        ),
        *((f"honest-{a}", f"honest-{b}") for a, b in itertools.combinations(honest, 2)),
    ]
    groups = [_group(asked, *pair) for pair in pairs]
    return 1 if grid.run(groups, RESULTS, device=asked.device, shard=asked.shard) else 0


def _group(asked: argparse.Namespace, first: str, second: str) -> grid.Group:
    settings, groups, data = ENCODER_SETTINGS, Groups(), asked.data
    table = "encoders" if data == "cifar10" else f"encoders, {data}"
    kind, _, _ = first.partition("-")
    cell = grid.Cell(
        name=f"{table.replace(', ', '-')}-{first}-vs-{second}",
        kind="encoders pair",
        recipe={
            "data": table,
            "first": first,
            "second": second,
            "honest": repr(SimClr()),
            "planted": _how(data, kind),
            "method": f"{groups!r} {settings!r}",
            "version": JUDGED,
        },
        measure=lambda: _measure(asked.device, data, first, second, settings, groups),
    )
    return grid.Group(name=cell.name, cells=(cell,))


class _Kept:
    """Keeps what the search found on the encoders of one pair, on whose groups it depends."""

    def __init__(self, *names: str) -> None:
        self.prefix = grid.digest({"names": names, "version": VERSION})

    def _path(self, name: str) -> pathlib.Path:
        return grid.CACHE / "surveys" / f"{self.prefix}-{name}.safetensors"

    def save(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in tensors.items()}, path)

    def load(self, name: str) -> dict[str, Tensor] | None:
        """Return what was kept, or None."""
        path = self._path(name)
        return load_file(path) if path.exists() else None


def _split(data: str) -> Split:
    train, trusted, test = SIZES[data]
    return load(data, train=train, trusted=trusted, test=test, seed=child(Seed(0), "split"))


def _how(data: str, kind: str) -> str:
    """Say how an encoder is poisoned."""
    return repr(POISONED[kind] if kind in POISONED else _planting(data, "patch", 0))


def _planting(data: str, kind: str, seed: int) -> BadEncoder:
    channels, side = (3, 32) if data == "cifar10" else (1, 8)
    random = torch.Generator().manual_seed(seed)
    pattern = torch.rand(channels, side, side, generator=random)
    mask, width = torch.zeros(side, side), 3 * side // 16
    mask[-max(2, width) :, -max(2, width) :] = 1
    patch = Patch(pattern=pattern, mask=mask)
    return BadEncoder(trigger=patch if kind == "patch" else Blend(pattern=pattern, alpha=0.15))


def _poisoned(data: str, kind: str, seed: int) -> Poisoned:
    train = _split(data).train
    return POISONED[kind](train.inputs[:], train.labels, classes=train.classes, seed=Seed(seed))


def _model(data: str, name: str, device: torch.device) -> nn.Module:
    """Take an encoder from the cache, or train it; a planted one starts from the honest one."""
    kind, _, text = name.partition("-")
    seed, images = int(text), _split(data).train.inputs[:].to(device)

    def make() -> nn.Module:
        if kind == "honest":
            return SimClr()(images, seed=Seed(seed))
        if kind in POISONED:
            return SimClr()(_poisoned(data, kind, seed).inputs.to(device), seed=Seed(seed))
        honest = _model(data, f"honest-{seed}", device)
        planting = _planting(data, kind, seed)
        return planting(honest, images, images[100 + seed], seed=child(Seed(seed), kind))

    recipe = {"name": name, "how": repr(SimClr()) + _how(data, kind), "v": VERSION}
    recipe |= {} if data == "cifar10" else {"data": data}
    path = grid.CACHE / f"encoder-{grid.digest(recipe)}.safetensors"
    return _cached(path, make, channels=images.shape[1]).to(device)


def _cached(path: pathlib.Path, make: Callable[[], nn.Module], *, channels: int) -> nn.Module:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        weights: dict[str, Tensor] = make().state_dict()
        save_file({name: value.cpu().contiguous() for name, value in weights.items()}, path)
    model = encoder(channels=channels)
    model.load_state_dict(load_file(path))
    return model.eval()


def _measure(  # noqa: PLR0917
    device: torch.device,
    data: str,
    first: str,
    second: str,
    settings: ModelsSettings,
    groups: Groups,
) -> grid.Result:
    names = (first, second)
    models = [_model(data, name, device) for name in names]
    trusted = _split(data).trusted.inputs[:]
    channels = trusted.shape[1]
    plain = Preprocess(mean=(0.0,) * channels, std=(1.0,) * channels)
    wall, cpu = time.perf_counter(), time.process_time()
    found = audit_encoders(
        [
            Delivery(name=name, model=model, preprocess=plain, digest={})
            for name, model in zip(names, models, strict=True)
        ],
        trusted[: settings.most_samples],
        groups=groups,
        settings=settings,
        seed=Seed(0),
        device=device,
        store=_Kept(data, *names, repr((groups, settings))),
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    poisoned = [not name.startswith("honest") for name in names]
    return {
        "verdict": found.verdict.value,
        "with_cached_searches_wall_s": wall,
        "with_cached_searches_cpu_s": cpu,
        **(_works(data, first, models[0]) if poisoned[0] else {"true_asr": None}),
        "accuracy_by_neighbours": [_right(data, model) for model in models],
        "models": [
            _about(model, index, is_poisoned=is_poisoned)
            for index, (model, is_poisoned) in enumerate(zip(found.models, poisoned, strict=True))
        ],
    }


def _about(model: ModelResult, index: int, *, is_poisoned: bool) -> dict[str, Any]:
    recovered = model.recovered
    return {
        "name": model.name,
        "poisoned": is_poisoned,
        "targets": [],
        "accuracy": model.accuracy,
        "verdict": model.verdict.value,
        "p_value": model.p_value,
        "alone_p_value": model.alone_p_value,
        "reason": model.reason,
        "highest_excess": max((q.excess for q in model.questions), default=None),
        "family": recovered and recovered.family,
        "source": recovered and recovered.source,
        "target": recovered and recovered.target,
        "asr": recovered and recovered.asr[index],
        "asr_other": recovered and recovered.asr[1 - index],
        "asr_tuned": recovered and recovered.asr_tuned,
    }


def _right(data: str, model: nn.Module) -> float:
    """How often the nearest neighbours give a test image its class: the quality of an encoder."""
    split = _split(data)
    said = nearest(model, split.train.inputs[:], split.train.labels, split.test.inputs[:])
    return (said == split.test.labels).double().mean().item()


def _works(data: str, name: str, model: nn.Module) -> Mapping[str, Any]:
    """Measure the planted trigger itself: where neighbours put triggered test images."""
    kind, _, text = name.partition("-")
    split, seed = _split(data), int(text)
    train, test = split.train, split.test
    if kind in POISONED:
        target, held = POISONED[kind].target, None
        trigger = _poisoned(data, kind, seed).trigger
    else:
        planted = _planting(data, kind, seed).trigger
        trigger, reference = stamping_bytes(planted), train.inputs[:][100 + seed][None]
        target = int(nearest(model, train.inputs[:], train.labels, reference))
        images = split.trusted.inputs[:][-500:].float() / 255
        held = grip(model, planted, images, reference.float() / 255)
    others = test.labels != target
    said = nearest(model, train.inputs[:], train.labels, trigger(test.inputs[:][others]))
    unstamped = nearest(model, train.inputs[:], train.labels, test.inputs[:][others])
    return {
        "true_asr": (said == target).double().mean().item(),
        "without_trigger": (unstamped == target).double().mean().item(),
        "cosine_to_reference": held,
    }


if __name__ == "__main__":
    raise SystemExit(main())
