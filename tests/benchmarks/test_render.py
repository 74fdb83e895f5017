import grid
import render

MACHINE = {"cpu": "some CPU", "accelerator": None, "commit": "abc", "wall_s": 1.0, "cpu_s": 1.0}


def cell(kind: str, scenario: str, seed: int, result: dict, *, day: int = 1, **recipe) -> dict:
    settings = {
        "data": "digits",
        "train": 1000,
        "trusted": 200,
        "test": 500,
        "network": "default",
        "training": "Recipe()",
        "device": "cpu",
        "attack": "Attack()",
        "method": "",
    }
    return {
        "recipe": {**settings, "kind": kind, "scenario": scenario, "seed": seed, **recipe},
        "result": result,
        "provenance": {**MACHINE, "date": f"2026-01-{day:02}T00:00:00+00:00"},
    }


def audit(scenario: str, seed: int, tpr: float | None, *, verdict: str = "flagged", **more) -> dict:
    result = {
        "verdict": verdict,
        "tpr": tpr,
        "fpr": 0.001,
        "auroc": 0.99,
        "poison": 10,
        "cover": 0,
        "passes_ratio": 1.5,
        "audit_cpu_s": 3.0,
        "ordinary_cpu_s": 2.0,
        "smallest_adjusted_p": 0.01,
        "classes": [{}, {}],
    }
    return cell("audit", scenario, seed, result, **more)


def undefended(scenario: str, seed: int, accuracy: float, asr: float | None, **more) -> dict:
    result = {"accuracy": accuracy, "asr": asr, "train_cpu_s": 2.0}
    return cell("undefended", scenario, seed, result, **more)


def row(page: str, name: str) -> list[str]:
    line = next(line for line in page.splitlines() if line.startswith(f"| {name}"))
    return [part.strip() for part in line.strip("|").split("|")]


def column(page: str, name: str, title: str) -> str:
    return row(page, name)[row(page, "Attack").index(title)]


def test_means_say_how_many_are_missing() -> None:
    cells = [
        audit("badnets", 0, 1.0),
        audit("blend", 0, 0.8),
        undefended("badnets", 0, 0.9, 1.0),
        undefended("trojan", 0, 0.9, 0.7),
    ]
    page = render.page(cells)
    assert column(page, "badnets", "TPR") == "100.0"
    assert column(page, "trojan†", "TPR") == "—"
    assert column(page, "**mean, used for tuning (2)**", "TPR") == "90.0"
    assert column(page, "**mean, held out (1)**", "TPR") == "—"
    assert column(page, "**mean, all (3)**", "TPR") == "90.0 (2/3)"
    assert column(page, "badnets", "Cost, time") == "1.50"
    assert "undefended of blend s0; reference of all; audit of trojan s0; cleansed of all" in page


def test_a_missing_seed_is_said() -> None:
    page = render.page(
        [undefended("badnets", s, 0.9, 1.0) for s in (0, 1)] + [audit("badnets", 1, 0.5)]
    )
    assert column(page, "badnets", "TPR") == "50.0 (1/2)"
    assert column(page, "badnets", "Seeds") == "2"


def test_the_newest_settings_are_shown_and_the_others_counted() -> None:
    page = render.page(
        [
            audit("badnets", 0, 0.2, attack="Attack(rate=0.1)", day=1),
            audit("badnets", 0, 0.4, method="old", day=2),
            audit("badnets", 0, 0.6, method="new", day=3),
        ]
    )
    assert column(page, "badnets", "TPR") == "60.0"
    assert "not shown: 2" in page


def test_a_cleansed_model_is_shown_with_its_own_audit_alone() -> None:
    old, new = (audit("badnets", 0, 0.5, method=m, day=d) for m, d in (("old", 1), ("new", 2)))
    cleansed = cell("cleansed", "badnets", 0, {"accuracy": 0.92, "asr": 0.0})
    clean = undefended("clean", 0, 0.9, None)
    oracle = cell("oracle", "badnets", 0, {"accuracy": 0.89, "asr": 0.03})
    for audited, shown in ((old, "—"), (new, "92.0")):
        cleansed["recipe"]["method"] = grid.digest(audited["recipe"])
        page = render.page([old, new, cleansed, clean, oracle])
        assert column(page, "badnets", "Cleansed accuracy") == shown
    assert column(page, "badnets", "Δ") == "+2.0"
    assert column(page, "badnets", "Δ, oracle") == "-1.0"
    assert column(page, "badnets", "ASR, oracle") == "3.0"


def test_false_alarms_come_with_their_interval() -> None:
    verdicts = ["flagged", "inconclusive", *["no_indicator"] * 18]
    page = render.page([audit("clean", i, None, verdict=v) for i, v in enumerate(verdicts)])
    assert "1 of 20 clean data sets were flagged: 5.0%, 95 % Wilson interval 0.9% to 23.6%" in page
    assert "Inconclusive: 1" in page


def test_other_sizes_make_another_table() -> None:
    page = render.page([audit("badnets", 0, 1.0), audit("badnets", 0, 0.5, train=2000)])
    assert "## digits: 1,000 samples" in page
    assert "## digits: 2,000 samples" in page
    assert "Cells of older settings" not in page
