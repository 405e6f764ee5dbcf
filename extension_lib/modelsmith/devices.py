"""GPUs: which one is meant, what it is called, and computing there and on the CPU without the host's shortcuts."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelsmith.errors import UsageError

if TYPE_CHECKING:
    import torch

_FULL = ("none", "ieee")
"""What torch calls a precision that nobody has lowered, for one kind of product or for all that inherit it."""


def find_gpu(wanted: str) -> torch.device | None:
    """The GPU that is meant; None is the CPU.

    wanted: ``cpu``, ``cuda``, ``cuda:N`` or ``auto``: the GPU where there is one, else the CPU. Raises UsageError for a
    device that is unknown or absent.
    """
    if wanted == "cpu":
        return None
    import torch

    kind, _, number = wanted.partition(":")
    if wanted != "auto" and (kind != "cuda" or (":" in wanted and not (number.isascii() and number.isdigit()))):
        raise UsageError(f"the device {wanted!r} is unknown", "Choose cpu, cuda, cuda:0 or auto")
    present = torch.cuda.is_available()
    if wanted == "auto":
        return torch.device("cuda") if present else None
    if not present or int(number or 0) >= torch.cuda.device_count():
        raise UsageError(f"there is no GPU {wanted!r} that torch {torch.__version__} can use", "Choose cpu or auto")
    return torch.device(f"cuda:{int(number)}" if number else "cuda")


def gpu_name(device: torch.device) -> str:
    """What a GPU is called, such as ``NVIDIA GeForce RTX 4090``."""
    import torch

    return torch.cuda.get_device_name(device)


def sees_gpu() -> bool:
    """Whether torch sees a GPU. Importing it takes seconds, so that is done only where the system has a driver."""
    if "torch" not in sys.modules and not _has_driver():
        return False
    try:
        import torch
    except (ImportError, OSError):  # none, or one whose libraries cannot be loaded
        return False
    return torch.cuda.is_available()


def _has_driver() -> bool:
    """Whether something of NVIDIA's or AMD's is there that a GPU is reached through."""
    windows = Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32"
    places = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", windows / "nvcuda.dll")
    return shutil.which("nvidia-smi") is not None or any(Path(place).exists() for place in places)


def gpu_like(name: str) -> str:
    """What to ask ``find_gpu`` for to compute anew what a GPU of that name computed.

    A GPU of that name, else any, else the CPU.
    """
    import torch

    numbers = range(torch.cuda.device_count()) if torch.cuda.is_available() else range(0)
    same = (f"cuda:{number}" for number in numbers if gpu_name(torch.device("cuda", number)) == name)
    return next(same, "cuda" if numbers else "cpu")


class _Precision:
    """How coarsely torch computes products of fp32 matrices: raised to fp32, and put back as it was.

    torch 2.9 has a setting for each backend beside the one number of old. Either can be written so that reading the
    other raises RuntimeError, so where there are both, they are changed together as long as they agree, and the older
    one is left alone where they do not.
    """

    def __init__(self) -> None:
        import torch

        places: tuple[Any, ...] = (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
        self._places = [place for place in places if hasattr(place, "fp32_precision")]
        self._own: list[tuple[Any, str]] = []
        self._number: str | None = None

    def raise_it(self) -> None:
        """Compute in fp32 from now on; where that is done anyway, nothing is touched."""
        import torch

        if self._places and all(place.fp32_precision in _FULL for place in self._places):
            return
        self._own = [(place, _own(place)) for place in self._places]
        with contextlib.suppress(RuntimeError):  # written with the newer settings, which the older one contradicts
            self._number = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")
        for place in self._places:
            place.fp32_precision = "ieee"

    def put_back(self) -> None:
        """Everything as it was."""
        import torch

        if self._number is not None:
            torch.set_float32_matmul_precision(self._number)
        for place, own in self._own:
            place.fp32_precision = own


def _own(place: Any) -> str:
    """What was set for one backend itself: reading also gives what it inherits from a setting for all."""
    found: str = place.fp32_precision
    place.fp32_precision = "none"
    own = "none" if place.fp32_precision == found else found
    place.fp32_precision = found
    return own


_guard = threading.Lock()
_inside: list[_Precision] = []
_entered = 0


@contextlib.contextmanager
def full_precision() -> Generator[None, None, None]:
    """While entered, by however many threads, products of fp32 matrices are computed in fp32.

    Webuis allow TF32 (10 bits of significand) for generating, and a setting for GPUs lets CPUs with AMX or AVX512-BF16
    compute such products in bf16 (7 bits); methods on whole tensors must inherit neither. torch has one setting for
    all threads: what the host generates meanwhile in another one goes without TF32 for that while.
    """
    global _entered
    with _guard:
        if not _entered:
            precision = _Precision()
            precision.raise_it()
            _inside.append(precision)
        _entered += 1
    try:
        yield
    finally:
        with _guard:
            _entered -= 1
            if not _entered:
                _inside.pop().put_back()
