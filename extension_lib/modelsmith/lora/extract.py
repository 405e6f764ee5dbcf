"""Extracts a LoRA from the difference of two checkpoints, tensor by tensor."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from modelsmith.errors import Cancelled, MergeError
from modelsmith.files.dtypes import OUTPUT_LABELS
from modelsmith.files.header import FileHeader, read_header
from modelsmith.files.tensors import TensorSource, open_tensors
from modelsmith.identify.recipe_file import with_weights
from modelsmith.lora.bake import rounded
from modelsmith.lora.factorise import RankChoice, factorise
from modelsmith.lora.kohya import LoraFacts, lora_metadata
from modelsmith.lora.saving import save_tensors
from modelsmith.lora.stack import FLOATING
from modelsmith.lora.targets import DIFFUSION, Target, TargetIndex, rows_of

if TYPE_CHECKING:
    import torch

Components = Literal["all", "unet", "text"]

# Looked up by row, not multiplied with: no program applies a LoRA to them.
_TABLES = ("token_embedding", "position_embedding", "pos_embed", "shared", "embed_tokens", "relative_attention_bias")


@dataclass(frozen=True)
class ExtractRequest:
    """One extraction: what has to be baked into ``base`` to come near ``tuned``.

    linear, conv: how ranks are chosen for linear layers and 1 × 1 convolutions, and for larger kernels; None leaves
    those out. differences: also keep what no low rank can carry (biases, norms) as full differences.
    threshold: modules whose largest change is below it are left out, as trained text encoders often hardly differ.
    """

    base: Path
    tuned: Path
    output: Path
    linear: RankChoice | None
    conv: RankChoice | None = None
    components: Components = "all"
    differences: bool = False
    threshold: float = 0.0
    dtype: str = "fp16"
    overwrite: bool = False


@dataclass(frozen=True)
class ExtractResult:
    """A finished extraction.

    modules: how many were written. energy: the kept share of the sum of squares of all extracted differences.
    left_out: tensors that differ but are not in the LoRA. missing: keys that only one checkpoint has.
    """

    path: Path
    sha256: str | None
    bytes: int
    seconds: float
    modules: int
    energy: float
    ranks: tuple[int, ...]
    left_out: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass
class _Tally:
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)  # pyright: ignore[reportUnknownVariableType]
    left_out: list[str] = field(default_factory=list[str])
    ranks: list[int] = field(default_factory=list[int])
    square: float = 0.0
    kept: float = 0.0


def extract(
    request: ExtractRequest,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> ExtractResult:
    """Write the LoRA. Inputs are read once, one tensor at a time; the LoRA itself is held until it is written.

    progress: called with modules done and in all. Raises BadFileError, MergeError for models of different
    architectures or shapes or without a difference, UsageError, Cancelled.
    """
    begun = time.monotonic()
    for choice in (request.linear, request.conv):
        if choice is not None:
            choice.checked()
    base, tuned = with_weights(read_header(request.base)), with_weights(read_header(request.tuned))
    architecture, prediction = _identified(base, tuned)
    names = _names_in(tuned, base)
    tally = _Tally()
    with open_tensors(base) as first, open_tensors(tuned) as second:
        targets = [target for slot, target in TargetIndex(base).canonical if _wanted(slot, request.components)]
        for number, target in enumerate(targets):
            if cancelled is not None and cancelled():
                raise Cancelled
            _take(request, target, (first, second), names, tally)
            if progress is not None:
                progress(number + 1, len(targets))
        first.check_unchanged()
        second.check_unchanged()
    if not tally.tensors:
        raise MergeError(
            f"{tuned.path.name} does not differ from {base.path.name} in anything that a LoRA can carry",
            "Check that the right files were given",
        )
    facts = LoraFacts(architecture, prediction, _common(request.linear), _common(request.conv), request.output.stem)
    written = save_tensors(request.output, tally.tensors, lora_metadata(facts), overwrite=request.overwrite)
    return ExtractResult(
        written.path,
        written.sha256,
        written.bytes,
        time.monotonic() - begun,
        len(tally.ranks),
        tally.kept / tally.square if tally.square else 1.0,
        tuple(tally.ranks),
        tuple(dict.fromkeys(tally.left_out)),
        tuple(_missing(base, names)),
    )


def _identified(base: FileHeader, tuned: FileHeader) -> tuple[str | None, str]:
    """The architecture of both, and what the tuned model predicts. Raises MergeError where they differ in kind."""
    from modelsmith.identify import identify_header

    ours, theirs = identify_header(base), identify_header(tuned)
    if ours.architecture and theirs.architecture and ours.architecture != theirs.architecture:
        raise MergeError(
            f"{base.path.name} is {ours.architecture} and {tuned.path.name} is {theirs.architecture}",
            "Extract from two models of one architecture",
        )
    return ours.architecture, theirs.prediction.type


def _common(choice: RankChoice | None) -> int | None:
    return choice.rank if choice is not None and choice.energy is None else None


def _wanted(slot: int, components: Components) -> bool:
    return components == "all" or (slot == DIFFUSION) == (components == "unet")


def _names_in(tuned: FileHeader, base: FileHeader) -> dict[str, str]:
    """The tuned model's name for each of the base's, where one has the diffusion model's prefix and the other not."""
    ours, theirs = TargetIndex(base).prefix, TargetIndex(tuned).prefix
    names: dict[str, str] = {}
    for name in base.tensors:
        other = name
        if name not in tuned.tensors and ours is not None and theirs is not None and name.startswith(ours):
            other = theirs + name[len(ours) :]
        if other in tuned.tensors:
            names[name] = other
    return names


def _missing(base: FileHeader, names: dict[str, str]) -> Iterator[str]:
    skipped = ("first_stage_model.", "vae.", "model_ema.")
    return (name for name in base.tensors if name not in names and not name.startswith(skipped))


def _difference(key: str, sources: tuple[TensorSource, TensorSource], names: dict[str, str]) -> torch.Tensor | None:
    """Tuned less base in fp32; None where the tuned model lacks the tensor or its values are no floats.

    Raises MergeError where shapes differ.
    """
    import torch

    base, tuned = sources
    other = names.get(key)
    if other is None:
        return None
    ours, theirs = base.header.tensors[key], tuned.header.tensors[other]
    if ours.dtype not in FLOATING or theirs.dtype not in FLOATING:
        return None
    if ours.shape != theirs.shape:
        raise MergeError(
            f"tensor {key!r} has shape {list(ours.shape)} in {base.header.path.name} and {list(theirs.shape)} in "
            f"{tuned.header.path.name}",
            "Extract from two models with the same layers",
        )
    difference = tuned.load(other).to(torch.float32) - base.load(key).to(torch.float32)
    if not bool(torch.isfinite(difference).all()):
        raise MergeError(f"tensor {key!r} holds NaN or infinity in one of the models", "Repair that model first")
    return difference


def _take(
    request: ExtractRequest,
    target: Target,
    sources: tuple[TensorSource, TensorSource],
    names: dict[str, str],
    tally: _Tally,
) -> None:
    """Factorise the difference of one module and note what is left out."""
    for key, bias in ((target.weight, False), (target.bias, True)):
        difference = _difference(key, sources, names) if key is not None else None
        if key is None or difference is None:
            continue
        largest = float(difference.abs().max()) if difference.numel() else 0.0
        if largest == 0 or largest <= request.threshold:
            continue
        part = difference
        if target.part.kind == "qkv":
            width = sources[0].header.tensors[target.weight or key].shape[-1]
            start, rows = rows_of(target.part, part.shape[0], width)
            part = part[start : start + rows]
            if not bool(part.any()):
                continue
        elif target.part.kind == "transpose":
            part = part.T
        choice = None if bias or part.dim() < 2 else _choice(request, part)
        if choice is not None and not target.kohya.endswith(_TABLES):
            _factor(request, target.kohya, part, choice, tally)
        elif request.differences:
            role = "diff_b" if bias else "diff"
            tally.tensors[f"{target.kohya}.{role}"] = rounded(part.contiguous(), OUTPUT_LABELS[request.dtype])
        else:
            tally.left_out.append(key)


def _choice(request: ExtractRequest, part: torch.Tensor) -> RankChoice | None:
    large = part.dim() > 2 and any(size > 1 for size in part.shape[2:])
    return request.conv if large else request.linear


def _factor(request: ExtractRequest, name: str, part: torch.Tensor, choice: RankChoice, tally: _Tally) -> None:
    import torch

    kernel = tuple(part.shape[2:])
    made = factorise(part.reshape(part.shape[0], -1), choice, choice.seed ^ zlib.crc32(name.encode()))
    square = float(part.double().square().sum())
    tally.square += square
    tally.kept += made.energy * square
    tally.ranks.append(made.rank)
    kind = OUTPUT_LABELS[request.dtype]
    ones = (1,) * len(kernel)
    tally.tensors[f"{name}.lora_down.weight"] = rounded(made.down.reshape(made.rank, part.shape[1], *kernel), kind)
    tally.tensors[f"{name}.lora_up.weight"] = rounded(made.up.reshape(part.shape[0], made.rank, *ones), kind)
    tally.tensors[f"{name}.alpha"] = torch.tensor(float(made.rank))  # fp32: a rank must stay exact
