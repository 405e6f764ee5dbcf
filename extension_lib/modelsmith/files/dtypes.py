"""Element types: what safetensors calls them, how wide they are, and which torch dtype holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from modelsmith.errors import MergeError, UnknownNameError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class DType:
    """One element type.

    name: the safetensors spelling. torch_name: the attribute of ``torch``. bits: of one element.
    floating: whether arithmetic on it makes sense. significand: bits of precision with the hidden one, 0 for integers.
    label: what a person calls it (``fp16``).
    """

    name: str
    torch_name: str
    bits: int
    floating: bool
    significand: int
    label: str

    @property
    def itemsize(self) -> int:
        """Bytes of one element; types narrower than a byte have none and are not addressable here."""
        return self.bits // 8


def _table() -> dict[str, DType]:
    rows = (
        DType("F64", "float64", 64, True, 53, "fp64"),
        DType("F32", "float32", 32, True, 24, "fp32"),
        DType("F16", "float16", 16, True, 11, "fp16"),
        DType("BF16", "bfloat16", 16, True, 8, "bf16"),
        DType("F8_E4M3", "float8_e4m3fn", 8, True, 4, "fp8_e4m3"),
        DType("F8_E5M2", "float8_e5m2", 8, True, 3, "fp8_e5m2"),
        DType("F8_E8M0", "float8_e8m0fnu", 8, False, 0, "e8m0"),
        DType("F8_E4M3FNUZ", "float8_e4m3fnuz", 8, True, 4, "fp8_e4m3fnuz"),
        DType("F8_E5M2FNUZ", "float8_e5m2fnuz", 8, True, 3, "fp8_e5m2fnuz"),
        DType("C64", "complex64", 64, False, 0, "complex64"),
        DType("I64", "int64", 64, False, 0, "int64"),
        DType("U64", "uint64", 64, False, 0, "uint64"),
        DType("I32", "int32", 32, False, 0, "int32"),
        DType("U32", "uint32", 32, False, 0, "uint32"),
        DType("I16", "int16", 16, False, 0, "int16"),
        DType("U16", "uint16", 16, False, 0, "uint16"),
        DType("I8", "int8", 8, False, 0, "int8"),
        DType("U8", "uint8", 8, False, 0, "uint8"),
        DType("BOOL", "bool", 8, False, 0, "bool"),
    )
    return {row.name: row for row in rows}


DTYPES: Mapping[str, DType] = _table()
"""Every type that this library reads or writes, by its safetensors name (huggingface/safetensors, ``Dtype``)."""

OUTPUT_LABELS: Mapping[str, str] = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
"""Precisions that a merge can be written in, by the label that people use."""


def dtype(name: str) -> DType:
    """Look a type up by its safetensors name or by its label. Raises UnknownNameError with the nearest match."""
    found = DTYPES.get(name) or DTYPES.get(OUTPUT_LABELS.get(name.lower(), ""))
    if found is None:
        raise UnknownNameError("tensor type", name, DTYPES)
    return found


def torch_dtype(name: str) -> torch.dtype:
    """Give the torch dtype for a safetensors name; hosts pin torch from 2.1 on, so that some types may be missing."""
    import torch

    found = getattr(torch, dtype(name).torch_name, None)
    if not isinstance(found, torch.dtype):
        raise MergeError(
            f"torch {torch.__version__} does not know the type {name}", "Update torch, or use a file of another type"
        )
    return found


def dtype_of(torch_type: torch.dtype) -> DType:
    """Give the table's row for a torch dtype. Raises UnknownNameError where safetensors has no name for it."""
    wanted = str(torch_type).removeprefix("torch.")
    for row in DTYPES.values():
        if row.torch_name == wanted:
            return row
    raise UnknownNameError("torch dtype", wanted, (row.torch_name for row in DTYPES.values()))


def count(shape: tuple[int, ...]) -> int:
    """Elements in a tensor of this shape; a scalar has one."""
    return prod(shape)


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU as writable bytes; it lives as long as the view does."""
    import torch

    flat: Any = tensor.detach().reshape(-1).view(torch.uint8)
    return memoryview(flat.numpy())
