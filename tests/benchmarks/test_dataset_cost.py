import dataset_cost
from dataset_cost import SERIES, SIZES, Size, sized, table


def cell(training: float, audit: float, device: str = "cpu") -> dict:
    result = {"verdict": "no_indicator", "train_passes": 120, "audit_passes": 300}
    for clock, factor in (("cpu", 1.0), ("wall", 10.0)):
        result |= {f"train_{clock}_s": factor * training, f"audit_{clock}_s": factor * audit}
    return {"recipe": {"device": device}, "result": result}


def test_the_table_says_ratios_and_how_they_grow() -> None:
    text = table({"fashion-mnist-5000-10": cell(2, 5), "fashion-mnist-50000-10": cell(20, 40)})
    small = "fashion-mnist 5,000 10 2.0 5.0 2.50 2.50 1.00 no_indicator"
    large = "fashion-mnist 50,000 10 20.0 40.0 2.00 2.50 0.80 no_indicator"
    rows = [" ".join(line.split()) for line in text.splitlines() if line.startswith("fashion")]
    assert rows == [small, large, small], "against samples, and the small one against classes"
    growth = "10 times the samples and 1 times the classes: 10.00 times the training, 8.00 times"
    assert growth in text
    assert "20.0 " in table({"rows-20000-10": cell(2, 5, device="cuda")}), "not the wall time"


def test_no_cell_no_table() -> None:
    assert table({}) == ""


def test_every_size_is_in_a_series_under_one_name() -> None:
    for size in (size for sizes in SERIES.values() for size in sizes):
        assert repr(SIZES[size.name]) == repr(size)


def test_made_up_rows_have_all_classes_on_both_sides() -> None:
    size = Size(data=dataset_cost.ROWS, samples=600, classes=100, trusted=200)
    suspects, trusted = sized(size)
    assert (len(suspects), len(trusted), suspects.classes) == (600, 200, 100)
    assert suspects.labels.bincount().tolist() == [6] * 100
    assert trusted.labels.bincount().tolist() == [2] * 100


def test_a_subset_of_classes_has_the_asked_size(monkeypatch) -> None:
    monkeypatch.setattr(dataset_cost, "ATTACK", dataset_cost.BadNets(poison_rate=0.05))
    suspects, trusted = sized(Size(data="digits", samples=200, classes=2, trusted=60))
    assert suspects.class_names == trusted.class_names == ("0", "1")
    assert abs(len(suspects) - 200) <= 2
    assert abs(len(trusted) - 60) <= 2
