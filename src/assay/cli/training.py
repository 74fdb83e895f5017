"""`assay training`: let several providers train, and find the one who left the recipe."""

import functools
import hashlib
import pathlib
from typing import Annotated, Any

import typer
from rich.console import Console

from assay.errors import InputError, UsageError
from assay.providers.bisect import bisect as find_partings
from assay.providers.client import log_name
from assay.providers.execute import LOG
from assay.providers.judging import ending, judge_ledger
from assay.providers.keys import check_public, open_key
from assay.providers.ledger import LEDGER, read_ledger
from assay.providers.loading import Loaded, load_plan
from assay.providers.plan import Plan, plan_document, read_plan
from assay.providers.training import TrainingJob
from assay.providers.weights import size_of
from assay.storage import documents
from assay.storage.files import read_bounded
from assay.storage.runs import RunFolder, list_runs

from . import devices, options
from .calibrate import calibrate
from .ends import of_verdict
from .exits import EXIT_CODES, Exit
from .output import write
from .summary import Manner, carry_out, show_findings
from .tables import table
from .task import create, fresh_folder
from .training_task import TrainingTask
from .training_work import work

training = typer.Typer(
    name="training",
    help="Let several providers train, and find the one who left the recipe.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

PlanFile = Annotated[
    pathlib.Path, typer.Argument(metavar="PLAN.yaml", help="What is trained, and by whom.")
]
ClientKey = Annotated[
    pathlib.Path | None,
    typer.Option(
        metavar="FILE",
        help="Your private key, made where there is none: bundles are signed with it, so that "
        "providers can refuse others.  [default: a key of the run's own]",
    ),
]
for command in (calibrate, work):
    training.command(epilog=EXIT_CODES)(command)
_POLL_S = 2.0
_MAX_LOG = 2**28


@training.command(epilog=EXIT_CODES)
def plan(
    plan: PlanFile,
    key: ClientKey = None,
    json: options.Json = False,
) -> int:
    """Check a plan; say what it costs, what it would miss, and what would be sent. Sends nothing.

    \b
    Examples:
      assay training plan PLAN.yaml
      assay training plan PLAN.yaml --json
    """
    loaded = load_plan(plan)
    document = _estimate(loaded, None if key is None else open_key(key).public)
    if json:
        write(documents.dump(document))
        return Exit.NOTHING_FLAGGED
    write(loaded.replication.summary)
    shown = {name: value for name, value in document.items() if name not in {"plan", "client_key"}}
    rows = [(name, str(value)) for name, value in shown.items()]
    Console().print(table(("", loaded.plan.name), rows), soft_wrap=True)
    if document["client_key"] is not None:  # whole, to be copied
        write(f"For the providers: assay training work ... --client {document['client_key']}")
    return Exit.NOTHING_FLAGGED


@training.command(epilog=EXIT_CODES)
def run(
    plan: PlanFile,
    out: options.Out = None,
    key: ClientKey = None,
    device: options.Device = "auto",
    alpha: Annotated[
        float,
        typer.Option(help="How often, at most, honest providers may be flagged; in (0, 1)."),
    ] = 0.05,
    poll: Annotated[
        float, typer.Option(min=0.01, help="Seconds between looks into the mailboxes.")
    ] = _POLL_S,
    max_minutes: options.MaxMinutes = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
    exit_zero: options.ExitZero = False,
) -> int:
    """Let the providers of a plan train, compare what they deliver, and judge them.

    Sub-runs go out as bundles, one after the other; some of them, drawn in secret, to all
    providers. Answers are checked before anything in them is believed. A provider that is flagged
    is expelled: the training goes back to the last weights that do not come from it, and on without
    it. Everything is written to the run's ledger first, so a run that is stopped or killed at any
    moment can be resumed. The trained weights are artifacts/checkpoint.safetensors.

    \b
    Examples:
      assay training run PLAN.yaml
      assay training run PLAN.yaml --out runs/digits --json > findings.json
    """
    if not 0 < alpha < 1:
        raise UsageError(f"expected --alpha between 0 and 1, got {alpha}")
    job = _job(plan, key, alpha=alpha, device=str(devices.choose(device)), poll=poll)
    task, path = TrainingTask(job=job, loaded=load_plan(plan)), out or fresh_folder("training")
    begin = functools.partial(create, task, path)
    manner = Manner(quiet=quiet, json=json, exit_zero=exit_zero, max_minutes=max_minutes)
    return carry_out(task, path, begin, manner)


@training.command(epilog=EXIT_CODES)
def judge(
    source: Annotated[
        pathlib.Path,
        typer.Argument(
            metavar="LEDGER|RUN|PLAN.yaml",
            help="A ledger, a run folder with one, or a plan: then the newest run of it in runs/.",
        ),
    ],
    client: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="The client's public key, as you know it: a ledger that someone made up names a "
            "key of his own.",
        ),
    ] = None,
    json: options.Json = False,
    exit_zero: options.ExitZero = False,
) -> int:
    """Judge a training again by its ledger alone; needs neither mailboxes, data nor weights.

    Every judgement is made again and must come out as the ledger has it; chain, signatures,
    commitment and draws are checked.

    \b
    Examples:
      assay training judge runs/digits
      assay training judge ledger.jsonl --client ed25519:KEY
    """
    path = _ledger(source)
    entries = read_ledger(path)
    judged = judge_ledger(entries)
    signer = judged.course.begun["client"]
    if client is not None and check_public(client) != signer:
        raise InputError(f"expected a ledger of the client {client}, it is of {signer}")
    findings = judged.audit.findings
    if json:
        about = {
            "entries": len(entries),
            "head": entries[-1].hash,
            "client": signer,
            "closed": judged.is_closed,
            "weights": judged.course.end,
            "expelled": judged.course.expelled,
        }
        write(documents.dump({**documents.findings_document(findings), "ledger": about}))
    else:
        show_findings(findings, "provider", "--json")
        known = "" if client else ", as it says itself; give --client to check that"
        known = (
            known if judged.is_closed else ", as it says itself: not signed, for it is not closed"
        )
        write(
            f"{ending(judged)}\nledger: {len(entries)} lines, head {entries[-1].hash}\n"
            f"client: {signer}{known}"
        )
    return Exit.NOTHING_FLAGGED if exit_zero else of_verdict(findings.verdict)


@training.command(epilog=EXIT_CODES)
def bisect(
    run: Annotated[pathlib.Path, typer.Argument(metavar="RUN", help="A run folder.")],
    sub_run: Annotated[int, typer.Argument(min=0, help="The disputed sub-run, by its number.")],
    json: options.Json = False,
) -> int:
    """Find the first step after which two providers held other weights.

    It needs the digests that providers log after each step (step_digests in the plan), and says
    something only of providers whose environments are equal.

    \b
    Example:
      assay training bisect runs/digits 3
    """
    found = find_partings(_logs(run, sub_run))
    if json:
        rows = [{n: getattr(p, n) for n in ("first", "second", "step", "compared")} for p in found]
        write(documents.dump({"schema": "assay/partings/v1", "sub_run": sub_run, "pairs": rows}))
        return Exit.NOTHING_FLAGGED
    shown = [
        (f"{p.first}, {p.second}", "none" if p.step is None else str(p.step), str(p.compared))
        for p in found
    ]
    Console().print(table(("providers", "first step that differs", "steps compared"), shown))
    return Exit.NOTHING_FLAGGED


def _job(
    plan: pathlib.Path, key: pathlib.Path | None, *, alpha: float, device: str, poll: float
) -> TrainingJob:
    return TrainingJob(
        plan=str(plan.absolute()),
        key=None if key is None else str(key.absolute()),
        seed=read_plan(plan).seed,
        device=device,
        alpha=alpha,
        poll=poll,
    )


def _estimate(loaded: Loaded, key: str | None) -> dict[str, Any]:
    """Say what a plan comes to."""
    plan, found = loaded.plan, loaded.replication
    start, order = size_of(loaded.start), plan.sub_run * plan.batch * 8
    count = len(plan.providers)
    bundles = plan.sub_runs + found.replicated * (count - 1)
    return {
        "schema": "assay/training-estimate/v1",
        "sub_runs": plan.sub_runs,
        "replicated": found.replicated,
        "extra_steps": found.replicated * plan.sub_run * (count - 1),
        "extra_share": found.extra,
        "attacked": found.attacked,
        "caught": found.caught,
        "unseen": found.unseen,
        "bundles": bundles,
        "bundles_a_provider": bundles / count,
        "bundle_bytes": start + (0 if plan.free_order else order),
        "weights": ", ".join(f"{n} {tuple(t.shape)}" for n, t in sorted(loaded.start.items())[:4]),
        "client_key": key,
        "plan": plan_document(plan),
    }


def _ledger(source: pathlib.Path) -> pathlib.Path:
    """Find the ledger that is meant."""
    if source.is_dir():
        return source / LEDGER
    if source.suffix not in {".yaml", ".yml"}:
        return source
    asked = read_plan(source)
    runs = list_runs(pathlib.Path("runs")) if pathlib.Path("runs").is_dir() else ()
    found = [run for run in runs if _is_of(run, asked)]
    if not found:
        raise UsageError(f"expected a run of {source} in runs/, there is none: name the run folder")
    return max(found, key=lambda run: run.info.started).path / LEDGER


def _is_of(run: RunFolder, plan: Plan) -> bool:
    path = run.path / LEDGER
    if not path.is_file():
        return False
    entries = read_ledger(path)
    return bool(entries) and entries[0].body.get("plan") == plan_document(plan)


def _logs(run: pathlib.Path, sub_run: int) -> dict[str, bytes]:
    """Read the logs of a sub-run, as their digests in the ledger say."""
    course = judge_ledger(read_ledger(run / LEDGER)).course
    if sub_run >= len(course.sub_runs):
        raise UsageError(f"expected a sub-run below {len(course.sub_runs)}, got {sub_run}")
    disputed, logs = course.sub_runs[sub_run], {}
    for name in disputed.usable():
        path = run / "artifacts" / log_name(sub_run, name)
        logs[name] = read_bounded(path, _MAX_LOG)
        signed = (disputed.manifests[name] or {})["parts"][LOG]["sha256"]
        if hashlib.sha256(logs[name]).hexdigest() != signed:
            raise InputError(f"expected the log that {name} signed in {path}, got another")
    return logs
