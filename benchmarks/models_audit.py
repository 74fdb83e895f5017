"""Measure the models audit on pairs of deliveries: a poisoned and an honest one, or two honest.

The models are those that `dataset_audit.py --only asr` trains and keeps. What the search finds on a
model does not depend on the other one, and is kept too (`.cache/`): each further pair costs only
what is done with both.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import ablation
import grid
from assay.audits.models import Delivery, ModelResult, ModelsSettings, audit_models
from assay.audits.models.halves import halves
from assay.audits.models.respond import responder
from assay.randomness import Seed
from assay.results import Verdict
from assay.samples import Samples
from assay.stats import auroc, wilson
from assay_zoo.scenarios import SCENARIOS, Learner
from dataset_audit import SIZES, shard
from experiment import CLEAN, NETWORKS, Case, accuracy_and_asr, prepare, undefended, usual
from model_baselines import MODEL_BASELINES, ModelBaseline

RESULTS = grid.HERE / "results" / "models-audit"
ABLATION = grid.HERE / "results" / "models-ablation"
TABLE = grid.HERE / "MODELS.md"
VERSION = 3
"""To be raised when the code of the audit changes what it measures."""

SEARCHES = 2
"""The same for the searches alone, which are kept."""

TUNED = {
    "cifar10": "The audit's constants were chosen on these models; how kinds are taken together, "
    "and their tails, on these very trainings of them. Models of seed 1 are held out",
    "fashion-mnist": "The kinds, the noise and the spreads were chosen on these models too, the "
    "tails on the honest ones",
    "digits": "Held out, but for the least size of a patch, four pixels: it was set when the "
    "one-pixel search missed BadNets here. How kinds are taken together was not "
    "looked at here. From seed 1 on, about half of the clean samples stand "
    "in the training sets of the models. The grid of `unlabelled-grid` was made as strong as its "
    "learner needs here, without looking at the audit",
}
TUNED["encoders"] = (
    "What encoders are judged by was chosen on seeds 0 and 1, and spreads after all of these had "
    "been looked at, but for the pairs with `honest-4`, which are held out"
)
TUNED["encoders, digits"] = (
    "Spreads were chosen after the encoders of seeds 0 to 2 had been looked at, `blend` aside; all "
    "others are held out"
)
TUNED |= {
    f"language, {task}": "Another base and other seeds than the settings were chosen on; tasks, "
    "phrases and responses are the same"
    for task in ("instructions", "sentiment", "topics")
}
TUNED["language, sentiment"] += (
    ". These pairs were measured before the rise of the other model was taken without single "
    "tokens of the trigger too"
)
TUNED |= {
    f"vision-text, {task}": "Other seeds, which draw other triggers, than the settings were chosen "
    "on; base, tasks and responses are the same"
    for task in ("captions", "objects")
}
"""Data sets that were looked at while the audit was built."""


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--only", choices=("pairs", "baselines"), help="both, unless named")
    parser.add_argument("--table", action="store_true", help="render what is stored to MODELS.md")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.table:
        import models_surveys

        parts = [
            *models_surveys.section(grid.read_all(models_surveys.RESULTS)),
            *ablation.section(grid.read_all(ABLATION), TUNED),
        ]
        TABLE.write_text(table(grid.read_all(RESULTS)) + "\n" + "\n".join(parts))
        return 0
    groups = [
        group
        for data in asked.data
        for group in _groups(asked, data, pairs(asked.scenario, asked.seeds, asked.honest))
    ]
    return 1 if grid.run(groups, RESULTS, device=asked.device, shard=asked.shard) else 0


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Make the options that choose pairs of models."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    images = [
        name
        for name, each in SCENARIOS.items()
        if not each.tabular and each.learner is Learner.SUPERVISED
    ]
    add("--data", type=lambda text: text.split(","), default=["cifar10"])
    add("--scenario", type=lambda text: text.split(","), default=images)
    add("--seeds", type=int, default=1, help="poisoned models of each scenario")
    add("--honest", type=int, default=4, help="honest models of each data set")
    add("--network", choices=NETWORKS, default="default", help="of all models")
    add("--partner", choices=NETWORKS, help="network of the second of each pair, where it differs")
    add("--device", type=torch.device, default=torch.device("cpu"))
    add("--threads", type=int, default=1)
    add("--shard", type=shard, default=(0, 1), help="such as 0/2: the first of two processes")
    return parser


Named = tuple[str, int]
"""A scenario and a seed."""

MATCHING = "+cka"
"""Ends the name of a scenario whose attacker trains against the comparison: `badnets+cka`."""


FEW = "+fixmatch"
"""Ends the name of a scenario whose model is trained with few labels, as scenarios with a
semi-supervised learner always are."""

LABELLED = {"digits": 10}
"""Labels of each class that such models are trained with, by data set; 100 for others."""


def pairs(scenarios: Sequence[str], seeds: int, honest: int) -> list[tuple[Named, Named]]:
    """Pair every poisoned model with an honest one, honest ones, and those of one backdoor."""
    poisoned = [(name, seed) for seed in range(seeds) for name in scenarios]
    mixed = [(one, (partner_of(one[0]), i % honest)) for i, one in enumerate(poisoned)]
    both = itertools.combinations([(CLEAN, seed) for seed in range(honest)], 2)
    shared = [((name, seed - 1), (name, seed)) for seed in range(1, seeds) for name in scenarios]
    return [*mixed, *both, *shared]


def partner_of(scenario: str) -> str:
    """Name the honest scenario whose models learn as those of a scenario do."""
    return CLEAN + FEW if _is_semi(scenario) else CLEAN


def _is_semi(scenario: str) -> bool:
    learner = SCENARIOS[scenario].learner if scenario in SCENARIOS else None
    return scenario.endswith(FEW) or learner is Learner.SEMI_SUPERVISED


def _groups(
    asked: argparse.Namespace, data: str, both: Sequence[tuple[Named, Named]]
) -> list[grid.Group]:
    groups = []
    if asked.only != "baselines":
        groups += [_group(asked, data, pair) for pair in both]
    if asked.only != "pairs":
        each = dict.fromkeys(named for pair in both for named in pair)
        groups += [_baselines(case_of(asked, data, named)) for named in each]
    return groups


def case_of(asked: argparse.Namespace, data: str, named: Named) -> Case:
    """Say how a model of a pair is made."""
    train, trusted, test = SIZES[data]
    return Case(
        data=data,
        train=train,
        trusted=trusted,
        test=test,
        scenario=named[0].removesuffix(MATCHING).removesuffix(FEW),
        seed=named[1],
        matching=named[0].endswith(MATCHING),
        labelled=LABELLED.get(data, 100) if _is_semi(named[0]) else None,
        network=asked.network,
        training=usual(data),
        device=asked.device,
    )


def _group(asked: argparse.Namespace, data: str, pair: tuple[Named, Named]) -> grid.Group:
    first, second = (case_of(asked, data, named) for named in pair)
    second = dataclasses.replace(second, network=asked.partner or asked.network)
    settings = ModelsSettings()
    name = f"{data}-{'-vs-'.join(f'{s}-s{seed}' for s, seed in pair)}"
    cell = grid.Cell(
        name=name,
        kind=f"{data} pair",
        recipe={
            "data": data,
            "first": first.recipe,
            "second": second.recipe,
            "method": repr(settings),
            "version": VERSION,
        },
        measure=lambda: _measure(first, second, settings),
    )
    return grid.Group(name=f"models-{name}", cells=(cell,))


def _name(case: Case) -> str:
    ending = FEW if case.labelled and case.attack is None else ""
    return f"{case.scenario}{MATCHING if case.matching else ending}-s{case.seed}"


def _baselines(case: Case) -> grid.Group:
    """Detectors that judge a model by itself."""
    name = f"{case.data}-{_name(case)}"
    cells = tuple(
        grid.Cell(
            name=f"{name}-{baseline}",
            kind=f"{case.data} {baseline}",
            recipe={**case.recipe, "baseline": baseline, "method": repr(method), "version": 1},
            measure=functools.partial(_judged, case, method),
        )
        for baseline, method in MODEL_BASELINES.items()
    )
    return grid.Group(name=f"models-{name}-baselines", cells=cells)


def _judged(case: Case, method: ModelBaseline) -> grid.Result:
    clean = trusted_of(case)
    ordinary = undefended(case)
    delivery = Delivery(
        name=case.scenario, model=ordinary.model, preprocess=ordinary.preprocess, digest={}
    )
    respond = responder(delivery, case.device)
    pool, _ = halves(clean, most=ModelsSettings().most_samples, seed=Seed(0), device=case.device)
    wall, cpu = time.perf_counter(), time.process_time()
    found = method(respond, pool, classes=clean.classes, seed=Seed(0))
    return {
        "poisoned": case.attack is not None,
        "score": found.score,
        "flagged": found.flagged,
        "target": found.target,
        "targets": targets_of(case),
        "method_wall_s": time.perf_counter() - wall,
        "method_cpu_s": time.process_time() - cpu,
    }


def targets_of(case: Case) -> list[int]:
    if case.attack is None:
        return []
    prepared = prepare(case)
    return prepared.suspects.labels[prepared.poisoned.is_poison].unique().tolist()


class Shared:
    """Keeps what the search found on each model, under the model's own name.

    Of many classes all models together choose what is searched to the end: then the name is that of
    a model among these.
    """

    reused = False
    """Whether anything was found that another pair had kept."""

    def __init__(self, cases: Sequence[Case], settings: ModelsSettings, classes: int) -> None:
        self.names = [grid.digest({**c.recipe, "version": SEARCHES}) for c in cases]
        if classes > settings.elimination.most:
            everyone = grid.digest({"models": self.names})
            self.names = [f"{name}-among-{everyone}" for name in self.names]
        searches = [(repr(k.family), repr(k.search), k.by_source) for k in settings.kinds]
        rest = (repr(settings.elimination), settings.most_samples)
        self.settings = grid.digest({"searches": searches, "rest": rest})

    def _path(self, name: str) -> pathlib.Path:
        kind, _, index = name.rpartition("-")
        folder = grid.CACHE / "surveys"
        return folder / f"{self.names[int(index)]}-{self.settings}-{kind}.safetensors"

    def save(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        save_file({key: value.contiguous() for key, value in tensors.items()}, partial)
        partial.replace(path)

    def load(self, name: str) -> dict[str, Tensor] | None:
        """Return what was kept, or None."""
        path = self._path(name)
        if not path.exists():
            return None
        self.reused = True
        return load_file(path)


def trusted_of(case: Case) -> Samples:
    """Take the client's samples: the same for all pairs of a data set."""
    return prepare(dataclasses.replace(case, scenario=CLEAN, seed=0)).split.trusted


def delivered(cases: Sequence[Case]) -> list[Delivery]:
    """Take the models of some cases, or train them."""
    return [
        Delivery(name=_name(case), model=each.model, preprocess=each.preprocess, digest={})
        for case, each in ((case, undefended(case)) for case in cases)
    ]


def _measure(first: Case, second: Case, settings: ModelsSettings) -> grid.Result:
    cases = (first, second)
    clean = trusted_of(first)
    ordinary = [undefended(case) for case in cases]
    deliveries, store = delivered(cases), Shared(cases, settings, clean.classes)
    # only one seed, or the searches of a model could not be shared between its pairs
    wall, cpu = time.perf_counter(), time.process_time()
    found = audit_models(
        deliveries,
        clean,
        settings=settings,
        seed=Seed(0),
        device=first.device,
        store=store,
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "verdict": found.verdict.value,
        "audit_wall_s": None if store.reused else wall,
        "audit_cpu_s": None if store.reused else cpu,
        "models": [
            _about(case, model, index)
            for index, (case, model) in enumerate(zip(cases, found.models, strict=True))
        ],
        "true_asr": None if first.attack is None else accuracy_and_asr(first, ordinary[0])["asr"],
    }


def _about(case: Case, model: ModelResult, index: int) -> dict[str, Any]:
    recovered = model.recovered
    return {
        "name": model.name,
        "poisoned": case.attack is not None,
        "targets": targets_of(case),
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


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Render the stored pairs as Markdown."""
    cells = _latest(cells)
    lines = [
        "# Results of the models audit",
        "",
        f"Rendered by `python benchmarks/models_audit.py --table` from {len(cells)} cells in "
        "`results/models-audit/`; each names its settings, versions and machine.",
        "",
        "Each poisoned model stands against one honest one, of the same architecture where no "
        "other is named. **Right model**: it alone is flagged. **Right target**: and the trigger "
        "that was recovered leads to the attacker's class. ASR of the recovered trigger: on the "
        "model, on the other one, and on the model after fine-tuning on clean samples. In per "
        "cent. Honest models stand in several pairs, so intervals are narrower than they should "
        "be. ‡ marks a pair that was judged before kinds of one sort counted once; all pairs are "
        "judged by the present decision below. In `encoders` true ASR is how often the nearest "
        "neighbours of a triggered test image, of another class, vote for the class that the "
        "attacker wants.",
        "",
    ]
    for setting in sorted({setting_of(cell["recipe"]) for cell in cells}):
        own = [cell for cell in cells if setting_of(cell["recipe"]) == setting]
        judged = [cell for cell in own if "baseline" in cell["recipe"]]
        lines += _section(setting, [_marked(c) for c in own if c not in judged])
        if judged:
            lines += _compared(judged)
    return "\n".join(lines) + "\n"


def _latest(cells: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Take the last measurement of every pair, and everything else."""
    last = {}
    for cell in sorted(cells, key=lambda cell: cell.get("provenance", {}).get("date", "")):
        fixed = {k: v for k, v in cell["recipe"].items() if k not in {"method", "version"}}
        last[json.dumps(fixed, sort_keys=True)] = cell
    return [cell for cell in cells if any(cell is each for each in last.values())]


def _marked(cell: Mapping[str, Any]) -> Mapping[str, Any]:
    """Mark the names of models in a pair of classifiers that a former decision judged."""
    result, recipe = cell["result"], cell["recipe"]
    is_former = isinstance(recipe.get("first"), Mapping) and recipe.get("version") != VERSION
    mark = " ‡" if is_former else ""
    return {**result, "models": [{**m, "name": m["name"] + mark} for m in result["models"]]}


def setting_of(recipe: Mapping[str, Any]) -> str:
    """Name the data, and how models are made where that differs from the usual way."""
    model = recipe.get("first", recipe)
    if not isinstance(model, Mapping):
        return str(recipe["data"])
    unusual = {model.get("network"), model.get("device")} - {"default", "cpu", None}
    partner = recipe.get("second", model).get("network")
    beside = [f"beside {partner}"] * (partner != model.get("network"))
    return ", ".join([str(recipe["data"]), *sorted(unusual), *beside])


def _section(setting: str, results: Sequence[Mapping[str, Any]]) -> list[str]:
    mixed, honest, shared = (
        [r for r in results if [m["poisoned"] for m in r["models"]] == kind]
        for kind in ([True, False], [False, False], [True, True])
    )
    matching = [r for r in mixed if MATCHING in r["models"][0]["name"]]
    mixed = [r for r in mixed if r not in matching]
    lines = [f"## {setting}", "", f"{TUNED.get(setting, 'Held out')}.", ""]
    lines += [
        "| Attack | True ASR | Flagged | Right model | Right target | p-value | Kind | ASR | "
        "on the other | tuned |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_row(r) for r in (*mixed, *matching)),
        "",
    ]
    right = sum(_right_model(r) for r in mixed)
    named = sum(_right_target(r) for r in mixed)
    lines.append(f"- Right model: {_share(right, len(mixed))}.")
    if any(r["models"][0]["targets"] for r in mixed):
        lines.append(f"- Right target, where the model was right: {_share(named, right)}.")
    wrong = sum(r["models"][1]["verdict"] == Verdict.FLAGGED.value for r in mixed)
    lines.append(f"- Honest partners of poisoned models flagged: {_share(wrong, len(mixed))}.")
    false = sum(r["verdict"] == Verdict.FLAGGED.value for r in honest)
    lines.append(f"- Honest pairs flagged: {_share(false, len(honest))}.")
    unsure = sum(r["verdict"] == Verdict.INCONCLUSIVE.value for r in honest)
    lines.append(f"- Honest pairs not judged: {unsure} of {len(honest)}.")
    if matching:
        found = sum(_right_model(r) for r in matching)
        lines.append(
            "- Right model where the attacker trained against the comparison (`+cka`, not counted "
            f"above): {_share(found, len(matching))}."
        )
    if shared:
        found = sum(r["verdict"] == Verdict.FLAGGED.value for r in shared)
        lines.append(
            f"- Pairs that share one backdoor, flagged all the same: {_share(found, len(shared))}."
        )
    return [*lines, *_ranked(mixed, honest), *_quality(results), ""]


def _ranked(mixed: Sequence[Mapping[str, Any]], honest: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say how well p-values alone part poisoned models from honest ones."""
    scores = [-r["models"][0]["p_value"] for r in mixed if r["models"][0]["p_value"] is not None]
    null = [-m["p_value"] for r in honest for m in r["models"] if m["p_value"] is not None]
    if not scores or not null:
        return []
    positive = torch.tensor([True] * len(scores) + [False] * len(null))
    value = auroc(torch.tensor(scores + null).double(), positive)
    return [f"- AUROC of the p-value, poisoned models against those of honest pairs: {value:.3f}."]


def _quality(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say how good encoders are, where that was measured."""
    right = {
        (model["name"], model["poisoned"]): value
        for r in results
        for model, value in zip(r["models"], r.get("accuracy_by_neighbours", []), strict=False)
    }
    poisoned, honest = (
        [value for (_, is_poisoned), value in right.items() if is_poisoned == wanted]
        for wanted in (True, False)
    )
    if not poisoned or not honest:
        return []
    means = [sum(values) / len(values) for values in (poisoned, honest)]
    return [
        "- Test images that their nearest neighbours give the right class, mean: "
        f"{_percent(means[0])} by {len(poisoned)} poisoned encoders, {_percent(means[1])} by "
        f"{len(honest)} honest ones."
    ]


def _compared(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Show what detectors say that look at one model alone."""
    lines = [
        "Detectors of one model alone, on the same models:",
        "",
        "| Detector | Poisoned models flagged | and the right target | Honest models flagged | "
        "AUROC | CPU seconds a model |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(cell["recipe"]["baseline"] for cell in cells):
        results = [cell["result"] for cell in cells if cell["recipe"]["baseline"] == name]
        poisoned = [r for r in results if r["poisoned"]]
        honest = [r for r in results if not r["poisoned"]]
        flagged = [r for r in poisoned if r["flagged"]]
        right = sum(r["target"] in r["targets"] for r in flagged)
        scores = torch.tensor([r["score"] for r in (*poisoned, *honest)]).double()
        positive = torch.tensor([True] * len(poisoned) + [False] * len(honest))
        ranked = f"{auroc(scores, positive):.3f}" if poisoned and honest else "—"
        cost = sum(r["method_cpu_s"] for r in results) / len(results)
        lines.append(
            f"| {name} | {len(flagged)} of {len(poisoned)} | {right} | "
            f"{sum(r['flagged'] for r in honest)} of {len(honest)} | {ranked} | {cost:.0f} |"
        )
    return [*lines, ""]


def _row(result: Mapping[str, Any]) -> str:
    model = result["models"][0]
    true = result["true_asr"]
    cells = [
        model["name"],
        f"{_percent(true)}{' †' if true is not None and true < 0.8 else ''}",
        "yes" if result["verdict"] == Verdict.FLAGGED.value else result["verdict"],
        _yes(_right_model(result)),
        _yes(_right_target(result)) if model["targets"] else "—",
        "—" if model["p_value"] is None else f"{model['p_value']:.2g}",
        f"{model['family']}{'' if model['source'] is None else ', one source class'}",
        *(_percent(model[key]) for key in ("asr", "asr_other", "asr_tuned")),
    ]
    return "| " + " | ".join(cells) + " |"


def _right_model(result: Mapping[str, Any]) -> bool:
    flagged = [m["verdict"] == Verdict.FLAGGED.value for m in result["models"]]
    return flagged == [m["poisoned"] for m in result["models"]]


def _right_target(result: Mapping[str, Any]) -> bool:
    model = result["models"][0]
    return _right_model(result) and model["target"] in model["targets"]


def _yes(value: bool) -> str:  # noqa: FBT001
    return "yes" if value else "**no**"


def _percent(value: float | None) -> str:
    return "—" if value is None else f"{100 * value:.1f}"


def _share(part: int, whole: int) -> str:
    if not whole:
        return "0 of 0"
    found = wilson(part, whole)
    return f"{part} of {whole} (95 % Wilson interval {found.low:.0%} to {found.high:.0%})"


if __name__ == "__main__":
    raise SystemExit(main())
