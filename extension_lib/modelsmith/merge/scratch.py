"""Values that lie in a file for a while instead of in memory."""

from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from modelsmith.errors import NoSpaceError
from modelsmith.files.dtypes import bytes_of
from modelsmith.files.output import OutputFile, free_bytes
from modelsmith.files.tensors import RangeFile

_NUMBERS = itertools.count()


class Scratch:
    """A temporary file of ``size`` bytes, read and written by several threads. Use it in a ``with`` block.

    folder: where it lies; None: where the system keeps such files. Plain reads and writes, for the reason in
    ``files.tensors``. The file has no name where an open one can do without, so that a killed process leaves nothing
    behind; on Windows the next merge into the folder clears it away.
    Raises NoSpaceError before the first byte, or later when the disk fills up; UsageError where nothing may be
    written there; MergeError and BadFileError where the disk fails.
    """

    def __init__(self, size: int, folder: Path | None = None) -> None:
        folder = folder or Path(tempfile.gettempdir())
        free = free_bytes(folder)
        if free < size:
            raise NoSpaceError(
                f"{folder} has {free:,} bytes free, the method keeps {size:,} there while it works",
                f"Free at least {size - free:,} bytes there or choose another folder",
            )
        target = folder / f"modelsmith-values-{next(_NUMBERS)}"
        self._output = OutputFile(target, size, overwrite=True, direct=False)
        try:
            self._input = RangeFile(self._output.temporary)
        except BaseException:
            self._output.abort()
            raise
        if os.name == "posix":
            self._output.temporary.unlink()

    def write(self, values: Tensor, offset: int) -> None:
        """Keep values from a byte on."""
        plain = values.clone(memory_format=torch.contiguous_format)  # a part one value wide may have odd strides
        self._output.write_at(bytes_of(plain), offset)

    def read(self, into: Tensor, offset: int) -> Tensor:
        """Fill a contiguous tensor from a byte on and return it."""
        self._input.read_into(bytes_of(into), offset)
        return into

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._input.close()
        self._output.abort()
