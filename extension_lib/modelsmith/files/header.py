"""What a model file says about itself before any weight is read: names, shapes, places and metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

from modelsmith.errors import BadFileError

Format = Literal["safetensors", "ckpt", "ckpt-legacy", "gguf", "sharded"]

PICKLE_ENDINGS = frozenset({".ckpt", ".pt", ".pth", ".bin"})

_NO_STRINGS: Mapping[str, str] = {}
_NO_OBJECTS: Mapping[str, object] = {}


class TensorInfo(NamedTuple):
    """Where one tensor lies and how to read it.

    A named tuple and not a dataclass: a file holds thousands of these, and a header is to be read in milliseconds.

    dtype: the safetensors spelling (``F32 F16 BF16 F64 I64 U8 BOOL F8_E4M3`` ...); GGUF types under ggml's
        names (``Q4_K``).
    shape: in torch's order, outermost first.
    start: absolute offset of the first byte in ``file``; -1 where the bytes cannot be addressed (a compressed
        zip entry).
    nbytes: bytes the values take when they lie one after another.
    strides: in elements, None where contiguous; only pickled files may differ.
    file: the file that holds the bytes where that is not the header's own path (sharded folders).
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int
    strides: tuple[int, ...] | None = None
    file: Path | None = None


@dataclass(frozen=True)
class FileHeader:
    """One model file (or one sharded folder) as its header describes it.

    format: what the content is, whatever the ending says.
    size: bytes on disk, all shards together.
    tensors: in the order of the file.
    metadata: ``__metadata__`` of safetensors, or the scalars of a GGUF file as text.
    scalars: values beside the tensors of a pickled file (``global_step``), or GGUF's typed values.
    globals: every ``module.name`` that a pickle asks for; nothing of it is ever imported.
    forbidden: those of ``globals`` that no harmless model file needs.
    """

    path: Path
    format: Format
    size: int
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str] = field(default_factory=lambda: _NO_STRINGS)
    scalars: Mapping[str, object] = field(default_factory=lambda: _NO_OBJECTS)
    globals: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()


def read_header(path: str | Path) -> FileHeader:
    """Read the header of a model file, telling its format by its content and never by its ending.

    A folder, or a ``*.index.json``, is read as a sharded model. No tensor value is read.
    Raises BadFileError, which names the file, what is wrong and what to do.
    """
    target = Path(path)
    if "\0" in str(target):
        raise BadFileError(target, "the name has a null character in it", "Rename the file")
    try:
        if target.is_dir() or target.name.endswith(".index.json"):
            from modelsmith.files.sharded import read_sharded

            return read_sharded(target)
        return _read_file(target)
    except FileNotFoundError as error:
        missing = Path(error.filename) if error.filename else target
        raise BadFileError(missing, "the file does not exist", "Check the name and the folder") from error
    except PermissionError as error:
        raise BadFileError(target, "the file may not be read", "Give your user the right to read it") from error
    except OSError as error:
        raise BadFileError(
            target,
            f"reading failed ({error.strerror or error})",
            "Check the disk, then copy or download the file again",
        ) from error


def _read_file(path: Path) -> FileHeader:
    with path.open("rb") as file:
        start = file.read(512)
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        from modelsmith.files.pickled import read_zip

        return read_zip(path)
    if start[:4] == b"GGUF":
        from modelsmith.files.gguf import read_gguf

        return read_gguf(path)
    if start[:1] == b"\x80" and start[1:2] <= b"\x05" and start[8:9] != b"{":
        from modelsmith.files.pickled import read_legacy

        return read_legacy(path)
    if path.suffix.lower() in PICKLE_ENDINGS and start and start[8:9] != b"{":
        _refuse_text(path, start)
        from modelsmith.files.pickled import read_legacy

        return read_legacy(path)
    if start[8:9] == b"{" or path.suffix.lower() in (".safetensors", ".sft"):
        _refuse_text(path, start)
        from modelsmith.files.safetensors_header import read_safetensors

        return read_safetensors(path)
    _refuse(path, start)


def _refuse(path: Path, start: bytes) -> NoReturn:
    """Say what a file is that is no model file."""
    _refuse_text(path, start)
    if not start:
        raise BadFileError(path, "the file is empty", "Download or copy it again")
    if start[257:262] == b"ustar":
        raise BadFileError(path, "it is a tar archive", "Unpack it and use the model file inside")
    raise BadFileError(
        path,
        "it is neither safetensors, a PyTorch file nor GGUF",
        "Choose a .safetensors, .ckpt, .pt or .gguf model, or download it again",
    )


def _refuse_text(path: Path, start: bytes) -> None:
    """Recognise the two texts that downloads leave under a model's name."""
    text = start.lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        raise BadFileError(path, "it is a git-lfs pointer, not the model", "Fetch the real file (git lfs pull)")
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise BadFileError(path, "it is a web page, not a model", "The download went wrong: download the file again")
