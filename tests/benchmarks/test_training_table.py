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


def test_costs_are_rows_in_the_order_of_their_size() -> None:
    provenance = {"commit": "abc"}
    large, small = (
        {
            "recipe": {"what": "compare", "providers": 4, "parameters": count, "threads": 1},
            "result": {"load_and_hash_s": 0.5, "compare_s": 2.25, "own_memory_mb": 61.7},
            "provenance": provenance,
        }
        for count in (10_000_000, 1_000_000)
    )
    judged = {
        "recipe": {"what": "judge", "providers": 8, "sub_runs": 4, "threads": 1},
        "result": {"judge_s": 0.0331},
        "provenance": provenance,
    }
    said = training_table.cost([large, judged, small])
    assert said.index("| 4 | 1,000,000 | 0.50 | 2.25 | 62 |") < said.index("| 4 | 10,000,000 |")
    assert "| 8 | 4 | 0.033 |" in said
