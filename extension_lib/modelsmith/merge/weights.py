"""The tensors of one input as plain values: what is quantised in the file is decoded while it is read."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from modelsmith.files.dtypes import count
from modelsmith.files.gguf import QUANTIZED
from modelsmith.files.header import FileHeader, TensorInfo
from modelsmith.files.tensors import RangeFile, TensorSource, is_strided, open_tensors

if TYPE_CHECKING:
    import torch

_MARKER = "scaled_fp8"
_DECODERS = 16
"""Decoders that are kept at once: those of 4-bit weights hold the scales of a whole tensor."""


class Decoder(Protocol):
    """Gives the values of one quantised tensor in float32, any range of them."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def read(self, first: int, elements: int) -> torch.Tensor: ...


@dataclass(frozen=True)
class PlainView:
    """A model as a merge sees it. header: quantised tensors under the type F32 and their true shape, and without the
    tensors that belong to their packed form. schemes: how each of them is packed (``Q4_K``, ``nf4``, ``fp8_scaled``).
    """

    header: FileHeader
    schemes: Mapping[str, str]


@dataclass(frozen=True)
class _Packed:
    """How one tensor is packed, how to decode it, and the tensors that go with the packed form."""

    scheme: str
    make: Callable[[], Decoder]
    companions: tuple[str, ...] = ()


_PACKED_TYPES = QUANTIZED | {"U8", "I8", "F8_E4M3", "F8_E5M2"}


def plain_view(stored: FileHeader) -> PlainView:
    """See through the quantisation of a file; only small tables of it are read, and no torch is needed without any.

    Raises BadFileError for damaged tables, and for schemes that cannot be read back.
    """
    if not any(info.dtype in _PACKED_TYPES for info in stored.tensors.values()):
        return PlainView(stored, {})
    with open_tensors(stored) as source:
        packed = _packed(source)
        dropped = {name for one in packed.values() for name in one.companions}
        tensors: dict[str, TensorInfo] = {}
        for name, info in stored.tensors.items():
            if name in packed:
                shape = packed[name].make().shape
                tensors[name] = info._replace(dtype="F32", shape=shape, start=-1, nbytes=4 * count(shape), strides=None)
            elif name not in dropped and name.rpartition(".")[2] != _MARKER:
                tensors[name] = info
    if len(tensors) == len(stored.tensors) and not packed:
        return PlainView(stored, {})
    return PlainView(replace(stored, tensors=tensors), {name: one.scheme for name, one in packed.items()})


def _packed(source: TensorSource) -> dict[str, _Packed]:
    """The quantised tensors of a file by name."""
    from modelsmith.convert import dequantize_bnb, dequantize_comfy, dequantize_scaled
    from modelsmith.convert.dequantize_bnb import FourBit
    from modelsmith.convert.dequantize_gguf import GgufBlocks
    from modelsmith.convert.dequantize_scaled import ScaledFp8

    tensors = source.header.tensors
    found: dict[str, _Packed] = {}
    for name, info in tensors.items():
        if info.dtype in QUANTIZED:
            found[name] = _Packed(info.dtype, partial(GgufBlocks, source, name))
    for name, scale in dequantize_scaled.scaled_names(tensors).items():
        found[name] = _Packed("fp8_scaled", partial(ScaledFp8, source, name, scale), dequantize_scaled.companions(name))
    for name, one in dequantize_comfy.find_quantized(source).items():
        found[name] = _Packed(one.scheme, one.node, one.companions)
    for name, scheme in dequantize_bnb.quantized_names(tensors).items():
        if name in tensors:
            found[name] = _Packed(
                scheme, partial(FourBit, source, name, scheme), dequantize_bnb.companions(name, scheme)
            )
    return found


class WeightSource:
    """Reads the tensors of one input, decoded where they are quantised. Use it in a ``with`` block.

    It does what ``TensorSource`` does, under the header that ``plain_view`` gives.
    """

    def __init__(self, stored: FileHeader, view: PlainView) -> None:
        self.header = view.header
        self._schemes = view.schemes
        self._source = open_tensors(stored)
        self._packed = _packed(self._source) if view.schemes else {}
        self._decoders: OrderedDict[str, Decoder] = OrderedDict()
        self._guard = threading.Lock()

    @property
    def files(self) -> Mapping[Path, RangeFile]:
        """The open files of the model."""
        return self._source.files

    def file_of(self, info: TensorInfo) -> RangeFile:
        """The open file that holds a tensor."""
        return self._source.file_of(info)

    def streams(self, info: TensorInfo) -> bool:
        """Whether a tensor's values lie in the file as they are, one after another."""
        return info.start >= 0 and not is_strided(info)

    def info(self, name: str) -> TensorInfo:
        """Where a tensor lies, or what it decodes to. Raises BadFileError where the model has no such tensor."""
        return self.header.tensors[name] if name in self._schemes else self._source.info(name)

    def load(self, name: str) -> torch.Tensor:
        """Read one tensor whole; decoded ones are float32."""
        if name not in self._schemes:
            return self._source.load(name)
        shape = self.header.tensors[name].shape
        return self._decoder(name).read(0, count(shape)).reshape(shape)

    def load_flat(self, name: str, first: int, elements: int) -> torch.Tensor:
        """Read ``elements`` values from the ``first`` on, in row-major order, as a one-dimensional tensor."""
        if name not in self._schemes:
            return self._source.load_flat(name, first, elements)
        return self._decoder(name).read(first, elements)

    def _decoder(self, name: str) -> Decoder:
        with self._guard:
            found = self._decoders.get(name)
            if found is None:
                found = self._decoders[name] = self._packed[name].make()
                while len(self._decoders) > _DECODERS:
                    self._decoders.popitem(last=False)
            self._decoders.move_to_end(name)
            return found

    def check_unchanged(self) -> None:
        """Raise BadFileError where one of the files changed since it was opened."""
        self._source.check_unchanged()

    def close(self) -> None:
        """Close all files."""
        self._source.close()

    def __enter__(self) -> WeightSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
