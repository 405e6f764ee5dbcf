"""Pictures that come with a request, as files for as long as a job needs them."""

from __future__ import annotations

import base64
import binascii
import contextlib
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path

from modelsmith.errors import UsageError

MOST = 16
MOST_BYTES = 32 << 20


def decoded(images: Sequence[str]) -> list[bytes]:
    """The pictures' bytes out of base64, with or without a ``data:`` head. Raises UsageError, naming which one."""
    if len(images) > MOST:
        raise UsageError(f"{len(images)} pictures were sent", f"Send at most {MOST}")
    found: list[bytes] = []
    for number, text in enumerate(images, 1):
        body = text.partition(",")[2] if text.startswith("data:") else text
        if len(body) > MOST_BYTES * 4 // 3 + 4:
            raise UsageError(f"picture {number} is larger than {MOST_BYTES >> 20} MiB", "Send a smaller one")
        try:
            found.append(base64.b64decode(body, validate=True))
        except (binascii.Error, ValueError) as error:
            raise UsageError(f"picture {number} is no base64 ({error})", "Send PNG, JPEG or WebP in base64") from error
    return found


@contextlib.contextmanager
def picture_files(pictures: Sequence[bytes]) -> Generator[tuple[Path, ...], None, None]:
    """Give the pictures as files, which are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="modelsmith-") as folder:
        paths: list[Path] = []
        for number, data in enumerate(pictures, 1):
            path = Path(folder) / f"picture {number}"
            path.write_bytes(data)
            paths.append(path)
        yield tuple(paths)
