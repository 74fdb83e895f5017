import math

import pytest
import torch

from assay.audits.dataset import audit_dataset
from assay.audits.dataset.confusion import Confused
from assay.audits.dataset.decision import Scored
from assay.audits.dataset.likeness import _matched, unlike
from assay.audits.dataset.preflight import Preflight, nearest
from assay.randomness import Seed
from assay.results import Verdict
from assay.samples import Samples

CPU = torch.device("cpu")
Digits = tuple[Samples, Samples]


def frames(samples: Samples, scenes: int, each: int) -> Samples:
    """Pretend that so many samples are scenes, of which several noisy frames were taken."""
    rows = torch.arange(scenes).repeat(each)
    random = torch.Generator().manual_seed(0)
    noise = torch.randint(-12, 13, (len(rows), *samples.inputs.shape[1:]), generator=random)
    inputs = (samples.inputs[:][rows].int() + noise).clamp(0, 255).to(torch.uint8)
    return Samples(inputs=inputs, labels=samples.labels[rows], class_names=samples.class_names)


def test_trusted_frames_of_other_scenes_are_inconclusive(digits: Digits) -> None:
    samples, trusted = digits
    found = audit_dataset(samples, frames(trusted, 60, 6), seed=Seed(0), device=CPU)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "another kind" in found.findings.reasons[0]
    assert not found.is_poison.any()


def test_other_shares_of_the_classes_are_no_other_kind() -> None:
    random = torch.Generator().manual_seed(0)

    def drawn(tight: int, wide: int) -> Samples:
        labels = torch.tensor([0] * tight + [1] * wide)
        inputs = torch.randn(len(labels), 8, generator=random) * (0.1 + 3 * labels[:, None])
        return Samples(inputs=inputs, labels=labels, class_names=("tight", "wide"))

    held, calibration, suspects = drawn(200, 200), drawn(500, 500), drawn(1000, 9000)
    near, _ = nearest(calibration.inputs[:], held.inputs[:])

    def doubts(samples: Samples) -> tuple[str, ...]:
        return Preflight().alike(near, nearest(samples.inputs[:], held.inputs[:])[0])

    assert doubts(suspects)
    everyone = torch.arange(len(suspects))
    assert not doubts(_matched(suspects, everyone, calibration, Seed(0)))


def test_a_random_part_of_the_data_is_alike_even_where_a_fifth_is_changed(digits: Digits) -> None:
    samples, trusted = digits
    changed = samples.inputs[:].clone()
    changed[:240, :, ::2] = 255
    held, calibration = trusted.inputs[:][::2], trusted.inputs[:][1::2]
    near, _ = nearest(calibration, held)
    for suspects in (samples.inputs[:], changed):
        assert Preflight().alike(near, nearest(suspects, held)[0]) == ()


def test_suspects_of_other_classes_than_the_trusted_samples_are_inconclusive(
    digits: Digits,
) -> None:
    samples, trusted = (
        part.subset(((part.labels < 5) == low).nonzero().squeeze(1))
        for part, low in zip(digits, (True, False), strict=True)
    )
    found = audit_dataset(samples, trusted, seed=Seed(0), device=CPU)
    assert found.verdict is Verdict.INCONCLUSIVE


def test_rows_that_coincide_are_not_nearer() -> None:
    random = torch.Generator().manual_seed(0)
    held, calibration, suspects = (
        torch.randint(2, (count, 8), generator=random).float() for count in (500, 500, 2000)
    )
    near, _ = nearest(calibration, held)
    assert Preflight().alike(near, nearest(suspects, held)[0]) == ()


def test_the_nearest_input_is_found_and_a_value_that_hardly_varies_does_not_decide() -> None:
    among = torch.rand(50, 1, 2, 3, generator=torch.Generator().manual_seed(0))
    among[:, 0, 1, 2] = 0.5
    among[0, 0, 1, 2] = 0.5001
    asked = among + 0.001
    distances, rows = nearest(asked, among)
    assert torch.equal(rows, torch.arange(50))
    assert (distances < 0.1).all()


@pytest.mark.parametrize(("right", "learnt"), [(100, True), (62, True), (48, False), (10, False)])
def test_the_model_must_know_more_than_half_of_what_neighbours_tell(
    right: int, *, learnt: bool
) -> None:
    labels = torch.arange(100) % 10
    predicted = torch.where(torch.arange(100) < right, labels, (labels + 1) % 10)
    doubts = Preflight().learnt(predicted, labels, 0.9)
    assert (doubts == ()) == learnt
    if not learnt:
        assert f"{right} of 100" in doubts[0]
        assert "50%" in doubts[0]


@pytest.mark.parametrize("stand_out", [True, False])
def test_much_poison_makes_no_other_kind_where_it_stands_out(
    digits: Digits, *, stand_out: bool
) -> None:
    samples, trusted = digits
    moved = len(samples) * 3 // 5
    inputs = samples.inputs[:].clone()
    inputs[:moved] = 255 - inputs[:moved]
    suspects = Samples(inputs=inputs, labels=samples.labels, class_names=samples.class_names)
    halves = torch.arange(len(trusted))
    held, calibration = trusted.subset(halves[::2]), trusted.subset(halves[1::2])
    scores = torch.zeros(len(samples) + len(calibration))
    scores[:moved] = 9.0 * stand_out
    scored = (
        Scored(scores=scores[: len(samples)], labels=samples.labels),
        Scored(scores=scores[len(samples) :], labels=calibration.labels),
    )
    near, _ = nearest(calibration.inputs[:], held.inputs[:])
    found = unlike(
        near, held, suspects, calibration, scored=scored, preflight=Preflight(), seed=Seed(0)
    )
    assert (found == ()) == stand_out


def test_labels_in_a_circle_are_exchanged_and_classes_that_look_alike_are_not() -> None:
    labels = torch.arange(5).repeat_interleave(20)
    circle = torch.tensor([1, 2, 0, 3, 4])[labels]
    names = ("a", "b", "c", "d", "e")
    (reason,) = Preflight().exchanged(circle, labels, names)
    assert "20 of 20 of 'a' for 'b', 20 of 20 of 'b' for 'c', 20 of 20 of 'c' for 'a'" in reason
    assert Preflight().exchanged(labels, labels, names) == ()
    assert Preflight().exchanged(torch.zeros_like(labels), labels, names) == ()
    one_way = torch.where(labels == 1, 2, labels)
    assert Preflight().exchanged(one_way, labels, names) == ()
    few = torch.arange(2).repeat_interleave(5)
    assert Preflight().exchanged(1 - few, few, names) == ()


@pytest.mark.parametrize(
    ("classes", "share", "nats", "doubted"),
    [
        (10, 0.1, 2.0, "keep their label"),
        (10, 0.04, 2.0, ""),
        (2, 0.13, 2.0, ""),  # even odds and some noise
        (2, 0.1, 4.0, "keep their label"),
        (2, 0.3, 4.0, "did not take"),
        (1000, 0.1, 0.0, ""),
    ],
)
def test_of_two_classes_chance_alone_keeps_half(
    classes: int, share: float, nats: float, doubted: str
) -> None:
    own = torch.full((100,), -math.log(classes - 1))
    own[: round(100 * share)] = nats
    said = Confused(own=own, other=-own, predicted=own.long(), features=own[:, None])
    doubts = Preflight().confusion(said, classes=classes)
    assert [doubted in doubt for doubt in doubts] == [True] * bool(doubted)
