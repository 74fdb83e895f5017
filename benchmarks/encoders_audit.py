"""Measure the models audit on encoders: SimCLR on CIFAR-10, honest or with BadEncoder's trigger."""

import argparse
import itertools
import pathlib
import time
from collections.abc import Callable

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import grid
from assay.audits.models import Delivery, Groups, ModelsSettings, audit_encoders
from assay.fitting import Preprocess
from assay.randomness import Seed, child
from assay.triggers import Blend, Patch
from assay_zoo.data import Split, load
from assay_zoo.encoders import BadEncoder, SimClr, encoder, grip
from dataset_audit import shard

RESULTS = grid.HERE / "results" / "models-audit"
VERSION = 1
DATA, TRAIN, TRUSTED = "cifar10", 12_000, 2_000
TRIGGERS = ("patch", "blend")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--honest", type=int, default=4, help="honest encoders")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shard", type=shard, default=(0, 1))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    honest = list(range(asked.honest))
    pairs = [
        *((f"{kind}-{s}", f"honest-{(s + 1) % asked.honest}") for s in honest for kind in TRIGGERS),
        *((f"honest-{a}", f"honest-{b}") for a, b in itertools.combinations(honest, 2)),
    ]
    groups = [_group(asked, *pair) for pair in pairs]
    return 1 if grid.run(groups, RESULTS, device=asked.device, shard=asked.shard) else 0


def _group(asked: argparse.Namespace, first: str, second: str) -> grid.Group:
    settings, groups = ModelsSettings(), Groups()
    cell = grid.Cell(
        name=f"encoders-{first}-vs-{second}",
        kind="encoders pair",
        recipe={
            "data": "encoders",
            "first": first,
            "second": second,
            "honest": repr(SimClr()),
            "planted": repr(_planting("patch", 0)),
            "method": f"{groups!r} {settings!r}",
            "version": VERSION,
        },
        measure=lambda: _measure(asked.device, first, second, settings, groups),
    )
    return grid.Group(name=cell.name, cells=(cell,))


def _split() -> Split:
    return load(DATA, train=TRAIN, trusted=TRUSTED, test=1_000, seed=child(Seed(0), "split"))


def _planting(kind: str, seed: int) -> BadEncoder:
    random = torch.Generator().manual_seed(seed)
    pattern = torch.rand(3, 32, 32, generator=random)
    mask = torch.zeros(32, 32)
    mask[-6:, -6:] = 1
    patch = Patch(pattern=pattern, mask=mask)
    return BadEncoder(trigger=patch if kind == "patch" else Blend(pattern=pattern, alpha=0.15))


def _model(name: str, device: torch.device) -> nn.Module:
    """Take an encoder from the cache, or train it; a planted one starts from the honest one."""
    kind, _, text = name.partition("-")
    seed, images = int(text), _split().train.inputs[:].to(device)

    def make() -> nn.Module:
        if kind == "honest":
            return SimClr()(images, seed=Seed(seed))
        reference = images[100 + seed]
        honest = _model(f"honest-{seed}", device)
        return _planting(kind, seed)(honest, images, reference, seed=child(Seed(seed), kind))

    recipe = {"name": name, "how": repr(SimClr()) + repr(_planting("patch", 0)), "v": VERSION}
    return _cached(grid.CACHE / f"encoder-{grid.digest(recipe)}.safetensors", make).to(device)


def _cached(path: pathlib.Path, make: Callable[[], nn.Module]) -> nn.Module:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        weights: dict[str, Tensor] = make().state_dict()
        save_file({name: value.cpu().contiguous() for name, value in weights.items()}, path)
    model = encoder()
    model.load_state_dict(load_file(path))
    return model.eval()


def _measure(
    device: torch.device, first: str, second: str, settings: ModelsSettings, groups: Groups
) -> grid.Result:
    names = (first, second)
    models = [_model(name, device) for name in names]
    trusted = _split().trusted.inputs[:]
    plain = Preprocess(mean=(0.0,) * 3, std=(1.0,) * 3)
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
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    poisoned = [not name.startswith("honest") for name in names]
    held = None
    if poisoned[0]:
        kind, _, seed = first.partition("-")
        reference = _split().train.inputs[:][100 + int(seed)][None].float().to(device) / 255
        images = trusted[-500:].to(device).float() / 255
        held = grip(models[0], _planting(kind, int(seed)).trigger, images, reference)
    return {
        "verdict": found.verdict.value,
        "with_cached_searches_wall_s": wall,
        "with_cached_searches_cpu_s": cpu,
        "true_asr": None,
        "cosine_to_reference": held,
        "models": [
            {
                "name": model.name,
                "poisoned": is_poisoned,
                "targets": [],
                "accuracy": model.accuracy,
                "verdict": model.verdict.value,
                "p_value": model.p_value,
                "alone_p_value": model.alone_p_value,
                "reason": model.reason,
                "highest_excess": max((q.excess for q in model.questions), default=None),
                "family": model.recovered and model.recovered.family,
                "source": model.recovered and model.recovered.source,
                "target": model.recovered and model.recovered.target,
                "asr": model.recovered and model.recovered.asr[index],
                "asr_other": model.recovered and model.recovered.asr[1 - index],
                "asr_tuned": model.recovered and model.recovered.asr_tuned,
            }
            for index, (model, is_poisoned) in enumerate(zip(found.models, poisoned, strict=True))
        ],
    }


if __name__ == "__main__":
    raise SystemExit(main())
