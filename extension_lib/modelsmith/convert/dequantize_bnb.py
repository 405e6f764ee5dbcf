"""Four-bit weights of bitsandbytes (NF4 and FP4, single or double quantisation) in float32.

Layout as bitsandbytes' ``QuantState.as_dict(packed=True)`` writes it beside ``NAME``: ``NAME.absmax``,
``NAME.quant_map`` and ``NAME.quant_state.bitsandbytes__nf4`` (or ``fp4``) with JSON; double quantisation adds
``NAME.nested_absmax`` and ``NAME.nested_quant_map``.  Dettmers et al. 2023, arXiv:2305.14314, section 3.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch

from modelsmith.convert.block_bits import pair_table, pairs_of, scale_runs
from modelsmith.convert.nodes import Kept, constant_bytes, constant_value, known_info
from modelsmith.errors import BadFileError
from modelsmith.files.dtypes import count, torch_dtype
from modelsmith.files.tensors import TensorSource

STATE = ".quant_state.bitsandbytes__"
_PARTS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
_REMEDY = "Download the file again, or use another copy of the model"


def quantized_names(names: Mapping[str, object]) -> dict[str, str]:
    """The four-bit weights of a file: name to scheme (``nf4`` or ``fp4``)."""
    found: dict[str, str] = {}
    for name in names:
        base, mark, scheme = name.rpartition(STATE)
        if mark:
            found[base] = scheme
    return found


def companions(name: str, scheme: str) -> tuple[str, ...]:
    """Tensors that belong to a four-bit weight and mean nothing without it."""
    return (*(name + part for part in _PARTS), f"{name}{STATE}{scheme}")


@dataclass(frozen=True)
class _State:
    """The JSON beside a weight."""

    blocksize: int
    shape: tuple[int, ...]
    nested_blocksize: int
    nested_offset: float


class FourBit:
    """A four-bit weight of bitsandbytes, in float32 and its true shape."""

    dtype = "F32"

    def __init__(self, source: TensorSource, name: str, scheme: str) -> None:
        self._source = source
        self._name = name
        state = _read_state(source, name, scheme)
        self.shape = state.shape
        self._blocksize = state.blocksize
        packed = source.info(name)
        if packed.dtype != "U8" or packed.nbytes != -(-count(state.shape) // 2):
            raise BadFileError(
                source.header.path, f"tensor {name!r} does not hold {state.shape} four-bit values", _REMEDY
            )
        _check_tables(source, name, state)
        levels = source.info(name + ".quant_map")
        self._pairs = _pairs(constant_bytes(source, name + ".quant_map"), levels.dtype, scheme)
        self._absmax = Kept(lambda: _block_maxima(source, name, state), count(state.shape))

    def read(self, first: int, elements: int) -> torch.Tensor:
        """Decode a range; the upper half of a byte is the earlier value."""
        begin, end = first // 2, -(-(first + elements) // 2)
        packed = self._source.load_flat(self._name, begin, end - begin)
        values = pairs_of(self._pairs, packed)
        if len(values) != elements:
            values = values[first - 2 * begin :][:elements]
        scaled = scale_runs(values, self._absmax.value(), self._blocksize, first)
        self._absmax.used(elements)
        return scaled


@functools.lru_cache(maxsize=16)
def _pairs(levels: bytes, kind: str, scheme: str) -> torch.Tensor:
    """The table of :func:`pair_table` for 16 levels: a model has the same for all its weights."""
    known = torch.frombuffer(bytearray(levels), dtype=torch_dtype(kind)).float()
    if scheme == "fp4":
        known[8] = -0.0  # the sign bit with no magnitude: the table has 0, the kernels give -0
    return pair_table(known, upper_first=True)


def _check_tables(source: TensorSource, name: str, state: _State) -> None:
    """Raise BadFileError where the tables beside a weight are missing or not as long as they must be."""
    absmax = known_info(source, name + ".absmax")
    blocks = -(-count(state.shape) // state.blocksize)
    if count(known_info(source, name + ".quant_map").shape) != 16 or count(absmax.shape) != blocks:
        raise BadFileError(source.header.path, f"the tables of tensor {name!r} have the wrong length", _REMEDY)
    if absmax.dtype != "U8":
        return
    outer = -(-blocks // state.nested_blocksize)
    levels = known_info(source, name + ".nested_quant_map")
    if count(levels.shape) != 256 or count(known_info(source, name + ".nested_absmax").shape) != outer:
        raise BadFileError(source.header.path, f"the nested tables of tensor {name!r} are incomplete", _REMEDY)


def _read_state(source: TensorSource, name: str, scheme: str) -> _State:
    raw = constant_bytes(source, f"{name}{STATE}{scheme}")
    try:
        parsed: object = json.loads(raw)
        if not isinstance(parsed, dict):
            raise ValueError("no JSON object")
        facts = cast("dict[str, object]", parsed)
        shape = tuple(int(str(side)) for side in cast("list[object]", facts["shape"]))
        state = _State(
            int(str(facts["blocksize"])),
            shape,
            int(str(facts.get("nested_blocksize", 256))),
            float(str(facts.get("nested_offset", 0.0))),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadFileError(
            source.header.path, f"the state of tensor {name!r} cannot be read ({error})", _REMEDY
        ) from None
    if state.blocksize < 2 or state.blocksize % 2 or state.nested_blocksize < 1 or any(side < 0 for side in shape):
        raise BadFileError(source.header.path, f"the state of tensor {name!r} makes no sense", _REMEDY)
    return state


def _block_maxima(source: TensorSource, name: str, state: _State) -> torch.Tensor:
    """Largest magnitude of every block; doubly quantised ones are decoded first, then their mean is added back."""
    absmax = constant_value(source, name + ".absmax").reshape(-1)
    if absmax.dtype != torch.uint8:
        return absmax.float()
    levels = constant_value(source, name + ".nested_quant_map").float().reshape(-1)
    outer = constant_value(source, name + ".nested_absmax").float().reshape(-1)
    spread = outer.repeat_interleave(state.nested_blocksize)[: len(absmax)]
    return levels[absmax.int()] * spread + torch.tensor(state.nested_offset, dtype=torch.float32)
