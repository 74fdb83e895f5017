"""Run the training code of one bundle: `python -m assay.providers.execute`, in its own process.

The file contract, for a command too: `$ASSAY_BUNDLE` names a folder with `start.safetensors`,
`order.safetensors` (int64 `order`, steps x batch, rows of the data; none where the order is free)
and `bundle.json`; `$ASSAY_TRAINING_DATA` the data; `$ASSAY_OUTPUT` a folder for
`weights.safetensors` (the tensors of the start weights, trained) and `log.jsonl`, with a line
`{"step": 17}` or `{"step": 17, "digest": "..."}` after each step. Exit code 0 means done.
"""

import importlib
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Int64
from torch import Tensor

from assay.errors import InputError
from assay.randomness import Seed
from assay.storage import documents
from assay.storage.weights import read_weights

from .bundle import BUNDLE, ORDER, START, Bundle, parse_bundle
from .environment import stated_environment
from .order import sample_order
from .weights import digest_weights, write_weights

BUNDLE_PLACE, OUTPUT_PLACE, DATA_PLACE = "ASSAY_BUNDLE", "ASSAY_OUTPUT", "ASSAY_TRAINING_DATA"
WEIGHTS, LOG, ENVIRONMENT = "weights.safetensors", "log.jsonl", "environment.txt"
_MAX_MB = 2**20


@runtime_checkable
class TrainSteps(Protocol):
    """The training code, where it is a callable."""

    def __call__(
        self,
        weights: dict[str, Tensor],
        order: Int64[Tensor, "steps batch"],
        *,
        hyperparameters: Mapping[str, Any],
        seed: int,
        first_step: int,
        on_step: Callable[[int, dict[str, Tensor]], None],
    ) -> dict[str, Tensor]:
        """Train for one step a row of `order`.

        Args:
            weights: the start weights, by name.
            order: which rows of the data each step sees.
            hyperparameters: of the plan, as they are.
            seed: for everything that is drawn by chance.
            first_step: the number of the first step in the whole training, from 0.
            on_step: to be called after each step with its number in the whole training and the
                weights that it left.

        Returns:
            The weights after the last step, by the names of the start weights.
        """
        ...


def main() -> None:
    """Run the callable of the bundle that the environment names."""
    folder = pathlib.Path(os.environ[BUNDLE_PLACE])
    bundle = parse_bundle(documents.load((folder / BUNDLE).read_bytes()), str(folder / BUNDLE))
    execute(bundle, folder, pathlib.Path(os.environ[OUTPUT_PLACE]), parent=os.getppid())


def execute(
    bundle: Bundle, folder: pathlib.Path, output: pathlib.Path, *, parent: int | None = None
) -> None:
    """Train, and write weights, log and environment.

    Args:
        bundle: what is asked.
        folder: holds its parts.
        output: where to write.
        parent: the process that waits for this one; without it, nobody wants the result.

    Raises:
        InputError: the code is not there, or does not return weights.
    """
    train, order = imported(str(bundle.recipe.code)), _order(bundle, folder)
    with (output / LOG).open("w", encoding="utf-8") as log:

        def on_step(step: int, weights: Mapping[str, Tensor]) -> None:
            line: dict[str, Any] = {"step": step}
            if bundle.step_digests:
                line["digest"] = digest_weights(weights)
            log.write(documents.dump(line, indent=None) + "\n")
            if parent is not None and os.getppid() != parent:
                sys.exit("the worker that asked for this training is gone")

        ended = train(
            read_weights(folder / START, max_mb=_MAX_MB),
            order,
            hyperparameters=bundle.hyperparameters,
            seed=bundle.seed,
            first_step=bundle.first_step,
            on_step=on_step,
        )
    if not isinstance(ended, dict) or not all(isinstance(v, Tensor) for v in ended.values()):
        raise InputError(f"expected tensors by name from {bundle.recipe.code}, got {type(ended)}")
    write_weights(output / WEIGHTS, ended)
    (output / ENVIRONMENT).write_text(stated_environment(ended), encoding="utf-8")


def imported(code: str) -> TrainSteps:
    """Find the training code on Python's path.

    Raises:
        InputError: it is not there.
    """
    module, _, name = code.partition(":")
    try:
        found: TrainSteps = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"expected a function {name} in {module}: {error}") from error
    return found


def _order(bundle: Bundle, folder: pathlib.Path) -> Int64[Tensor, "steps batch"]:
    if (folder / ORDER).exists():
        return read_weights(folder / ORDER, max_mb=_MAX_MB)["order"]
    own = Seed(int.from_bytes(os.urandom(7), "big"))
    return sample_order(
        bundle.samples, batch=bundle.batch, first_step=0, steps=bundle.steps, seed=own
    )


if __name__ == "__main__":
    main()
