"""Reads tensors of a model file, whole or in pieces, with large plain reads into memory that the caller reuses.

Plain reads and not a mapping: an input that another program shortens, or a network drive that goes away, is then an
error that can be reported, where a mapping would end the whole process.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from modelsmith.errors import BadFileError
from modelsmith.files.dtypes import bytes_of, count, dtype, torch_dtype
from modelsmith.files.header import FileHeader, TensorInfo

if TYPE_CHECKING:
    import torch

_ADVISE = getattr(os, "posix_fadvise", None)
_AHEAD = 16 << 20


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What tells whether a file is still the one that was opened."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """Take the stamp of a file. Raises BadFileError where it is gone."""
        try:
            found = os.stat(path)
        except OSError as error:
            raise BadFileError(path, f"it cannot be read any more ({error.strerror})", "Put it back") from error
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


class RangeFile:
    """One open file that several threads read at offsets of their own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stamp = FileStamp.of(path)
        try:
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise BadFileError(path, f"it cannot be opened ({error.strerror})", "Check its permissions") from error
        self._guard = threading.Lock()
        self._told = 0
        if _ADVISE is not None:
            _ADVISE(self._descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill ``view`` from ``offset``. Raises BadFileError where the file ends too early or the disk fails."""
        done = 0
        while done < len(view):
            try:
                got = self._read_some(view[done:], offset + done)
            except OSError as error:
                raise BadFileError(self.path, f"reading failed ({error.strerror})", "Check the disk") from error
            if got == 0:
                raise BadFileError(
                    self.path,
                    f"it ends at byte {offset + done:,}, before the tensors that its header lists",
                    "Download or copy it again",
                )
            done += got

    def _read_some(self, view: memoryview, offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._descriptor, [view], offset)
        with self._guard:
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            data = os.read(self._descriptor, min(len(view), 1 << 20))
        view[: len(data)] = data
        return len(data)

    def read_ahead(self, end: int) -> None:
        """Tell the system, where it can be told, that reading goes on from ``end``; call it before each read.

        Several threads read one file in turn, which the system does not see as reading from front to end.
        """
        if _ADVISE is not None and end + _AHEAD // 2 > self._told:
            first = max(self._told, end)
            self._told = end + _AHEAD
            with contextlib.suppress(OSError):  # advice only: a pipe or an odd file system takes none
                _ADVISE(self._descriptor, first, self._told - first, os.POSIX_FADV_WILLNEED)

    def check_unchanged(self) -> None:
        """Raise BadFileError where the file was replaced or written to since it was opened."""
        if FileStamp.of(self.path) != self.stamp:
            raise BadFileError(
                self.path, "it changed while it was being read", "Nothing was written. Let the other program finish"
            )

    def close(self) -> None:
        """Close the file; calling it again does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class TensorSource:
    """The tensors of one model (one file or a sharded folder), read on demand. Use it in a ``with`` block."""

    def __init__(self, header: FileHeader) -> None:
        self.header = header
        self._files: dict[Path, RangeFile] = {}
        try:
            for path in dict.fromkeys(info.file or header.path for info in header.tensors.values()):
                self._files[path] = RangeFile(path)
        except BadFileError:
            self.close()
            raise

    @property
    def files(self) -> Mapping[Path, RangeFile]:
        """The open files of the model."""
        return self._files

    def file_of(self, info: TensorInfo) -> RangeFile:
        """The open file that holds a tensor."""
        return self._files[info.file or self.header.path]

    def info(self, name: str) -> TensorInfo:
        """Where a tensor lies. Raises BadFileError where the model has no such tensor, or its bytes are packed."""
        found = self.header.tensors.get(name)
        if found is None:
            raise BadFileError(self.header.path, f"it has no tensor {name!r}")
        if found.start < 0 and found.nbytes:
            raise BadFileError(
                self.header.path, f"tensor {name!r} is compressed inside the file", "Convert it to .safetensors first"
            )
        return found

    def load(self, name: str) -> torch.Tensor:
        """Read one tensor whole, in its own type and shape, contiguous, in memory of its own."""
        import torch

        info = self.info(name)
        kind = torch_dtype(info.dtype)
        if not count(info.shape):
            return torch.empty(info.shape, dtype=kind)
        if not is_strided(info):
            raw = torch.empty(info.nbytes, dtype=torch.uint8)
            self.file_of(info).read_into(bytes_of(raw), info.start)
            return raw.view(kind).reshape(info.shape)
        strides = info.strides or ()
        reach = 1 + sum((size - 1) * stride for size, stride in zip(info.shape, strides, strict=True))
        raw = torch.empty(reach * dtype(info.dtype).itemsize, dtype=torch.uint8)
        self.file_of(info).read_into(bytes_of(raw), info.start)
        return raw.view(kind).as_strided(info.shape, strides).contiguous()

    def load_flat(self, name: str, first: int, elements: int) -> torch.Tensor:
        """Read ``elements`` values from the ``first`` on, in row-major order, as a one-dimensional tensor."""
        import torch

        info = self.info(name)
        if is_strided(info):
            return self.load(name).reshape(-1)[first : first + elements].clone()
        width = dtype(info.dtype).itemsize
        raw = torch.empty(elements * width, dtype=torch.uint8)
        if elements:
            file, start = self.file_of(info), info.start + first * width
            file.read_ahead(start + len(raw))
            file.read_into(bytes_of(raw), start)
        return raw.view(torch_dtype(info.dtype))

    def check_unchanged(self) -> None:
        """Raise BadFileError where one of the files changed since it was opened."""
        for file in self._files.values():
            file.check_unchanged()

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()

    def __enter__(self) -> TensorSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_tensors(header: FileHeader) -> TensorSource:
    """Open the file or files of a model for reading. Raises BadFileError where one cannot be opened."""
    return TensorSource(header)


def is_strided(info: TensorInfo) -> bool:
    """Whether the values lie in the file in another order than row-major."""
    if info.strides is None or count(info.shape) <= 1:
        return False
    expected = 1
    for size, stride in zip(reversed(info.shape), reversed(info.strides), strict=True):
        if size != 1 and stride != expected:
            return True
        expected *= size
    return False
