"""Writes tensors that are all in memory, as a LoRA's are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from modelsmith.files.dtypes import dtype_of
from modelsmith.files.writer import Entry, StreamingWriter, WriterOptions, Written

if TYPE_CHECKING:
    import torch


def save_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], *, overwrite: bool
) -> Written:
    """Write a safetensors file beside the target and rename it when whole. Raises as the writer does."""
    entries = [Entry(name, dtype_of(tensor.dtype).name, tuple(tensor.shape)) for name, tensor in tensors.items()]
    with StreamingWriter(path, entries, metadata, WriterOptions(overwrite=overwrite)) as writer:
        for entry in entries:
            writer.write(entry.name, tensors[entry.name])
        return writer.finish()
