"""Which tensors a family's model has, and how many of them a file lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from modelsmith.files.header import TensorInfo
from modelsmith.identify.architectures import Architecture, Variant
from modelsmith.identify.encoders import Encoder, Vae


class Measure(TypedDict, total=False):
    """The fields of a component that completeness fills."""

    complete: bool | None
    missing: int
    expected: int
    missing_names: tuple[str, ...]


def measure(
    record: Architecture | Encoder | Vae,
    variant: Variant | None,
    tensors: Mapping[str, TensorInfo],
    quantization: str | None,
) -> Measure:
    """Compare the tensors of a component with the template of its family; empty where there is none."""
    return {}


def unflatten_ema(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The names of a UNet from those of its EMA copy."""
    return {}
