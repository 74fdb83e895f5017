"""Where a provider's training runs: a process beside the worker, or a job of its Ray cluster."""

import os
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from assay.errors import MissingExtraError
from assay.records import record

from .execute import BUNDLE_PLACE, DATA_PLACE, OUTPUT_PLACE

OUTPUT_TEXT = "output.txt"
"""What the training code printed, in the folder of its output."""
_TAIL = 2_000


@record
class Work:
    """A bundle that was checked and lies on this machine."""

    command: tuple[str, ...]
    """What to run, or nothing for the callable of the bundle."""
    code: pathlib.Path
    """The folder of the code: the working directory, and on Python's path."""
    bundle: pathlib.Path
    output: pathlib.Path
    data: str

    def environment(self) -> dict[str, str]:
        """Variables that the training code gets, beside those of the worker."""
        path = os.pathsep.join(filter(None, [str(self.code), os.environ.get("PYTHONPATH")]))
        return {
            BUNDLE_PLACE: str(self.bundle),
            OUTPUT_PLACE: str(self.output),
            DATA_PLACE: self.data,
            "PYTHONPATH": path,
        }

    def words(self, python: str) -> list[str]:
        """Program and arguments."""
        return [*self.command] or [python, "-m", "assay.providers.execute"]


@record
class Ended:
    """A training that ended."""

    error: str | None
    """The end of what it printed, where it failed."""


@runtime_checkable
class Running(Protocol):
    """A training that was started."""

    def poll(self) -> Ended | None:
        """Tell how it ended, or None while it runs."""
        ...

    def stop(self) -> None:
        """End it now."""
        ...


@runtime_checkable
class Executor(Protocol):
    """Anything that can run training code."""

    def start(self, work: Work) -> Running:
        """Start; does not wait."""
        ...


@record
class Process:
    """Runs training in a process of its own, so that whatever it does leaves the worker alive."""

    def start(self, work: Work) -> Running:
        """Start the process."""
        with (work.output / OUTPUT_TEXT).open("wb") as printed:
            process = subprocess.Popen(  # noqa: S603  what the provider agreed to run
                work.words(sys.executable),
                cwd=work.code,
                env={**os.environ, **work.environment()},
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return _Child(process=process, printed=work.output / OUTPUT_TEXT)


@record
class _Child:
    process: subprocess.Popen[bytes]
    printed: pathlib.Path

    def poll(self) -> Ended | None:
        code = self.process.poll()
        if code is None:
            return None
        error = None if code == 0 else f"exit code {code}: {_tail(self.printed.read_bytes())}"
        return Ended(error=error)

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def _tail(printed: bytes) -> str:
    return printed[-_TAIL:].decode(errors="replace").strip()


@record
class RayJobs:
    """Runs training as a job of the provider's own Ray cluster, through its job API.

    The folder for work, the code and the data must lie where the cluster's nodes see them under the
    same paths, and Assay must be installed there.
    """

    address: str
    """Of the cluster's job server, such as `http://127.0.0.1:8265`."""
    resources: Mapping[str, float]
    """What a job asks for: `{"CPU": 1, "GPU": 1}`; its entrypoint runs on a node that has it."""
    python: str = "python"
    """The interpreter on the nodes."""

    def start(self, work: Work) -> Running:
        """Submit the job.

        Raises:
            MissingExtraError: ray is not installed.
        """
        try:
            from ray.job_submission import JobSubmissionClient
        except ImportError as error:
            raise MissingExtraError("ray") from error
        client = JobSubmissionClient(self.address)
        entrypoint = (
            f"cd {shlex.quote(str(work.code))} && exec {shlex.join(work.words(self.python))}"
        )
        job = client.submit_job(
            entrypoint=entrypoint,
            runtime_env={"env_vars": work.environment()},
            entrypoint_num_cpus=self.resources.get("CPU", 0),
            entrypoint_num_gpus=self.resources.get("GPU", 0),
        )
        return _RayJob(client=client, job=job)


@record
class _RayJob:
    client: Any
    job: str

    def poll(self) -> Ended | None:
        status = self.client.get_job_status(self.job)
        if not status.is_terminal():
            return None
        if str(status) == "SUCCEEDED":
            return Ended(error=None)
        printed = self.client.get_job_logs(self.job).encode()
        return Ended(error=f"Ray job {status}: {_tail(printed)}")

    def stop(self) -> None:
        self.client.stop_job(self.job)
