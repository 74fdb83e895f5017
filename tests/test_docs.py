"""Pages, links, command lines and code in the documentation agree with what is there."""

import ast
import importlib
import pathlib
import re
import shlex
from collections.abc import Iterator

import pytest
import typer.main

from assay.cli.app import app
from assay.storage import data, hub

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted(
    [
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "design").rglob("*.md"),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    ]
)
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_COMMAND = re.compile(r"(?:^|[\s/])assay ((?!:).+)")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


def blocks(page: pathlib.Path, *languages: str) -> list[str]:
    return [code for name, code in _BLOCK.findall(page.read_text()) if name in languages]


def prose(page: pathlib.Path) -> str:
    return _BLOCK.sub("", page.read_text())


def anchors(page: pathlib.Path) -> set[str]:
    """Anchors of the headings, as code hosts make them."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    shown = [_LINK.sub(lambda m: m[0][1 : m[0].index("]")], head) for head in heads]
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in shown}


def command_lines(page: pathlib.Path) -> Iterator[list[str]]:
    for block in blocks(page, "sh", "yaml"):
        for line in block.replace("\\\n", " ").splitlines():
            found = _COMMAND.search(re.split(r"(?:^|\s)#", line)[0])
            if found:
                words = shlex.shlex(found[1], posix=True, punctuation_chars="|&;<>")
                words.whitespace_split, words.commenters = True, ""
                yield [*_until_operator(words)]


def _until_operator(words: Iterator[str]) -> Iterator[str]:
    for word in words:
        if set(word) <= set("|&;<>"):
            return
        yield word


def check(words: list[str]) -> None:
    """Parse a command line without running it; raises what typer raises."""
    group = typer.main.get_command(app)
    while hasattr(group, "commands"):
        assert {*words[:1]} & {*group.commands}, f"no such command: assay {words[:1]}"
        group, words = group.commands[words[0]], words[1:]
    group.make_context("assay", words)


def test_there_are_pages() -> None:
    assert len(PAGES) > 12
    assert sum(len(list(command_lines(page))) for page in PAGES) > 20


@every_page
def test_relative_links_lead_somewhere(page: pathlib.Path) -> None:
    broken = []
    for link in _LINK.findall(prose(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@every_page
def test_command_lines_are_understood(page: pathlib.Path) -> None:
    for words in command_lines(page):
        check(words)


@pytest.mark.parametrize(
    "line",
    ["datasets x --clean y", "dataset x", "dataset x --clean y --clear", "report R --format x"],
)
def test_wrong_command_lines_are_noticed(line: str) -> None:
    wrong = (AssertionError, typer.BadParameter.__base__)
    with pytest.raises(wrong):
        check(line.split())


@every_page
def test_python_names_exist(page: pathlib.Path) -> None:
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("assay"):
                module = importlib.import_module(str(node.module))
                assert not [name.name for name in node.names if not hasattr(module, name.name)]


def test_every_form_of_data_has_a_section() -> None:
    heads = re.findall(r"^### .*$", (ROOT / "docs/data-and-models.md").read_text(), re.MULTILINE)
    for form in (*data.FORMS, hub):
        file = f"{form.__name__.rpartition('.')[2]}.py"
        assert any(f"src/assay/storage/{file})" in head for head in heads), file
