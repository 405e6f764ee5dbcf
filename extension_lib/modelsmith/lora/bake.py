"""Bakes LoRAs into a checkpoint: one pass over its tensors, a piece at a time, one rounding to the output's type."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, cast

from modelsmith.errors import Cancelled, MergeError, UsageError
from modelsmith.files.dtypes import OUTPUT_LABELS, bytes_of, count, dtype, torch_dtype
from modelsmith.files.header import FileHeader, read_header
from modelsmith.files.tensors import TensorSource, is_strided, open_tensors
from modelsmith.files.writer import Chunk, Entry, StreamingWriter, WriterOptions, Written
from modelsmith.identify.recipe_file import with_weights
from modelsmith.lora.match import MatchReport
from modelsmith.lora.saving import check_output
from modelsmith.lora.stack import FLOATING, LoraSpec, LoraStack

if TYPE_CHECKING:
    import torch

METADATA_KEY = "modelsmith_loras"
PIECE_ELEMENTS = 8 << 20
"""Elements that are worked on at once where a tensor can go row by row: 32 MiB in fp32."""

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
    from modelsmith.identify import identify_header

    header = with_weights(read_header(request.model))
    _check(request, header)
    architecture = identify_header(header).architecture
    with LoraStack(
        request.loras, header, architecture=architecture, any_architecture=request.any_architecture
    ) as stack:
        _check_strict(request, stack)
        size = sum(
            dtype(_output_type(info.dtype, request.dtype)).itemsize * count(info.shape)
            for info in header.tensors.values()
        )
        sources = (request.model, *(spec.path for spec in request.loras))
        check_output(request.output, sources, overwrite=request.overwrite, size=size)
        return BakePlan(request, len(stack.keys), size, stack.reports)


def bake(
    request: BakeRequest,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> BakeResult:
    """Write ``request.model`` with the LoRAs in it.

    progress: called with bytes done and in all. Raises BadFileError, MergeError, UsageError, NoSpaceError or Cancelled;
    the output then does not exist, or is the old one.
    """
    from modelsmith.identify import identify_header

    begun = time.monotonic()
    header = with_weights(read_header(request.model))
    _check(request, header)
    architecture = identify_header(header).architecture
    with (
        LoraStack(request.loras, header, architecture=architecture, any_architecture=request.any_architecture) as stack,
        open_tensors(header) as source,
    ):
        _check_strict(request, stack)
        entries = [
            Entry(name, _output_type(info.dtype, request.dtype), info.shape) for name, info in header.tensors.items()
        ]
        options = WriterOptions(overwrite=request.overwrite)
        with StreamingWriter(request.output, entries, bake_metadata(header, stack), options) as writer:
            _pour(writer, _pieces(entries, source, stack), progress, cancelled)
            source.check_unchanged()
            stack.check_unchanged()
            written: Written = writer.finish()
        return BakeResult(
            written.path,
            written.sha256,
            written.bytes,
            time.monotonic() - begun,
            len(stack.keys),
            stack.reports,
        )


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


def changed_piece(stack: LoraStack, source: TensorSource, entry: Entry) -> Iterator[torch.Tensor]:
    """The pieces, in order, of one tensor that LoRAs change, in the output's type."""
    import torch

    info = source.header.tensors[entry.name]
    work = torch.float64 if info.dtype == "F64" else torch.float32
    row = max(1, prod(entry.shape[1:]))
    if not stack.separable(entry.name) or is_strided(info) or not entry.shape:
        yield rounded(stack.apply(entry.name, source.load(entry.name).to(work)), entry.dtype)
        return
    step = max(1, PIECE_ELEMENTS // row)
    for first in range(0, entry.shape[0], step):
        number = min(step, entry.shape[0] - first)
        rows = source.load_flat(entry.name, first * row, number * row).to(work).reshape(number, *entry.shape[1:])
        yield rounded(stack.apply_rows(entry.name, rows, first), entry.dtype)


def _copied(source: TensorSource, entry: Entry) -> Iterator[torch.Tensor]:
    """The pieces of a tensor that only its type may change."""
    info = source.header.tensors[entry.name]
    if is_strided(info):
        yield rounded(source.load(entry.name), entry.dtype)
        return
    for first in range(0, count(entry.shape), PIECE_ELEMENTS):
        piece = source.load_flat(entry.name, first, min(PIECE_ELEMENTS, count(entry.shape) - first))
        yield piece if info.dtype == entry.dtype else rounded(piece, entry.dtype)


def _pieces(entries: Sequence[Entry], source: TensorSource, stack: LoraStack) -> Iterator[memoryview]:
    for entry in entries:
        if not count(entry.shape):
            continue
        made = changed_piece(stack, source, entry) if stack.touches(entry.name) else _copied(source, entry)
        for piece in made:
            yield bytes_of(piece.contiguous())


def _pour(
    writer: StreamingWriter,
    pieces: Iterator[memoryview],
    progress: Callable[[int, int], None] | None,
    cancelled: Callable[[], bool] | None,
) -> None:
    """Fill the writer's chunks with the pieces, one after the other."""
    chunk: Chunk | None = None
    filled = total = 0
    for piece in pieces:
        done = 0
        while done < len(piece):
            if chunk is None:
                if cancelled is not None and cancelled():
                    raise Cancelled
                chunk, filled = writer.acquire(), 0
            if chunk is None:
                raise MergeError("more values were made than the output has room for", "Report this as a bug")
            part = min(len(chunk.view) - filled, len(piece) - done)
            chunk.view[filled : filled + part] = piece[done : done + part]
            filled, done = filled + part, done + part
            if filled == len(chunk.view):
                writer.submit(chunk)
                chunk = None
        total += len(piece)
        if progress is not None:
            progress(total, writer.data_bytes)


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
