"""What a pickle would import and call, told without running it."""

import pickletools
from collections.abc import Iterator

from .files import refusing

WEIGHTS = frozenset(
    {
        "collections OrderedDict",
        "torch Size",
        "torch device",
        "torch._utils _rebuild_parameter",
        "torch._utils _rebuild_tensor_v2",
        "torch.storage UntypedStorage",
        *(f"torch {kind}Storage" for kind in ("Bool", "Byte", "Char", "Short", "Int", "Long")),
        *(f"torch {kind}Storage" for kind in ("Half", "BFloat16", "Float", "Double")),
    }
)
"""Everything that a file of nothing but tensors needs."""


def foreign_globals(content: bytes, where: object) -> list[str]:
    """Names outside `WEIGHTS` that unpickling would import, as `module name`.

    Raises:
        RefusedError: the pickle is malformed.
    """
    with refusing(where):
        return sorted(set(_globals(content)) - WEIGHTS)


def _globals(content: bytes) -> Iterator[str]:
    texts: list[str] = []
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in {"GLOBAL", "INST"}:
            yield str(argument)
        elif opcode.name == "STACK_GLOBAL":  # torch.save does not write it; never in WEIGHTS
            yield f"{' '.join(texts[-2:])} (from the stack)"
        elif opcode.name in {"EXT1", "EXT2", "EXT4"}:
            yield f"copyreg extension {argument}"
        elif isinstance(argument, str):
            texts.append(argument)
