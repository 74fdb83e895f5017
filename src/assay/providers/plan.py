"""What a replicated training is asked: `PLAN.yaml`."""

import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import yaml  # type: ignore[import-untyped]

from assay.errors import InputError, UsageError
from assay.randomness import Seed
from assay.records import record
from assay.storage import documents
from assay.storage.files import digest_path, existing, read_bounded

from .fields import Fields
from .keys import check_public
from .recipe import Recipe, parse_recipe

PLAN_SCHEMA = "assay/training-plan/v1"
_MAX_PLAN = 2**20
_LONGEST = 5_256_000.0
"""Minutes of ten years."""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@record
class Provider:
    """A party that trains."""

    name: str
    """Lower-case letters, digits and `-`, at most 40."""
    mailbox: str
    """Any URL that fsspec opens; each provider has its own."""
    key: str
    """The public key that it signs with, `ed25519:` and 64 hexadecimal digits."""
    trusted: bool = False
    """Whether it is the client's own: it takes part in replicated sub-runs alone, and the others
    are judged by it."""


@record
class Plan:
    """Everything that decides what providers are asked, but for the client's secret."""

    name: str
    recipe: Recipe
    start: str
    """The start weights, a safetensors file; relative to the plan's folder, as all files."""
    data_sha256: str
    """Digest of the training data, which the providers hold."""
    samples: int
    """How many there are."""
    steps: int
    """Of the whole training."""
    sub_run: int
    """Steps of a sub-run, k; the last may be shorter."""
    batch: int
    """Samples a step."""
    hyperparameters: Mapping[str, Any]
    """Passed on as they are."""
    seed: Seed
    free_order: bool
    """Whether providers choose the order of samples."""
    step_digests: bool
    """Whether logs hold the digest of the weights after every step."""
    providers: tuple[Provider, ...]
    replicated: int | None
    """How many sub-runs all providers execute, m; None where it follows from what follows."""
    confidence: float | None
    """Wanted probability, in (0, 1), that a provider who attacks is given the chance to be seen."""
    attack_share: float | None
    """The share of sub-runs, in (0, 1), that such a provider attacks at least."""
    deadline_minutes: float
    """What a provider may take for a sub-run."""
    network: str | None
    """`package.module:factory` of a network that takes the weights, for distances of outputs."""
    probes: str | None
    """Inputs to compare the networks on: any data set that the other audits read."""
    profile: str | None
    """A tolerance profile, made from honest twin runs."""

    @property
    def sub_runs(self) -> int:
        """How many sub-runs the training has."""
        return math.ceil(self.steps / self.sub_run)

    def stretch(self, place: int) -> tuple[int, int]:
        """First step and number of steps of the sub-run at a place, from 0."""
        first = place * self.sub_run
        return first, min(self.sub_run, self.steps - first)

    def provider(self, name: str) -> Provider:
        """Find a provider."""
        return next(p for p in self.providers if p.name == name)


def read_plan(path: pathlib.Path) -> Plan:
    """Read a plan, and take the digests of the code files that it names.

    Raises:
        UsageError: there is no such file, or a code file is missing.
        InputError: a field is missing, unknown, or is not what it should be.
    """
    if not existing(path).is_file():
        raise UsageError(f"expected a plan (YAML), got a folder: {path}")
    try:
        document = yaml.safe_load(read_bounded(path, _MAX_PLAN))
    except (yaml.YAMLError, ValueError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"expected YAML in {path}: {said}") from error
    if not isinstance(document, dict):
        raise InputError(f"expected named fields in {path}, got {type(document).__name__}")
    files = document.get("files")
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise InputError(f"expected files: a list of code files in {path}, got {files!r}")
    digests = {name: digest_path(existing(path.parent / name)) for name in files}
    return parse_plan({**document, "files": digests}, str(path))


def parse_plan(document: Mapping[str, Any], where: str = "the plan") -> Plan:
    """Undo `plan_document`.

    Raises:
        InputError: a field is missing, unknown, or is not what it should be.
    """
    documents.encode(document, where)
    fields = Fields(document, where)
    fields.optional("schema")
    recipe = {name: document.get(name) for name in ("code", "command", "files")}
    for name in recipe:
        if fields.has(name):
            fields.take(name, "part of the recipe", (str, list, dict))
    data = Fields(fields.take("data", "sha256 and samples", dict), f"data of {where}")
    plan = Plan(
        name=fields.text("name"),
        recipe=parse_recipe(recipe),
        start=fields.text("start"),
        data_sha256=_digest(data.text("sha256"), where),
        samples=data.whole("samples", 1),
        steps=fields.whole("steps", 1),
        sub_run=fields.whole("sub_run", 1),
        batch=fields.whole("batch", 1),
        hyperparameters=fields.take("hyperparameters", "a map", dict),
        seed=Seed(fields.whole("seed", 0)),
        free_order=_is_free(fields.optional("order"), where),
        step_digests=fields.flag("step_digests", default=True),
        providers=_providers(fields.take("providers", "a list", list), where),
        replicated=fields.whole("replicated", 1) if fields.has("replicated") else None,
        confidence=fields.number("confidence", 0.0, 1.0) if fields.has("confidence") else None,
        attack_share=fields.number("attack_share", 0.0, 1.0)
        if fields.has("attack_share")
        else None,
        deadline_minutes=fields.number("deadline_minutes", 0.0, _LONGEST),
        network=fields.optional("network"),
        probes=fields.optional("probes"),
        profile=fields.optional("profile"),
    )
    data.end()
    fields.end()
    _check(plan, where)
    return plan


def plan_document(plan: Plan) -> dict[str, Any]:
    """Lay a plan out, as `PLAN.yaml` has it, with the digests of the code files."""
    held = {
        name: getattr(plan, name)
        for name in (
            *("name", "start", "steps", "sub_run", "batch", "seed", "step_digests"),
            *("replicated", "confidence", "attack_share", "deadline_minutes"),
            *("network", "probes", "profile"),
        )
    }
    return {
        "schema": PLAN_SCHEMA,
        **held,
        **plan.recipe.document(),
        "data": {"sha256": plan.data_sha256, "samples": plan.samples},
        "hyperparameters": dict(plan.hyperparameters),
        "order": "free" if plan.free_order else "fixed",
        "providers": [
            {"name": p.name, "mailbox": p.mailbox, "key": p.key, "trusted": p.trusted}
            for p in plan.providers
        ],
    }


def _digest(text: str, where: str) -> str:
    if not _DIGEST.fullmatch(text):
        raise InputError(f"expected a SHA-256, 64 hexadecimal digits, in {where}, got {text!r}")
    return text


def _is_free(order: str | None, where: str) -> bool:
    if order not in {None, "fixed", "free"}:
        raise InputError(f"expected order: fixed or free in {where}, got {order!r}")
    return order == "free"


def _providers(entries: list[Any], where: str) -> tuple[Provider, ...]:
    return tuple(
        _provider(entry, f"provider {i + 1} of {where}") for i, entry in enumerate(entries)
    )


def _provider(entry: object, where: str) -> Provider:
    fields = Fields(entry, where)
    name = fields.text("name")
    if not _NAME.fullmatch(name):
        raise InputError(
            f"expected a name of at most 40 lower-case letters, digits and '-' in {where}, "
            f"got {name!r}"
        )
    made = Provider(
        name=name,
        mailbox=fields.text("mailbox"),
        key=_key(fields.text("key"), where),
        trusted=fields.flag("trusted", default=False),
    )
    fields.end()
    return made


def _key(text: str, where: str) -> str:
    try:
        return check_public(text)
    except InputError as error:
        raise InputError(f"key of {where}: {error}") from error


def _check(plan: Plan, where: str) -> None:
    if len(plan.providers) < 2:
        raise InputError(
            f"expected two providers or more in {where}: one has nobody to differ from"
        )
    if all(p.trusted for p in plan.providers):
        raise InputError(f"expected a provider that is not trusted in {where}: nobody is judged")
    for what in ("name", "mailbox", "key"):
        values = [getattr(p, what).rstrip("/") for p in plan.providers]
        if len(set(values)) < len(values):
            raise InputError(f"expected another {what} for each provider in {where}, got {values}")
    wanted = [plan.confidence is not None, plan.attack_share is not None]
    if wanted != [plan.replicated is None] * 2:
        raise InputError(f"expected either replicated, or confidence and attack_share in {where}")
    if (plan.replicated or 1) > plan.sub_runs:
        raise InputError(
            f"expected replicated: at most {plan.sub_runs} sub-runs in {where} ({plan.steps} "
            f"steps, {plan.sub_run} each), got {plan.replicated}"
        )
    if (plan.network is None) != (plan.probes is None):
        raise InputError(f"expected network and probes together in {where}, got one of them")
