"""Render TRAINING.md from the stored cells alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import grid
from assay.stats import wilson

RESULTS = grid.HERE / "results" / "training-audit"
COST = grid.HERE / "results" / "training-cost"
PAGE = grid.HERE / "TRAINING.md"

SCENARIOS = {
    "usual": "4 to 10 providers, none to half malicious, each in its own way",
    "held-out": "the same, attacks that no setting was chosen with",
    "hidden": "the same, deviations made to stay unseen",
    "minority": "1 of 3 or 2 of 5 honest, the others each in its own way",
    "colluding": "3 to 6 honest, two with one backdoor",
    "colluding-half": "2 honest, two with one backdoor",
}
_TASKS = {"vision": "CIFAR-10 at 16 x 16, small ResNet", "language": "Shakespeare, small Llama"}
_TIERS = ("profile", "statistics")

Stored = Mapping[str, Any]

LEGEND = """\
Each row is 200 engagements of three replicated sub-runs (two where the task is a text, which has
sub-runs 5 and 8 alone), drawn from a bank of sub-runs that were trained once. **Named**: malicious
providers that are flagged; **unjudged**: left `inconclusive`. **Accused**: honest providers that
are flagged. **Perfect**: engagements in which every malicious provider was named and no honest one
accused. Intervals are Wilson's, at 95 %, as if providers were independent, which those of one bank
are not. With 10 % of a training for replicas, three sub-runs of n providers stand for a training of
30 (n - 1) sub-runs. Profiles are calibrated on other sub-runs of the same training, in the
environments that honest providers have; malicious ones state the environment that they have.
Settings were chosen on those calibration sub-runs of the images. **The texts are not held out**: a
first look at them accused 225 of 1,034 honest providers; it led to `drift`, and to profiles from
the beginning and the end of a training (design/0012). That with a free order three providers must
agree was added after the images had been seen, because of a smaller model."""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(grid.read_all(RESULTS)) + cost(grid.read_all(COST)))
    print(PAGE)


def page(cells: Sequence[Stored]) -> str:
    """Render the whole page."""
    newest: dict[tuple[str, ...], Stored] = {}
    for cell in sorted(cells, key=lambda cell: cell["provenance"]["date"]):
        if "question" in cell["recipe"]:
            newest[(*_place(cell), cell["recipe"]["question"])] = cell
    commits = sorted({cell["provenance"]["commit"] for cell in newest.values()})
    parts = [
        "# Results of the training audit",
        "Rendered by `python benchmarks/training_audit.py --table` from "
        f"{len(newest)} cells of `results/training-audit/`. "
        f"Commits: {', '.join(commits) or 'none'}.",
        LEGEND,
    ]
    for task, order in sorted({_place(cell) for cell in newest.values()}, reverse=True):
        own = [cell for cell in newest.values() if _place(cell) == (task, order)]
        parts += [f"## {_TASKS[task]}, {order} order", _table(own), _missed(own)]
    return "\n\n".join(part for part in parts if part) + "\n"


def cost(cells: Sequence[Stored]) -> str:
    """Render what comparing and judging costs the client."""
    threads = sorted({str(cell["recipe"]["threads"]) for cell in cells})
    commits = sorted({cell["provenance"]["commit"] for cell in cells})
    heads = ["Providers", "Parameters", "Reading and hashing, s", "Comparing, s", "Memory, MB"]
    compared = [
        [
            str(cell["recipe"]["providers"]),
            f"{cell['recipe']['parameters']:,}",
            *(f"{cell['result'][name]:.2f}" for name in ("load_and_hash_s", "compare_s")),
            f"{cell['result']['own_memory_mb']:.0f}",
        ]
        for cell in sorted(cells, key=_size)
        if cell["recipe"]["what"] == "compare"
    ]
    judged = [
        [
            *(str(cell["recipe"][name]) for name in ("providers", "sub_runs")),
            f"{cell['result']['judge_s']:.3f}",
        ]
        for cell in sorted(cells, key=_size)
        if cell["recipe"]["what"] == "judge"
    ]
    return "\n\n".join(
        (
            "\n## What it costs the client",
            f"`python benchmarks/training_cost.py`, threads: {', '.join(threads)}; "
            f"{len(cells)} cells of `results/training-cost/`. Commits: {', '.join(commits)}. "
            "Weights drawn by chance. **Memory**: what the process held by itself at most, beyond "
            "what it held before; weights are mapped from their files, whose pages the system may "
            "drop.",
            "One replicated sub-run, compared by its updates:",
            _lines(heads, compared),
            "A whole training, judged by its ledger's distances:",
            _lines(["Providers", "Replicated sub-runs", "Judging, s"], judged) + "\n",
        )
    )


def _size(cell: Stored) -> tuple[int, int]:
    recipe = cell["recipe"]
    return recipe["providers"], recipe.get("parameters", recipe.get("sub_runs"))


def _place(cell: Stored) -> tuple[str, str]:
    return cell["recipe"]["data"], cell["recipe"]["order"]


def _table(cells: Sequence[Stored]) -> str:
    heads = ["Scenario", "Judged by", "Named", "Unjudged", "Accused", "Unjudged, honest", "Perfect"]
    return _lines(heads, [[*_row(cell)] for cell in sorted(cells, key=_rank)])


def _lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rank(cell: Stored) -> tuple[Any, ...]:
    recipe = cell["recipe"]
    usual = recipe["distances"] == recipe["usual_distances"]
    return (
        list(SCENARIOS).index(recipe["scenario"]),
        recipe["published"],
        not usual,
        not recipe["profile"],
        recipe["trusted"],
        recipe["distances"],
    )


def _row(cell: Stored) -> list[str]:
    recipe, found = cell["recipe"], cell["result"]
    return [
        f"**{recipe['scenario']}**: {SCENARIOS[recipe['scenario']]}",
        _judged_by(recipe),
        _share(found["named"], found["malicious"]),
        f"{found['malicious_unjudged']}",
        _share(found["accused"], found["honest"]),
        f"{found['honest_unjudged']}",
        f"{found['perfect']}/{found['engagements']}",
    ]


def _judged_by(recipe: Stored) -> str:
    if recipe["published"]:
        return f"Kolmogorov-Smirnov as published, {recipe['published_distance']}"
    said = "profile" if recipe["profile"] else "statistics"
    if recipe["distances"] != recipe["usual_distances"]:
        said += f", {', '.join(recipe['distances'])} alone"
    return said + (", with a replica of the client's" if recipe["trusted"] else "")


def _share(count: int, total: int) -> str:
    if not total:
        return "–"
    interval = wilson(count, total)
    low, high = 100 * interval.low, 100 * interval.high
    return f"{count}/{total} = {100 * count / total:.1f} % ({low:.1f} to {high:.1f})"


def _missed(cells: Sequence[Stored]) -> str:
    """List the deviations that were missed by the usual distances, by scenario."""
    lines = []
    for cell in sorted(cells, key=_rank):
        recipe, missed = cell["recipe"], cell["result"]["missed"]
        usual = recipe["distances"] == recipe["usual_distances"] and not recipe["published"]
        if usual and missed:
            named = ", ".join(
                f"{name.split(' ', 1)[1]} {count}/{met}" for name, (count, met) in missed.items()
            )
            lines.append(f"- {recipe['scenario']}, {_judged_by(recipe)}: {named}")
    return "Not flagged, of those that took part:\n\n" + "\n".join(lines) if lines else ""


if __name__ == "__main__":
    main()
