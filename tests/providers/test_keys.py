import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import InputError
from assay.providers.keys import check_public, fresh_key, is_signed_by, open_key

KEY, OTHER = fresh_key(), fresh_key()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4).filter(lambda n: n != "signature"), VALUES, max_size=4))
def test_what_is_signed_can_be_checked(document: dict) -> None:
    signed = KEY.signed(document)
    assert is_signed_by(signed, KEY.public)
    assert not is_signed_by(signed, OTHER.public)
    assert not is_signed_by({**signed, "one more": 1}, KEY.public)


@pytest.mark.parametrize("signature", [None, "", "zz", "00" * 64, 3])
def test_what_is_no_signature_is_none(signature: object) -> None:
    assert not is_signed_by({"a": 1, "signature": signature}, KEY.public)


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "keys" / "provider.key"
    made = open_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert open_key(path).public == made.public == check_public(made.public)
    assert made.public not in path.read_text()
    path.chmod(0o644)
    with pytest.raises(InputError, match="chmod 600"):
        open_key(path)


def test_what_is_no_key_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "provider.key"
    path.write_text("no key")
    path.chmod(0o600)
    with pytest.raises(InputError, match="Ed25519"):
        open_key(path)


def test_a_private_key_is_never_shown() -> None:
    private = KEY.private.private_bytes_raw().hex()
    assert private not in repr(KEY)
