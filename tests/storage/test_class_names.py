import pytest

from assay.errors import InputError, RefusedError, UsageError
from assay.storage.class_names import read_class_names


def test_reads_a_name_a_line_and_leaves_out_empty_ones(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("\ufefftabby cat\n\n  fire truck \r\nowl\n", encoding="utf-8")
    assert read_class_names(str(path)) == ("tabby cat", "fire truck", "owl")


def test_reads_a_json_list(tmp_path):
    path = tmp_path / "classes.json"
    path.write_text('["a", "b"]')
    assert read_class_names(str(path)) == ("a", "b")


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        ("classes.txt", b"one\n", InputError, "2 to"),
        ("classes.txt", b"one\ntwo\none\n", RefusedError, "different"),
        ("classes.txt", b"\xff\xfe\x00", RefusedError, "broken"),
        ("classes.txt", b"a\x1b[2J\nb\n", RefusedError, "print"),
        ("classes.json", b'{"a": 1}', InputError, "list"),
        ("classes.json", b"[1, 2]", InputError, "list"),
        ("classes.json", b'["a"', RefusedError, "broken"),
        ("classes.csv", b"a\nb\n", InputError, ".txt"),
    ],
)
def test_refuses_what_is_no_list_of_names(tmp_path, name, content, error, says):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(error, match=says):
        read_class_names(str(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match="nowhere"):
        read_class_names(str(tmp_path / "nowhere.txt"))
