"""Computing on a GPU: pieces go up through page-locked memory and come back rounded, on a stream of each thread's own.

While one thread waits for its stream, the others read, hash and write, so that copies, arithmetic and the disk overlap
without more machinery than the engine's threads. The same code runs on the CPU device, which is how it is tested.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from modelsmith.devices import find_gpu
from modelsmith.files.dtypes import bytes_of
from modelsmith.files.output import aligned_buffer
from modelsmith.merge.methods import MethodSpec

_LOG = logging.getLogger(__name__)


def choose_device(wanted: str, method: MethodSpec) -> torch.device | None:
    """The device to compute a method on; None is the engine's own path on the CPU.

    wanted: ``cpu``, ``cuda``, ``cuda:N`` or ``auto``: a GPU, where there is one, for methods that work on whole
    tensors; those that work value by value are done sooner than their operands could be copied there and back. Seeded
    methods stay on the CPU, since a GPU draws other numbers. Raises UsageError for a device that is unknown or absent.
    """
    if wanted == "auto" and method.scope != "tensor":
        return None
    found = find_gpu(wanted)
    return None if method.seeded else found


def pinned_buffer(size: int, device: torch.device | None) -> memoryview:
    """Memory to read into: page-locked where a GPU takes its operands from it."""
    if device is None or device.type != "cuda":
        return aligned_buffer(size)
    try:
        return bytes_of(torch.empty(size, dtype=torch.uint8, pin_memory=True))
    except RuntimeError:  # the system limits how much may be locked; copies from plain memory are slower, not wrong
        return aligned_buffer(size)


class DeviceWork:
    """Runs a method on one device for one thread. lacked_memory: whether the CPU had to compute some of it."""

    def __init__(self, device: torch.device, function: Callable[..., Any]) -> None:
        self.device = device
        self._function = function
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.lacked_memory = False
        self._staging: dict[torch.dtype, Tensor] = {}

    def elements(
        self,
        operands: Sequence[Tensor],
        output: Tensor,
        kind: torch.dtype,
        store: Callable[[Tensor, Tensor], None],
        parameters: Mapping[str, float],
    ) -> None:
        """Write ``function(operands)`` into ``output``, computed in ``kind`` and rounded by ``store`` up there.

        The operands may be overwritten once this returns: the stream is waited for. Where the device has no memory
        left, this piece is computed on the CPU.
        """
        try:
            with self._on_stream():
                value = self._function(*(self._up(operand, kind) for operand in operands), **parameters)
                result = torch.empty(value.shape, dtype=output.dtype, device=self.device)
                store(value, result)
                staging = self._staged(output)
                staging.copy_(result, non_blocking=True)
            self._wait()
            output.copy_(staging)
            return
        except torch.cuda.OutOfMemoryError:
            pass  # the error holds what was begun on the device as long as it is being handled
        self._out_of_memory()
        store(self._function(*(operand.to(kind) for operand in operands), **parameters), output)

    def whole(self, operands: Sequence[Tensor], kind: torch.dtype, parameters: Mapping[str, float]) -> Tensor:
        """``function(operands)`` in ``kind``, back on the CPU; computed there where the device has no memory left."""
        try:
            with self._on_stream():
                value: Tensor = self._function(*(self._up(operand, kind) for operand in operands), **parameters)
                result = value.to("cpu")
            self._wait()
            return result
        except torch.cuda.OutOfMemoryError:
            pass
        self._out_of_memory()
        alone: Tensor = self._function(*(operand.to(kind) for operand in operands), **parameters)
        return alone

    def _out_of_memory(self) -> None:
        """Finish what was begun (copies may still read the operands), give memory back, and say so once."""
        self._wait()
        if self._stream is not None:
            torch.cuda.empty_cache()
        if not self.lacked_memory:
            self.lacked_memory = True
            _LOG.warning("%s has too little free memory for some tensors; they are merged on the CPU", self.device)

    def _up(self, operand: Tensor, kind: torch.dtype) -> Tensor:
        """Copied in its own, narrower type and widened there."""
        return operand.to(self.device, non_blocking=True).to(kind)

    def _staged(self, output: Tensor) -> Tensor:
        found = self._staging.get(output.dtype)
        if found is None or len(found) < len(output):
            locked = self._stream is not None
            found = self._staging[output.dtype] = torch.empty(len(output), dtype=output.dtype, pin_memory=locked)
        return found[: len(output)]

    def _on_stream(self) -> AbstractContextManager[object]:
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _wait(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()
