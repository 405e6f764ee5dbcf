"""What the writers of this package share: checks of the target, metadata that still hold, and changes of type."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from modelsmith.errors import BadFileError, UsageError
from modelsmith.files.dtypes import OUTPUT_LABELS, torch_dtype
from modelsmith.files.header import FileHeader

_STALE = ("modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash")
"""Hashes of the tensors: no longer true of a file whose tensors changed."""


def check_target(source: Path, target: Path, overwrite: bool) -> None:
    """Refuse a target that is the source, exists already, or has another ending. Raises UsageError."""
    if target.suffix.lower() != ".safetensors":
        raise UsageError(f"{target} is to be written as safetensors", "Give it the ending .safetensors")
    if target.exists():
        if source.exists() and os.path.samefile(source, target):
            raise UsageError(f"{target} is the source itself", "Choose another name for the new file")
        if not overwrite:
            raise UsageError(f"{target} exists already", "Choose another name or allow it to be replaced")


def kept_metadata(header: FileHeader) -> dict[str, str]:
    """The source's metadata but for hashes of its tensors; those of GGUF describe another format and are left."""
    if header.format == "gguf":
        return {"format": "pt"}
    return {"format": "pt", **{key: text for key, text in header.metadata.items() if key not in _STALE}}


def wanted_dtype(label: str | None) -> str | None:
    """Turn ``fp16``, ``bf16`` or ``fp32`` into the safetensors name; None stays. Raises UsageError."""
    if label is None:
        return None
    if label.lower() not in OUTPUT_LABELS:
        raise UsageError(f"a VAE cannot be written as {label!r}", f"Choose one of {', '.join(OUTPUT_LABELS)}")
    return OUTPUT_LABELS[label.lower()]


def converted(tensor: Tensor, dtype: str, header: FileHeader, name: str) -> Tensor:
    """A tensor in another floating type. Raises BadFileError where a value does not fit it."""
    changed = tensor.to(torch_dtype(dtype))
    if changed.dtype != tensor.dtype and not bool(torch.isfinite(changed).all()):
        raise BadFileError(header.path, f"tensor {name!r} has values beyond {dtype}", "Keep its precision, or use bf16")
    return changed


def merged_metadata(kept: Mapping[str, str], key: str, text: str | None) -> dict[str, str]:
    """``kept`` with one entry set, or without it where ``text`` is None."""
    found = {name: value for name, value in kept.items() if name != key}
    if text is not None:
        found[key] = text
    return found
