"""Real processes that are killed: what is left can be resumed, and the result is the same."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from assay.cli.app import app
from assay.cli.demo import attack
from assay.randomness import Seed
from assay.records import record
from assay.storage.runs import RunFolder

from .conftest import Result

PATIENCE_S = 300


@record
class Reference:
    """A run that nobody disturbed."""

    arguments: tuple[str, ...]
    found: list[bytes]
    took_s: float


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def flat(images: torch.Tensor) -> NDArray[np.float32]:
    """Pixels as columns of a table: its network is trained in no time."""
    return images.flatten(1).float().div(255).numpy()


def places(out: pathlib.Path) -> tuple[str, ...]:
    return ("--out", str(out), "--cleanse", str(out.with_suffix(".npz")))


def found(out: pathlib.Path) -> list[bytes]:
    """Everything that must not depend on whether a run was interrupted."""
    names = ("samples.parquet", "classes.parquet", "artifacts/proof.json")
    return [(out / name).read_bytes() for name in names] + [out.with_suffix(".npz").read_bytes()]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("reference")
    attacked = attack(Seed(0))
    data = {"features": flat(attacked.images), "labels": attacked.labels.numpy()}
    np.savez(folder / "data.npz", **data)
    clean = {"features": flat(attacked.trusted_images), "labels": attacked.trusted_labels.numpy()}
    np.savez(folder / "clean.npz", **clean)
    paths = (str(folder / "data.npz"), "--clean", str(folder / "clean.npz"))
    arguments = ("dataset", *paths, "--seed", "2", "--device", "cpu", "--prove")
    started = time.monotonic()
    result = call(*arguments, *places(folder / "run"), "--quiet")
    assert result.exit_code == 1, result.stdout + result.stderr
    return Reference(
        arguments=arguments, found=found(folder / "run"), took_s=time.monotonic() - started
    )


def start(reference: Reference, out: pathlib.Path) -> subprocess.Popen[str]:
    """Start the same in a process of its own, and wait until there is a run."""
    # a shell starts what it leaves in the background with SIGINT ignored, and children inherit that
    heeded = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{heeded}; from assay.cli import main; main()"
    process = subprocess.Popen(  # noqa: S603  it is ours
        [sys.executable, "-c", program, *reference.arguments, *places(out)],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + PATIENCE_S
    while not (out / "run.json").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the run did not start"
        time.sleep(0.01)
    return process


def resume(out: pathlib.Path) -> list[bytes]:
    """Resume a run, unless it was completed before the signal came, and give what it found."""
    if RunFolder.open(out).info.state != "completed":
        result = call("runs", "resume", str(out), "--quiet")
        assert result.exit_code in {0, 1, 2}, result.stderr
        assert (out / "report.html").exists()
    assert RunFolder.open(out).info.state == "completed"
    return found(out)


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_a_killed_run_is_resumed_to_the_same_result(
    reference: Reference, tmp_path: pathlib.Path, share: float
) -> None:
    process = start(reference, tmp_path / "run")
    time.sleep(share * reference.took_s)
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    assert resume(tmp_path / "run") == reference.found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_go_on(
    reference: Reference, tmp_path: pathlib.Path, number: signal.Signals
) -> None:
    out = tmp_path / "run"
    process = start(reference, out)
    process.send_signal(signal.SIGSTOP)
    second = call("runs", "resume", str(out))
    assert second.exit_code == 4, "two processes must never work in one run"
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    printed, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, said
    assert not printed
    assert f"assay runs resume {out}" in said
    assert "Traceback" not in said
    assert RunFolder.open(out).info.state == "interrupted"
    assert resume(out) == reference.found
