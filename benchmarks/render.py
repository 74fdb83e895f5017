"""Render RESULTS.md from the stored cells alone: nothing is computed but means."""

import collections
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

import dataset_cost
import grid
from assay.audits.dataset import DatasetSettings
from assay.records import record
from assay.stats import wilson
from assay_zoo.data import DATA_SETS
from assay_zoo.scenarios import SCENARIOS, fitting

RESULTS = grid.HERE / "results" / "dataset-audit"
PAGE = grid.HERE / "RESULTS.md"

WORKS = 0.8
"""The attack success rate from which on an attack counts as one."""

DETECTORS = {
    "audit": "Audit",
    "published": "Published schedule",
    "baseline:activation-clustering": "Activation clustering",
    "baseline:spectral-signatures": "Spectral signatures",
    "baseline:strip": "STRIP",
}

_SETTING = ("data", "train", "trusted", "test", "network", "training", "device", "rates")

_FORMATS = {"AUROC": ".3f", "FPR": ".2f", "Cost, passes": ".2f", "Cost, time": ".2f"}
_FORMATS |= dict.fromkeys(("Δ", "Δ, oracle"), "+.1f")

Stored = Mapping[str, Any]


@record
class Case:
    """One data set with one attack and one seed."""

    scenario: str
    seed: int
    kinds: Mapping[str, Stored]
    """The newest cell of each kind, where there is one."""

    def get(self, kind: str, key: str) -> Any:
        """What the cell of a kind says of something; None where there is no such cell."""
        cell = self.kinds.get(kind)
        return None if cell is None else cell["result"].get(key)


@record
class Table:
    """All cases of one setting: data set, sizes, network and ordinary training."""

    setting: Mapping[str, Any]
    cases: Sequence[Case]
    outdated: int
    """How many cells of older settings are left out."""

    def of(self, scenario: str) -> list[Case]:
        """List the cases of a scenario, one a seed."""
        return [case for case in self.cases if case.scenario == scenario]

    def attacks(self) -> list[str]:
        """List the attacks that there are cells of, in the order of the scenarios."""
        return [name for name in SCENARIOS if self.of(name)]

    def clean_accuracy(self, case: Case) -> float | None:
        """Accuracy of the ordinary model of the clean data, of the same seed."""
        same = [c.get("undefended", "accuracy") for c in self.of("clean") if c.seed == case.seed]
        return same[0] if same else None


def main() -> None:
    beside = dataset_cost.table(dataset_cost.stored(torch.device("cpu"), threads=1))
    PAGE.write_text(f"{page(grid.read_all(RESULTS))}\n{BESIDE}\n\n```text\n{beside}```\n")
    print(PAGE)


def page(cells: Sequence[Stored]) -> str:
    """Render the whole page."""
    commits = sorted({cell["provenance"]["commit"] for cell in cells})
    parts = [
        "# Results of the dataset audit",
        f"Rendered by `python benchmarks/render.py` from {len(cells)} cells in "
        "`results/dataset-audit/`; each names its settings, versions and machine. Commits: "
        f"{', '.join(commits) or 'none'}.",
        LEGEND,
    ]
    for table in tables(cells):
        parts += [_heading(table), _attacks(table), _false_alarms(table), _detectors(table)]
        parts.append(_gaps(table))
    parts.append(_costs(tables(cells)))
    return "\n\n".join(part for part in parts if part) + "\n"


BESIDE = """\
### Beside one ordinary training, in one process

`dataset_cost.py`, one thread of a CPU, processor time. With 5,000 images the confusion takes its \
fewest steps, which are many beside so few. With 50,000 it did not take at once, and went on for \
as long again."""

LEGEND = f"""\
Shares are in per cent. **Rate**: poison (and cover) as a share of the training set; in \
brackets, as published. **Accuracy** and **ASR** (attack success rate: triggered \
test samples of other classes that go where the attacker wants) of the ordinary model of the \
poisoned data; † marks an ASR below {WORKS:.0%}, an attack that does not work; ‡ an audit with \
former settings, not measured again since. **ASR, clean \
model**: of the ordinary model of the clean data, which is wrong now and then. **TPR**: share of \
the poison that is flagged; **FPR**: share of the samples flagged that are neither poison nor \
cover. **Cleansed**: the same training without the flagged samples; Δ is its accuracy less that \
of the ordinary model of the clean data, in points. **Oracle**: the same training without the \
poison, and without it alone: the best that an audit could leave. **Cost**: sample passes, and \
time, of the audit in units of one ordinary training; time at the pace of the audit's own first \
training, where that was measured. Means over seeds, where there are several; "2/3" behind a \
number says that a seed is missing, and — that all are."""


def tables(cells: Sequence[Stored]) -> list[Table]:
    """Sort cells by setting, and keep the newest of each case and kind."""
    settings: dict[tuple[Any, ...], list[Stored]] = collections.defaultdict(list)
    for cell in sorted(cells, key=lambda cell: cell["provenance"]["date"]):
        settings[tuple(cell["recipe"].get(key) for key in _SETTING)].append(cell)
    order = sorted(settings, key=lambda key: (DATA_SETS.index(key[0]), *map(str, key[4:]), key[1]))
    return [_table(dict(zip(_SETTING, key, strict=True)), settings[key]) for key in order]


def _table(setting: Mapping[str, Any], cells: Sequence[Stored]) -> Table:
    """Sort the cells of a setting, given from the oldest to the newest."""
    attack = {_case_key(cell): cell["recipe"]["attack"] for cell in cells}
    kinds: dict[tuple[str, int], dict[str, Stored]] = collections.defaultdict(dict)
    for cell in cells:
        if cell["recipe"]["attack"] == attack[_case_key(cell)]:
            kinds[_case_key(cell)][cell["recipe"]["kind"]] = cell
    for found in kinds.values():
        cleansed, audit = found.get("cleansed"), found.get("audit")
        if cleansed and (not audit or cleansed["recipe"]["method"] != grid.digest(audit["recipe"])):
            del found["cleansed"]
    cases = [
        Case(scenario=name, seed=seed, kinds=kinds[name, seed]) for name, seed in sorted(kinds)
    ]
    shown = sum(len(case.kinds) for case in cases)
    return Table(setting=setting, cases=cases, outdated=len(cells) - shown)


def _case_key(cell: Stored) -> tuple[str, int]:
    return cell["recipe"]["scenario"], cell["recipe"]["seed"]


def _heading(table: Table) -> str:
    setting = table.setting
    machines = {_machine(cell) for case in table.cases for cell in case.kinds.values()}
    return (
        f"## {setting['data']}: {setting['train']:,} samples, network `{setting['network']}`, "
        f"on {', '.join(sorted(machines))}\n\n"
        f"{setting['trusted']:,} trusted samples, {setting['test']:,} test samples. "
        f"Ordinary training: `{setting['training']}`."
        + (" Attacks and rates as published." if setting["rates"] else "")
    )


def _attacks(table: Table) -> str:
    names = table.attacks()
    if not names:
        return ""
    columns: dict[str, Callable[[Case], float | None]] = {
        "Accuracy": lambda c: _times(c.get("undefended", "accuracy"), 100),
        "ASR": lambda c: _times(c.get("undefended", "asr"), 100),
        "ASR, clean model": lambda c: _times(c.get("reference", "asr"), 100),
        "TPR": lambda c: _times(c.get("audit", "tpr"), 100),
        "FPR": lambda c: _times(c.get("audit", "fpr"), 100),
        "AUROC": lambda c: c.get("audit", "auroc"),
        "Cleansed accuracy": lambda c: _times(c.get("cleansed", "accuracy"), 100),
        "Δ": lambda c: _lost(table, c, "cleansed"),
        "Cleansed ASR": lambda c: _times(c.get("cleansed", "asr"), 100),
        "Δ, oracle": lambda c: _lost(table, c, "oracle"),
        "ASR, oracle": lambda c: _times(c.get("oracle", "asr"), 100),
        "Cost, passes": lambda c: c.get("audit", "passes_ratio"),
        "Cost, time": _time_ratio,
    }

    def row(label: str, rate: str, seeds: str, some: Sequence[str]) -> list[str]:
        cases = [case for name in some for case in table.of(name)]
        means = (_mean_over(column, read, table, some) for column, read in columns.items())
        return [label, rate, seeds, _verdicts(cases), *means]

    rows = [
        row(name + _mark(table, name), _rate(table, name), str(len(table.of(name))), [name])
        for name in names
    ]
    rows += [row(f"**{label}**", "", "", group) for label, group in _groups(names).items()]
    head = ["Attack", "Rate (published)", "Seeds", "Verdict: flagged", *columns]
    return "### Attacks\n\n" + _markdown(head, rows)


def _mark(table: Table, name: str) -> str:
    success = _mean(case.get("undefended", "asr") for case in table.of(name))
    weak = success is not None and success < WORKS
    return ("†" if weak else "") + ("‡" if any(map(_is_former, table.of(name))) else "")


def _is_former(case: Case) -> bool:
    """Tell whether the audit ran with other settings than today's, apart from the length."""
    if "audit" not in case.kinds:
        return False
    then, now = case.kinds["audit"]["recipe"]["method"], repr(DatasetSettings())
    return bool(then.partition(", confusion=")[2] != now.partition(", confusion=")[2])


def _groups(names: Sequence[str]) -> dict[str, list[str]]:
    groups = {
        "mean, used for tuning": [name for name in names if SCENARIOS[name].tuned],
        "mean, held out": [name for name in names if not SCENARIOS[name].tuned],
        "mean, all": list(names),
    }
    return {f"{label} ({len(group)})": group for label, group in groups.items() if group}


def _false_alarms(table: Table) -> str:
    verdicts = [case.get("audit", "verdict") for case in table.of("clean")]
    known = [verdict for verdict in verdicts if verdict is not None]
    if not known:
        return ""
    alarms = known.count("flagged")
    interval = wilson(alarms, len(known))
    flagged = _mean(_times(case.get("audit", "fpr"), 100) for case in table.of("clean"))
    former = sum(map(_is_former, table.of("clean")))
    lowest = min(case.get("audit", "smallest_adjusted_p") or 1.0 for case in table.of("clean"))
    return (
        f"### False alarms\n\n{alarms} of {len(known)} clean data sets were flagged: "
        f"{alarms / len(known):.1%}, 95 % Wilson interval {interval.low:.1%} to "
        f"{interval.high:.1%}. Inconclusive: {known.count('inconclusive')}. Smallest adjusted "
        f"p-value: {lowest:.2g}. Samples flagged, on average: {flagged:.2f} %. With former "
        f"settings: {former}."
    )


def _detectors(table: Table) -> str:
    names = table.attacks()
    there = [
        kind
        for kind in DETECTORS
        if any(kind in case.kinds for name in names for case in table.of(name))
    ]
    if not set(there) - {"audit"}:
        return ""
    head = ["Attack", *(f"{DETECTORS[kind]}: TPR / FPR / AUROC" for kind in there)]
    rows = [[name, *(_judged(table, [name], kind) for kind in there)] for name in names]
    for label, group in _groups(names).items():
        rows.append([f"**{label}**", *(_judged(table, group, kind) for kind in there)])
    return "### Detectors side by side\n\n" + _markdown(head, rows) + _published_cost(table)


def _published_cost(table: Table) -> str:
    both = [c for c in table.cases if {"audit", "published"} <= c.kinds.keys()]
    if not both:
        return ""
    ratio = _mean(c.get("published", "passes_ratio") / c.get("audit", "passes_ratio") for c in both)
    return (
        f"\n\nThe published schedule takes {ratio:.1f} times the sample passes of the audit "
        f"({len(both)} data sets)."
    )


def _judged(table: Table, names: Sequence[str], kind: str) -> str:
    columns: dict[str, Callable[[Case], float | None]] = {
        "TPR": lambda c: _times(c.get(kind, "tpr"), 100),
        "FPR": lambda c: _times(c.get(kind, "fpr"), 100),
        "AUROC": lambda c: c.get(kind, "auroc"),
    }
    return " / ".join(_mean_over(column, read, table, names) for column, read in columns.items())


def _gaps(table: Table) -> str:
    kinds = ("undefended", "reference", "audit", "cleansed", "oracle", *list(DETECTORS)[2:])
    missing = [_missing(table, kind) for kind in kinds]
    absent = [name for name in fitting(table.setting["data"]) if not table.of(name)]
    said = []
    if absent:
        said.append(f"Attacks without any cell: {', '.join(absent)}.")
    if any(missing):
        said.append(f"Missing cells: {'; '.join(each for each in missing if each)}.")
    if table.outdated:
        said.append(f"Cells of older settings, not shown: {table.outdated}.")
    methods = {c.kinds["audit"]["recipe"]["method"] for c in table.cases if "audit" in c.kinds}
    if len(methods) > 1:
        said.append(f"The audit's cells are of {len(methods)} different settings.")
    said += [f"Audit: `{method}`." for method in sorted(methods)]
    return "\n\n".join(said)


def _missing(table: Table, kind: str) -> str:
    """Say which attacks and seeds lack a kind of cell."""
    cases = [
        case
        for name in table.attacks()
        for case in table.of(name)
        if not (SCENARIOS[name].tabular and kind == "baseline:strip")
    ]
    names = [f"{case.scenario} s{case.seed}" for case in cases if kind not in case.kinds]
    if not names:
        return ""
    return f"{kind} of {'all' if len(names) == len(cases) else ', '.join(names)}"


def _costs(found: Sequence[Table]) -> str:
    head = ["Data", "Classes", "Samples", "Network", "Device", "Audits", "Ordinary training, s"]
    head += ["Audit, s", "Audit, ms a sample"]
    rows = []
    for table in found:
        cases = [case for case in table.cases if _time_ratio(case) is not None]
        if not cases:
            continue
        clock = "cpu" if table.setting["device"] == "cpu" else "wall"
        ordinary = statistics.fmean(case.get("audit", f"ordinary_{clock}_s") for case in cases)
        seconds = statistics.fmean(case.get("audit", f"audit_{clock}_s") for case in cases)
        rows.append(
            [
                table.setting["data"],
                str(len(cases[0].get("audit", "classes"))),
                f"{table.setting['train']:,}",
                table.setting["network"],
                table.setting["device"],
                str(len(cases)),
                f"{ordinary:.1f}",
                f"{seconds:.1f}",
                f"{1000 * seconds / table.setting['train']:.2f}",
            ]
        )
    if not rows:
        return ""
    said = (
        "Means over the audits whose own first training was timed, and an ordinary training at its "
        "pace; processor time on a CPU, wall time elsewhere."
    )
    return f"## Cost against size\n\n{said}\n\n{_markdown(head, rows)}"


def _rate(table: Table, name: str) -> str:
    audits = [case for case in table.of(name) if "audit" in case.kinds]
    published = SCENARIOS[name].published
    if not audits:
        return f"— ({published})"
    parts = [audits[0].get("audit", part) / table.setting["train"] for part in ("poison", "cover")]
    return f"{' / '.join(f'{100 * part:.3g} %' for part in parts if part)} ({published})"


def _verdicts(cases: Sequence[Case]) -> str:
    known = [case.get("audit", "verdict") for case in cases if "audit" in case.kinds]
    return f"{known.count('flagged')} of {len(known)}" if known else "—"


def _lost(table: Table, case: Case, kind: str) -> float | None:
    clean, cleansed = table.clean_accuracy(case), case.get(kind, "accuracy")
    return None if clean is None or cleansed is None else 100 * (cleansed - clean)


def _time_ratio(case: Case) -> float | None:
    """Processor time on a CPU, which hardly depends on what else runs there; else wall time.

    Beside an ordinary training at the pace of the audit's own, of the same minutes. None where that
    was not measured, or on an accelerator beside others.
    """
    audit = case.kinds.get("audit")
    if audit is None:
        return None
    accelerated = audit["provenance"]["accelerator"] is not None
    if accelerated and audit["provenance"].get("processes", 1) > 1:
        return None
    clock = "wall" if accelerated else "cpu"
    ordinary = audit["result"].get(f"ordinary_{clock}_s")  # None where its models were kept
    return audit["result"][f"audit_{clock}_s"] / ordinary if ordinary else None


def _machine(cell: Stored) -> str:
    return str(cell["provenance"]["accelerator"] or cell["provenance"]["cpu"])


def _times(value: float | None, scale: float) -> float | None:
    return None if value is None else scale * value


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _mean_over(
    column: str, read: Callable[[Case], float | None], table: Table, names: Sequence[str]
) -> str:
    """Say the mean over the seeds of an attack, or over attacks; of how many, if not all."""
    if len(names) == 1:
        values = [read(case) for case in table.of(names[0])]
    else:
        values = [_mean(read(case) for case in table.of(name)) for name in names]
    mean, known = _mean(values), sum(value is not None for value in values)
    if mean is None:
        return "—"
    text = f"{mean:{_FORMATS.get(column, '.1f')}}"
    return text if known == len(values) else f"{text} ({known}/{len(values)})"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
