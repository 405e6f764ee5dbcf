"""Extracts a LoRA from the difference of two checkpoints, tensor by tensor."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from modelsmith.devices import find_gpu, full_precision
from modelsmith.errors import BadFileError, Cancelled, MergeError, UsageError
from modelsmith.files.dtypes import OUTPUT_LABELS, count, dtype
from modelsmith.files.header import FileHeader, read_header
from modelsmith.identify.recipe_file import with_weights
from modelsmith.lora.bake import rounded
from modelsmith.lora.factorise import RankChoice, factorise_on
from modelsmith.lora.kohya import LoraFacts, lora_metadata
from modelsmith.lora.saving import check_output, save_tensors
from modelsmith.lora.stack import FLOATING
from modelsmith.lora.targets import DIFFUSION, Target, TargetIndex, rows_of
from modelsmith.merge.weights import WeightSource, plain_view

if TYPE_CHECKING:
    import torch

Components = Literal["all", "unet", "text"]

_ALPHA_BYTES = 4  # one fp32 number beside each pair of factors

# Looked up by row, not multiplied with: no program applies a LoRA to them.
_TABLES = ("token_embedding", "position_embedding", "pos_embed", "shared", "embed_tokens", "relative_attention_bias")


@dataclass(frozen=True)
class ExtractRequest:
    """One extraction: what has to be baked into ``base`` to come near ``tuned``.

    linear, conv: how ranks are chosen for linear layers and 1 × 1 convolutions, and for larger kernels; None leaves
    those out. differences: also keep what no low rank can carry (biases, norms) as full differences.
    threshold: modules whose largest change is below it are left out, as trained text encoders often hardly differ.
    device: where the decompositions are done: ``cpu``, ``cuda``, ``cuda:N``, or ``auto`` for a GPU where there is one.
    A GPU may round a last bit otherwise.
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
    device: str = "cpu"


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


@dataclass(frozen=True)
class ExtractPlan:
    """What an extraction will do, from headers alone.

    architecture: None where it cannot be told. modules: how many may be written, those that turn out not to differ
    among them. most_bytes: of the LoRA's tensors, where all of them get their full rank. missing: keys of the base that
    the tuned model lacks.
    """

    request: ExtractRequest
    architecture: str | None
    prediction: str
    modules: int
    most_bytes: int
    missing: tuple[str, ...]


@dataclass
class _Tally:
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)  # pyright: ignore[reportUnknownVariableType]
    left_out: list[str] = field(default_factory=list[str])
    ranks: list[int] = field(default_factory=list[int])
    square: float = 0.0
    kept: float = 0.0


class _Pair:
    """Both checkpoints as their headers show them, quantised tensors under the shapes that they decode to."""

    def __init__(self, request: ExtractRequest) -> None:
        stored = [with_weights(read_header(path)) for path in (request.base, request.tuned)]
        self.views = [plain_view(header) for header in stored]
        self.base, self.tuned = (view.header for view in self.views)
        self._stored = stored
        self.architecture, self.prediction = _identified(stored[0], stored[1])
        self.names = _names_in(self.tuned, self.base)
        self.targets = [
            target
            for slot, target in TargetIndex(self.base).canonical
            if _wanted(slot, request.components) and any(key in self.names for key in (target.weight, target.bias))
        ]

    def open(self) -> tuple[WeightSource, WeightSource]:
        """Both for reading their values. Raises BadFileError."""
        first = WeightSource(self._stored[0], self.views[0])
        try:
            return first, WeightSource(self._stored[1], self.views[1])
        except BadFileError:
            first.close()
            raise

    def check_shapes(self) -> None:
        """Raise MergeError with the first tensor whose shapes differ."""
        for target in self.targets:
            for key in (target.weight, target.bias):
                other = self.names.get(key) if key is not None else None
                if key is None or other is None:
                    continue
                ours, theirs = self.base.tensors[key].shape, self.tuned.tensors[other].shape
                if ours != theirs:
                    raise MergeError(
                        f"tensor {key!r} has shape {list(ours)} in {self.base.path.name} and {list(theirs)} in "
                        f"{self.tuned.path.name}",
                        "Extract from two models with the same layers",
                    )


def plan_extract(request: ExtractRequest) -> ExtractPlan:
    """Check an extraction as far as headers tell, and say what it will come to.

    Raises BadFileError, MergeError for models of different architectures or shapes, UsageError, NoSpaceError.
    """
    return _planned(request, _Pair(request))


def _planned(request: ExtractRequest, pair: _Pair) -> ExtractPlan:
    for choice in (request.linear, request.conv):
        if choice is not None:
            choice.checked()
    if request.dtype not in OUTPUT_LABELS:
        raise UsageError(f"unknown precision {request.dtype!r}", f"Known: {', '.join(OUTPUT_LABELS)}")
    pair.check_shapes()
    sizes = [size for target in pair.targets if (size := _most_bytes(request, target, pair.base))]
    check_output(request.output, (request.base, request.tuned), overwrite=request.overwrite, size=sum(sizes))
    missing = tuple(_missing(pair.base, pair.names))
    return ExtractPlan(request, pair.architecture, pair.prediction, len(sizes), sum(sizes), missing)


def _most_bytes(request: ExtractRequest, target: Target, base: FileHeader) -> int:
    """Bytes of a module's factors at their full rank; 0 where it gets none."""
    if target.weight is None or target.kohya.endswith(_TABLES):
        return 0
    shape = base.tensors[target.weight].shape
    choice = _choice(request, shape)
    if choice is None:
        return 0
    rows, columns = shape[0], prod(shape[1:])
    if target.part.kind == "qkv":
        rows = rows_of(target.part, rows, columns)[1]
    width = dtype(OUTPUT_LABELS[request.dtype]).itemsize
    return width * min(choice.rank, rows, columns) * (rows + columns) + _ALPHA_BYTES


def extract(
    request: ExtractRequest,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> ExtractResult:
    """Write the LoRA. Inputs are read once, one tensor at a time, decoded where they are quantised; the LoRA itself is
    held until it is written.

    progress: called with the values looked at so far and all of them. Raises BadFileError, MergeError for models of
    different architectures or shapes or without a difference, UsageError, NoSpaceError, Cancelled.
    """
    begun = time.monotonic()
    pair, tally = _Pair(request), _Tally()
    plan = _planned(request, pair)
    device = find_gpu(request.device)
    total = sum(_values(target, pair.base) for target in pair.targets)
    with ExitStack() as stack:
        sources = pair.open()
        for source in sources:
            stack.enter_context(source)
        stack.enter_context(full_precision())
        done = 0
        for target in pair.targets:
            if cancelled is not None and cancelled():
                raise Cancelled
            _take(_Work(request, device), target, sources, pair.names, tally)
            done += _values(target, pair.base)
            if progress is not None:
                progress(done, total)
        for source in sources:
            source.check_unchanged()
    if not tally.tensors:
        raise MergeError(
            f"{request.tuned.name} does not differ from {request.base.name} in anything that a LoRA can carry",
            "Check that the right files were given",
        )
    facts = LoraFacts(
        plan.architecture, plan.prediction, _common(request.linear), _common(request.conv), request.output.stem
    )
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
        plan.missing,
    )


def _values(target: Target, base: FileHeader) -> int:
    """How much of the work a module is, in values read."""
    return sum(count(base.tensors[key].shape) for key in (target.weight, target.bias) if key is not None)


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


def _difference(key: str, sources: tuple[WeightSource, WeightSource], names: dict[str, str]) -> torch.Tensor | None:
    """Tuned less base in fp32; None where the tuned model lacks the tensor or its values are no floats.

    Raises MergeError where values are not finite.
    """
    import torch

    base, tuned = sources
    other = names.get(key)
    if other is None:
        return None
    if base.header.tensors[key].dtype not in FLOATING or tuned.header.tensors[other].dtype not in FLOATING:
        return None
    difference = tuned.load(other).to(torch.float32) - base.load(key).to(torch.float32)
    if not bool(torch.isfinite(difference).all()):
        raise MergeError(f"tensor {key!r} holds NaN or infinity in one of the models", "Repair that model first")
    return difference


@dataclass(frozen=True)
class _Work:
    """What is asked for, and where the decompositions are done: None is the CPU."""

    request: ExtractRequest
    device: torch.device | None


def _take(
    work: _Work,
    target: Target,
    sources: tuple[WeightSource, WeightSource],
    names: dict[str, str],
    tally: _Tally,
) -> None:
    """Factorise the difference of one module and note what is left out."""
    request = work.request
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
        choice = None if bias else _choice(request, tuple(part.shape))
        if choice is not None and not target.kohya.endswith(_TABLES):
            _factor(work, target.kohya, part, choice, tally)
        elif request.differences:
            role = "diff_b" if bias else "diff"
            tally.tensors[f"{target.kohya}.{role}"] = rounded(part.contiguous(), OUTPUT_LABELS[request.dtype])
        else:
            tally.left_out.append(key)


def _choice(request: ExtractRequest, shape: tuple[int, ...]) -> RankChoice | None:
    """How the rank of a weight of this shape is chosen; None where it gets no factors."""
    if len(shape) < 2:
        return None
    large = any(size > 1 for size in shape[2:])
    return request.conv if large else request.linear


def _factor(work: _Work, name: str, part: torch.Tensor, choice: RankChoice, tally: _Tally) -> None:
    import torch

    kernel = tuple(part.shape[2:])
    seed = choice.seed ^ zlib.crc32(name.encode())
    made = factorise_on(work.device, part.reshape(part.shape[0], -1), choice, seed)
    square = float(part.double().square().sum())
    tally.square += square
    tally.kept += made.energy * square
    tally.ranks.append(made.rank)
    kind = OUTPUT_LABELS[work.request.dtype]
    ones = (1,) * len(kernel)
    tally.tensors[f"{name}.lora_down.weight"] = rounded(made.down.reshape(made.rank, part.shape[1], *kernel), kind)
    tally.tensors[f"{name}.lora_up.weight"] = rounded(made.up.reshape(part.shape[0], made.rank, *ones), kind)
    tally.tensors[f"{name}.alpha"] = torch.tensor(float(made.rank))  # fp32: a rank must stay exact
