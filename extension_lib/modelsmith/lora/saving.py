"""Writes tensors that are all in memory, as a LoRA's are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from modelsmith.errors import UsageError
from modelsmith.files.dtypes import dtype_of
from modelsmith.files.output import check_target
from modelsmith.files.writer import Entry, StreamingWriter, WriterOptions, Written

if TYPE_CHECKING:
    import torch


def check_output(path: Path, sources: Iterable[Path], *, overwrite: bool, size: int = 0) -> None:
    """Say before the work what stands in the way of writing ``size`` bytes to ``path``.

    Raises UsageError for a bad name, another ending, one of the sources itself, or a file that is there already;
    NoSpaceError.
    """
    if path.suffix.lower() != ".safetensors":
        raise UsageError(f"{path} is to be written as safetensors", "Give it the ending .safetensors")
    check_target(path, size, overwrite=overwrite)
    if path.exists() and any(one.exists() and os.path.samefile(one, path) for one in sources):
        raise UsageError(f"{path} is the source itself", "Choose another name for the new file")


def save_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], *, overwrite: bool
) -> Written:
    """Write a safetensors file beside the target and rename it when whole. Raises as the writer does."""
    entries = [Entry(name, dtype_of(tensor.dtype).name, tuple(tensor.shape)) for name, tensor in tensors.items()]
    with StreamingWriter(path, entries, metadata, WriterOptions(overwrite=overwrite)) as writer:
        for entry in entries:
            writer.write(entry.name, tensors[entry.name])
        return writer.finish()
