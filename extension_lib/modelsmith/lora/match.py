"""Puts the modules of a LoRA to the tensors of a checkpoint, and says which found none and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from modelsmith.errors import MergeError
from modelsmith.lora.naming import Part
from modelsmith.lora.parse import LoraFile, LoraModule
from modelsmith.lora.shapes import produced
from modelsmith.lora.targets import ANYWHERE, DIFFUSION, Target, TargetIndex, rows_of

_WEIGHT_ROLES = frozenset({"diff", "set_weight", "w_norm"})
_BIAS_ROLES = ("diff_b", "b_norm")
_TEXT_ENCODERS = {1: "first", 2: "second", 3: "third"}


class OtherArchitectureError(MergeError):
    """A LoRA that was made for another architecture than the checkpoint's."""


@dataclass(frozen=True)
class Match:
    """One module and what it changes.

    weight, bias: keys of the checkpoint, None where the module leaves it alone. start, rows: the rows that are meant,
    of weight and bias alike.
    """

    module: LoraModule
    weight: str | None
    bias: str | None
    part: Part
    start: int
    rows: int


@dataclass(frozen=True)
class MatchReport:
    """How one LoRA fits one checkpoint. unmatched: module or tensor name to the reason."""

    path: Path
    matches: tuple[Match, ...]
    unmatched: Mapping[str, str]

    @property
    def modules(self) -> int:
        """How many modules found their tensor."""
        return len({match.module.name for match in self.matches})


def match_lora(file: LoraFile, index: TargetIndex, architecture: str | None) -> MatchReport:
    """Find the target of every module.

    architecture: the checkpoint's, to refuse LoRAs of another one by name; None leaves that to the shapes. A LoRA of
    which every module has its place and shape is never refused: then it fits, whatever its file looks like.
    Raises MergeError for a wrong architecture, a shape that does not fit, or a LoRA of which nothing matches.
    """
    matches: list[Match] = []
    unmatched: dict[str, str] = {}
    for module in file.modules:
        target = index.find(module.slot, module.flat_name)
        try:
            found = _reason(module, index) if target is None else _match(file, module, target, index)
        except MergeError:
            _check_architecture(file, architecture, index.header.path)
            raise
        if isinstance(found, str):
            unmatched[module.name] = found
            continue
        matches.append(found)
        if found.bias is None and any(role in module.tensors for role in _BIAS_ROLES):
            unmatched[module.tensors[_bias_role(module)]] = "the checkpoint's module has no bias"
    if unmatched:
        _check_architecture(file, architecture, index.header.path)
    for name in file.leftover:
        unmatched[name] = "no kind of LoRA tensor that is known here"
    if not matches:
        some = ", ".join(list(unmatched)[:3])
        raise MergeError(
            f"{file.path.name}: none of its {len(file.modules)} modules is in {index.header.path.name} ({some} …)",
            "The LoRA is for another kind of model",
        )
    return MatchReport(file.path, tuple(matches), unmatched)


def _check_architecture(file: LoraFile, architecture: str | None, checkpoint: Path) -> None:
    """Raise MergeError, naming both, where the LoRA was made for another architecture than the checkpoint's.

    Nothing is said where either cannot be told.
    """
    from modelsmith.identify import identify_header

    if architecture is None:
        return
    found = identify_header(file.header)
    fits = (found.architecture,) if found.architecture else found.candidates
    if fits and architecture not in fits:
        raise OtherArchitectureError(
            f"{file.path.name} was made for {' or '.join(fits)}, but {checkpoint.name} is {architecture}",
            "Choose a LoRA for this architecture",
        )


def _reason(module: LoraModule, index: TargetIndex) -> str:
    if module.slot == DIFFUSION:
        return "the checkpoint has no such module" if index.prefix is not None else "the file has no diffusion model"
    if module.slot == ANYWHERE or module.slot in index.text_slots:
        return "the checkpoint has no such module"
    return f"the checkpoint has no {_TEXT_ENCODERS[module.slot]} text encoder"


def _bias_role(module: LoraModule) -> str:
    return next(role for role in _BIAS_ROLES if role in module.tensors)


def _match(file: LoraFile, module: LoraModule, target: Target, index: TargetIndex) -> Match | str:
    tensors = index.header.tensors
    changes_weight = module.algebra != "full" or bool(module.tensors.keys() & _WEIGHT_ROLES)
    weight = target.weight if changes_weight else None
    bias = target.bias if any(role in module.tensors for role in _BIAS_ROLES) else None
    if weight is None and changes_weight:
        return "the checkpoint's module has no weight"
    anchor = target.weight or target.bias
    if anchor is None or (weight is None and bias is None):
        return "the checkpoint's module has no bias"
    shape = tensors[anchor].shape
    if target.part.kind == "transpose":
        shape = tuple(reversed(shape))
    start, rows = rows_of(target.part, shape[0] if shape else 1, prod(shape[1:]))
    match = Match(module, weight, bias, target.part, start, rows)
    _check_shapes(file, match, shape, index)
    return match


def _check_shapes(file: LoraFile, match: Match, shape: tuple[int, ...], index: TargetIndex) -> None:
    """Raise MergeError, with the tensor's name and both shapes, where a module does not fit its target."""
    module = match.module
    shapes = {role: file.info(module, role).shape for role in module.tensors}
    if match.weight is not None:
        made = produced(module.algebra, shapes)
        inner = prod(shape[1:])
        if made is None:
            raise MergeError(
                f"{file.path}: the factors of {module.name!r} do not fit each other ("
                + ", ".join(f"{role} {list(each)}" for role, each in shapes.items() if role != "alpha")
                + ")",
                "The LoRA is damaged or of a form that is not known",
            )
        if made[0] != match.rows or made[1] not in (0, inner):
            raise MergeError(
                f"{file.path.name}: {module.name!r} makes {made[0]} × {made[1] or inner} values, but "
                f"{match.weight!r} of {index.header.path.name} has {match.rows} × {inner}"
                + (f" there (part of {list(shape)})" if match.rows != shape[0] else f" ({list(shape)})"),
                "The LoRA was made for another model",
            )
    magnitude = shapes.get("dora_scale")
    if match.weight is not None and magnitude is not None and prod(magnitude) not in (match.rows, *shape[1:2]):
        raise MergeError(
            f"{file.path.name}: {module.tensors['dora_scale']!r} has {prod(magnitude)} values, which is neither the "
            f"{match.rows} rows nor the columns of {match.weight!r} in {index.header.path.name}",
            "The LoRA was made for another model",
        )
    for role in _BIAS_ROLES if match.bias is not None else ():
        if role in shapes and prod(shapes[role]) != match.rows:
            raise MergeError(
                f"{file.path.name}: {module.tensors[role]!r} has {prod(shapes[role])} values, but {match.bias!r} of "
                f"{index.header.path.name} takes {match.rows}",
                "The LoRA was made for another model",
            )
