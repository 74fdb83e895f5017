import base64
import html.parser
import io
import itertools
import json
import pathlib
import re
import shutil
import subprocess

import PIL.Image
import pytest
import torch

from assay import reports
from assay.errors import InputError
from assay.results import Verdict
from assay.storage.runs import RunFolder

CELLS = {"td", "th", "dd", "dt", "li"}
VOID = {"meta", "img", "br", "hr", "input", "link"}
LIMIT = 5_000_000


class Page(html.parser.HTMLParser):
    """What a browser would see: elements with their attributes, and the text."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(document)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"
        self.text += " " if tag in CELLS else ""

    def handle_data(self, data: str) -> None:
        self.text += data if self.open[-1:] != ["style"] else ""

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page(run: RunFolder) -> Page:
    document = reports.render(run, "html")
    assert len(document.encode()) < LIMIT
    return Page(document)


@pytest.mark.parametrize("verdict", Verdict)
def test_the_verdict_and_why_come_first(make_run, verdict) -> None:
    text = page(make_run(verdict)).text
    word = {"flagged": "Flagged", "no_indicator": "No indicator found"}.get(verdict.value)
    top = text[: text.index("What was audited")]
    assert (word or "Inconclusive") in top
    assert "Five samples keep their label." in top
    assert "What to do." in top


def test_nobody_is_told_that_the_data_is_clean(make_run) -> None:
    text = page(make_run(Verdict.NO_INDICATOR)).text
    assert "no proof that there is none" in text
    assert not re.search(
        r"\b(is|are|data) (clean|safe)\b", text.replace("that something is clean", "")
    )


def test_what_a_reviewer_looks_for_is_there(make_run) -> None:
    text = " ".join(page(make_run()).text.split())
    for expected in (
        "/vendor/set-3",
        "9f" * 32,
        "class frog is as it is",
        "< 0.0001",
        "largest: 41.7",
        "Before: trained on the data as received 60 90.0 % 99.4 %",
        "After: trained without what was flagged 55 89.0 % –",
        "The trusted samples of set-3 are not poisoned.",
        "Duplicates.",
        "2.4 min",
        "assay dataset /vendor/set-3 --out 'a b'",
        '"weight": 20.0',
        "False discovery rate",
        "00012.png",
        "inspected, not flagged (55)",
        "trusted samples (30)",
        "flagged (5)",
        "lowest flagged score, 4",
    ):
        assert expected in text


@pytest.mark.parametrize("verdict", Verdict)
def test_the_page_needs_nothing_else(make_run, verdict) -> None:
    shown = page(make_run(verdict))
    anchors = {attributes["id"] for _, attributes in shown.elements if "id" in attributes}
    for _, attributes in shown.elements:
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name) or "#classes"
            assert value.startswith("data:image/png;base64,") or value[1:] in anchors
    used = re.findall(r"url\(([^)]*)\)", " ".join(str(a) for _, a in shown.elements))
    assert {reference.strip("#") for reference in used} <= anchors
    (policy,) = [m["content"] for m in shown.all("meta") if m.get("http-equiv")]
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize("verdict", Verdict)
def test_the_page_can_be_read_without_eyes_or_colours(make_run, verdict) -> None:
    shown = page(make_run(verdict))
    ids = [attributes["id"] for _, attributes in shown.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert shown.all("html") == [{"lang": "en"}]
    assert all("poison score" in image["alt"] for image in shown.all("img"))
    assert shown.all("img")
    assert all(head.get("scope") in {"col", "row"} for head in shown.all("th"))
    assert len(shown.all("caption")) == len(shown.all("table"))
    drawings = [a for tag, a in shown.elements if a.get("role") == "img"]
    assert drawings
    assert all("Histogram" in drawing["aria-label"] for drawing in drawings)
    levels = [int(tag[1]) for tag, _ in shown.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_hostile_strings_stay_text(hostile_run, attacks) -> None:
    shown = page(hostile_run)
    tags = {tag for tag, _ in shown.elements}
    assert not tags & {"script", "iframe", "object", "embed", "link", "base", "form"}
    for tag, attributes in shown.elements:
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("src") or "data:").startswith("data:")
        assert tag != "img" or attributes["alt"].startswith("Sample ")
    assert not re.search("[\x00-\x08\x0e-\x1f\ud800-\udfff\u202a-\u202e]", shown.text)
    for attack in attacks:
        if attack.isprintable():
            assert shown.text.count(attack) > 4


def test_pictures_show_the_samples(make_run) -> None:
    pictures = torch.arange(6 * 48, dtype=torch.uint8).view(6, 3, 4, 4)
    shown = page(make_run(inputs=pictures)).all("img")
    assert len(shown) == 6
    for image, expected in zip(shown, pictures, strict=True):
        content = base64.b64decode(image["src"].partition(",")[2])
        decoded = PIL.Image.open(io.BytesIO(content)).tobytes()
        assert decoded == bytes(expected.permute(1, 2, 0).flatten().tolist())


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_pictures_of_any_channels(make_run, channels) -> None:
    pictures = torch.full((6, channels, 3, 5), 200, dtype=torch.uint8)
    for image in page(make_run(inputs=pictures)).all("img"):
        content = base64.b64decode(image["src"].partition(",")[2])
        assert PIL.Image.open(io.BytesIO(content)).size == (5, 3)


def test_rows_of_a_table_show_their_first_values(make_run) -> None:
    run = make_run(inputs=torch.arange(60.0).view(6, 10))
    text = " ".join(page(run).text.split())
    assert "value 7" in text
    assert "value 8" not in text
    assert "00002.png 3 not tested 20 21 22 23 24 25 26 27" in text


def test_the_page_stays_small(make_run) -> None:
    noise = torch.randint(
        256, (120, 3, 160, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    long = "x" * 20_000
    run = make_run(
        names=[f"class {i} {long}" for i in range(5)],
        ids=[f"{i}{long[:2000]}" for i in range(300)],
        samples=300,
        inputs=noise,
        where=long,
        settings={str(i): long for i in range(300)},
        command=[long],
        why=long,
        word=long,
    )
    shown = page(run)
    assert 24 < len(shown.all("img")) < 192
    assert "pictures were left out" in shown.text


def test_the_page_stays_small_with_many_classes_and_samples(make_run) -> None:
    shown = page(make_run(names=[f"class {i}" for i in range(1000)], samples=20_000))
    assert "899 more are in classes.parquet" in shown.text
    assert "The 25 most suspicious of 5; " not in shown.text


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), None])
def test_scores_that_are_no_numbers_are_counted_apart(make_run, odd) -> None:
    run = make_run(scores=[odd, odd, odd, *torch.linspace(0, 1, 57).tolist()])
    assert "3 samples have no finite score" in page(run).text


@pytest.mark.parametrize("same", [[0.0] * 60, [1e300] * 60])
def test_scores_that_are_all_the_same_are_drawn(make_run, same) -> None:
    assert "flagged (5)" in page(make_run(scores=same)).text


def test_a_page_without_scores(make_run) -> None:
    assert "How the scores" not in page(make_run(scores=[None] * 60)).text.split("What was")[1]


def test_an_audit_of_other_things_shows_its_subjects(make_run) -> None:
    run = make_run(word="provider b")
    for table in ("samples", "classes", "calibration"):
        (run.path / f"{table}.parquet").unlink()
    shutil.rmtree(run.path / "artifacts")
    text = " ".join(page(run).text.split())
    assert "provider b Flagged < 0.0001 provider b" in text
    assert "1 of 1" in text
    assert "Poison score" not in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gallery", {"items": []}),
        ("gallery", {"items": [{"label": 0}] * 6}),
        ("gallery", []),
        ("proof", {"rows": [{"model": "before"}]}),
        ("proof", {"rows": [{"model": "b", "accuracy": "x", "asr": None, "samples": 1}]}),
    ],
)
def test_damaged_records_are_refused(make_run, name, value) -> None:
    run = make_run()
    (run.path / "artifacts" / f"{name}.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match="not as expected"):
        reports.render(run, "html")


def test_a_run_that_was_interrupted_says_so(make_run) -> None:
    run = make_run()
    text = (run.path / "run.json").read_text().replace('"completed"', '"interrupted"')
    (run.path / "run.json").write_text(text)
    assert "This run is interrupted" in page(run).text


CHROMIUM = shutil.which("chromium")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here to look at the page with")
def test_a_browser_shows_the_page_in_light_and_dark(make_run, tmp_path) -> None:
    run = make_run()
    path = run.write_report(reports.render(run, "html"))
    light, dark = (screenshot(path, tmp_path / f"{scheme}.png", scheme) for scheme in (1, 0))
    assert light.getpixel((5, 300)) == (244, 245, 247)
    assert dark.getpixel((5, 300)) == (18, 21, 27)
    colours = {colour for _, colour in light.getcolors(10**6)}
    assert (179, 38, 30) in colours, "the verdict has its colour"


def screenshot(path: pathlib.Path, out: pathlib.Path, scheme: int) -> PIL.Image.Image:
    subprocess.run(  # noqa: S603
        [
            CHROMIUM,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={out}.profile", "--window-size=1100,900"),
            *(f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={out}"),
            path.as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    with PIL.Image.open(out) as image:
        return image.convert("RGB")
