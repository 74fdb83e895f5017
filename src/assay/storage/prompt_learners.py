"""Prompt learners of another party: CoOp-style checkpoints, and safetensors with a description."""

import io
import json
import pathlib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from assay.errors import InputError, RefusedError
from assay.prompting import (
    VPT,
    Backbone,
    CoCoOp,
    CoOp,
    Laid,
    Learner,
    MaPLe,
    Position,
    Prompted,
    Wording,
    ZeroShot,
    lay_out,
)
from assay.records import record

from . import tensors
from .clip import load_backbone
from .documents import dump, read_document
from .files import digest_path, existing, read_bounded, refusing
from .pickles import foreign_globals
from .rows import OpenFile
from .weights import check_weights
from .zips import members

SCHEMA = "assay/prompt/v1"

_MAX_PICKLE = 2**26
_MAX_DESCRIPTION = 2**24
_MAX_TENSORS = 10_000
_MAX_PROMPT_MB = 64
"""What the tensors of a learner may take; those of a backbone in the same file are not read."""

_IGNORED = frozenset({"token_prefix", "classnames"})
"""Made from the names of the classes: the public code ignores them too."""
_SUFFIX = "token_suffix"
"""The embedded tokens of each class after the context, as the public code stores them: they tell
which names the learner was tuned for."""
_ALIKE = 0.01
"""Relative distance of embedded tokens that are the same, stored in half precision or not."""

_INERT = frozenset(
    {
        *("__builtin__ dict", "builtins dict", "collections defaultdict", "collections Counter"),
        *(f"torch.optim.lr_scheduler {kind}" for kind in ("CosineAnnealingLR", "MultiStepLR")),
        *(f"torch.optim.lr_scheduler {kind}" for kind in ("StepLR", "LambdaLR")),
        *("torch.optim.sgd SGD", "torch.optim.adam Adam", "torch.optim.adamw AdamW"),
        "torch.optim.rmsprop RMSprop",
    }
)
"""What the public code's checkpoints name besides tensors: a warm-up schedule holds the schedule
behind it, and that the optimizer. Nothing of this is imported: an empty object stands for it."""


@record
class LoadedPrompt:
    """A prompted CLIP of another party, in evaluation mode on the CPU."""

    prompted: Prompted
    kind: str
    """Of the learner, as `assay.prompting.LEARNERS` names it."""
    backbone_digest: str
    """SHA-256 of `model.safetensors`, as the hub shows it."""
    backbone_settings: Mapping[str, str]
    """SHA-256 of the other files of the backbone that are read, by name."""
    prompt_digest: str
    """SHA-256 of the file with the learner's tensors."""
    description_digest: str | None
    """SHA-256 of what lies beside it and describes it, if there is such a file."""
    backbone: str
    """Its source, as the user named it."""
    prompt: str
    stored: Mapping[str, Tensor]
    """The learner's tensors as its file holds them, those included that are made from names."""
    notes: tuple[str, ...]
    """What does not speak against loading, but may surprise; a sentence each."""


def load_prompted(
    backbone: str,
    prompt: str,
    class_names: Sequence[str],
    *,
    max_mb: int = 16_384,
    position: Position | None = None,
) -> LoadedPrompt:
    """Load a CLIP and the prompt learner that someone tuned for it; nothing is run.

    Args:
        backbone: a folder that transformers wrote, or `hf:NAME`.
        prompt: a checkpoint as the public code of CoOp writes it (`model.pth.tar-50`); or a
            `.safetensors` file, with a description beside it (`.json`) as `write_prompt` makes it
            or without; or `zero-shot`.
        class_names: in label order, as the learner was tuned for them.
        max_mb: what each of the files may take.
        position: of names among context vectors, where no description says it; the end by default.

    Raises:
        UsageError: there is no such path or name.
        RefusedError: a file is malformed, oversized, not finite, or names foreign objects.
        InputError: the learner fits neither a known kind, nor the backbone, nor the classes, nor
            the position.
    """
    base = load_backbone(backbone, max_mb=max_mb)
    if prompt == "zero-shot" and not pathlib.Path(prompt).exists():
        stored, digest, described = dict[str, Tensor](), "", None
        found, said, notes = dict[str, Tensor](), dict[str, Any](), list[str]()
    else:
        path = existing(pathlib.Path(prompt))
        stored, skipped = _tensors(path, max_mb)
        found, digest, said = _as_floats(stored, path), digest_path(path), _description(path)
        described = digest_path(path.with_suffix(".json")) if said else None
        notes = _notes(skipped, said, base.digest)
        notes += _compared(found.pop(_SUFFIX, None), base.backbone, class_names, prompt)
    _check_names(said, class_names, prompt)
    learner = _learner(found, _position(said, position, prompt), prompt)
    kind = kind_of(learner)
    if kind == "coop" and not said and position is None:
        notes.append(
            "The prompt's file does not say where the names stand among the context vectors: at "
            "the end, as usual, is assumed; give the position if it is another."
        )
    if said and said.get("kind") != kind:
        raise RefusedError(f"expected a {said.get('kind')!r} in {prompt}, as described, got {kind}")
    _check_wording(said, learner.wording, prompt)
    return LoadedPrompt(
        prompted=Prompted(base.backbone, learner, class_names).eval(),
        kind=kind,
        backbone_digest=base.digest,
        backbone_settings=base.settings,
        prompt_digest=digest,
        description_digest=described,
        backbone=backbone,
        prompt=prompt,
        stored=stored,
        notes=tuple(notes),
    )


def write_prompt(
    prompted: Prompted,
    out: pathlib.Path,
    *,
    backbone_digest: str | None = None,
    stored: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a prompt learner so that `load_prompted` reads it.

    Args:
        prompted: whose learner.
        out: a `.safetensors` file, beside which a description is written (`.json`); or any other
            name, such as `model.pth.tar-50`, for a checkpoint that the public code reads. Nothing
            may be there yet.
        backbone_digest: SHA-256 of the backbone, for the description.
        stored: of the `LoadedPrompt` that the learner came in: then its tensors get the names and
            the precision that they had, and what lay beside them is written as it was.

    Raises:
        InputError: something is there, or there is nothing to write.
    """
    described = out.with_suffix(".json")
    if out.exists() or (out.suffix == ".safetensors" and described.exists()):
        raise InputError(f"expected a path that does not exist yet, got {out}")
    made = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in _as_stored(prompted.learner, stored or {}).items()
    }
    if not made:
        raise InputError("expected a learner with parameters, got the zero-shot classifier")
    if out.suffix != ".safetensors":
        torch.save({"state_dict": made, "epoch": 0, "optimizer": None, "scheduler": None}, out)
        return
    save_file(made, out, metadata={"format": "pt"})
    wording = prompted.learner.wording
    described.write_text(
        dump(
            {
                "schema": SCHEMA,
                "kind": kind_of(prompted.learner),
                "context": wording.context,
                "position": wording.position.value,
                "template": wording.template,
                "class_names": list(prompted.class_names),
                "backbone": backbone_digest,
            }
        )
        + "\n"
    )


def kind_of(learner: Learner) -> str:
    """Name the kind of a learner, as `assay.prompting.LEARNERS` does."""
    return {ZeroShot: "zero-shot", CoOp: "coop", CoCoOp: "cocoop", VPT: "vpt", MaPLe: "maple"}[
        type(learner)
    ]


# from tensors to learners and back


_LATER = "image_encoder.transformer.resblocks.{}.VPT_shallow"


def _public(learner: Learner) -> dict[str, Tensor]:
    """Name a learner's tensors as the public code does."""
    if isinstance(learner, VPT):
        names = ["image_encoder.VPT", *(_LATER.format(i) for i in range(1, len(learner.prompts)))]
        return dict(zip(names, learner.prompts, strict=True))
    prefix = "prompt_learner." if isinstance(learner, MaPLe) else ""
    return {f"{prefix}{name}": value for name, value in learner.state_dict().items()}


def _as_stored(learner: Learner, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put a learner's tensors into the place of those that it was read from."""
    held = {_own_name(name): name for name in stored}
    kinds = {name: value.dtype for name, value in stored.items() if value.is_floating_point()}
    tuned = {held.get(_own_name(name), name): value for name, value in _public(learner).items()}
    return {**stored, **{n: value.to(kinds.get(n, value.dtype)) for n, value in tuned.items()}}


def _learner(found: Mapping[str, Tensor], position: Position, where: str) -> Learner:
    """Recognise a kind of learner by the names of its tensors, and fill it."""
    names = frozenset(found)
    if not names:
        return ZeroShot()
    if "image_encoder.VPT" in names:
        depth = len(names)
        if names == {"image_encoder.VPT", *(_LATER.format(i) for i in range(1, depth))}:
            wanted = ("image_encoder.VPT", *(_LATER.format(i) for i in range(1, depth)))
            return VPT([_matrix(found, name, where) for name in wanted])
    elif names == {"ctx"}:
        return CoOp(_matrix(found, "ctx", where, most=3), position=position)
    elif "meta_net.linear1.weight" in names:
        return _cocoop(found, where)
    elif "proj.weight" in names:
        return _maple(found, where)
    raise InputError(
        f"expected the tensors of CoOp, CoCoOp, VPT or MaPLe in {where}, got "
        f"{_listed(names)}; learners of other kinds are not audited"
    )


def _cocoop(found: Mapping[str, Tensor], where: str) -> Learner:
    ctx = _matrix(found, "ctx", where)
    hidden, dims = _matrix(found, "meta_net.linear1.weight", where).shape
    with torch.device("meta"):  # sizes are not trusted yet
        learner = CoCoOp(ctx, dims=dims, hidden=hidden)
    return _filled(learner, found, where)


def _maple(found: Mapping[str, Tensor], where: str) -> Learner:
    ctx = _matrix(found, "ctx", where)
    depth = sum(name.startswith("compound_prompts_text.") for name in found)
    deeper = [_matrix(found, f"compound_prompts_text.{i}", where) for i in range(depth)]
    width = _matrix(found, "proj.weight", where).shape[0]
    with torch.device("meta"):
        learner = MaPLe(ctx, deeper, image_width=width)
    return _filled(learner, found, where)


def _matrix(found: Mapping[str, Tensor], name: str, where: str, *, most: int = 2) -> Tensor:
    if name not in found:
        raise InputError(f"expected a tensor {name!r} in {where}, got {_listed(found)}")
    value = found[name]
    if not (2 <= value.ndim <= most and value.numel()):
        raise InputError(
            f"expected {name!r} in {where} as (context, width)"
            f"{' or (classes, context, width)' if most == 3 else ''}, got {tuple(value.shape)}"
        )
    return value


def _filled(learner: Learner, found: Mapping[str, Tensor], where: str) -> Learner:
    wanted = {name: tuple(value.shape) for name, value in learner.state_dict().items()}
    got = {name: tuple(value.shape) for name, value in found.items()}
    if wanted != got:
        wrong = sorted(n for n in wanted.keys() | got.keys() if wanted.get(n) != got.get(n))
        raise InputError(
            f"expected tensors {', '.join(f'{n} {wanted.get(n)}' for n in wrong[:5])} in {where}, "
            f"got {', '.join(f'{n} {got.get(n)}' for n in wrong[:5])}"
        )
    learner.load_state_dict(dict(found), assign=True)
    return learner


def _listed(names: Iterable[str]) -> str:
    shown = sorted(names)
    return f"{shown[:6]}{' and more' if len(shown) > 6 else ''}"


# from files to tensors


def _tensors(path: pathlib.Path, max_mb: int) -> tuple[dict[str, Tensor], list[str]]:
    """Read a learner's tensors; names of those of a backbone beside them."""
    if path.is_dir():
        raise InputError(f"expected a file with a prompt learner, got the folder {path}")
    if path.stat().st_size > max_mb * 2**20:
        raise RefusedError(f"expected at most {max_mb} MB in {path}; raise the bound")
    is_safe = path.suffix == ".safetensors"
    every = _from_safetensors(path) if is_safe else _from_checkpoint(path, max_mb)
    own = {name: short for name in every if (short := _own_name(name)) is not None}
    _check_once(own, path)
    stored = {
        name: (
            value.read(OpenFile.at(path)) if isinstance(value, tensors.Declared) else value.detach()
        )
        for name, value in every.items()
        if name in own
    }
    return stored, [name for name in every if name not in own]


def _check_once(own: Mapping[str, str], path: pathlib.Path) -> None:
    """Check that whoever loads some of a learner's tensors by their names loads all of them.

    The public code leaves names that it does not know, and says nothing.
    """
    starts = {("VPT" in short, name.removesuffix(short)) for name, short in own.items()}
    if len(starts) > len({is_visual for is_visual, _ in starts}):
        raise RefusedError(
            f"expected every tensor of the learner in {path} once, under names that start alike, "
            f"got {_listed(own)}: which of them are used depends on who loads them; ask for a file "
            "that holds nothing else"
        )


def _as_floats(stored: Mapping[str, Tensor], path: pathlib.Path) -> dict[str, Tensor]:
    """Check a learner's tensors, and name them alike; those that are made anew are left out."""
    named = ((_own_name(name), value) for name, value in stored.items())
    own = {name: value for name, value in named if name is not None and name not in _IGNORED}
    weights = [value for name, value in own.items() if name != _SUFFIX]
    if sum(value.nbytes for value in weights) > _MAX_PROMPT_MB * 2**20:
        raise RefusedError(f"expected prompts of at most {_MAX_PROMPT_MB} MB in {path}")
    if not weights:
        raise InputError(f"expected the tensors of a prompt learner in {path}, got none")
    check_weights(own, path)
    return {name: value.float().clone() for name, value in own.items()}


def _own_name(name: str) -> str | None:
    """Shorten the name of a learner's tensor; None for one of a backbone.

    Trainings on several GPUs put `module.` in front of all.
    """
    name = name.removeprefix("module.")
    if "VPT" in name.rsplit(".", 1)[-1]:
        return name
    if name.startswith("prompt_learner."):
        return name.removeprefix("prompt_learner.")
    is_backbone = name.startswith(("image_encoder.", "text_encoder.")) or name == "logit_scale"
    return None if is_backbone else name


def _from_safetensors(path: pathlib.Path) -> Mapping[str, Any]:
    found = tensors.declared(OpenFile.at(path))
    own = [v for name, v in found.items() if _own_name(name) not in {None, _SUFFIX}]
    if len(found) > _MAX_TENSORS or sum(value.size for value in own) > _MAX_PROMPT_MB * 2**20:
        raise RefusedError(
            f"expected prompts of at most {_MAX_PROMPT_MB} MB in {_MAX_TENSORS} tensors in {path}"
        )
    return found


def _from_checkpoint(path: pathlib.Path, max_mb: int) -> Mapping[str, Any]:
    """Read `state_dict` of a checkpoint, after looking at what its pickle names."""
    infos = members(path, max_mb)
    pickles = [name for name in infos if name.endswith(".pkl")]
    if len(pickles) != 1 or infos[pickles[0]].file_size > _MAX_PICKLE:
        raise RefusedError(
            f"expected one small pickle of tensors in {path}, got {pickles}; "
            "ask for the prompt as .safetensors"
        )
    with refusing(path), zipfile.ZipFile(path) as archive:
        content = archive.read(pickles[0])
    foreign = sorted(set(foreign_globals(content, path)) - _INERT)
    if foreign:
        raise RefusedError(
            f"{path} would import or call {', '.join(foreign)} when it is opened; "
            "nothing was run; ask for the prompt as .safetensors"
        )
    stand_ins: list[Any] = [(_inert(name), name.replace(" ", ".")) for name in _INERT]
    whole = io.BytesIO(path.read_bytes())
    with refusing(path, RuntimeError, ArithmeticError), torch.serialization.safe_globals(stand_ins):
        saved = torch.load(whole, map_location="cpu", weights_only=True)  # noqa: TID251
    return _checked(saved.get("state_dict", saved) if isinstance(saved, dict) else None, path)


class _Inert:
    """Stands for an object that is not made: takes whatever it is given, and keeps nothing."""

    def __new__(cls, *_: object) -> "_Inert":
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        """Keep nothing."""


def _empty(*_: object) -> dict[Any, Any]:
    return {}


def _inert(name: str) -> Any:
    return _Inert if name.startswith("torch.") else _empty


def _checked(found: Any, path: pathlib.Path) -> dict[str, Tensor]:
    if not isinstance(found, dict) or len(found) > _MAX_TENSORS:
        raise RefusedError(f"expected tensors by name, or `state_dict` with them, in {path}")
    for name, value in found.items():
        if not isinstance(name, str) or not name.isprintable():
            raise RefusedError(f"expected printable names of tensors in {path}, got {name!r}")
        if type(value) not in {Tensor, torch.nn.Parameter} or value.layout != torch.strided:
            raise RefusedError(f"expected a tensor {name!r} in {path}, got {type(value).__name__}")
        if value.nbytes > value.untyped_storage().nbytes() or not value.is_floating_point():
            raise RefusedError(
                f"expected floats in {name!r} of {path}, as many as it stores, got {value.dtype} "
                f"{tuple(value.shape)}"
            )
    return found


# descriptions


def _description(path: pathlib.Path) -> dict[str, Any]:
    """Read what `write_prompt` says of a `.safetensors` file; empty where nothing is said."""
    beside = path.with_suffix(".json")
    if path.suffix != ".safetensors" or not beside.exists():
        return {}
    if beside.is_dir():
        raise RefusedError(
            f"expected a file that describes {path}, got the folder {beside}; move it away"
        )
    read_bounded(beside, _MAX_DESCRIPTION)
    try:
        said = read_document(beside, SCHEMA)
    except InputError as error:
        raise RefusedError(str(error)) from error
    names, position = said.get("class_names"), said.get("position")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RefusedError(f"expected class_names, a list of texts, in {beside}, got {names!r:.80}")
    if position not in list(Position):
        raise RefusedError(
            f"expected position as one of {[*map(str, Position)]} in {beside}, got {position!r:.80}"
        )
    return said


def _check_names(said: Mapping[str, Any], class_names: Sequence[str], where: str) -> None:
    tuned = said.get("class_names")
    if tuned is None or list(class_names) == tuned:
        return
    differ = [i for i, (a, b) in enumerate(zip(class_names, tuned, strict=False)) if a != b]
    first = f"; the first difference is at {differ[0]}" if differ else ""
    raise InputError(
        f"expected the {len(tuned)} classes that {where} was tuned for, in the same order, got "
        f"{len(class_names)} names{first}: {json.dumps(tuned[:5])} in the description, "
        f"{json.dumps(list(class_names[:5]))} given"
    )


def _position(said: Mapping[str, Any], asked: Position | None, where: str) -> Position:
    told = said.get("position")
    if asked is not None and told not in {None, asked}:
        raise InputError(
            f"expected the position {told!r}, as the description of {where} says, got "
            f"{asked.value!r}; ask the provider which one is right, and correct the other"
        )
    return Position(told or asked or Position.END)


def _check_wording(said: Mapping[str, Any], wording: Wording, where: str) -> None:
    """Check that a description says of the prompts what is used."""
    position = wording.position.value
    used = {"context": wording.context, "position": position, "template": wording.template}
    for name, value in used.items():
        told = said.get(name, value)
        if told != value:
            raise RefusedError(
                f"expected {name} as {told!r:.80} in {where}, as described, got {value!r}"
            )


def _compared(
    stored: Tensor | None, backbone: Backbone, class_names: Sequence[str], where: str
) -> list[str]:
    """Compare the names that were given with the embedded ones that a checkpoint holds.

    Raises:
        InputError: there are more or fewer, or another order.
    """
    if stored is None:
        return []
    if stored.ndim != 3:
        raise InputError(
            f"expected {_SUFFIX!r} in {where} as (classes, tokens, width), got "
            f"{tuple(stored.shape)}"
        )
    if len(stored) != len(class_names):
        raise InputError(
            f"expected the {len(stored)} classes that {where} was tuned for, got "
            f"{len(class_names)} names"
        )
    with torch.no_grad():
        laid = lay_out(backbone, class_names, Wording())
    same = _same_tokens(stored, laid)
    wrong = [i for i, fits in enumerate(same.diagonal().tolist()) if not fits]
    if not same.any():
        return [
            "The prompt's file holds the embedded names of its classes, and none of them is one of "
            "yours: either the names or the backbone are not those that it was tuned for."
        ]
    if wrong:
        first = wrong[0]
        theirs = [class_names[i] for i in same[first].nonzero().flatten().tolist()]
        raise InputError(
            f"expected the classes that {where} was tuned for, in the same order: class {first} is "
            f"{json.dumps(class_names[first])} in your list, and "
            f"{json.dumps(theirs[0]) if theirs else 'none of your names'} in the prompt"
        )
    return []


def _same_tokens(stored: Tensor, laid: Laid) -> Tensor:
    """Tell which stored classes (rows) start with the tokens of which names (columns)."""
    same = torch.zeros(len(stored), len(laid.ends), dtype=torch.bool)
    for column, end in enumerate(laid.ends.tolist()):
        wanted = laid.embedded[column, 1 : end + 1].float()
        if wanted.shape[0] <= stored.shape[1] and wanted.shape[1] == stored.shape[2]:
            apart = (stored[:, : len(wanted)] - wanted).flatten(1).norm(dim=1)
            same[:, column] = apart <= _ALIKE * wanted.norm()
    return same


def _notes(skipped: Sequence[str], said: Mapping[str, Any], backbone: str) -> list[str]:
    notes = []
    if skipped:
        notes.append(
            f"The prompt's file also holds {len(skipped)} tensors of a backbone, such as "
            f"{skipped[0]}: they were not read, the backbone that you named is what was looked at."
        )
    tuned_on = said.get("backbone")
    if tuned_on is not None and tuned_on != backbone:
        notes.append(
            f"The prompt says that it was tuned on a backbone with SHA-256 {str(tuned_on)[:64]!a}; "
            f"yours has {backbone}."
        )
    return notes
