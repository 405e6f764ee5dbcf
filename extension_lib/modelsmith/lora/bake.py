"""Bakes LoRAs into a checkpoint: one pass over its tensors, a piece at a time, one rounding to the output's type."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, cast

from modelsmith.convert.nodes import Kept, Node
from modelsmith.devices import full_precision
from modelsmith.errors import MergeError, UsageError
from modelsmith.files.dtypes import OUTPUT_LABELS, count, dtype, torch_dtype
from modelsmith.files.header import FileHeader, read_header
from modelsmith.identify.recipe_file import with_weights
from modelsmith.lora.match import MatchReport
from modelsmith.lora.saving import check_output
from modelsmith.lora.stack import FLOATING, LoraSpec, LoraStack

if TYPE_CHECKING:
    import torch

METADATA_KEY = "modelsmith_loras"
RUN = 1 << 17
"""Values that are worked on at once where a tensor can go row by row, about: 1 MiB in fp64."""

_QUANTISED = (".scale_weight", ".weight_scale", ".comfy_quant", ".absmax", "scaled_fp8")
_STALE = ("modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash")


@dataclass(frozen=True)
class BakeRequest:
    """One bake. dtype: ``fp32``, ``fp16``, ``bf16`` for every floating tensor, or None to keep each as it is.

    any_architecture: apply LoRAs of another architecture where their shapes happen to fit. strict: stop where any
    module matches nothing.
    """

    model: Path
    loras: tuple[LoraSpec, ...]
    output: Path
    dtype: str | None = None
    overwrite: bool = False
    any_architecture: bool = False
    strict: bool = False


@dataclass(frozen=True)
class BakeResult:
    """A finished bake. changed: how many tensors differ from the checkpoint's; reports: one per LoRA, in order."""

    path: Path
    sha256: str | None
    bytes: int
    seconds: float
    changed: int
    reports: tuple[MatchReport, ...]


@dataclass(frozen=True)
class BakePlan:
    """What a bake will do, from headers alone. changed: tensors that will differ from the checkpoint's. bytes: of all
    tensors of the output. reports: one per LoRA, in order.
    """

    request: BakeRequest
    changed: int
    bytes: int
    reports: tuple[MatchReport, ...]


def plan_bake(request: BakeRequest) -> BakePlan:
    """Check a bake as far as headers tell, and say what it will come to. Raises as ``bake`` does."""
    header = with_weights(read_header(request.model))
    with _stack(request, header) as stack:
        return _planned(request, header, stack)


def _planned(request: BakeRequest, header: FileHeader, stack: LoraStack) -> BakePlan:
    _check_strict(request, stack)
    size = sum(
        dtype(_output_type(info.dtype, request.dtype)).itemsize * count(info.shape) for info in header.tensors.values()
    )
    sources = (request.model, *(spec.path for spec in request.loras))
    check_output(request.output, sources, overwrite=request.overwrite, size=size)
    return BakePlan(request, len(stack.keys), size, stack.reports)


def bake(
    request: BakeRequest,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> BakeResult:
    """Write ``request.model`` with the LoRAs in it, by several threads; the bytes do not depend on their number.

    progress: called with bytes done and in all. Raises BadFileError, MergeError, UsageError, NoSpaceError or Cancelled;
    the output then does not exist, or is the old one.
    """
    from modelsmith.convert.casts import LossBook
    from modelsmith.convert.model import open_model
    from modelsmith.convert.rounding import Cast
    from modelsmith.convert.write import WriteOptions, write_model

    begun = time.monotonic()
    with open_model(request.model) as model, _stack(request, model.header) as stack, full_precision():
        plan = _planned(request, model.header, stack)
        book = LossBook()
        for name, node in model.tensors.items():
            kind = _output_type(node.dtype, request.dtype)
            if stack.touches(name):
                model.tensors[name] = Baked(stack, node, name, kind)
            elif kind != node.dtype:
                model.tensors[name] = Cast(node, kind, book, name)
        model.metadata = bake_metadata(model.header, stack)
        options = WriteOptions(overwrite=request.overwrite, progress=progress, cancelled=cancelled)
        written = write_model(model, request.output, book, options)
        stack.check_unchanged()
    spent = time.monotonic() - begun
    return BakeResult(written.path, written.sha256, written.bytes_out, spent, plan.changed, plan.reports)


def _stack(request: BakeRequest, header: FileHeader) -> LoraStack:
    """The LoRAs over the checkpoint. Raises UsageError, and MergeError where they cannot be baked into it."""
    from modelsmith.identify import identify_header

    _check(request, header)
    architecture = identify_header(header).architecture
    return LoraStack(request.loras, header, architecture=architecture, any_architecture=request.any_architecture)


class Baked:
    """A tensor with the LoRAs on it, as ``convert`` writes tensors: a node that computes what is read.

    The arithmetic is in fp64 with one rounding: sums of a LoRA's products are off by their own size, and what is added
    to may nearly cancel them. Where every row changes without regard to the others, the rows are computed in runs that
    fit the processor's cache; else the whole tensor is, once for all who read it.
    """

    def __init__(self, stack: LoraStack, inner: Node, key: str, kind: str) -> None:
        self.dtype = kind
        self.shape = inner.shape
        self._stack = stack
        self._inner = inner
        self._key = key
        rows = stack.separable(key) and bool(inner.shape)
        self._whole = None if rows else Kept(self._compute, count(inner.shape))

    def read(self, first: int, elements: int) -> torch.Tensor:
        """``elements`` values from the ``first`` on, flat, in the node's type."""
        import torch

        out = torch.empty(elements, dtype=torch_dtype(self.dtype))
        self.read_into(first, out)
        return out

    def read_into(self, first: int, out: torch.Tensor) -> None:
        """Put the values from the ``first`` on into a flat tensor of the node's type."""
        if self._whole is not None:
            out.copy_(self._whole.value()[first : first + len(out)])
            self._whole.used(len(out))
            return
        row = max(1, prod(self.shape[1:]))
        step, last = max(1, RUN // row), first + len(out)
        for start in range(first // row, -(-last // row), step):
            end = min(start + step, -(-last // row))
            values = self._rows(start, end, row)
            begin, stop = max(first, start * row), min(last, end * row)
            out[begin - first : stop - first] = rounded(values[begin - start * row : stop - start * row], self.dtype)

    def _rows(self, start: int, end: int, row: int) -> torch.Tensor:
        import torch

        values = self._inner.read(start * row, (end - start) * row).to(torch.float64)
        rows = values.reshape(end - start, *self.shape[1:])
        return self._stack.apply_rows(self._key, rows, start).reshape(-1)

    def _compute(self) -> torch.Tensor:
        import torch

        values = self._inner.read(0, count(self.shape)).to(torch.float64).reshape(self.shape)
        return rounded(self._stack.apply(self._key, values), self.dtype).reshape(-1)


def _check(request: BakeRequest, header: FileHeader) -> None:
    if not request.loras:
        raise UsageError("no LoRA was given", "Add one with -l FILE:STRENGTH")
    if header.format == "gguf":
        raise MergeError(
            f"{header.path} is a GGUF file, whose values are quantised", "Convert it to .safetensors first"
        )
    if request.dtype is not None and request.dtype not in OUTPUT_LABELS:
        raise UsageError(f"unknown precision {request.dtype!r}", f"Known: {', '.join(OUTPUT_LABELS)}")
    if request.dtype and any(name.endswith(_QUANTISED) for name in header.tensors):
        raise MergeError(
            f"{header.path} holds quantised tensors, whose scales a change of precision would break",
            "Convert it with `modelsmith convert` first",
        )


def _check_strict(request: BakeRequest, stack: LoraStack) -> None:
    lost = [(report.path.name, name) for report in stack.reports for name in report.unmatched]
    if request.strict and lost:
        raise MergeError(
            f"{len(lost)} modules match nothing in {request.model.name}: "
            + ", ".join(f"{file}: {name}" for file, name in lost[:5])
            + (" …" if len(lost) > 5 else ""),
            "Leave out --strict to go on without them",
        )


def _output_type(stored: str, wanted: str | None) -> str:
    return OUTPUT_LABELS[wanted] if wanted and stored in FLOATING else stored


def rounded(tensor: torch.Tensor, dtype_name: str) -> torch.Tensor:
    """The values in the output's type, rounded once to nearest; fp8 saturates at its largest value as on hardware."""
    import torch

    kind = torch_dtype(dtype_name)
    if dtype_name.startswith("F8_"):
        limit = torch.finfo(kind).max
        tensor = tensor.clamp(-limit, limit)
    return tensor.to(kind)


def file_sha256(path: Path) -> str:
    """SHA-256 of a (small) file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def lora_records(stack: LoraStack) -> list[dict[str, object]]:
    """What a recipe says of the LoRAs: name, hash, strength, block weights, how many modules took effect."""
    return [
        {
            "name": spec.path.name,
            "sha256": file_sha256(spec.path),
            "strength": spec.strength,
            "blocks": spec.blocks,
            "modules": report.modules,
            "unmatched": len(report.unmatched),
        }
        for spec, report in zip(stack.specs, stack.reports, strict=True)
    ]


def bake_metadata(header: FileHeader, stack: LoraStack) -> dict[str, str]:
    """The checkpoint's metadata without hashes that no longer hold, and what was baked in (earlier bakes first)."""
    metadata = {key: value for key, value in header.metadata.items() if key not in _STALE}
    if header.format not in ("safetensors", "sharded"):
        metadata = {}
    try:
        earlier: object = json.loads(metadata.get(METADATA_KEY, "[]"))
    except ValueError:
        earlier = None
    records: list[object] = list(cast("list[object]", earlier)) if isinstance(earlier, list) else []
    metadata[METADATA_KEY] = json.dumps([*records, *lora_records(stack)], ensure_ascii=False)
    return metadata
