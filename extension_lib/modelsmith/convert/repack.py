"""PyTorch files whose zip entries are compressed: unpacked aside, since their tensors cannot be read in place."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Generator
from pathlib import Path

from modelsmith.errors import BadFileError
from modelsmith.files.output import check_space

MAX_EXPANSION = 64
"""Most bytes that one packed byte may become: tensors hardly shrink, a zip bomb grows a thousandfold."""


@contextlib.contextmanager
def stored_copy(path: Path) -> Generator[Path, None, None]:
    """Give a copy of the archive with all entries stored, removed afterwards. Raises BadFileError, NoSpaceError."""
    with tempfile.TemporaryDirectory(prefix="modelsmith-") as folder:
        target = Path(folder) / "model.ckpt"
        try:
            with zipfile.ZipFile(path) as packed:
                _check_size(path, packed, Path(folder))
                with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as plain:
                    for entry in packed.infolist():
                        with packed.open(entry) as source, plain.open(entry.filename, "w", force_zip64=True) as copy:
                            shutil.copyfileobj(source, copy, 1 << 20)
        except (zipfile.BadZipFile, OSError, ValueError, RuntimeError) as error:
            raise BadFileError(path, f"it cannot be unpacked ({error})", "Download or copy it again") from error
        yield target


def _check_size(path: Path, archive: zipfile.ZipFile, folder: Path) -> None:
    total = sum(entry.file_size for entry in archive.infolist())
    packed = sum(entry.compress_size for entry in archive.infolist())
    if total > MAX_EXPANSION * max(packed, 1 << 20):
        raise BadFileError(path, f"its {packed:,} packed bytes claim to be {total:,}", "Do not use this file")
    check_space(folder, total)
