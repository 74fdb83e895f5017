import copy
import dataclasses

import pytest
import torch
from torch import nn

from assay.audits.models import KINDS, Decision, ModelsSettings, Preflight, audit_models, effort
from assay.audits.models.audit import TOGETHER, _Judged, _recover
from assay.audits.models.found import Recovered
from assay.audits.models.halves import halves
from assay.audits.models.recovery import Recovery
from assay.audits.models.respond import examined, responder
from assay.audits.models.survey import Elimination, Survey, survey
from assay.errors import InputError
from assay.randomness import Seed
from assay.results import Forgetful, Verdict
from assay.samples import Samples
from assay.triggers import ANY, Candidates, Patch, Patches, Search, Signals

CPU = torch.device("cpu")
PATCH = next(kind for kind in KINDS if isinstance(kind.family, Patches) and not kind.by_source)
FAST = ModelsSettings(
    kinds=(dataclasses.replace(PATCH, family=Patches(area=0.07), search=Search(batch=12)),)
)


def audit(*deliveries, clean, settings=FAST, **options):
    return audit_models(deliveries, clean, settings=settings, seed=Seed(0), device=CPU, **options)


@pytest.fixture(scope="module")
def found(make, clean):
    return audit(make(0), make(1, poison=60), make(2), clean=clean)


def test_the_poisoned_model_is_named_with_its_target(found):
    assert [m.verdict for m in found.models] == [
        Verdict.NO_INDICATOR,
        Verdict.FLAGGED,
        Verdict.NO_INDICATOR,
    ]
    assert found.verdict is Verdict.FLAGGED
    assert found.findings.subjects[1].target == "digit 7"
    assert "'poisoned 1'" in found.findings.reasons[0]


def test_the_recovered_trigger_works_on_that_model_alone(found):
    recovered = found.models[1].recovered
    assert recovered.target == 7
    assert recovered.asr[1] > 0.9
    assert max(recovered.asr[0], recovered.asr[2]) < 0.3
    assert (recovered.answers_stamped[1] == 7).double().mean() > 0.8
    assert recovered.trigger.mask[:3, :3].sum() > 0.6 * recovered.trigger.mask.sum()
    on_clean, on_triggered = recovered.cka["100%"]
    assert on_triggered < on_clean


def test_every_question_is_kept(found):
    assert len(found.questions) == 3 * 10
    top = max(found.questions, key=lambda q: q.excess)
    assert (top.model, top.target) == ("poisoned 1", 7)
    assert top.margin > top.reference_margin


def test_the_models_stay_as_they_were(make, clean):
    delivery = make(3)
    before = {name: value.clone() for name, value in delivery.model.state_dict().items()}
    audit(delivery, make(0), clean=clean)
    after = delivery.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_two_honest_models_show_no_indicator(make, clean):
    found = audit(make(0), make(2), clean=clean)
    assert found.verdict is Verdict.NO_INDICATOR
    assert found.findings.not_examined[0].startswith("Backdoors that all deliveries share")


def test_the_seed_alone_decides(make, clean):
    state = torch.get_rng_state()
    first, second = (audit(make(0), make(2), clean=clean) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert [q.margin for q in first.questions] == [q.margin for q in second.questions]


def test_resumes_from_what_is_stored(make, clean):
    class Kept:
        def __init__(self):
            self.held, self.saved = {}, 0

        def save(self, name, tensors):
            self.held[name] = tensors
            self.saved += 1

        def load(self, name):
            return self.held.get(name)

    store = Kept()
    first = audit(make(0), make(2), clean=clean, store=store)
    saved = store.saved
    again = audit(make(0), make(2), clean=clean, store=store)
    assert store.saved == saved
    assert [q.p_value for q in first.questions] == [q.p_value for q in again.questions]


class Odd(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.weight * self.answer(x)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda x: torch.full((len(x), 10), torch.nan), "NaN"),
        (lambda x: torch.ones(len(x), 10), "same answer"),
        (lambda x: x.flatten(1)[:, :10], "no better than"),
        (lambda x: x.flatten(1)[:, :7], "expected 10 logits"),
    ],
    ids=["nan", "constant", "another task", "other classes"],
)
def test_what_cannot_be_judged_is_inconclusive(make, clean, answer, reason):
    odd = dataclasses.replace(make(0), name="odd", model=Odd(answer))
    found = audit(odd, make(0), clean=clean)
    assert [m.verdict for m in found.models] == [Verdict.INCONCLUSIVE] * 2
    assert reason in found.models[0].reason
    assert "no other model" in found.models[1].reason


class Wrapped(nn.Module):
    def __init__(self, model, change):
        super().__init__()
        self.model, self.change = model, change

    def forward(self, x):
        return self.change(self.model, x)


def spoiled(model, x):
    """Answers as the model does, and changes what the gradient needs."""
    odds = model(x).exp()
    said = odds.log()
    odds.mul_(2)
    return said


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (spoiled, "follow small changes"),
        (lambda model, x: model((x * 8).round() / 8), "follow small changes"),
        (lambda model, x: model(x) + 0 * x.sum().sqrt().log(), "NaN"),
    ],
    ids=["broken gradient", "no gradient", "nan"],
)
def test_a_model_that_cannot_be_searched_is_not_passed(make, clean, change, reason):
    guilty = make(1, poison=60)
    shielded = dataclasses.replace(guilty, name="shielded", model=Wrapped(guilty.model, change))
    found = audit(shielded, make(0), make(2), clean=clean)
    assert found.models[0].verdict is Verdict.INCONCLUSIVE
    assert reason in found.models[0].reason
    assert found.models[1].verdict is not Verdict.FLAGGED


def test_nan_on_triggered_samples_alone_does_not_acquit(make, clean):
    guilty = make(1, poison=60)

    def change(model, x):
        bright = (x[:, :, :2, :2].mean((1, 2, 3)) > 0.5)[:, None]
        return torch.where(bright, torch.nan, model(x))

    shielded = dataclasses.replace(guilty, name="shielded", model=Wrapped(guilty.model, change))
    found = audit(shielded, make(0), make(2), clean=clean)
    assert found.models[0].verdict is Verdict.INCONCLUSIVE
    assert "triggered" in found.models[0].reason
    assert found.models[1].p_value is not None


def test_a_trigger_that_stands_out_but_does_not_work_gives_no_verdict(make, clean):
    strict = dataclasses.replace(FAST, decision=Decision(least_asr=1.01))
    found = audit(make(0), make(1, poison=60), clean=clean, settings=strict)
    assert found.models[1].verdict is Verdict.INCONCLUSIVE
    assert "leads only" in found.models[1].reason
    assert found.verdict is Verdict.INCONCLUSIVE


def test_three_classes_are_too_few(make, clean):
    rows = (clean.labels < 3).nonzero().squeeze(1)
    few = Samples(
        inputs=clean.inputs[rows], labels=clean.labels[rows], class_names=clean.class_names[:3]
    )
    found = audit(make(0), make(2), clean=few)
    assert "at least 4 classes" in found.models[0].reason


def test_models_need_names_of_their_own(make, clean):
    with pytest.raises(InputError, match="name of its own"):
        audit(make(0), make(0), clean=clean)


def test_a_wrong_standard_deviation_is_noticed(make, clean):
    delivery = make(0)
    wrong = dataclasses.replace(delivery.preprocess, mean=(0.9,), std=(0.05,))
    found = audit(dataclasses.replace(delivery, preprocess=wrong), make(2), clean=clean)
    assert found.models[0].verdict is Verdict.INCONCLUSIVE
    assert "--mean" in found.models[0].reason


def test_few_clean_samples_are_inconclusive(make, clean):
    found = audit(make(0), make(2), clean=clean.subset(torch.arange(60)))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "at least 200" in found.models[0].reason


def test_what_makes_no_sense_is_refused(make, clean):
    with pytest.raises(InputError, match="two or more"):
        audit(make(0), clean=clean)
    with pytest.raises(InputError, match="alpha"):
        audit(make(0), make(2), clean=clean, alpha=1.0)


def test_where_whole_images_decide_a_trigger_of_another_kind_is_shown(make, clean):
    canvas = next(kind for kind in KINDS if not kind.shown)
    settings = dataclasses.replace(
        FAST,
        kinds=(
            dataclasses.replace(canvas, weight=0.999),
            dataclasses.replace(FAST.kinds[0], weight=0.001),
        ),
    )
    found = audit(make(1, poison=60), make(0), make(2), clean=clean, settings=settings)
    top = max(found.questions, key=lambda q: q.excess if q.family == canvas.name else 0)
    assert (top.model, top.target) == ("poisoned 1", 7)
    assert found.models[0].verdict is Verdict.FLAGGED
    assert found.models[0].recovered.family.startswith("patch")
    assert found.models[0].recovered.target == 7


def found_by_hand(*, family, asr):
    image, said = torch.zeros(1, 1, 2, 2), torch.zeros(2, 1, dtype=torch.int64)
    return Recovered(
        family=family,
        source=None,
        target=0,
        trigger=Patch(pattern=image[0], mask=image[0, 0]),
        clean=image,
        stamped=image,
        labels=said[0],
        answers_clean=said,
        answers_stamped=said,
        asr=asr,
        asr_tuned=None,
        cka={},
    )


def test_where_no_kind_that_is_shown_has_searched_the_target_all_of_them_are_tried(make, clean):
    models = [examined(make(seed), clean.inputs[:].float() / 255) for seed in (0, 2)]
    searched, held = halves(clean, most=400, seed=Seed(0), device=CPU)
    canvas = next(kind for kind in KINDS if not kind.shown)
    tried = []

    class Told(Recovery):
        def __call__(self, *_, family, one, **__):
            tried.append((family, int(one.targets)))
            return found_by_hand(family=family.name, asr=(0.1 * len(tried), 0.0))

    kinds = (canvas, *(kind for kind in KINDS if kind.shown))
    settings = dataclasses.replace(ModelsSettings(kinds=kinds), recovery=Told())
    surveys = [
        Survey(
            kind=kind,
            asked=100,
            candidates=Candidates(sources=torch.full((2,), ANY), targets=torch.tensor(targets)),
            margins=torch.zeros(2, 2),
            asr=torch.zeros(2, 2),
            typical=torch.ones(2, dtype=torch.bool),
        )
        for kind, targets in zip(kinds[:2], ([1, 7], [1, 2]), strict=True)
    ]
    judged = _Judged(p_value=0.0, alone=1.0, questions=(), top=(0, 1))
    found = _recover(judged, surveys, models, models[0], models, searched, held, settings, Seed(0))
    whole = [kind.family for kind in KINDS if kind.shown and not kind.by_source]
    assert tried == [(family, 7) for family in whole]
    assert found.family == whole[-1].name
    tried.clear()
    _recover(
        dataclasses.replace(judged, top=(0, 0)),
        surveys, models, models[0], models, searched, held, settings, Seed(0),
    )  # fmt: skip
    assert tried == [(kinds[1].family, 1)]


def test_all_kinds_together_are_a_question_of_their_own(make, clean):
    signal = next(kind for kind in KINDS if isinstance(kind.family, Signals))
    settings = dataclasses.replace(FAST, kinds=(*FAST.kinds, signal))
    found = audit(make(1, poison=60), make(0), clean=clean, settings=settings)
    joint = [q for q in found.models[0].questions if q.family == TOGETHER]
    each = [q for q in found.models[0].questions if q.family != TOGETHER]
    assert [q.target for q in joint] == list(range(10))
    assert len(each) == 2 * 10
    top = min(joint, key=lambda q: q.p_value)
    assert top.target == 7
    assert top.excess > top.threshold
    assert top.alone is None
    assert top.alone_p_value is None
    assert (top.margin, top.asr) in [(q.margin, q.asr) for q in each if q.target == 7]
    assert found.models[0].verdict is Verdict.FLAGGED
    assert found.models[0].recovered.target == 7


def test_models_see_values_of_8_bits_only_and_gradients_pass(make):
    seen = []
    delivery = make(0)
    hook = delivery.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(responder(delivery, CPU)(images).sum(), images)
    hook.remove()
    mean, std = delivery.preprocess.mean[0], delivery.preprocess.std[0]
    values = (seen[0] * std + mean) * 255
    assert torch.allclose(values, values.round(), atol=1e-3)
    assert gradient.any()


@pytest.mark.parametrize("classes", [10, 4])
def test_the_effort_that_is_foreseen_is_what_goes_through_the_models(make, clean, classes):
    """Of ten classes here some are eliminated after a short search, of four none."""
    kept = (clean.labels < classes).nonzero().squeeze(1)
    clean = dataclasses.replace(clean.subset(kept), class_names=clean.class_names[:classes])
    settings = dataclasses.replace(
        FAST,
        elimination=Elimination(most=5, kept=1, controls=3, share=0.5, batch=12),
        preflight=Preflight(fewest_samples=100),
    )
    deliveries, passed = [], []
    for seed in (0, 2):
        made = make(seed)
        deliveries.append(
            dataclasses.replace(made, model=First(copy.deepcopy(made.model), classes))
        )
        deliveries[-1].model.register_forward_pre_hook(
            lambda _, inputs: passed.append(len(inputs[0]) / (1 if torch.is_grad_enabled() else 3))
        )
    audit(*deliveries, clean=clean, settings=settings)
    foreseen = effort(settings, [classes], len(clean), models=2)
    assert sum(passed) / 2 == pytest.approx(foreseen, rel=0.2)


class First(nn.Module):
    """Knows the first classes only."""

    def __init__(self, model, classes):
        super().__init__()
        self.model, self.classes = model, classes

    def forward(self, images):
        return self.model(images)[:, : self.classes]


@pytest.mark.parametrize(("size", "least", "most"), [(None, 200, 10**4), (64, 60, 192)])
def test_fewer_images_go_at_once_through_a_model_that_wants_large_ones(
    make, clean, size, least, most
):
    plain, seen = make(0), []
    large = dataclasses.replace(
        make(2), preprocess=dataclasses.replace(make(2).preprocess, size=size)
    )
    hooks = [
        each.model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
        for each in (plain, large)
    ]
    models = [examined(each, clean.inputs[:].float() / 255) for each in (plain, large)]
    searched, held = halves(clean, most=400, seed=Seed(0), device=CPU)
    del seen[:]
    kind = dataclasses.replace(FAST.kinds[0], search=Search(steps=2, batch=24))
    survey(
        kind, models, searched, held, 10,
        elimination=Elimination(), seed=Seed(0), store=Forgetful(), done=lambda: None,
    )  # fmt: skip
    searching = max(seen)
    del seen[:]
    recovery = Recovery(search=Search(steps=1, batch=800, noise=0.0))
    recovery(
        *models, models, searched=searched, held=held, family=kind.family,
        one=Candidates(sources=torch.tensor([ANY]), targets=torch.tensor([3])), seed=Seed(0),
    )  # fmt: skip
    for hook in hooks:
        hook.remove()
    assert least <= searching <= most
    assert max(seen) <= max(768 if size is None else most, len(held.labels))
