"""The hashes that sites and webuis know a model by."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from modelsmith.errors import BadFileError, Cancelled

_CHUNK = 4 << 20


@dataclass(frozen=True)
class Hashes:
    """sha256 of the whole file; data_sha256 of what follows the safetensors header (None for other formats)."""

    sha256: str
    data_sha256: str | None

    @property
    def autov2(self) -> str:
        """The first ten digits of the file's SHA-256 (A1111's short hash)."""
        return self.sha256[:10]

    @property
    def autov3(self) -> str | None:
        """The first twelve digits of the SHA-256 over the tensors' bytes: the same whatever the metadata say."""
        return None if self.data_sha256 is None else self.data_sha256[:12]


def hash_file(
    path: Path,
    cancelled: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    data: bool = True,
) -> Hashes:
    """Read a file once and hash it both ways. Raises BadFileError, Cancelled.

    progress: told the bytes done and the bytes in all. data: whether the data are hashed on their own too.
    """
    whole, inner = hashlib.sha256(), hashlib.sha256()
    try:
        with path.open("rb") as file, ThreadPoolExecutor(1) as pool:
            size = os.fstat(file.fileno()).st_size
            start = file.read(9)
            header = int.from_bytes(start[:8], "little") + 8 if data and start[8:] == b"{" else -1
            file.seek(0)
            position = 0
            while block := file.read(_CHUNK):
                other = pool.submit(whole.update, block)
                if header >= 0 and position + len(block) > header:
                    inner.update(memoryview(block)[max(0, header - position) :])
                other.result()
                position += len(block)
                if cancelled is not None and cancelled():
                    raise Cancelled
                if progress is not None:
                    progress(position, size)
    except OSError as error:
        raise BadFileError(path, f"reading failed ({error.strerror})", "Check the disk") from error
    return Hashes(whole.hexdigest(), inner.hexdigest() if header >= 0 else None)
