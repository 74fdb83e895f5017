import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assay.errors import InputError, RefusedError
from assay.storage.prompts import FORMS, read_prompts

PROMPTS = ["Review: good,\nSentiment:", 'Review: "bad"\nSentiment:']


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_to_the_same(form: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / f"prompts{form}"
    if form == ".parquet":
        pq.write_table(pa.table({"label": [1, 0], "prompt": PROMPTS}), path)
    elif form == ".txt":
        path.write_text("\n\n".join(text.replace("\n", "\\n") for text in PROMPTS))
    elif form == ".json":
        path.write_text(json.dumps([PROMPTS[0], {"text": PROMPTS[1]}]))
    elif form == ".jsonl":
        path.write_text("\n".join(json.dumps({"prompt": text}) for text in PROMPTS))
    else:
        mark = "\t" if form == ".tsv" else ","
        quoted = ['"' + text.replace('"', '""') + '"' for text in PROMPTS]
        path.write_text(f"label{mark} prompt \n" + "".join(f"1{mark}{q}\n" for q in quoted))
    assert list(read_prompts(str(path))) == PROMPTS


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.txt", b"\n \n", InputError),
        ("a.md", b"text", InputError),
        ("a.json", b'{"prompt": "x"}', InputError),
        ("a.jsonl", b"{", RefusedError),
        ("a.parquet", b"PAR1", RefusedError),
        ("a.txt", b"x" * 200_000, RefusedError),
    ],
)
def test_what_holds_no_prompts_is_refused(
    name: str, content: bytes, error: type[Exception], tmp_path: pathlib.Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error):
        read_prompts(str(tmp_path / name))


def test_one_long_prompt_that_a_small_table_repeats(tmp_path: pathlib.Path) -> None:
    table = pa.table({"prompt": ["x" * 2**20] * 300})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 2**17
    with pytest.raises(RefusedError, match="bytes of prompts"):
        read_prompts(str(tmp_path / "a.parquet"))


def test_prompts_that_are_no_strings(tmp_path: pathlib.Path) -> None:
    pq.write_table(pa.table({"prompt": [["x"], ["y"]]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="expected strings in"):
        read_prompts(str(tmp_path / "a.parquet"))


def test_prompts_as_categories_and_none(tmp_path: pathlib.Path) -> None:
    table = pa.table({"prompt": pa.array(["a", None, "b", "a"]).dictionary_encode()})
    pq.write_table(table, tmp_path / "a.parquet")
    assert read_prompts(str(tmp_path / "a.parquet")) == ("a", "b", "a")
