import os
import pathlib
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from assay.errors import RefusedError, UsageError
from assay.providers.mailbox import Mailbox, UnreachableError


@pytest.fixture(params=["folder", "memory", "s3"])
def box(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Mailbox:
    if request.param == "s3":
        return Mailbox(f"{request.getfixturevalue('s3')}/{tmp_path.name}")
    urls = {"folder": str(tmp_path / "box"), "memory": f"memory://{tmp_path.name}"}
    return Mailbox(urls[request.param])


def test_what_is_put_can_be_read(box: Mailbox, tmp_path: pathlib.Path) -> None:
    (tmp_path / "part").write_bytes(b"x" * 1000)
    assert not box.exists("bundles/a/part")
    box.put("bundles/a/part", tmp_path / "part")
    assert box.read("bundles/a/part", 1000) == b"x" * 1000
    got = box.fetch("bundles/a/part", tmp_path / "copy", 1000)
    assert got is not None
    assert got.size == 1000
    assert (tmp_path / "copy").read_bytes() == b"x" * 1000
    assert box.names("bundles") == ["a"]
    assert box.modified("bundles/a/part") is not None


def test_what_is_not_there_is_none(box: Mailbox, tmp_path: pathlib.Path) -> None:
    assert box.names("bundles") == []
    assert box.read("bundles/a", 9) is None
    assert box.fetch("bundles/a", tmp_path / "copy", 9) is None
    assert box.modified("bundles/a") is None


def test_nothing_is_read_beyond_the_bound(box: Mailbox, tmp_path: pathlib.Path) -> None:
    box.create("large", b"x" * 101)
    with pytest.raises(RefusedError, match="at most 100 bytes"):
        box.read("large", 100)
    with pytest.raises(RefusedError, match="at most 100 bytes"):
        box.fetch("large", tmp_path / "copy", 100)


def test_of_many_one_creates(box: Mailbox) -> None:
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(lambda i: box.create("claims/a/0001", f"{i}".encode()), range(8)))
    assert sum(won) == 1
    assert box.read("claims/a/0001", 9) == f"{won.index(True)}".encode()
    box.replace("claims/a/0001", b"other")
    assert box.read("claims/a/0001", 9) == b"other"


def test_what_another_wrote_is_seen_at_once(box: Mailbox) -> None:
    other = Mailbox(box.url)
    assert other.names("results") == []
    box.create("results/a", b"1")
    assert other.names("results") == ["a"]


def test_links_and_pipes_in_a_shared_folder_are_not_followed(tmp_path: pathlib.Path) -> None:
    box = Mailbox(str(tmp_path))
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "pipe")
    for place in ("link", "pipe"):
        with pytest.raises(RefusedError):
            box.read(place, 100)


def test_half_a_file_is_never_seen(tmp_path: pathlib.Path, monkeypatch) -> None:
    box = Mailbox(str(tmp_path))

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt):
        box.create("manifest.json", b"{}")
    assert not box.exists("manifest.json")


def test_a_storage_that_does_not_answer_is_told_from_an_empty_one(tmp_path, monkeypatch) -> None:
    box = Mailbox(str(tmp_path))

    def fail(*_: object, **__: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(box._storage, "size", fail)
    with pytest.raises(UnreachableError, match="cannot be reached"):
        box.read("a", 1)


def test_an_unknown_kind_of_url_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="s3://"):
        Mailbox("nowhere://box")


@pytest.mark.parametrize("linked", ["bundles", "bundles/a"])
def test_a_link_leads_nobody_out_of_a_mailbox(tmp_path: pathlib.Path, linked: str) -> None:
    box, out = Mailbox(str(tmp_path / "box")), tmp_path / "out"
    (out / "a").mkdir(parents=True)
    (out / "part").write_bytes(b"mine")
    (out / "a" / "part").write_bytes(b"mine")
    (tmp_path / "box" / linked).parent.mkdir(parents=True)
    (tmp_path / "box" / linked).symlink_to(out, target_is_directory=True)
    (tmp_path / "part").write_bytes(b"theirs")
    for act in (
        lambda: box.put("bundles/a/part", tmp_path / "part"),
        lambda: box.create("bundles/a/new", b"theirs"),
        lambda: box.replace("bundles/a/part", b"theirs"),
        lambda: box.read("bundles/a/part", 9),
        lambda: box.fetch("bundles/a/part", tmp_path / "copy", 9),
        lambda: box.names("bundles/a"),
        lambda: box.modified("bundles/a/part"),
    ):
        with pytest.raises(UnreachableError, match="got a link"):
            act()
    assert {path.read_bytes() for path in out.rglob("part")} == {b"mine"}
    assert sorted(path.name for path in out.rglob("*")) == ["a", "part", "part"]


def test_a_link_in_the_place_of_a_file_is_replaced(tmp_path: pathlib.Path) -> None:
    box = Mailbox(str(tmp_path / "box"))
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "box" / "results").mkdir(parents=True)
    (tmp_path / "box" / "results" / "part").symlink_to(tmp_path / "mine")
    (tmp_path / "part").write_bytes(b"new")
    box.put("results/part", tmp_path / "part")
    assert (tmp_path / "mine").read_bytes() == b"mine"
    assert box.read("results/part", 9) == b"new"


def swapping(folder: pathlib.Path, act: Callable[..., Any]) -> Callable[..., Any]:
    """Let the other party put a link in the place of a folder just before a call."""

    def swapped(*given: object, **named: object) -> Any:
        if not folder.is_symlink():
            folder.rename(folder.with_name("aside"))
            folder.symlink_to("../out", target_is_directory=True)
        return act(*given, **named)

    return swapped


@pytest.fixture
def swapped(tmp_path: pathlib.Path) -> pathlib.Path:
    """A mailbox's folder beside a folder of one's own."""
    folder, out = tmp_path / "box" / "a", tmp_path / "out"
    for each, content in ((folder, b"theirs"), (out, b"mine")):
        each.mkdir(parents=True)
        (each / "part").write_bytes(content)
    return folder


def test_a_folder_that_becomes_a_link_leads_no_reader_away(swapped, monkeypatch) -> None:
    box = Mailbox(str(swapped.parent))
    monkeypatch.setattr(os, "lstat", swapping(swapped, os.lstat))
    assert box.read("a/part", 9) == b"theirs"
    assert swapped.is_symlink()


@pytest.mark.parametrize("write", [Mailbox.create, Mailbox.replace, Mailbox.put])
def test_a_folder_that_becomes_a_link_leads_no_writer_away(swapped, monkeypatch, write) -> None:
    box, out = Mailbox(str(swapped.parent)), swapped.parent.with_name("out")
    (out / "source").write_bytes(b"new")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    swap = swapping(swapped, secrets.token_hex)
    monkeypatch.setattr("assay.providers.mailbox.secrets.token_hex", swap)
    name = "new" if write is Mailbox.create else "part"
    write(box, f"a/{name}", out / "source" if write is Mailbox.put else b"new")
    assert swapped.is_symlink()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert (swapped.with_name("aside") / name).read_bytes() == b"new"


def test_a_file_in_the_place_of_a_folder_is_an_unreachable_mailbox(tmp_path: pathlib.Path) -> None:
    box, source = Mailbox(str(tmp_path / "box")), tmp_path / "source"
    source.write_bytes(b"new")
    (tmp_path / "box" / "bundles").mkdir(parents=True)
    (tmp_path / "box" / "bundles" / "a").write_bytes(b"")
    for act in (
        lambda: box.put("bundles/a/part", source),
        lambda: box.create("bundles/a/part", b"new"),
        lambda: box.replace("bundles/a/part", b"new"),
    ):
        with pytest.raises(UnreachableError, match="cannot be reached"):
            act()
    assert box.read("bundles/a/part", 9) is None
    assert box.fetch("bundles/a/part", tmp_path / "copy", 9) is None
    assert not box.exists("bundles/a/part")
    assert box.names("bundles/a") == []
    assert box.modified("bundles/a/part") is None


def test_what_cannot_be_written_leaves_nothing_half_written(tmp_path: pathlib.Path) -> None:
    box = Mailbox(str(tmp_path / "box"))
    (tmp_path / "box" / "part").mkdir(parents=True)
    with pytest.raises(UnreachableError):
        box.replace("part", b"new")
    assert [path.name for path in (tmp_path / "box").iterdir()] == ["part"]
