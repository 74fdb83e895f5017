"""Tables on a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

import rich.box
from rich.table import Table
from rich.text import Text

from assay.repair import Proof
from assay.reports.text import NAME, plain


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Lay out texts as they are: names of an audited party are never read as markup."""
    made = Table(box=rich.box.SIMPLE)
    for place, head in enumerate(heads):
        made.add_column(head, justify="left" if place == 0 else "right")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def proof_table(proof: Proof) -> Table:
    """Lay out what retraining showed."""
    rows = [
        (
            f"{row.model} cleansing",
            f"{row.samples:,}",
            f"{row.accuracy:.1%}",
            f"{row.accuracy_interval.low:.1%} to {row.accuracy_interval.high:.1%}",
            "no trigger known" if row.asr is None else f"{row.asr:.1%}",
        )
        for row in proof.rows
    ]
    return table(("trained", "samples", "accuracy", "95 % interval", "attack succeeds"), rows)


def repair_table(items: Sequence[Mapping[str, Any]]) -> Table:
    """Lay out what repairing models changed."""
    measured = [row for item in items for row in item["rows"]]
    is_encoder = bool(measured) and all(r.get("clean_cosine") is not None for r in measured)
    rows = [
        (
            plain(item["model"], NAME),
            row["model"],
            f"{row['accuracy']:.1%}",
            f"{row['accuracy_low']:.1%} to {row['accuracy_high']:.1%}",
            "not measured" if row["asr"] is None else f"{row['asr']:.1%}",
            *((f"{row['clean_cosine']:.3f}",) if is_encoder else ()),
        )
        for item in items
        for row in item["rows"]
    ]
    heads = ("model", "repair", "accuracy", "95 % interval", "trigger succeeds")
    return table((*heads, *(("features kept",) if is_encoder else ())), rows)
