import pytest
import torch

from assay.audits.training import parse_profile, profile_document
from assay.cli.calibrating import Setting, calibrate, settings
from assay.errors import InputError

START = {"w": torch.zeros(64)}
ORDERS = [torch.arange(8).reshape(4, 2), torch.arange(8).reshape(4, 2)]


def _train(weights: dict[str, torch.Tensor], order: torch.Tensor, sub_run: int):
    """Moves by one a step, and by a little more where float32 is not multiplied in full."""
    noise = 0.0 if torch.get_float32_matmul_precision() == "highest" else 0.01
    return {"w": weights["w"] + len(order) * (1 + noise * torch.arange(64) / 64)}


def _state(_) -> str:
    return f"{torch.get_num_threads()} {torch.get_float32_matmul_precision()}"


def test_each_pair_of_settings_is_measured_and_nothing_stays_set() -> None:
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    twins = settings((1,), ("highest", "medium"))
    assert [twin.matmul for twin in twins] == ["highest", "highest", "medium"]
    profile = calibrate(_train, START, ORDERS, twins=twins, state=_state)
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before
    same = profile.find("1 highest", "1 highest", "update")
    other = profile.find("1 medium", "1 highest", "update")
    assert same is not None
    assert other is not None
    assert (same.largest, same.twins) == (0.0, 2)
    assert other.largest == pytest.approx(0.0057, abs=0.0005)
    assert other.twins == 4
    assert profile_document(parse_profile(profile_document(profile))) == profile_document(profile)


def test_one_twin_is_no_twin() -> None:
    with pytest.raises(InputError, match="two twins"):
        calibrate(_train, START, ORDERS, twins=[Setting(threads=1)], state=_state)
