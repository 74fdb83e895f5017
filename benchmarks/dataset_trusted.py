"""Measure the dataset audit where the trusted set is poisoned too, unlike what it assumes."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

import dataset_audit
import grid
from assay.audits.dataset import audit_dataset
from assay.errors import InputError
from assay.randomness import generator
from assay.records import record
from assay.samples import Samples
from assay_zoo.poison import Attack
from experiment import CLEAN, Case, prepare, rates, untrained

RESULTS = grid.HERE / "results" / "dataset-trusted"

VERSION = 2
"""To be raised when the code changes what is measured."""

WAYS = {"drawn": None, "3 %": 0.03, "10 %": 0.1}
"""How the trusted set came about: drawn at random from the poisoned data, and taken out of these;
or with so much of it poisoned by the same attack."""


@record
class Given:
    """What the audit is given, and what is true."""

    suspects: Samples
    is_poison: Bool[Tensor, " suspects"]
    is_cover: Bool[Tensor, " suspects"]
    trusted: Samples
    is_trusted_poison: Bool[Tensor, " trusted"]


def main() -> int:
    parser = dataset_audit.parser(__doc__)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    groups = [_group(case) for case in dataset_audit.cases(asked)]
    failed = grid.run(groups, RESULTS, device=asked.device, shard=asked.shard)
    paths = [cell.path(RESULTS) for group in groups for cell in group.cells]
    print(table([grid.read(path) for path in paths if path.exists()]))
    return 1 if failed else 0


def _group(case: Case) -> grid.Group:
    ways = ["drawn"] if case.scenario == CLEAN else list(WAYS)
    cells = tuple(_cell(case, way) for way in ways)
    return grid.Group(name=f"{case.data}-{case.scenario}-{case.digest}-trusted", cells=cells)


def _cell(case: Case, way: str) -> grid.Cell:
    told = {
        "kind": "trusted",
        "way": way,
        "method": repr(dataset_audit.usual_settings(case)),
        "version": VERSION,
    }
    return grid.Cell(
        name=f"{case.data}-{case.train}-{case.scenario}-s{case.seed}-{way.replace(' %', '')}",
        kind=f"{case.data} trusted",
        recipe={**case.recipe, **told},
        measure=lambda: _audit(case, way),
    )


def given(case: Case, way: str) -> Given:
    """Make the data set and the poisoned trusted set of a case."""
    prepared = prepare(case)
    suspects, trusted = prepared.suspects, prepared.split.trusted
    is_poison, is_cover = prepared.poisoned.is_poison, prepared.poisoned.is_cover
    share = WAYS[way]
    if share is None:
        random = generator(case.part("drawn"), torch.device("cpu"))
        order = torch.randperm(len(suspects), generator=random)
        own, rest = (rows.sort().values for rows in order.tensor_split([len(trusted)]))
        return Given(
            suspects=suspects.subset(rest),
            is_poison=is_poison[rest],
            is_cover=is_cover[rest],
            trusted=suspects.subset(own),
            is_trusted_poison=is_poison[own],
        )
    if not isinstance(case.attack, Attack):
        raise InputError(f"expected an attack on images or tables, got {case.scenario}")
    made = dataclasses.replace(case.attack, poison_rate=share)(  # type: ignore[type-var]
        trusted.inputs[:], trusted.labels, classes=trusted.classes, seed=case.part("attack")
    )
    return Given(
        suspects=suspects,
        is_poison=is_poison,
        is_cover=is_cover,
        trusted=Samples(inputs=made.inputs, labels=made.labels, class_names=trusted.class_names),
        is_trusted_poison=made.is_poison,
    )


def _audit(case: Case, way: str) -> grid.Result:
    made = given(case, way)
    found = audit_dataset(
        made.suspects,
        made.trusted,
        settings=dataset_audit.usual_settings(case),
        network=lambda: untrained(case, made.suspects),
        seed=case.part("audit"),
        device=case.device,
    )
    poisoned = dataclasses.replace(
        prepare(case).poisoned, is_poison=made.is_poison, is_cover=made.is_cover
    )
    named = [row for result in found.classes for row in result.doubtful]
    return {
        "verdict": found.verdict.value,
        **rates(poisoned, found.is_poison, found.scores, torch.ones_like(found.is_poison)),
        "trusted_poison": int(made.is_trusted_poison.sum()),
        "named": len(named),
        "named_poison": int(made.is_trusted_poison[named].sum()) if named else 0,
        "reasons": list(found.findings.reasons),
    }


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Count verdicts by attack and way, and trusted samples that were named."""
    if not cells:
        return "no cells"
    found: dict[tuple[str, str, str], list[Mapping[str, Any]]] = collections.defaultdict(list)
    for cell in cells:
        recipe = cell["recipe"]
        found[recipe["data"], recipe["scenario"], recipe["way"]].append(cell["result"])
    lines = [
        "| data | attack | trusted set | sets | flagged | inconclusive | passed | named, poison |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (data, attack, way), results in found.items():
        counts = collections.Counter(result["verdict"] for result in results)
        verdicts = (counts[name] for name in ("flagged", "inconclusive", "no_indicator"))
        named = (sum(result[key] for result in results) for key in ("named", "named_poison"))
        lines.append(
            f"| {data} | {attack} | {way} | {len(results)} | "
            f"{' | '.join(map(str, verdicts))} | {', '.join(map(str, named))} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
