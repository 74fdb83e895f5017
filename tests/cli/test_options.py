"""The options are a contract with scripts: none appears or goes by accident."""

import importlib.metadata
import subprocess
import sys

import pytest
import typer.main

from assay.cli.app import COMMANDS, app

from .conftest import Run, parsed

COMMON = {"seed", "device", "quiet", "out"}
ENDING = {"quiet", "json", "exit_zero", "max_minutes"}
EXPECTED = {
    "demo": COMMON,
    "dataset": COMMON
    | ENDING
    | {"data", "clean", "model", "cleanse", "prove", "alpha", "dry_run", "memory_mb"}
    | {"mean", "std", "size"},
    "models": COMMON
    | ENDING
    | {"models", "clean", "task", "prompt", "repair", "alpha", "dry_run", "memory_mb"}
    | {"mean", "std", "size"},
    "training plan": {"plan", "key", "json"},
    "training run": ENDING | {"plan", "out", "key", "device", "alpha", "poll"},
    "training calibrate": {"plan", "data", "out", "threads", "matmul", "sub_runs", "quiet"},
    "training judge": {"source", "client", "json", "exit_zero"},
    "training bisect": {"run", "sub_run", "json"},
    "training work": {"mailbox", "key", "code", "data", "client", "once", "poll", "work"}
    | {"lease", "ray", "gpus", "quiet"},
    "prompts": COMMON
    | ENDING
    | {"backbone", "prompt", "classes", "position", "ood", "clean", "repair", "alpha", "dry_run"}
    | {"memory_mb"},
    "report": {"run", "form", "out"},
    "doctor": {"device", "out", "json"},
    "runs list": {"root", "json"},
    "runs show": {"run", "json"},
    "runs resume": ENDING | {"run"},
}


def commands(group: object, prefix: str = "") -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            found |= commands(command, f"{prefix}{name} ")
        else:
            found[prefix + name] = {p.name for p in command.params} - {"help"}
    return found


def test_no_option_appears_or_goes_by_accident() -> None:
    assert commands(typer.main.get_command(app)) == EXPECTED


@pytest.mark.parametrize("command", ["", *EXPECTED])
def test_help_says_what_the_exit_codes_mean(run: Run, command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    said = " ".join(result.stdout.split())
    assert "0 completed and nothing flagged; 1 flagged; 2 error or inconclusive" in said


def test_the_list_of_commands_says_what_each_says_itself(run: Run) -> None:
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert COMMANDS[name] == " ".join(command.help.split("\n\n")[0].split())


def test_help_and_version_import_nothing_that_takes_seconds() -> None:
    for asked in ("--help", "--version"):
        program = (
            "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); "
            f"sys.argv = ['assay', {asked!r}]; from assay.cli import main; main()"
        )
        said = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)  # noqa: S603
        assert said.stdout.decode().splitlines()[-1] == "False"


def test_version(run: Run) -> None:
    assert run("--version").stdout == f"assay {importlib.metadata.version('assay')}\n"


def test_a_mistyped_command_is_set_right(run: Run) -> None:
    result = run("datset")
    assert result.exit_code == 4
    assert "'dataset'" in result.stderr


def test_help_of_the_audit_teaches(run: Run) -> None:
    said = run("dataset", "--help").stdout
    for form in (".npz", ".parquet", "CIFAR-10", "IDX", "class folders", "hf:NAME"):
        assert form in said
    assert "  assay dataset photos/ --clean trusted/\n" in said, "examples stand on their own lines"


def test_doctor_finds_what_is_here(run: Run) -> None:
    result = run("doctor", "--json")
    assert result.exit_code == 0
    found = {check["name"]: check for check in parsed(result.stdout)["checks"]}
    assert all(check["good"] for check in found.values())
    assert {"python", "torch", "device", "precision", "memory", "disk", "threads"} <= found.keys()


def test_doctor_misses_what_is_not_here(run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("x") / "file"
    file.write_text("")
    result = run("doctor", "--json", "--out", file / "runs")
    assert result.exit_code == 2
    assert [c["name"] for c in parsed(result.stdout)["checks"] if not c["good"]] == ["run folder"]
