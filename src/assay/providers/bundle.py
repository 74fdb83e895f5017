"""What is asked of one provider: the same words whether or not others are asked too."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from jaxtyping import Int64
from safetensors.torch import save_file
from torch import Tensor

from assay.errors import InputError
from assay.randomness import child
from assay.records import record
from assay.storage import documents
from assay.storage.files import digest_path

from .fields import Fields
from .keys import SigningKey
from .mailbox import Mailbox
from .order import sample_order
from .plan import Plan
from .recipe import Recipe, parse_recipe

BUNDLE_SCHEMA = "assay/training-bundle/v1"
MANIFEST_SCHEMA = "assay/training-manifest/v1"
START, ORDER, BUNDLE, MANIFEST = (
    *("start.safetensors", "order.safetensors", "bundle.json", "manifest.json"),
)
MAX_MANIFEST = 2**20
DEEPEST = 32
"""Lists and maps in each other in what others wrote; a ledger, which holds it, may hold more."""
ID = re.compile(r"[0-9a-f]{32}")


@record
class Bundle:
    """A stretch of the training for one provider."""

    id: str
    provider: str
    name: str
    """Of the plan."""
    recipe: Recipe
    start: str
    """Digest of the start weights."""
    data_sha256: str
    samples: int
    first_step: int
    steps: int
    batch: int
    hyperparameters: Mapping[str, Any]
    seed: int
    """For what the training draws: the same for all providers, another for each stretch."""
    free_order: bool
    step_digests: bool
    deadline: str
    """UTC, ISO 8601: what comes later counts as late."""

    def document(self) -> dict[str, Any]:
        """Lay it out as `bundle.json` has it."""
        return {
            "schema": BUNDLE_SCHEMA,
            **{
                name: getattr(self, name)
                for name in (
                    *("id", "provider", "name", "start", "first_step", "steps", "batch", "seed"),
                    *("free_order", "step_digests", "deadline"),
                )
            },
            "recipe": self.recipe.document(),
            "data": {"sha256": self.data_sha256, "samples": self.samples},
            "hyperparameters": dict(self.hyperparameters),
        }


def parse_bundle(document: object, where: str) -> Bundle:
    """Undo `document`.

    Raises:
        InputError: a field is missing, unknown, or is not what it should be.
    """
    fields = Fields(document, where)
    if fields.text("schema") != BUNDLE_SCHEMA:
        raise InputError(f"expected schema {BUNDLE_SCHEMA} in {where}: another version made it")
    data = Fields(fields.take("data", "sha256 and samples", dict), f"data of {where}")
    bundle = Bundle(
        id=fields.text("id"),
        provider=fields.text("provider"),
        name=fields.text("name"),
        recipe=parse_recipe(fields.take("recipe", "a map", dict)),
        start=fields.text("start"),
        data_sha256=data.text("sha256"),
        samples=data.whole("samples", 1),
        first_step=fields.whole("first_step", 0),
        steps=fields.whole("steps", 1),
        batch=fields.whole("batch", 1),
        hyperparameters=fields.take("hyperparameters", "a map", dict),
        seed=fields.whole("seed", 0),
        free_order=fields.flag("free_order", default=False),
        step_digests=fields.flag("step_digests", default=False),
        deadline=fields.text("deadline"),
    )
    data.end()
    fields.end()
    return bundle


def make_bundle(
    plan: Plan, *, place: int, provider: str, name: str, start: str, deadline: str
) -> Bundle:
    """Ask a provider for the sub-run at a place of the plan.

    Args:
        plan: what the training is.
        place: the place of the sub-run, from 0.
        provider: whom to ask.
        name: the bundle's, which tells nothing.
        start: digest of the start weights.
        deadline: UTC, ISO 8601.
    """
    first, steps = plan.stretch(place)
    return Bundle(
        id=name,
        provider=provider,
        name=plan.name,
        recipe=plan.recipe,
        start=start,
        data_sha256=plan.data_sha256,
        samples=plan.samples,
        first_step=first,
        steps=steps,
        batch=plan.batch,
        hyperparameters=plan.hyperparameters,
        seed=child(plan.seed, "sub-run", first),
        free_order=plan.free_order,
        step_digests=plan.step_digests,
        deadline=deadline,
    )


def part_entry(file: pathlib.Path) -> dict[str, Any]:
    """Describe a file for a manifest."""
    return {"sha256": digest_path(file), "size": file.stat().st_size}


def send(
    mailbox: Mailbox,
    bundle: Bundle,
    plan: Plan,
    *,
    start: pathlib.Path,
    work: pathlib.Path,
    key: SigningKey,
) -> dict[str, Any]:
    """Put a bundle into a mailbox; doing it again changes nothing.

    Args:
        mailbox: the provider's.
        bundle: what to ask.
        plan: where it comes from, for the order of samples.
        start: the file of the start weights.
        work: an empty folder to write parts in.
        key: the client's.

    Returns:
        The manifest.
    """
    files = {START: start, BUNDLE: work / BUNDLE}
    documents.write_text(files[BUNDLE], documents.dump(bundle.document()))
    if not plan.free_order:
        files[ORDER] = work / ORDER
        save_file({"order": _order(plan, bundle)}, files[ORDER])
    parts = {name: part_entry(file) for name, file in files.items()}
    manifest = key.signed({"schema": MANIFEST_SCHEMA, "id": bundle.id, "parts": parts})
    content, place = documents.dump(manifest).encode(), f"bundles/{bundle.id}"
    if mailbox.read(f"{place}/{MANIFEST}", MAX_MANIFEST) != content:
        for name, file in files.items():
            mailbox.put(f"{place}/{name}", file)
        mailbox.replace(f"{place}/{MANIFEST}", content)
    return manifest


def _order(plan: Plan, bundle: Bundle) -> Int64[Tensor, "steps batch"]:
    return sample_order(
        plan.samples,
        batch=plan.batch,
        first_step=bundle.first_step,
        steps=bundle.steps,
        seed=child(plan.seed, "order"),
    )
