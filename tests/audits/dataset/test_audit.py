import dataclasses

import pytest
import torch
from torch import nn

import assay
from assay.audits.dataset import (
    ClassResult,
    DatasetAudit,
    DatasetSettings,
    audit_dataset,
    foresee,
)
from assay.audits.dataset import audit as auditing
from assay.audits.dataset.conclusion import _power, _pull
from assay.audits.dataset.decision import Decision
from assay.audits.dataset.preflight import Preflight
from assay.errors import InputError
from assay.fitting import Focus, Recipe
from assay.networks import default_network
from assay.randomness import Seed
from assay.results import Progress, Verdict, silent
from assay.samples import Samples
from assay.stats import auroc
from assay_zoo.attacks import BadNets, FTrojan

CPU = torch.device("cpu")
Digits = tuple[Samples, Samples]


def audited(samples: Samples, trusted: Samples, *, progress: Progress = silent) -> DatasetAudit:
    return audit_dataset(samples, trusted, seed=Seed(1), device=CPU, progress=progress)


def relabelled(samples: Samples, labels: torch.Tensor) -> Samples:
    return dataclasses.replace(samples, labels=labels)


def test_poisoned_digits_are_flagged_and_named(digits: Digits) -> None:
    samples, trusted = digits
    attack = BadNets(target=4, poison_rate=0.03)
    poisoned = attack(samples.inputs[:], samples.labels, classes=10, seed=Seed(5))
    suspects = Samples(
        inputs=poisoned.inputs, labels=poisoned.labels, class_names=samples.class_names
    )
    stages: list[str] = []
    before = torch.get_rng_state()
    found = audited(suspects, trusted, progress=lambda stage, _done, _total: stages.append(stage))
    assert torch.equal(before, torch.get_rng_state())
    assert found.verdict is Verdict.FLAGGED
    assert [c.name for c in found.classes if c.verdict is Verdict.FLAGGED] == ["digit 4"]
    assert found.classes[4].target == "digit 4"
    assert found.is_poison[poisoned.is_poison].float().mean() > 0.95
    assert found.is_poison[~poisoned.is_poison].float().mean() < 0.01
    assert auroc(found.scores, poisoned.is_poison) > 0.99
    assert torch.equal(found.flagged, found.is_poison.nonzero().squeeze(1))
    assert "digit 4" in found.findings.reasons[0]
    assert list(dict.fromkeys(stages)) == ["train", "confuse"]


@pytest.mark.parametrize("kind", ["images", "rows"])
def test_the_passes_that_are_counted_are_those_that_were_made(digits: Digits, kind: str) -> None:
    samples, trusted = (part.subset(torch.arange(300)) for part in digits)
    if kind == "rows":
        samples, trusted = (
            dataclasses.replace(part, inputs=part.inputs[:].flatten(1).float())
            for part in (samples, trusted)
        )
    passes = [0]

    def count(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        passes[0] += len(inputs[0]) * model.training

    def network() -> nn.Module:
        model = default_network(samples.inputs.shape, classes=10, seed=Seed(0))
        model.register_forward_pre_hook(count)
        return model

    trained = [0]

    def progress(stage: str, _done: int, _total: int) -> None:
        trained[0] = passes[0] if stage == "train" else trained[0]

    found = audit_dataset(
        samples, trusted, network=network, seed=Seed(1), device=CPU, progress=progress
    )
    assert found.sample_passes == passes[0]
    mixed = len(samples) + len(found.calibration_labels)
    assert trained[0] == (15 * mixed if kind == "rows" else sum(Focus().sizes(mixed, 15)))


def test_a_faint_pattern_is_found_by_pixels_where_the_network_does_not_show_it(
    digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, trusted = digits
    attack = FTrojan(poison_rate=0.05)
    made = attack(samples.inputs[:], samples.labels, classes=10, seed=Seed(5))
    suspects = Samples(inputs=made.inputs, labels=made.labels, class_names=samples.class_names)
    found = audited(suspects, trusted)
    assert found.verdict is Verdict.FLAGGED
    assert found.is_poison[made.is_poison].float().mean() > 0.9
    assert found.is_poison[~made.is_poison].float().mean() < 0.01
    monkeypatch.setattr(auditing, "appearance", lambda data: torch.zeros(len(data), 1))
    assert audited(suspects, trusted).verdict is Verdict.NO_INDICATOR


def test_a_network_whose_training_diverges_is_named(digits: Digits) -> None:
    samples, trusted = digits
    wild = dataclasses.replace(DatasetSettings(), recipe=Recipe(epochs=1, peak_rate=1e30))
    with pytest.raises(InputError, match="diverged"):
        audit_dataset(samples, trusted, settings=wild, seed=Seed(1), device=CPU)


@pytest.mark.parametrize(
    ("attack", "verdict"),
    [(None, Verdict.INCONCLUSIVE), (BadNets(target=4, poison_rate=0.03), Verdict.FLAGGED)],
)
def test_a_longer_confusion_may_convict_and_acquits_nobody(
    digits: Digits, attack: BadNets | None, verdict: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, trusted = digits
    if attack is not None:
        made = attack(samples.inputs[:], samples.labels, classes=10, seed=Seed(5))
        samples = dataclasses.replace(samples, inputs=made.inputs, labels=made.labels)
    asked: list[int] = []

    def doubted_once(*_: object, classes: int) -> tuple[str, ...]:
        asked.append(1)
        return ("it has not taken",) if len(asked) == 1 else ()

    monkeypatch.setattr(Preflight, "confusion", doubted_once)
    found = audited(samples, trusted)
    assert found.verdict is verdict
    if attack is None:
        assert "only when it was longer" in found.findings.reasons[0]
    else:
        assert found.is_poison[made.is_poison].float().mean() > 0.9
        assert found.is_poison[~made.is_poison].float().mean() < 0.01


@pytest.mark.parametrize(
    ("doubted", "verdict"), [(1, Verdict.NO_INDICATOR), (3, Verdict.INCONCLUSIVE)]
)
def test_a_pass_needs_one_look_at_which_the_confusion_has_taken(
    digits: Digits, doubted: int, verdict: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, trusted = (
        dataclasses.replace(one, inputs=one.inputs[:].flatten(1).float()) for one in digits
    )
    asked: list[int] = []

    def doubted_first(*_: object, classes: int) -> tuple[str, ...]:
        asked.append(1)
        return ("it has not taken",) if len(asked) <= doubted else ()

    monkeypatch.setattr(Preflight, "confusion", doubted_first)
    found = audited(samples, trusted)
    assert found.verdict is verdict
    assert ("it has not taken" in found.findings.reasons) == (doubted == 3)
    assert len(asked) == 3


def test_clean_digits_raise_no_alarm_and_the_seed_alone_decides(digits: Digits) -> None:
    samples, trusted = digits
    found, again = audited(samples, trusted), audited(samples, trusted)
    assert found.verdict is Verdict.NO_INDICATOR
    assert not found.is_poison.any()
    assert all(c.p_value is not None for c in found.classes)
    assert torch.equal(found.scores, again.scores)
    assert any("found for certain" in reason for reason in found.findings.reasons)
    assert found.findings.not_examined


def test_the_function_of_tensors_agrees_with_the_audit(digits: Digits) -> None:
    samples, trusted = digits
    small, few = slice(0, 300), slice(0, 250)
    found = assay.audit_dataset(
        samples.inputs[small],
        samples.labels[small],
        clean=(trusted.inputs[few], trusted.labels[few]),
        seed=1,
    )
    rows = [Samples.subset(s, torch.arange(300)[: len(s)]) for s in (samples,)]
    named = [
        dataclasses.replace(s, class_names=tuple(map(str, range(10))))
        for s in (rows[0], trusted.subset(torch.arange(250)))
    ]
    assert torch.equal(found.scores, audited(*named).scores)


def test_too_few_trusted_samples_are_inconclusive(digits: Digits) -> None:
    few = digits[1].subset(torch.arange(100))
    found = audited(digits[0], few)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "trusted set is too small" in found.findings.reasons[0]
    assert foresee(digits[0], few) == found.findings.reasons


def test_what_needs_no_training_is_foreseen(digits: Digits) -> None:
    samples, trusted = digits
    assert foresee(samples, trusted) == ()
    without = trusted.subset((trusted.labels != 3).nonzero().squeeze(1))
    (reason,) = foresee(samples, without)
    assert "1 of 10 classes" in reason
    assert "'digit 3'" in reason
    assert "stand in the data set" in foresee(samples, samples.subset(torch.arange(300)))[0]


def test_another_label_order_is_inconclusive_and_flags_nothing(digits: Digits) -> None:
    found = audited(digits[0], relabelled(digits[1], (digits[1].labels + 1) % 10))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "label order" in found.findings.reasons[0]
    assert not found.is_poison.any()


def test_two_exchanged_labels_of_the_trusted_set_are_named(digits: Digits) -> None:
    labels = digits[1].labels.clone()
    labels[digits[1].labels == 2], labels[digits[1].labels == 5] = 5, 2
    found = audited(digits[0], relabelled(digits[1], labels))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "'digit 2' for 'digit 5'" in found.findings.reasons[0]
    assert not found.is_poison.any()


def test_labels_without_meaning_are_inconclusive(digits: Digits) -> None:
    order = torch.randperm(1200, generator=torch.Generator().manual_seed(0))
    found = audited(relabelled(digits[0], digits[0].labels[order]), digits[1])
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "labels mean nothing" in found.findings.reasons[0]


def test_a_rare_class_is_not_passed_in_silence(digits: Digits) -> None:
    samples, trusted = digits
    kept = (samples.labels != 9) | (torch.arange(1200) < 60)
    found = audited(samples.subset(kept.nonzero().squeeze(1)), trusted)
    assert found.classes[9].verdict is Verdict.INCONCLUSIVE
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "digit 9" in " ".join(found.findings.reasons)


def test_digits_by_parity_are_flagged_without_a_tail_and_the_reason_says_by_what(
    digits: Digits,
) -> None:
    samples, trusted = (
        dataclasses.replace(part, labels=part.labels % 2, class_names=("even", "odd"))
        for part in digits
    )
    attack = BadNets(target=0, poison_rate=0.2)
    poisoned = attack(samples.inputs[:], samples.labels, classes=2, seed=Seed(5))
    suspects = dataclasses.replace(samples, inputs=poisoned.inputs, labels=poisoned.labels)
    blind = dataclasses.replace(DatasetSettings().decision, tail_odds=1e9)  # to far ones
    found = audit_dataset(
        suspects,
        trusted,
        settings=dataclasses.replace(DatasetSettings(), decision=blind),
        seed=Seed(1),
        device=CPU,
    )
    even = found.classes[0]
    assert even.verdict is Verdict.FLAGGED
    assert _pull(even) in found.findings.reasons[0]
    other = dataclasses.replace(even, by_features=False)  # which vote wins, rounding decides
    said = {vote: _pull(dataclasses.replace(other, by_vote=vote)) for vote in (False, True)}
    assert said[False].startswith("keep pulling")
    assert said[True].startswith("share what sets those apart")
    assert found.is_poison[poisoned.is_poison].float().mean() > 0.9
    assert found.is_poison[~poisoned.is_poison].float().mean() < 0.05


def test_what_does_not_fit_is_refused(digits: Digits) -> None:
    samples, trusted = digits
    with pytest.raises(InputError, match="with the classes"):
        audited(samples, dataclasses.replace(trusted, class_names=tuple("abcdefghij")))
    with pytest.raises(InputError, match="of the shape"):
        audited(samples, dataclasses.replace(trusted, inputs=trusted.inputs[:][:, :, 1:]))
    with pytest.raises(InputError, match="one label only"):
        audited(relabelled(samples, torch.zeros(1200, dtype=torch.int64)), trusted)
    with pytest.raises(InputError, match="alpha"):
        audit_dataset(samples, trusted, alpha=1.0, seed=Seed(0), device=CPU)
    labels = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(InputError, match="expected images as uint8"):
        assay.audit_dataset(torch.zeros(4, 3, 8, 8), labels, clean=(torch.zeros(4, 3), labels))


def test_the_settings_say_everything(digits: Digits) -> None:
    said = repr(DatasetSettings())
    for part in dataclasses.fields(DatasetSettings):
        assert f"{part.name}=" in said
        held = getattr(DatasetSettings(), part.name)
        for inner in dataclasses.fields(held) if dataclasses.is_dataclass(held) else ():
            assert f"{inner.name}=" in said


@pytest.mark.parametrize(("shared", "doubted"), [(0, False), (4, False), (5, True), (40, True)])
def test_trusted_samples_that_stand_in_the_data(shared: int, doubted: bool) -> None:
    images = torch.arange(100, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    labels, names = torch.arange(100) % 2, ("a", "b")
    data = Samples(inputs=images[:60], labels=labels[:60], class_names=names)
    rows = torch.arange(60 - shared, 100 - shared)
    trusted = Samples(inputs=images[rows], labels=labels[rows], class_names=names)
    assert bool(Preflight().apart(data, trusted)) is doubted


def test_what_could_not_have_been_found_is_said() -> None:
    def result(label: int, calibration: int) -> ClassResult:
        return ClassResult(
            label=label,
            name=f"c{label}",
            samples=1200,
            calibration=calibration,
            flagged=0,
            statistic=0.0,
            p_value=1.0,
            adjusted_p_value=1.0,
            target=None,
            verdict=Verdict.NO_INDICATOR,
            reason="",
        )

    (said,) = _power([result(0, 100), result(1, 60)], Decision(), 0.05)
    assert "of 1200 samples of a class on ('c1')" in said
    (said,) = _power([result(0, 100), result(1, 2)], Decision(), 0.05)
    assert "In 1 of 2 classes no share of poison is found for certain" in said
    assert "'c1' there are 2 samples for calibration" in said
