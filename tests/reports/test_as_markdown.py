import html
import re

import markdown_it
import pytest

from assay import reports
from assay.reports.as_markdown import CHARACTERS, escape
from assay.results import Verdict
from assay.storage.runs import RunFolder


def tokens(source: str) -> list[markdown_it.token.Token]:
    parser = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    flat = []
    for token in parser.parse(source):
        flat += [token, *(token.children or [])]
    return flat


@pytest.mark.parametrize("verdict", Verdict)
def test_the_verdict_and_why_come_first(make_run, verdict) -> None:
    text = reports.render(make_run(verdict), "md")
    first, _, rest = text.partition("\n")
    assert first.startswith("## ")
    word = verdict.value.replace("_", " ")
    assert word in first.lower()
    assert rest.index("- Five samples keep their label") < len(rest) / 2


def test_a_run_that_was_interrupted_says_so(make_run) -> None:
    run = make_run()
    assert "This run is" not in reports.render(run, "md")
    text = (run.path / "run.json").read_text().replace('"completed"', '"interrupted"')
    (run.path / "run.json").write_text(text)
    assert "**This run is interrupted**" in reports.render(RunFolder.open(run.path), "md")


def test_the_comment_says_what_is_suspicious(make_run) -> None:
    text = reports.render(make_run(), "md")
    assert "| frog | Flagged | 5 | 20 | 1 | &#60; 0.0001 | class frog is as it is |" in text
    assert "| cat |" not in text
    assert "**5 samples are flagged.**" in text
    assert "| 12 | 00012.png | frog | 4.41 | 0.25 |" in text
    assert "| After: trained without what was flagged | 55 | 89.0 % | – |" in text


def test_hostile_names_are_text(hostile_run, attacks) -> None:
    shown = tokens(reports.render(hostile_run, "md"))
    kinds = {token.type for token in shown}
    assert not kinds & {"link_open", "image", "code_inline", "em_open", "s_open", "fence"}
    for token in shown:
        if token.type in {"html_block", "html_inline"}:
            assert re.fullmatch(
                r"(<details><summary>[\w ,]+</summary>|</details>)", token.content.strip()
            )
    text = "".join(token.content for token in shown if token.type in {"text", "text_special"})
    for attack in attacks:
        if attack.isprintable():
            assert text.replace("\u200b", "").count(attack) >= 2


@pytest.mark.parametrize("link", ["http://a.b", "www.a.b", "@you", "#12", "a@b.c"])
def test_github_makes_no_links_of_names(link) -> None:
    shown = escape(link)
    assert not re.search(r"://|www\.", shown)
    assert not re.search(r"@\w|#\d", html.unescape(shown))
    assert html.unescape(shown).replace("\u200b", "") == link


def test_tables_keep_their_shape(hostile_run) -> None:
    text = reports.render(hostile_run, "md")
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_a_comment_fits(make_run) -> None:
    long = "|" * 5000
    run = make_run(
        names=[f"{i}{long}" for i in range(50)], reason=long, why=long, word=long, command=[long]
    )
    assert len(reports.render(run, "md")) <= CHARACTERS
