"""Computing on a GPU: pieces go up through page-locked memory and come back rounded, on a stream of each thread's own.

While one thread waits for its stream, the others read, hash and write, so that copies, arithmetic and the disk overlap
without more machinery than the engine's threads. The same code runs on the CPU device, which is how it is tested.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from modelsmith.errors import UsageError
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
    if wanted == "cpu" or method.seeded:
        return None
    present = torch.cuda.is_available()
    if wanted == "auto":
        return torch.device("cuda") if present and method.scope == "tensor" else None
    kind, _, number = wanted.partition(":")
    if kind != "cuda" or (number and not number.isdigit()):
        raise UsageError(f"the device {wanted!r} is unknown", "Choose cpu, cuda, cuda:0 or auto")
    if not present or int(number or 0) >= torch.cuda.device_count():
        raise UsageError(f"there is no GPU {wanted!r} that torch {torch.__version__} can use", "Choose cpu or auto")
    return torch.device(wanted)


def pinned_buffer(size: int, device: torch.device | None) -> memoryview:
    """Memory to read into: page-locked where a GPU takes its operands from it."""
    if device is None or device.type != "cuda":
        return aligned_buffer(size)
    try:
        return bytes_of(torch.empty(size, dtype=torch.uint8, pin_memory=True))
    except RuntimeError:  # the system limits how much may be locked; copies from plain memory are slower, not wrong
        return aligned_buffer(size)


class _FullPrecision:
    """While entered, by however many threads, products of fp32 matrices are computed in fp32.

    Webuis allow TF32 (10 bits of significand) for generating, which whole-tensor methods must not inherit.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._inside = 0
        self._before = "highest"

    def __enter__(self) -> None:
        with self._guard:
            if not self._inside:
                self._before = torch.get_float32_matmul_precision()
                torch.set_float32_matmul_precision("highest")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._guard:
            self._inside -= 1
            if not self._inside:
                torch.set_float32_matmul_precision(self._before)


_FULL_PRECISION = _FullPrecision()


class DeviceWork:
    """Runs a method on one device for one thread."""

    def __init__(self, device: torch.device, function: Callable[..., Any]) -> None:
        self.device = device
        self._function = function
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._told = False
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
            with _FULL_PRECISION, self._on_stream():
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
            with _FULL_PRECISION, self._on_stream():
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
        if not self._told:
            self._told = True
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
