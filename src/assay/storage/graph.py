"""The graph of an exported network, run node by node: nothing in it is evaluated as Python."""

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from assay.errors import InputError, RefusedError
from assay.records import record

from .memory import Held, bytes_made, most_held

_OPERATORS = """
_adaptive_avg_pool2d _assert_scalar _assert_tensor_metadata _log_softmax
_native_batch_norm_legit_no_training _safe_softmax _softmax _to_copy _unsafe_view abs
adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d add add_ addcdiv addcmul addmm alias
all amax amin any arange argmax avg_pool1d avg_pool2d baddbmm batch_norm bitwise_and bitwise_not
bitwise_or bmm cat ceil celu chunk clamp clamp_ clamp_max clamp_min clone constant_pad_nd
contiguous conv1d conv2d convolution copy cos cumprod cumsum detach detach_ div div_ dropout
dropout_ einsum elu elu_ embedding eq erf exp expand expand_as expm1 eye feature_dropout flatten
flip floor full full_like ge gelu glu group_norm gt hardsigmoid hardsigmoid_ hardswish hardswish_
hardtanh hardtanh_ hstack index index_select instance_norm isinf isnan layer_norm le leaky_relu
leaky_relu_ lerp lift lift_fresh lift_fresh_copy linalg_norm linalg_vector_norm linear log log1p
log_softmax logical_and logical_not logical_or logical_xor lt masked_fill matmul max max_pool1d
max_pool2d max_pool2d_with_indices maximum mean min minimum mish mish_ mm movedim mul mul_
nan_to_num narrow native_batch_norm native_group_norm native_layer_norm ne neg new_ones new_zeros
norm ones ones_like pad permute pixel_shuffle pixel_unshuffle pow prelu prod reciprocal
reflection_pad2d relu relu6 relu6_ relu_ repeat replication_pad2d reshape rms_norm roll rot90
round rsqrt rsub scalar_tensor scaled_dot_product_attention select selu selu_ sigmoid sigmoid_
sign silu silu_ sin size slice softmax softplus sort split split_with_sizes sqrt square squeeze
stack std sub sub_ sum swapaxes sym_constrain_range sym_constrain_range_for_size sym_numel
sym_size t tanh tanh_ threshold to topk transpose tril triu type_as unbind unflatten unfold
unsqueeze unsqueeze_ upsample_bicubic2d upsample_bilinear2d upsample_nearest2d var var_mean view
where zeros zeros_like
"""
_SAFE = frozenset(_OPERATORS.split())
"""Operators of `torch.ops.aten` that compute, and touch neither files nor foreign memory."""

_LARGEST = 2**63  # sizes are smaller
_MAX_PARTS = 32
"""How many parts the name of a weight may have: each is a module in the one before."""


def _on_sizes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compute with sizes alone: numbers grow no further, and no text is repeated."""

    def bounded(*sizes: Any) -> Any:
        if not all(isinstance(size, int) and abs(size) < _LARGEST for size in sizes):
            raise RefusedError(f"expected sizes in a graph, got {sizes!s:.200}")
        return function(*sizes)

    return bounded


_ON_SIZES: Mapping[str, Callable[..., Any]] = {
    f"_operator.{function.__name__}": _on_sizes(function)
    for function in (
        *(operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg),
        *(operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge),
    )
}
TYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
"""Types of numbers by their code in an archive."""

_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    4: torch.preserve_format,
}


_DEVICE = "the device of the input"

_MAX_KNOWN = 16
"""For how many sizes of batches a program remembers what its nodes need."""

_EVALUATING = {"train": False, "training": False, "dropout_p": 0.0}
"""What these arguments of operators are in evaluation mode."""


@record
class _Name:
    """A value that an earlier node of the graph computes."""

    name: str


@record
class _Node:
    """One call of the graph."""

    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[dict[str, Any], ...]

    def run(self, values: dict[str, Any]) -> Any:
        """Call the operator with values in the places of their names."""
        return self.call(*_filled(list(self.args), values), **_filled(dict(self.kwargs), values))

    @property
    def used(self) -> frozenset[str]:
        """Names of the values that it takes."""
        return frozenset(_used((self.args, self.kwargs)))


class Program(nn.Module):
    """An exported network, with its parameters and buffers under their old names.

    It behaves as it did when it was exported: `train` and `eval` change nothing. A run may hold as
    much memory as `most_held` says, and values go after their last use.

    Raises:
        InputError: the graph uses an operator that is not on the list, was exported in training
            mode, or has more than one input or output.
        RefusedError: a weight is called like a part of `nn.Module`; in a call, the graph changes
            its weights, as one that counts its calls would, or would fill the memory.
    """

    def __init__(
        self,
        graph: dict[str, Any],
        signature: dict[str, Any],
        tensors: Mapping[str, nn.Parameter | Tensor],
    ) -> None:
        super().__init__()
        self._nodes = [_node(entry) for entry in graph["nodes"]]
        self._given = input_name(signature)
        self._output = _output(signature)
        self._places = _stored(signature)
        self._check()
        self._used = [sorted(node.used) for node in self._nodes]
        self._last = self._last_uses()
        self._needed: dict[tuple[object, ...], int] = {}
        for name in self._places.values():
            _place(self, name, tensors[name])

    def _check(self) -> None:
        """Check that every value is computed before it is used."""
        known = {_DEVICE, self._given, *self._places}
        for node in self._nodes:
            missing = node.used - known
            if missing:
                raise RefusedError(f"expected a graph in order, got {sorted(missing)} before use")
            known.update(_made(node.outputs))
        if self._output not in known:
            raise RefusedError(f"expected a graph that computes its output {self._output!r}")

    def _last_uses(self) -> list[list[str]]:
        """Names of the values that no node after this one takes, for each node."""
        kept, last = {_DEVICE, self._output}, []
        for node in reversed(self._nodes):
            gone = (node.used | set(_made(node.outputs))) - kept
            kept |= gone
            last.append(sorted(gone))
        return last[::-1]

    def _needs(self, index: int, values: dict[str, Any]) -> int:
        """Bytes that a node will make; computed once for the sizes of what it takes."""
        used = {name: values[name] for name in self._used[index]}
        key = (index, *map(_likeness, used.values()))
        if key not in self._needed:
            if len(self._needed) > _MAX_KNOWN * len(self._nodes):
                self._needed.clear()
            self._needed[key] = bytes_made(self._nodes[index].run, used)
        return self._needed[key]

    def forward(self, inputs: Tensor) -> Tensor:
        """Run the graph on a batch."""
        values: dict[str, Any] = {_DEVICE: inputs.device, self._given: inputs}
        stored = {short: operator.attrgetter(name)(self) for short, name in self._places.items()}
        values |= stored
        before = [value._version for value in stored.values()]  # noqa: SLF001
        held = Held(most_held(inputs, sum(value.nbytes for value in stored.values())))
        for index, node in enumerate(self._nodes):
            held.check(self._needs(index, values))
            _keep(node.outputs, node.run(values), values)
            for name in _made(node.outputs):
                held.add(values.get(name))
            for name in self._last[index]:
                values.pop(name, None)
        if before != [value._version for value in stored.values()]:  # noqa: SLF001
            raise RefusedError("expected a graph that leaves its weights as they are")
        return values[self._output]


def input_name(signature: dict[str, Any]) -> str:
    """Name of the one tensor that a network takes."""
    given = [spec["user_input"] for spec in signature["input_specs"] if "user_input" in spec]
    if len(given) != 1 or "as_tensor" not in given[0]["arg"]:
        raise InputError(f"expected a network that takes one tensor, got {len(given)} inputs")
    return str(given[0]["arg"]["as_tensor"]["name"])


def _output(signature: dict[str, Any]) -> str:
    specs = signature["output_specs"]
    if len(specs) != 1 or "as_tensor" not in specs[0].get("user_output", {}).get("arg", {}):
        raise InputError(
            "expected a network exported in evaluation mode that gives one tensor, "
            f"got {len(specs)} outputs; call model.eval() before torch.export.export"
        )
    return str(specs[0]["user_output"]["arg"]["as_tensor"]["name"])


def _stored(signature: dict[str, Any]) -> dict[str, str]:
    """Names of parameters, buffers and constants by the names that the graph calls them."""
    places = {}
    for spec in signature["input_specs"]:
        ((kind, said),) = spec.items()
        if kind in {"parameter", "buffer", "tensor_constant"}:
            places[said["arg"]["name"]] = said[f"{kind}_name"]
        elif kind != "user_input":
            raise InputError(f"expected a network that takes tensors, got an input {kind!r}")
    return places


def _place(root: nn.Module, name: str, value: nn.Parameter | Tensor) -> None:
    """Register a tensor under a dotted name, with the modules that the name needs."""
    parts, module = name.split("."), root
    plain = all(part.isidentifier() or part.isdecimal() for part in parts)
    if not plain or len(parts) > _MAX_PARTS:
        raise RefusedError(
            f"expected plain names of weights, of at most {_MAX_PARTS} parts, got {name!r:.200}"
        )
    for part in parts[:-1]:
        child = getattr(module, part, None)
        if not isinstance(child, nn.Module):
            child = nn.Module()
            module.add_module(part, child)
        module = child
    if isinstance(value, nn.Parameter):
        module.register_parameter(parts[-1], value)
    else:
        module.register_buffer(parts[-1], value)


def _node(entry: dict[str, Any]) -> _Node:
    call = _function(entry["target"])
    args, kwargs = [], {}
    for said in entry["inputs"]:
        name, argument = said["name"], _argument(said["arg"])
        if said.get("kind") == 1 or not name:
            args.append(argument)
        else:
            kwargs[name] = argument
    if isinstance(call, torch._ops.OpOverload):  # noqa: SLF001
        _check_evaluating(call, args, kwargs)
    return _Node(call=call, args=tuple(args), kwargs=kwargs, outputs=tuple(entry["outputs"]))


def _check_evaluating(
    call: torch._ops.OpOverload,
    args: list[Any],
    kwargs: dict[str, Any],
) -> None:
    """Refuse operators that behave as in training, whatever the archive calls their arguments."""
    names = [argument.name for argument in call._schema.arguments]  # noqa: SLF001
    given = dict(zip(names, args, strict=False)) | kwargs
    for name, value in _EVALUATING.items():
        if name in given and (isinstance(given[name], _Name) or given[name] != value):
            raise InputError("expected a network exported in evaluation mode: call model.eval()")


def _function(target: str) -> Callable[..., Any]:
    if target in _ON_SIZES:
        return _ON_SIZES[target]
    parts = target.split(".")
    if parts[:3] != ["torch", "ops", "aten"] or len(parts) != 5 or parts[3] not in _SAFE:
        raise InputError(f"expected operators that are known to be harmless, got {target!r}")
    overload = getattr(getattr(torch.ops.aten, parts[3]), parts[4])
    if not isinstance(overload, torch._ops.OpOverload):  # noqa: SLF001
        raise InputError(f"expected an operator, got {target!r}")
    return overload


def _argument(said: dict[str, Any]) -> Any:
    """Translate an argument: a number, a setting, or the names of values."""
    ((kind, value),) = said.items()
    if kind not in _ARGUMENTS:
        raise InputError(f"expected tensors and numbers as arguments of operators, got {kind!r}")
    return _ARGUMENTS[kind](value)


def _each(one: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda values: [one(value) for value in values]


def _named(said: dict[str, Any]) -> _Name:
    return _Name(name=said["name"])


_ARGUMENTS: Mapping[str, Callable[[Any], Any]] = {
    "as_none": lambda _: None,
    "as_int": int,
    "as_ints": _each(int),
    "as_float": float,
    "as_floats": _each(float),
    "as_bool": bool,
    "as_bools": _each(bool),
    "as_string": str,
    "as_tensor": _named,
    "as_tensors": _each(_named),
    "as_optional_tensor": _argument,
    "as_optional_tensors": _each(_argument),
    "as_sym_int": _argument,
    "as_sym_ints": _each(_argument),
    "as_sym_bool": _argument,
    "as_name": lambda name: _Name(name=name),
    "as_scalar_type": TYPES.__getitem__,
    "as_memory_format": _FORMATS.__getitem__,
    "as_layout": {7: torch.strided}.__getitem__,
    "as_device": lambda _: _Name(name=_DEVICE),
}


def _used(argument: Any) -> Iterator[str]:
    """Names in an argument."""
    if isinstance(argument, _Name):
        yield argument.name
    parts = argument.values() if isinstance(argument, dict) else argument
    if isinstance(argument, list | tuple | dict):
        for part in parts:
            yield from _used(part)


def _made(outputs: tuple[dict[str, Any], ...]) -> Iterator[str]:
    """Names of what a node gives."""
    for output in outputs:
        ((kind, said),) = output.items()
        if kind == "as_tensors":
            yield from (one["name"] for one in said)
        elif kind in {"as_tensor", "as_sym_int", "as_sym_bool"}:
            yield said["name" if kind == "as_tensor" else "as_name"]


def _likeness(value: Any) -> object:
    """What decides how much memory an operator needs for a value."""
    if isinstance(value, Tensor):
        return value.dtype, value.shape, value.stride()
    return value


def _filled(argument: Any, values: dict[str, Any]) -> Any:
    """Put values in the places of their names."""
    if isinstance(argument, _Name):
        return values[argument.name]
    if isinstance(argument, list):
        return [_filled(part, values) for part in argument]
    if isinstance(argument, dict):
        return {name: _filled(part, values) for name, part in argument.items()}
    return argument


def _keep(outputs: tuple[dict[str, Any], ...], result: Any, values: dict[str, Any]) -> None:
    """Store what a node gave: one value, several, or one list of tensors."""
    results = result if len(outputs) > 1 else (result,)
    for output, value in zip(outputs, results, strict=False):
        several = value if "as_tensors" in output else (value,)
        values.update(zip(_made((output,)), several, strict=False))
