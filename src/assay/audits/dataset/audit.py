"""The dataset audit: which samples of a training set are poisoned?"""

import dataclasses
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from assay.errors import InputError
from assay.features import appearance, check_answers, extract, logits
from assay.fitting import Feed, Precision, Preprocess, feed, train
from assay.networks import fresh_network
from assay.randomness import Seed, child
from assay.results import Cost, Forgetful, Progress, Store, silent
from assay.samples import Rows, Samples
from assay.stats import PooledRidge

from .conclusion import conclude, unjudged
from .confusion import Confused, log_odds
from .contaminated import kinds_apart
from .decision import Scored, Tested
from .found import DatasetAudit
from .likeness import drawn, unlike
from .mixing import calibration_of, check_fit, mixed
from .outvoting import leading, outvoted
from .preflight import nearest
from .scoring import scored
from .settings import DatasetSettings

Votes = tuple[Float[Tensor, " mixed"], ...]

_PENALTY = 0.1  # of the regression on features


def audit_dataset(
    samples: Samples,
    trusted: Samples,
    *,
    settings: DatasetSettings = DatasetSettings(),  # noqa: B008  frozen
    network: Callable[[], nn.Module] | None = None,
    preprocess: Preprocess | None = None,
    alpha: float = 0.05,
    digest: Mapping[str, str] | None = None,
    seed: Seed,
    device: torch.device,
    memory_mb: float = 4096.0,
    progress: Progress = silent,
    store: Store = Forgetful(),  # noqa: B008  it has no state
) -> DatasetAudit:
    """Find the samples that plant a backdoor into what is trained on a data set.

    A network is trained on the suspects together with half of the trusted samples (the
    calibration), confused with the other half, and asked which samples it still fits.

    Args:
        samples: the data set to audit.
        trusted: clean samples of the same task, classes in the same order.
        settings: of the method.
        network: builds an untrained classifier; None for `default_network`.
        preprocess: what the network wants; None to measure it on the trusted samples.
        alpha: family-wise false alarm rate over the classes, in (0, 1).
        digest: of the data set, by algorithm, to be repeated in the findings.
        seed: decides everything random.
        device: where to compute.
        memory_mb: how much of the data may lie on the device at once.
        progress: called with the stages `train` and `confuse`.
        store: what to resume from.

    Returns:
        Scores, p-values and flags of all samples, results of all classes, and the verdict.

    Raises:
        InputError: the two sets do not fit each other, or are too small to split.
    """
    started = time.monotonic()
    check_fit(samples, trusted, alpha)
    confusion, focus = settings.confusion_for(samples), settings.focus_for(samples)
    is_calibration = calibration_of(trusted, settings.most_calibration, child(seed, "split"))
    if not is_calibration.any():
        raise InputError(
            "expected at least two trusted samples of a class, got one of each at most"
        )
    held = trusted.subset((~is_calibration).nonzero().squeeze(1))
    mixed_in = trusted.subset(is_calibration.nonzero().squeeze(1))
    ready = preprocess or Preprocess.of(trusted.inputs)

    def fed(inputs: Rows, labels: Int64[Tensor, " samples"]) -> Feed:
        return feed(inputs, labels, preprocess=ready, device=device, memory_mb=memory_mb)

    inputs, labels = mixed(samples, mixed_in)
    suspects, confusing = fed(inputs, labels), fed(held.inputs, held.labels)
    model = fresh_network(samples, network, child(seed, "network"))
    check_answers(model, next(confusing.ordered()).inputs[:2].cpu(), classes=samples.classes)
    train(
        model,
        suspects,
        settings.recipe,
        seed=child(seed, "train"),
        focus=focus,
        progress=progress,
        store=store,
    )
    predicted = logits(model, confusing).argmax(1).cpu()
    before = extract(model, suspects, precision=Precision.FP32, maps=True)
    if not all(block.isfinite().all() for block in (*before.maps, before.features)):
        raise InputError(
            "expected a network that can be trained, got NaN or infinity in its features after the "
            "training, which diverged; use another one, such as one with normalisation"
        )
    along = leading(torch.cat([*before.maps, before.features], dim=1), suspects.labels)
    known = log_odds(before.logits).gather(1, suspects.labels[:, None]).squeeze(1).float()
    cut = len(samples)

    def unsure(said: Confused) -> tuple[str, ...]:
        """Look at the calibration, of which the confusion should leave nothing."""
        return settings.preflight.confusion(said.subset(slice(cut, None)), classes=samples.classes)

    def has_taken(said: Confused) -> bool:
        """Tell so of images. Rows are confused such that a few keep their label."""
        return not samples.is_image or not unsure(said)

    looks = list(
        confusion(
            model,
            suspects,
            confusing,
            seed=child(seed, "confuse"),
            progress=progress,
            store=store,
            has_taken=has_taken,
        )
    )
    steps, taken = looks[-1].steps, len(looks)
    looks = looks[-1:] if looks[-1].is_further else looks
    score = partial(scored, known=known, samples=samples, mixed_in=mixed_in, settings=settings)
    finer = before.maps[:-1] or before.maps  # penultimate features average the coarsest
    seen_alone = (appearance(suspects),) if samples.is_image else ()
    unconfused = (*finer, before.features, *seen_alone)
    said, votes, tested = _best_look(
        looks,
        partial(_votes, unconfused=unconfused, along=along, labels=suspects.labels, score=score),
        score,
        partial(settings.decision.test, classes=samples.classes),
        times=taken,
    )
    kinds = kinds_apart(
        votes,
        suspects.labels,
        trusted=trusted,
        rows=is_calibration.nonzero().squeeze(1),
        decision=settings.decision,
        alpha=alpha / taken,
    )
    some = drawn(held, child(seed, "held"))
    near, neighbours = nearest(mixed_in.inputs[:], some.inputs[:])
    same = (some.labels[neighbours] == mixed_in.labels).double().mean().item()
    invalid = (
        *settings.preflight.learnt(predicted, held.labels, same),
        *settings.preflight.exchanged(predicted, held.labels, trusted.class_names),
        *unlike(
            near,
            some,
            samples,
            mixed_in,
            scored=score(said),
            preflight=settings.preflight,
            seed=child(seed, "matched"),
        ),
    )
    # a pass rests on every look, so it is enough that the confusion has taken at one; a look after
    # the larger weight (`Confusion.recall`) leaves more labels by itself, and does not count
    usual = looks[: confusion.looks]
    doubts = (
        *min(map(unsure, usual), key=len),
        *settings.preflight.further(usual[-1]),
        *settings.preflight.apart(samples, trusted),
    )
    return conclude(
        samples,
        *score(said),
        tests=tested,
        predicted=said.predicted[:cut],
        kinds=kinds,
        invalid=invalid,
        doubts=doubts,
        settings=settings,
        alpha=alpha,
        digest=digest or {},
        cost=_cost(started, device),
        sample_passes=sum(focus.sizes(len(labels), settings.recipe.epochs))
        + steps * sum(min(confusion.batch_size, each.pool_size) for each in (suspects, confusing)),
        looks=taken,
    )


def foresee(
    samples: Samples,
    trusted: Samples,
    *,
    settings: DatasetSettings = DatasetSettings(),  # noqa: B008  frozen
) -> tuple[str, ...]:
    """Say, without training anything, why an audit is bound to leave questions open.

    Args:
        samples: as for `audit_dataset`.
        trusted: likewise.
        settings: likewise.

    Returns:
        Reasons for which the verdict will be `inconclusive` unless something is flagged.
    """
    decision = settings.decision
    any_seed = Seed(0)  # which ones does not matter here
    is_calibration = calibration_of(trusted, settings.most_calibration, any_seed)
    can_judge = int(is_calibration.sum()) >= decision.fewest_calibration
    counts = zip(
        samples.class_names,
        samples.labels.bincount(minlength=samples.classes).tolist(),
        trusted.labels[is_calibration].bincount(minlength=samples.classes).tolist(),
        strict=True,
    )
    missing = [
        (name, reason)
        for name, own, reference in counts
        if (reason := decision.unanswerable(own, reference, can_judge=can_judge))
    ]
    return (*unjudged(missing, samples.classes), *settings.preflight.apart(samples, trusted))


def _best_look(
    looks: Sequence[Confused],
    vote: Callable[[Confused], Votes],
    score: Callable[[Confused], tuple[Scored, Scored]],
    test: Callable[..., tuple[Tested, ...]],
    *,
    times: int,
) -> tuple[Confused, Votes, tuple[Tested, ...]]:
    """Choose the look with the smallest p-value of a class, and count it once for every look.

    So the family-wise false alarm rate is kept over the looks (Bonferroni) and classes (Holm).
    `times` counts those too that were left because of what the calibration said of them: whether
    to go on was decided by the samples that the rest is compared with.
    """
    found = []
    for said in looks:
        votes = vote(said)
        found.append((said, votes, test(*score(said), votes=votes)))
    said, votes, tests = min(found, key=lambda each: min(test.p_value for test in each[2]))
    return said, votes, tuple(_counted(test, times) for test in tests)


def _votes(
    said: Confused,
    *,
    unconfused: Sequence[Float[Tensor, "mixed _"]],
    along: Float[Tensor, " mixed"],
    labels: Int64[Tensor, " mixed"],
    score: Callable[[Confused], tuple[Scored, Scored]],
) -> Votes:
    """Let the classes vote on features of before and after the confusion."""
    ridge = PooledRidge([*unconfused, said.features], labels, penalty=_PENALTY)
    scores = torch.cat([part.scores for part in score(said)])
    return tuple(outvoted(ridge, start) for start in (scores, along, -along))


def _counted(test: Tested, times: int) -> Tested:
    p_value = test.finding.p_value
    p_value = None if p_value is None else min(1.0, times * p_value)
    return dataclasses.replace(test, finding=dataclasses.replace(test.finding, p_value=p_value))


def _cost(started: float, device: torch.device) -> Cost:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Cost(wall_s=time.monotonic() - started, device=str(device), peak_memory_mb=peak)
