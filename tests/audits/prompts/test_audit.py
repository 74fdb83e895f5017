import dataclasses

import pytest
import torch

from assay.audits.prompts import KINDS, PromptsSettings, audit, audit_prompts
from assay.errors import InputError
from assay.randomness import Seed
from assay.results import Verdict
from assay.samples import Samples

from .conftest import CLASSES, NAMES, TARGET, delivery
from .test_survey import Kept

CPU = torch.device("cpu")
NOISE = PromptsSettings(kinds=(dataclasses.replace(KINDS[0], weight=1.0),))


def audited(model, pool, *, settings=NOISE, names=NAMES, **options):
    pools = pool if isinstance(pool, dict) else {"ood": pool}
    return audit_prompts(
        delivery(model), names, pools, settings=settings, seed=Seed(0), device=CPU, **options
    )


def test_a_planted_prompt_is_flagged_with_its_target(make, pool):
    found = audited(make(seed=3, shift=0.2, planted=200.0), pool, settings=PromptsSettings())
    assert found.verdict is Verdict.FLAGGED
    subject = found.findings.subjects[0]
    assert subject.target == NAMES[TARGET]
    assert subject.p_value < 0.001
    assert found.recovered.target == TARGET
    assert found.recovered.asr[0] > 0.7
    assert found.recovered.asr[0] > found.recovered.asr[1] + 0.5
    assert (found.recovered.stamped - found.recovered.clean).abs().max() <= 4 / 255 + 1e-6
    assert len(found.questions) == len(KINDS) * CLASSES


@pytest.mark.parametrize("seed", [1, 2, 4])
def test_honest_prompts_are_not(make, pool, seed):
    found = audited(make(seed=seed, shift=0.2), pool, settings=PromptsSettings())
    assert found.verdict is Verdict.NO_INDICATOR
    assert found.findings.subjects[0].target is None
    assert found.recovered is not None, "the most suspicious trigger is shown all the same"


def test_many_classes_are_not_all_searched(make, pool):
    rule = dataclasses.replace(NOISE.elimination, most=6, kept=2, controls=6)
    settings = dataclasses.replace(NOISE, elimination=rule)
    found = audited(make(seed=3, shift=0.2, planted=200.0), pool, settings=settings)
    assert found.verdict is Verdict.FLAGGED
    assert found.recovered.target == TARGET
    assert len(found.questions) <= 9
    assert f"of {CLASSES} classes: a first guess" in found.findings.not_examined[0]


def test_of_classes_that_were_not_searched_nothing_is_said(make, pool):
    rule = dataclasses.replace(NOISE.elimination, most=6, kept=2, controls=6)
    settings = dataclasses.replace(NOISE, elimination=rule)
    found = audited(make(seed=1, shift=0.2), pool, settings=settings)
    assert found.verdict is Verdict.NO_INDICATOR
    assert found.findings.reasons[0].startswith("No class that was searched is led")


def test_the_seed_alone_decides_and_nothing_is_changed(make, pool):
    model = make(seed=3, shift=0.2, planted=200.0)
    before, weights = torch.get_rng_state(), model.embeddings.detach().clone()
    first = audited(model, pool)
    assert torch.equal(before, torch.get_rng_state()), "the global generator was used"
    torch.rand(5)
    again = audited(model, pool)
    assert [q.margin for q in first.questions] == [q.margin for q in again.questions]
    assert torch.equal(first.recovered.stamped, again.recovered.stamped)
    assert torch.equal(weights, model.embeddings)


def test_a_resumed_audit_finds_the_same(make, pool):
    model, store = make(seed=3, shift=0.2, planted=200.0), Kept()
    whole = audited(model, pool, store=store)
    lost = sorted(store.held)[0]
    del store.held[lost]
    resumed = audited(model, pool, store=store)
    assert lost in store.held
    assert [q.excess for q in whole.questions] == [q.excess for q in resumed.questions]


def samples(pool, right):
    """Samples that a model gets right as often as `right` says."""
    with torch.no_grad():
        labels = right(pool.float() / 255).argmax(1)
    return Samples(inputs=pool, labels=labels, class_names=NAMES)


def test_without_gain_over_the_backbone_nothing_found_means_nothing(make, pool):
    clean = samples(255 - pool, make())
    found = audited(make(seed=3, shift=0.2), pool, clean=clean)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "written by hand" in found.findings.reasons[0]
    assert found.accuracy_backbone == 1.0
    assert found.accuracy < 1.0


def test_what_is_found_is_flagged_all_the_same(make, pool):
    clean = samples(255 - pool, make())
    found = audited(make(seed=3, shift=0.2, planted=200.0), pool, clean=clean)
    assert found.verdict is Verdict.FLAGGED
    assert "written by hand" in found.doubt
    assert found.doubt in found.findings.reasons[1]
    assert found.findings.subjects[0].evidence["doubt"] == found.doubt
    assert not found.doubts_labels, "a prompt written by hand gets them right"


def test_labels_of_other_classes_are_doubted_beside_a_flag(make, pool):
    model = make(seed=3, shift=0.2, planted=200.0)
    clean = samples(255 - pool, model)
    other = dataclasses.replace(clean, labels=(clean.labels + 3) % CLASSES)
    found = audited(model, pool, clean=other)
    assert found.verdict is Verdict.FLAGGED
    assert "check --classes and their order" in found.findings.reasons[1]
    assert found.doubts_labels


def test_with_a_gain_there_is_a_verdict(make, pool):
    model = make(seed=3, shift=0.2, planted=200.0)
    found = audited(model, pool, clean=samples(255 - pool, model))
    assert found.verdict is Verdict.FLAGGED
    assert found.accuracy == 1.0
    assert found.doubt == ""
    assert len(found.findings.reasons) == 1
    assert "doubt" not in found.findings.subjects[0].evidence


def test_clean_samples_in_the_pool_are_noticed(make, pool):
    model = make(seed=3, shift=0.2)
    found = audited(model, pool, clean=samples(pool[:5], model))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "5 of the out-of-distribution images are among the clean" in found.findings.reasons[0]


class Broken(torch.nn.Module):
    """Answers NaN to what differs from images by more than rounding."""

    def __init__(self, model, pool):
        super().__init__()
        self.model, self.known = model, {float(image.sum()) for image in pool.float() / 255}

    def image_features(self, images):
        return self.model.image_features(images)

    def logits(self, features):
        return self.model.logits(features)

    def forward(self, images):
        said = self.model(images)
        odd = torch.tensor([float(image.sum()) not in self.known for image in images.detach()])
        return said.masked_fill(odd[:, None], torch.nan)


def test_nan_under_triggers_is_no_pass(make, pool):
    found = audited(Broken(make(seed=3, shift=0.2), pool), pool)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "NaN" in found.findings.reasons[0]


def test_too_few_images_are_inconclusive(make, pool):
    found = audited(make(seed=3, shift=0.2, planted=200.0), pool[:120])
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.questions == ()
    assert found.recovered is None


def test_copies_of_an_image_count_once(make, pool):
    model = make(seed=3, shift=0.2, planted=200.0)
    few = audited(model, pool[torch.arange(240) % 2])
    assert few.verdict is Verdict.INCONCLUSIVE
    assert "200 different out-of-distribution images, got 2" in few.findings.reasons[0]
    whole, more = audited(model, pool), audited(model, torch.cat([pool, pool[:50]]))
    assert [q.margin for q in whole.questions] == [q.margin for q in more.questions]


def test_a_weakness_of_the_backbone_alone_flags_nobody(make, pool):
    model, weak = (make(seed=3, shift=0.2, planted=planted) for planted in (400.0, 150.0))
    given = dataclasses.replace(delivery(model), backbone=weak)
    found = audit_prompts(given, NAMES, {"ood": pool}, settings=NOISE, seed=Seed(0), device=CPU)
    assert min(found.recovered.asr) > 0.7
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "under the backbone alone: it may be a weakness" in found.findings.reasons[0]


def test_what_stands_out_but_does_not_work_flags_nobody(make, pool):
    strict = dataclasses.replace(NOISE.decision, least_asr=1.01)
    settings = dataclasses.replace(NOISE, decision=strict)
    found = audited(make(seed=3, shift=0.2, planted=200.0), pool, settings=settings)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "stands out" in found.findings.reasons[0]


def test_what_does_not_work_is_followed_by_what_stands_out_less(make, pool, monkeypatch):
    model, recover, targets = make(seed=3, shift=0.2, planted=200.0), audit._recover, []

    def failing(delivery, ready, found, *rest):
        targets.append((found.pool, found.kind.family.name))
        whole = recover(delivery, ready, found, *rest)
        return dataclasses.replace(whole, asr=(0.3, 0.0)) if len(targets) == 1 else whole

    monkeypatch.setattr(audit, "_recover", failing)
    found = audited(model, {"plain": pool, "mirrored": pool.flip(3)})
    assert len(set(targets)) == 2
    assert found.verdict is Verdict.FLAGGED
    assert found.recovered.pool == targets[1][0]
    assert found.findings.subjects[0].p_value > min(
        q.p_value * CLASSES * 2 for q in found.questions
    ), "the p-value is that of the trigger that works"


def test_mistakes_are_errors(make, pool):
    with pytest.raises(InputError, match="alpha"):
        audited(make(), pool, alpha=0.0)
    with pytest.raises(InputError, match="expected logits"):
        audited(make(), pool, names=NAMES[:5])
    with pytest.raises(InputError, match="two out-of-distribution"):
        audited(make(), pool[:1])
    with pytest.raises(InputError, match="expected a pool"):
        audited(make(), {})


class Framed(torch.nn.Module):
    """Has a planted trigger that works on images with a black edge alone."""

    def __init__(self, planted, honest):
        super().__init__()
        self.planted, self.honest = planted, honest

    def image_features(self, images):
        return self.planted.image_features(images)

    def logits(self, features):
        return self.honest.logits(features)

    def forward(self, images):
        is_framed = images[:, :, 0].mean((1, 2))[:, None] < 0.05
        return torch.where(is_framed, self.planted(images), self.honest(images))


def test_a_trigger_that_works_on_one_pool_alone_is_found_there(make, pool):
    model = Framed(make(seed=3, shift=0.2, planted=200.0), make(seed=3, shift=0.2))
    framed = pool.clone()
    framed[:, :, 0] = 0
    alone = audited(model, pool)
    assert alone.verdict is Verdict.NO_INDICATOR
    found = audited(model, {"plain": pool, "framed": framed})
    assert found.verdict is Verdict.FLAGGED
    assert found.recovered.target == TARGET
    assert found.recovered.pool == "framed"
    assert (found.recovered.clean[:, :, 0] == 0).all()
    assert {q.pool for q in found.questions} == {"plain", "framed"}
    assert alone.questions[0].threshold < found.questions[0].threshold, "both pools share alpha"


def test_the_first_pool_must_be_fit_and_another_one_may_be_left_out(make, pool):
    model = make(seed=3, shift=0.2, planted=200.0)
    found = audited(model, {"many": pool, "few": pool[:50]})
    assert found.verdict is Verdict.FLAGGED
    alone = audited(model, pool)
    assert [q.excess for q in found.questions] == [q.excess for q in alone.questions]
    assert [q.threshold for q in found.questions] == [q.threshold for q in alone.questions]
    assert found.findings.not_examined[0].startswith("The few, which were not searched: expected")
    assert audited(model, {"few": pool[:50], "many": pool}).verdict is Verdict.INCONCLUSIVE
