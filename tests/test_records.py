import dataclasses

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from assay.records import record


@record
class Inner:
    pattern: Float[Tensor, "height width"]


@record
class Settings:
    rate: float
    steps: int = 3
    inner: Inner | None = None


def test_repr_shows_every_setting_and_only_the_shape_of_tensors():
    assert repr(Settings(rate=0.5)) == "Settings(rate=0.5, steps=3, inner=None)"
    nested = Settings(rate=0.5, inner=Inner(pattern=torch.zeros(2, 3)))
    expected = "Settings(rate=0.5, steps=3, inner=Inner(pattern=f32[2,3](torch)))"
    assert repr(nested) == expected


def test_repr_stays_on_one_line():
    @record
    class Long:
        parts: tuple[Settings, ...]

    assert "\n" not in repr(Long(parts=(Settings(rate=0.5),) * 50))


def test_frozen():
    settings = Settings(rate=0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.rate = 0.7
    assert settings.rate == 0.5


def test_no_attribute_beside_the_declared_ones():
    assert not hasattr(Settings(rate=0.5), "__dict__")


def test_keywords_only_and_complete():
    with pytest.raises(TypeError):
        Settings(0.5)
    with pytest.raises(TypeError, match="rate"):
        Settings(steps=4)
    with pytest.raises(TypeError, match="setps"):
        Settings(rate=0.5, setps=4)


def test_compared_by_identity_so_that_tensors_do_no_harm():
    one, other = (Inner(pattern=torch.zeros(2, 2)) for _ in range(2))
    assert one == one  # noqa: PLR0124
    assert one != other
    assert len({one, other}) == 2
