"""Measure the prompts audit on prompts tuned for a small CLIP, honestly or with a trigger.

The audit's constants were chosen on prompts with seed 0, honest ones and those of BadCLIP, its
pools on those of Fashion-MNIST with seed 1, and that it recovers what stands out less, where what
stands out most does not work, on CIFAR-10 Blended with seed 1. Others are held out.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

import grid
from assay.audits.prompts import (
    KINDS,
    PromptsAudit,
    PromptsSettings,
    PublishedInspection,
    Source,
    audit_prompts,
    beside_mosaics,
    deliver,
    made,
)
from assay.prompting import Prompted, ZeroShot
from assay.randomness import Seed, child
from assay.repair import Planted, Retuning, filled, measured, retune
from assay.results import Verdict
from assay.stats import auroc, wilson
from assay.storage.files import digest_path
from assay.triggers import Pool
from assay_zoo import prompting as zoo
from assay_zoo.clip import BUNDLED
from assay_zoo.data.pictured import TASKS
from dataset_audit import shard
from model_baselines import NeuralCleanse

RESULTS = grid.HERE / "results" / "prompts-audit"
TABLE = grid.HERE / "PROMPTS.md"
VERSIONS = {"audit": 3, "published": 1, "neural-cleanse": 1, "repair": 2}
TUNED_ATTACKS, TUNED_SEED = (zoo.HONEST, "badclip"), 0
POOLS = ("crops", "procedural", "mosaics", "natural", "digits")
POOLS_TASK, POOLS_SEED = "fashion-mnist", 1
RECOVERY = ("cifar10", "blended", 1)
LEAST_ASR = 0.8
PARTS = ("audit", "published", "neural-cleanse", "repair")


def main() -> int:
    asked = _parser().parse_args()
    torch.set_num_threads(asked.threads)
    if asked.table:
        TABLE.write_text(table(grid.read_all(RESULTS)))
        return 0
    groups = [
        _group(asked, task, learner, attack, seed)
        for seed in asked.seeds
        for task in asked.tasks
        for learner in asked.learners
        for attack in asked.attacks
    ]
    return 1 if grid.run(groups, RESULTS, device=asked.device, shard=asked.shard) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument

    def listed(text: str) -> list[str]:
        return text.split(",")

    add("--tasks", type=listed, default=sorted(TASKS))
    add("--learners", type=listed, default=list(zoo.LEARNERS))
    add("--attacks", type=listed, default=list(zoo.SCENARIOS))
    add("--seeds", type=lambda text: [int(s) for s in text.split(",")], default=[0])
    add("--ood", choices=POOLS, default="crops")
    add("--only", type=listed, default=["audit"], help=",".join(PARTS))
    add("--device", type=torch.device, default=torch.device("cpu"))
    add("--threads", type=int, default=1)
    add("--shard", type=shard, default=(0, 1), help="such as 0/2: the first of two processes")
    add("--table", action="store_true", help="render what is stored to PROMPTS.md")
    return parser


def _group(
    asked: argparse.Namespace, task: str, learner: str, attack: str, seed: int
) -> grid.Group:
    recipe = zoo.Recipe(task=task, learner=learner, attack=attack, seed=Seed(seed))
    delivered: list[zoo.Tuned] = []

    def tuned() -> zoo.Tuned:
        if not delivered:
            backbone = zoo.small_clip().to(asked.device)
            delivered.append(zoo.deliver(recipe, backbone))
        return delivered[0]

    methods = {
        "audit": (repr(PromptsSettings()), lambda: _audit(tuned(), recipe, asked)),
        "published": (repr(PublishedInspection()), lambda: _published(tuned(), recipe, asked)),
        "neural-cleanse": (repr(NeuralCleanse()), lambda: _cleanse(tuned(), recipe, asked)),
        "repair": (repr(Retuning()), lambda: _repair(tuned(), recipe, asked)),
    }
    cells = tuple(
        grid.Cell(
            name=f"{task}-{learner}-{attack}-s{seed}-{asked.ood}-{part}",
            kind=f"{task} {part}",
            recipe={
                "backbone": digest_path(BUNDLED / "model.safetensors"),
                "scenario": repr(recipe),
                "task": task,
                "learner": learner,
                "attack": attack,
                "seed": seed,
                "ood": asked.ood,
                "part": part,
                "method": methods[part][0],
                "version": VERSIONS[part],
            },
            measure=methods[part][1],
        )
        for part in PARTS
        if part in asked.only and not (part == "repair" and attack == zoo.HONEST)
    )
    return grid.Group(name=f"prompts-{task}-{learner}-{attack}-s{seed}-{asked.ood}", cells=cells)


def _pool(kind: str, size: int, task: str) -> torch.Tensor:
    """Take out-of-distribution images; those of another task stand in for a user's own."""
    if kind in TASKS:
        return zoo.find_task("cifar10" if task.startswith(kind) else kind).tuning.inputs[:1000]
    return made(Source(kind), 1000, size=size, seed=Seed(17))


def _about(tuned: zoo.Tuned, recipe: zoo.Recipe) -> dict[str, Any]:
    return {
        "poisoned": tuned.target is not None,
        "true_target": tuned.target,
        "accuracy": tuned.accuracy,
        "zero_shot": tuned.zero_shot,
        "true_asr": tuned.asr,
        "stray": tuned.stray,
        "true_asr_backbone": _on_backbone(tuned, recipe),
    }


def _on_backbone(tuned: zoo.Tuned, recipe: zoo.Recipe) -> float | None:
    """How often the attacker's trigger works on the backbone alone: what no prompt planted."""
    if tuned.target is None or tuned.trigger is None:
        return None
    test = zoo.find_task(recipe.task).test
    others = (test.labels != tuned.target).nonzero().squeeze(1)[:500]
    alone = Prompted(tuned.prompted.backbone, ZeroShot(), tuned.prompted.class_names)
    said = zoo.predict(alone, test.inputs[others], tuned.trigger)
    return (said == tuned.target).float().mean().item()


def _audit(tuned: zoo.Tuned, recipe: zoo.Recipe, asked: argparse.Namespace) -> grid.Result:
    prompted = tuned.prompted.eval().requires_grad_(requires_grad=False)
    wall, cpu = time.perf_counter(), time.process_time()
    found = _audited(prompted, recipe, asked)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    recovered = found.recovered
    columns = ("pool", "family", "target", "margin", "reference_margin", "excess", "p_value")
    return {
        **_about(tuned, recipe),
        "verdict": found.verdict.value,
        "p_value": found.findings.subjects[0].p_value,
        "reason": str(found.findings.subjects[0].evidence["reason"]),
        "target": recovered and recovered.target,
        "family": recovered and recovered.family,
        "pool": recovered and recovered.pool,
        "asr": recovered and recovered.asr[0],
        "asr_backbone": recovered and recovered.asr[1],
        "classes": len(prompted.class_names),
        "audit_wall_s": wall,
        "audit_cpu_s": cpu,
        "questions": {c: [getattr(q, c) for q in found.questions] for c in columns},
    }


def _audited(prompted: Prompted, recipe: zoo.Recipe, asked: argparse.Namespace) -> PromptsAudit:
    """Audit on the pool that was asked for, and on mosaics, as the command line does."""
    task = zoo.find_task(recipe.task).trusted.inputs[:1000]
    size, most = prompted.backbone.size, PromptsSettings().most_images
    if asked.ood == Source.MOSAICS:
        pool = made(Source.MOSAICS, most, size=size, seed=Seed(17), task=task)
    else:
        pool = _pool(asked.ood, size, recipe.task)
    return audit_prompts(
        deliver(prompted),
        prompted.class_names,
        beside_mosaics(asked.ood, pool, task, most=most, seed=Seed(17)),
        seed=child(recipe.seed, "audit"),
        device=asked.device,
    )


def _published(tuned: zoo.Tuned, recipe: zoo.Recipe, asked: argparse.Namespace) -> grid.Result:
    prompted = tuned.prompted.eval().requires_grad_(requires_grad=False)
    pool = _pool(asked.ood, prompted.backbone.size, recipe.task).to(asked.device).float() / 255
    wall, cpu = time.perf_counter(), time.process_time()
    found = PublishedInspection()(
        prompted, pool, classes=len(prompted.class_names), seed=child(recipe.seed, "published")
    )
    return {
        **_about(tuned, recipe),
        "flagged": found.flagged,
        "score": found.score,
        "target": found.target,
        "method_wall_s": time.perf_counter() - wall,
        "method_cpu_s": time.process_time() - cpu,
    }


def _cleanse(tuned: zoo.Tuned, recipe: zoo.Recipe, asked: argparse.Namespace) -> grid.Result:
    """Neural Cleanse, on the images that the prompt was meant for, as it wants them."""
    prompted = tuned.prompted.eval().requires_grad_(requires_grad=False)
    trusted = zoo.find_task(recipe.task).trusted
    pool = Pool(
        images=trusted.inputs[:1000].to(asked.device).float() / 255,
        labels=trusted.labels[:1000].to(asked.device),
    )
    wall, cpu = time.perf_counter(), time.process_time()
    found = NeuralCleanse()(
        prompted, pool, classes=len(prompted.class_names), seed=child(recipe.seed, "cleanse")
    )
    return {
        **_about(tuned, recipe),
        "flagged": found.flagged,
        "score": found.score,
        "target": found.target,
        "method_wall_s": time.perf_counter() - wall,
        "method_cpu_s": time.process_time() - cpu,
    }


def _repair(tuned: zoo.Tuned, recipe: zoo.Recipe, asked: argparse.Namespace) -> grid.Result:
    """Repair with what the audit recovers, and with the published controls."""
    prompted = tuned.prompted.eval().requires_grad_(requires_grad=False)
    found = _audited(prompted, recipe, asked).recovered
    if found is None or tuned.trigger is None or tuned.target is None:
        return {**_about(tuned, recipe), "rows": []}
    task = zoo.find_task(recipe.task)
    searched, held = (
        Pool(
            images=part.inputs[:500].to(asked.device).float() / 255,
            labels=part.labels[:500].to(asked.device),
        )
        for part in (task.trusted, task.test)
    )
    true = Planted(stamp=tuned.trigger, source=None, target=tuned.target)
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(found.clean.shape[1:], generator=random).sign() * 4 / 255
    stamps = {
        "recovered trigger": found.trigger,
        "clean samples only": lambda images: images,
        "random noise": lambda images: (images + noise.to(images)).clamp(0, 1),
    }
    before = measured("before", prompted, true, held)
    rows = [{"with": "nothing (before)", "accuracy": before.accuracy, "asr": before.asr}]
    prompted.learner.requires_grad_(requires_grad=True)
    for name, stamp in stamps.items():
        made_prompt = retune(
            prompted,
            Planted(stamp=stamp, source=None, target=found.target),
            searched=searched,
            held=held,
            seed=child(recipe.seed, "repair"),
        )
        with filled(prompted, made_prompt.values):
            after = measured("after", prompted, true, held)
        rows.append({"with": name, "accuracy": after.accuracy, "asr": after.asr})
    prompted.learner.requires_grad_(requires_grad=False)
    return {**_about(tuned, recipe), "right_target": found.target == tuned.target, "rows": rows}


def is_tuned(recipe: Mapping[str, Any]) -> bool:
    """Tell whether a prompt is one of those that constants or pools were chosen on."""
    task, attack, seed = recipe["task"], recipe["attack"], recipe["seed"]
    return (
        (task, seed) == (POOLS_TASK, POOLS_SEED)
        or (task, attack, seed) == RECOVERY
        or (attack in TUNED_ATTACKS and seed == TUNED_SEED)
    )


def works(found: Mapping[str, Any]) -> bool:
    """Tell whether a prompt holds a backdoor: its trigger works, and not without the prompt."""
    return bool(
        found["poisoned"]
        and found["true_asr"] >= LEAST_ASR
        and found["true_asr_backbone"] <= found["true_asr"] / 2
    )


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Render the stored prompts as Markdown."""
    now = repr(PromptsSettings())
    audits = [
        c
        for c in cells
        if c["recipe"]["part"] == "audit"
        and (c["recipe"]["method"], c["recipe"]["version"]) == (now, VERSIONS["audit"])
    ]
    lines = [
        "# Results of the prompts audit",
        "",
        f"Rendered by `python benchmarks/prompts_audit.py --table` from {len(cells)} cells in "
        "`results/prompts-audit/`; each names its settings, versions and machine. The backbone is "
        "the zoo's small CLIP (32 x 32 pixels), not a published one.",
        "",
        "**ASR**: of the attacker's own trigger, under the prompt and under the backbone alone; † "
        "marks an attack that does not work: a trigger that leads fewer than 80 % of the images to "
        "its target, or half as many under the backbone alone, so that the prompt holds little of "
        "it. **Stray**: the same share without the trigger. **Recovered**: success of the "
        "recovered trigger on out-of-distribution images, under the prompt and under the backbone "
        "alone. Beside the pool that is named, mosaics of 1,000 clean images are searched; what "
        "each of both says by itself stands beside the p-value. "
        f"The totals count the pool `{POOLS[0]}` alone, the default.",
        "",
    ]
    for tuned, title in (
        (True, "Tuned: constants, pools or the recovery were chosen on these"),
        (False, "Held out"),
    ):
        some = [c for c in audits if is_tuned(c["recipe"]) == tuned]
        if some:
            lines += [f"## {title}", "", *_prompts(some), *_summary(some), ""]
    lines += _others(cells)
    lines += _repairs(cells)
    return "\n".join(lines) + "\n"


def _prompts(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| Task | Learner | Attack | Seed | Pool | Accuracy | zero-shot | ASR | Stray | Verdict | "
        "p-value | of the pool alone | of mosaics alone | Target | Recovered | CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in cells:
        recipe, found = cell["recipe"], cell["result"]
        weak = found["poisoned"] and not works(found)
        right = "—"
        if found["poisoned"] and found["verdict"] == Verdict.FLAGGED.value:
            right = "right" if found["target"] == found["true_target"] else "**wrong**"
        p_value = "—" if found["p_value"] is None else f"{found['p_value']:.2g}"
        recovered = f"{_percent(found['asr'])} / {_percent(found['asr_backbone'])}"
        lines.append(
            f"| {recipe['task']} | {recipe['learner']} | {recipe['attack']} | {recipe['seed']} | "
            f"{recipe['ood']} | {_percent(found['accuracy'])} | {_percent(found['zero_shot'])} | "
            f"{_percent(found['true_asr'])} / {_percent(found['true_asr_backbone'])}"
            f"{' †' if weak else ''} | {_percent(found['stray'])} | "
            f"{found['verdict']} | {p_value} | {_alone(found, recipe['ood'])} | "
            f"{_alone(found, Source.MOSAICS.value)} | {right} | {recovered} | "
            f"{found['audit_cpu_s']:.0f} |"
        )
    return [*lines, ""]


def _alone(found: Mapping[str, Any], pool: str) -> str:
    """Render the p-value that one pool alone gives, corrected for its classes and kinds."""
    weights = {kind.family.name: kind.weight for kind in KINDS}
    asked, classes = found["questions"], found["classes"]
    p_values = [
        p_value * classes / weights[family]
        for p_value, family, on in zip(
            asked["p_value"], asked["family"], asked["pool"], strict=True
        )
        if on == pool
    ]
    return f"{min(1.0, *p_values):.2g}" if p_values else "—"


def _summary(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    found = [c["result"] for c in cells if c["recipe"]["ood"] == POOLS[0]]
    working = [r for r in found if works(r)]
    weak = [r for r in found if r["poisoned"] and not works(r)]
    honest = [r for r in found if not r["poisoned"]]
    lines = []
    for name, some in (("Working attacks", working), ("Attacks that do not work", weak)):
        flagged = [r for r in some if r["verdict"] == Verdict.FLAGGED.value]
        right = sum(r["target"] == r["true_target"] for r in flagged)
        lines.append(
            f"- {name} flagged: {_share(len(flagged), len(some))}; target right in {right}."
        )
    false = sum(r["verdict"] == Verdict.FLAGGED.value for r in honest)
    lines.append(f"- Honest prompts flagged: {_share(false, len(honest))}.")
    scores = [-r["p_value"] for r in working if r["p_value"] is not None]
    null = [-r["p_value"] for r in honest if r["p_value"] is not None]
    if scores and null:
        positive = torch.tensor([True] * len(scores) + [False] * len(null))
        value = auroc(torch.tensor(scores + null).double(), positive)
        lines.append(f"- AUROC of the p-value, working attacks against honest: {value:.3f}.")
    return lines


def _others(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Show what the other detectors say of the same prompts."""
    lines = []
    for part in ("published", "neural-cleanse"):
        found = [c["result"] for c in cells if c["recipe"]["part"] == part]
        working = [r for r in found if works(r)]
        honest = [r for r in found if not r["poisoned"]]
        if not (working and honest):
            continue
        flagged = [r for r in working if r["flagged"]]
        scores = torch.tensor([r["score"] for r in (*working, *honest)]).double()
        positive = torch.tensor([True] * len(working) + [False] * len(honest))
        seconds = sum(r["method_cpu_s"] for r in found) / len(found)
        lines.append(
            f"| {part} | {len(flagged)} of {len(working)} | "
            f"{sum(r['target'] == r['true_target'] for r in flagged)} | "
            f"{sum(r['flagged'] for r in honest)} of {len(honest)} | "
            f"{auroc(scores, positive):.3f} | {seconds:.0f} |"
        )
    if not lines:
        return []
    return [
        "## Other detectors, on the same prompts",
        "",
        "| Detector | Working attacks flagged | and the right target | Honest prompts flagged | "
        "AUROC | CPU s |",
        "|---|---|---|---|---|---|",
        *lines,
        "",
    ]


def _repairs(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    repaired = [
        c["result"]
        for c in cells
        if c["recipe"]["part"] == "repair"
        and c["recipe"]["method"] == repr(Retuning())
        and c["result"]["rows"]
        and works(c["result"])
    ]
    if not repaired:
        return []
    lines = [
        "## Repair",
        "",
        f"Means over {len(repaired)} prompts of working attacks; ASR of the attacker's trigger.",
        "",
        "| Tuned with | Accuracy | ASR |",
        "|---|---|---|",
    ]
    for place, row in enumerate(repaired[0]["rows"]):
        accuracy, asr = (
            sum(r["rows"][place][name] for r in repaired) / len(repaired)
            for name in ("accuracy", "asr")
        )
        lines.append(f"| {row['with']} | {_percent(accuracy)} | {_percent(asr)} |")
    return [*lines, ""]


def _percent(value: float | None) -> str:
    return "—" if value is None else f"{100 * value:.1f}"


def _share(part: int, whole: int) -> str:
    if not whole:
        return "0 of 0"
    found = wilson(part, whole)
    return f"{part} of {whole} (95 % Wilson interval {found.low:.0%} to {found.high:.0%})"


if __name__ == "__main__":
    raise SystemExit(main())
