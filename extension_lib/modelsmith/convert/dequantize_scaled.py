"""fp8 weights with a scale beside them, the older ComfyUI form and the one with ``comfy_quant``, in float32."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from modelsmith.convert.block_bits import scale_runs
from modelsmith.convert.casts import decode_fp8
from modelsmith.convert.nodes import Node, Stored, constant_value
from modelsmith.errors import BadFileError
from modelsmith.files.dtypes import count
from modelsmith.files.header import TensorInfo
from modelsmith.files.tensors import TensorSource

MARKER = "scaled_fp8"
_FP8 = frozenset({"F8_E4M3", "F8_E5M2"})
_SCALES = (".scale_weight", ".weight_scale")
_INPUTS = (".scale_input", ".input_scale", ".comfy_quant")
_REMEDY = "Download the file again, or use another copy of the model"


def scaled_names(tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """fp8 weights that have a scale: name of the weight to name of the scale."""
    found: dict[str, str] = {}
    for name in tensors:
        for ending in _SCALES:
            weight = name[: -len(ending)] + ".weight"
            if name.endswith(ending) and weight in tensors and tensors[weight].dtype in _FP8:
                found[weight] = name
    return found


def companions(weight: str) -> tuple[str, ...]:
    """Tensors that belong to a scaled weight and mean nothing without it."""
    layer = weight[: -len(".weight")]
    return tuple(layer + ending for ending in (*_SCALES, *_INPUTS))


def is_marker(name: str) -> bool:
    """Whether a tensor says that the file has scaled fp8 weights (``[prefix.]scaled_fp8``)."""
    return name == MARKER or name.endswith("." + MARKER)


class ScaledFp8:
    """A scaled fp8 weight: value times scale, one scale for all or one for each row."""

    dtype = "F32"

    def __init__(self, source: TensorSource, name: str, scale: str) -> None:
        self._inner: Node = Stored(source, name)
        self.shape = self._inner.shape
        self._scale = constant_value(source, scale).float().reshape(-1)
        self._one = float(self._scale[0]) if len(self._scale) == 1 else 1.0
        rows = self.shape[0] if self.shape else 1
        if len(self._scale) not in (1, rows):
            raise BadFileError(
                source.header.path,
                f"the scale of tensor {name!r} has {len(self._scale)} values for {rows} rows",
                _REMEDY,
            )
        self._row = count(self.shape[1:])

    def read(self, first: int, elements: int) -> torch.Tensor:
        """Decode a range."""
        stored = self._inner.read(first, elements)
        if len(self._scale) == 1:
            return decode_fp8(stored, scale=self._one)
        return scale_runs(decode_fp8(stored), self._scale, max(1, self._row), first)
