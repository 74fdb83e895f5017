"""Measure the dataset audit on poisoned and clean data sets, cell by cell."""

import argparse
import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import grid
from assay.audits.dataset import DatasetSettings, audit_dataset
from assay.errors import InputError
from assay.fitting import Recipe
from assay.records import record
from assay.results import Verdict
from assay_zoo.data import DATA_SETS
from assay_zoo.scenarios import SCENARIOS, fitting
from baselines import BASELINES
from experiment import (
    CLEAN,
    NETWORKS,
    Case,
    Prepared,
    accuracy_and_asr,
    keep,
    prepare,
    rates,
    train_ordinary,
    undefended,
    untrained,
    usual,
)

RESULTS = grid.HERE / "results" / "dataset-audit"

SIZES = {
    "cifar10": (12_000, 2_000, 8_000),
    "fashion-mnist": (12_000, 2_000, 8_000),
    "gtsrb": (5_160, 1_290, 2_150),
    "digits": (1_000, 200, 597),
    "digits-table": (1_200, 300, 297),
    "breast-cancer": (269, 200, 100),
    "agnews-features": (5_000, 2_000, 1_000),
}
"""Training, trusted and test samples, unless the command names others."""

VERSIONS = {
    "undefended": 1,
    "reference": 1,
    "audit": 1,
    "cleansed": 1,
    "oracle": 1,
    "baseline": 1,
    "published": 1,
}
"""To be raised when the code of a kind changes what it measures, so that its cells are computed
anew."""

PARTS = ("asr", "audit", "cleansed", "oracle", "baselines", "published")


def main() -> int:
    asking = parser(__doc__)
    asking.add_argument(
        "--only", type=_names(PARTS), default=list(PARTS[:5]), help="default: all but published"
    )
    asking.add_argument("--list", action="store_true", help="only say which cells are done")
    asked = asking.parse_args()
    torch.set_num_threads(asked.threads)
    groups = [_group(case, asked.only) for case in cases(asked)]
    if asked.list:
        for group in groups:
            for cell in group.cells:
                print("done   " if cell.path(RESULTS).exists() else "missing", cell.name)
        return 0
    failed = grid.run(groups, RESULTS, device=asked.device, shard=asked.shard)
    return 1 if failed else 0


def parser(purpose: str | None) -> argparse.ArgumentParser:
    """Ask for cases, and where to compute them."""
    parser = argparse.ArgumentParser(description=purpose)
    add = parser.add_argument
    add("--data", type=_names(DATA_SETS), default=["cifar10"], help="comma-separated, in order")
    add("--scenario", type=_names(("all", CLEAN, *SCENARIOS)), default=["all"])
    add("--seed", "--seeds", dest="seeds", type=_numbers, default=[0], help="such as 0 or 0-19,25")
    add("--network", choices=NETWORKS, default="default")
    add("--rates", choices=("own", "published"), default="own", help="of poison; default: own")
    add("--train", type=int, help="training samples")
    add("--trusted", type=int, help="trusted samples")
    add("--test", type=int, help="test samples")
    add("--epochs", type=int, help="of every training")
    add("--device", type=torch.device, default=torch.device("cpu"))
    add("--threads", type=int, default=1)
    add("--shard", type=shard, default=(0, 1), help="such as 0/2: the first of two processes")
    return parser


def cases(asked: argparse.Namespace) -> list[Case]:
    """List the cases that were asked for, seed by seed."""
    return [
        _case(asked, data, scenario, seed)
        for data in asked.data
        for seed in asked.seeds
        for scenario in _scenarios(asked.scenario, data)
    ]


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        unknown = [name for name in text.split(",") if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(known)}, got {unknown}")
        return text.split(",")

    return names


def _numbers(text: str) -> list[int]:
    ranges = [part.partition("-") for part in text.split(",")]
    return [n for low, _, high in ranges for n in range(int(low), int(high or low) + 1)]


def shard(text: str) -> tuple[int, int]:
    own, _, count = text.partition("/")
    if not 0 <= int(own) < int(count):
        raise argparse.ArgumentTypeError(f"expected such as 0/2 or 1/2, got {text}")
    return int(own), int(count)


def _scenarios(asked: Sequence[str], data: str) -> list[str]:
    return [name for name in (CLEAN, *fitting(data)) if name in asked or "all" in asked]


def _case(asked: argparse.Namespace, data: str, scenario: str, seed: int) -> Case:
    train, trusted, test = SIZES[data]
    return Case(
        data=data,
        train=asked.train or train,
        trusted=asked.trusted or trusted,
        test=asked.test or test,
        scenario=scenario,
        seed=seed,
        network=asked.network,
        training=Recipe(epochs=asked.epochs) if asked.epochs else usual(data),
        device=asked.device,
        published=asked.rates == "published",
    )


def _group(case: Case, parts: Sequence[str]) -> grid.Group:
    """List the cells of a case, in the order in which they need each other."""
    settings = usual_settings(case)
    audited = _cell(case, "audit", repr(settings), lambda: audit(case, settings))
    cells: list[grid.Cell] = []
    if "asr" in parts:
        cells.append(_cell(case, "undefended", "", lambda: _undefended(case)))
    if "asr" in parts and case.attack is not None:
        cells.append(_cell(case, "reference", "", lambda: _reference(case)))
    if "audit" in parts:
        cells.append(audited)
    if "cleansed" in parts and case.attack is not None:
        there = audited.path(RESULTS)
        cells.append(_cell(case, "cleansed", audited.digest, lambda: _cleansed(case, there)))
    if "oracle" in parts and case.attack is not None:
        cells.append(_cell(case, "oracle", "", lambda: _oracle(case)))
    if "baselines" in parts and case.attack is not None:
        cells += [_baseline(case, name) for name in BASELINES if _suits(name, case)]
    if "published" in parts and case.attack is not None:
        cells.append(_published(case))
    return grid.Group(name=f"{_name(case)}-{case.digest}", cells=tuple(cells))


def usual_settings(case: Case) -> DatasetSettings:
    """Audit by default, for as many epochs as ordinary models where these have others."""
    if case.training.epochs == Recipe().epochs:
        return DatasetSettings()
    return dataclasses.replace(DatasetSettings(), recipe=case.training)


def _cell(case: Case, kind: str, method: str, measure: Callable[[], grid.Result]) -> grid.Cell:
    version = VERSIONS[kind.partition(":")[0]]
    return grid.Cell(
        name=f"{_name(case)}-{kind.replace(':', '-')}",
        kind=f"{case.data} {kind}",
        recipe={**case.recipe, "kind": kind, "method": method, "version": version},
        measure=measure,
    )


def _name(case: Case) -> str:
    return f"{case.data}-{case.train}-{case.scenario}-s{case.seed}"


def _undefended(case: Case) -> grid.Result:
    trained = keep(case, train_ordinary(case, prepare(case).suspects))
    return {
        **accuracy_and_asr(case, trained),
        "train_wall_s": trained.wall_s,
        "train_cpu_s": trained.cpu_s,
        "sample_passes": case.training.epochs * case.train,
    }


def _reference(case: Case) -> grid.Result:
    """Ask the ordinary model of the clean data about the triggered test samples."""
    clean = undefended(dataclasses.replace(case, scenario=CLEAN))
    return {**accuracy_and_asr(case, clean)}


@record
class _Kept:
    """Keeps an audit's trained and confused models, so that another decision needs no training."""

    folder: pathlib.Path

    def save(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}.safetensors"
        save_file({k: v.contiguous() for k, v in tensors.items()}, path.with_suffix(".partial"))
        path.with_suffix(".partial").replace(path)

    def load(self, name: str) -> dict[str, Tensor] | None:
        path = self.folder / f"{name}.safetensors"
        return load_file(path) if path.exists() else None

    def times(self, measured: Sequence[float] | None) -> Sequence[float | None]:
        """Keep how long the audit took that trained the models, or, with None, say it."""
        path = self.folder / "times.json"
        if measured is not None:
            path.write_text(json.dumps(measured))
            return measured
        return json.loads(path.read_text()) if path.exists() else [None] * 4


class _Watch:
    """Times an audit, and its first training, by whose pace an ordinary one is reckoned.

    Both in the same minutes: another day the same machine is up to three times as fast.
    """

    def __init__(self) -> None:
        self.began = (time.perf_counter(), time.process_time())
        self.trained = (0.0, 0.0)

    def __call__(self, stage: str, _done: int, _total: int) -> None:
        if stage == "train":
            self.trained = self.passed()

    def passed(self) -> tuple[float, float]:
        """Count seconds since the beginning, by the wall clock and of the processor."""
        return time.perf_counter() - self.began[0], time.process_time() - self.began[1]


def _kept(case: Case, settings: DatasetSettings) -> _Kept:
    suspects = prepare(case).suspects
    confusion, focus = settings.confusion_for(suspects), settings.focus_for(suspects)
    method = repr((settings.recipe, focus, confusion, settings.most_calibration))
    return _Kept(folder=grid.CACHE / "audits" / grid.digest({**case.recipe, "method": method}))


def audit(case: Case, settings: DatasetSettings) -> grid.Result:
    """Audit a case, and compare what was found with the truth."""
    prepared, kept = prepare(case), _kept(case, settings)
    resumed = kept.folder.exists()
    watch = _Watch()
    found = audit_dataset(
        prepared.suspects,
        prepared.split.trusted,
        settings=settings,
        network=lambda: untrained(case, prepared.suspects),
        seed=case.part("audit"),
        device=case.device,
        progress=watch,
        store=kept,
    )
    mixed = len(prepared.suspects) + len(found.calibration_labels)
    trained = sum(settings.focus_for(prepared.suspects).sizes(mixed, settings.recipe.epochs))
    ordinary = case.training.epochs * case.train / trained
    pace = [ordinary * passed for passed in watch.trained]
    wall, cpu, ordinary_wall, ordinary_cpu = kept.times(
        None if resumed else [*watch.passed(), *pace]
    )
    adjusted = [c.adjusted_p_value for c in found.classes if c.adjusted_p_value is not None]
    everything = torch.ones_like(found.is_poison)
    return {
        "verdict": found.verdict.value,
        **rates(prepared.poisoned, found.is_poison, found.scores, everything),
        "suspicious_classes": [c.label for c in found.classes if c.verdict is Verdict.FLAGGED],
        "poisoned_classes": _poisoned_classes(prepared),
        "smallest_adjusted_p": min(adjusted, default=None),
        "classes": [
            {
                "label": c.label,
                "samples": c.samples,
                "flagged": c.flagged,
                "statistic": c.statistic,
                "p_value": c.p_value,
                "verdict": c.verdict.value,
            }
            for c in found.classes
        ],
        "reasons": list(found.findings.reasons),
        "audit_wall_s": wall,
        "audit_cpu_s": cpu,
        "ordinary_wall_s": ordinary_wall,
        "ordinary_cpu_s": ordinary_cpu,
        "sample_passes": found.sample_passes,
        "passes_ratio": found.sample_passes / (case.training.epochs * case.train),
        "flagged_samples": " ".join(str(row) for row in found.flagged.tolist()),
    }


def _poisoned_classes(prepared: Prepared) -> list[int]:
    return prepared.suspects.labels[prepared.poisoned.is_poison].unique().tolist()


def _cleansed(case: Case, audit: pathlib.Path) -> grid.Result:
    if not audit.exists():
        raise InputError(f"expected the audit's cell {audit.name}, which is missing: run it first")
    flagged = [int(row) for row in grid.read(audit)["result"]["flagged_samples"].split()]
    kept = torch.ones_like(prepare(case).poisoned.is_poison)
    kept[flagged] = False
    return _without(case, kept)


def _oracle(case: Case) -> grid.Result:
    """Remove what is poison and nothing else: the best that an audit could leave."""
    return _without(case, ~prepare(case).poisoned.is_poison)


def _without(case: Case, kept: Bool[Tensor, " samples"]) -> grid.Result:
    trained = train_ordinary(case, prepare(case).suspects.subset(kept.nonzero().squeeze(1)))
    return {**accuracy_and_asr(case, trained), "samples": int(kept.sum())}


def _baseline(case: Case, name: str) -> grid.Cell:
    method = BASELINES[name]

    def measure() -> grid.Result:
        prepared, ordinary = prepare(case), undefended(case)
        wall, cpu = time.perf_counter(), time.process_time()
        found = method(case, prepared, ordinary)
        return {
            **rates(prepared.poisoned, found.flagged, found.scores, found.examined),
            "examined": int(found.examined.sum()),
            "method_wall_s": time.perf_counter() - wall,
            "method_cpu_s": time.process_time() - cpu,
        }

    return _cell(case, f"baseline:{name}", repr(method), measure)


def _published(case: Case) -> grid.Cell:
    """The published schedule; imported here, because it is the only cell that needs it."""
    from assay.audits.dataset import PublishedConfusionTraining

    method = PublishedConfusionTraining()

    def measure() -> grid.Result:
        prepared, passes = prepare(case), [0]

        def count(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            passes[0] += len(inputs[0]) * model.training

        def network() -> nn.Module:
            model = untrained(case, prepared.suspects)
            model.register_forward_pre_hook(count)
            return model

        wall, cpu = time.perf_counter(), time.process_time()
        found = method(
            prepared.suspects,
            prepared.split.trusted,
            network=network,
            seed=case.part("published"),
            device=case.device,
        )
        everything = torch.ones_like(found.flagged)
        return {
            **rates(prepared.poisoned, found.flagged, found.scores, everything),
            "method_wall_s": time.perf_counter() - wall,
            "method_cpu_s": time.process_time() - cpu,
            "sample_passes": passes[0],
            "passes_ratio": passes[0] / (case.training.epochs * case.train),
        }

    return _cell(case, "published", repr(method), measure)


def _suits(name: str, case: Case) -> bool:
    return name != "strip" or not SCENARIOS[case.scenario].tabular


if __name__ == "__main__":
    raise SystemExit(main())
