import training_table


def _cell(**changes: object) -> dict[str, object]:
    recipe = {
        "data": "vision",
        "order": "fixed",
        "question": "usual-profile",
        "scenario": "usual",
        "profile": True,
        "trusted": False,
        "published": False,
        "published_distance": "zest",
        "distances": ["layers", "update"],
        "usual_distances": ["layers", "update"],
    }
    result = {
        "malicious": 40,
        "named": 39,
        "malicious_unjudged": 1,
        "honest": 60,
        "accused": 0,
        "honest_unjudged": 2,
        "engagements": 20,
        "perfect": 19,
        "missed": {"fixed thin": [1, 4]},
    }
    provenance = {"date": "2026-01-01", "commit": "abc"}
    return {"recipe": {**recipe, **changes}, "result": result, "provenance": provenance}


def test_a_row_says_who_was_named_accused_and_missed() -> None:
    page = training_table.page([_cell(), {"recipe": {}, "provenance": {"date": "", "commit": ""}}])
    assert "39/40 = 97.5 %" in page
    assert "0/60 = 0.0 %" in page
    assert "19/20" in page
    assert "- usual, profile: thin 1/4" in page
    assert "from 1 cells" in page


def test_both_orders_have_a_table() -> None:
    page = training_table.page([_cell(), _cell(order="free")])
    assert "from 2 cells" in page
    assert "fixed order" in page
    assert "free order" in page


def test_the_usual_distances_come_before_single_ones() -> None:
    alone = _cell(question="usual-profile-zest", distances=["zest"])
    page = training_table.page([alone, _cell()])
    assert page.index("| profile |") < page.index("| profile, zest alone |")
