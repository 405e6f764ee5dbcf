"""A device that is not the CPU, simulated on it: what is forgotten there, or mixed with the CPU's, raises as on a GPU.

Its tensors hold their values on the CPU, but torch takes them for another device's. Operations on them compute on the
CPU with the CPU's bits; one that meets tensors of both devices raises, but for copies, and for tensors of no dimension,
which CUDA allows too. It shows where a value lies, and nothing of how a real GPU computes it, waits, or runs out.

torch calls the way in experimental (``torch.utils.backend_registration``, since 2.9): where it is missing, there is no
such device. It can be registered once in a process and not be taken away; nothing else uses the place that it takes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

KIND = "privateuseone"
_REGISTER: Callable[[], None] | None = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
_aten: Any = torch.ops.aten
_COPIES = {_aten.copy_.default, _aten._to_copy.default}


def is_possible() -> bool:
    """Whether this torch can be given such a device, and has no GPU, whose place it would take in some ways."""
    return _REGISTER is not None and not torch.cuda.is_available()


@functools.cache
def far() -> torch.device:
    """The device, registered when it is first asked for."""
    assert _REGISTER is not None, "ask is_possible first"
    _REGISTER()
    return torch.device(KIND, 0)


class FarTensor(Tensor):
    """A tensor of the device. near: its values, on the CPU."""

    near: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @staticmethod
    def __new__(cls, near: Tensor) -> FarTensor:
        made: Any = torch.Tensor._make_wrapper_subclass(
            cls,
            near.shape,
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=far(),
        )
        made.near = near
        return made

    def __repr__(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"FarTensor({self.near})"

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class FarMode(TorchDispatchMode):
    """While entered, by this thread, tensors can be made on the device; without it only those there can be used."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def in_far_mode(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with the mode entered, in whichever thread it is called."""

    @functools.wraps(function)
    def entered(*args: Any, **kwargs: Any) -> Any:
        with FarMode():
            return function(*args, **kwargs)

    return entered


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """One operation: on the CPU, with the result where it belongs."""
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
    there = {id(one.near): one for one in tensors if isinstance(one, FarTensor)}
    if there and func not in _COPIES and any(one.dim() and not isinstance(one, FarTensor) for one in tensors):
        raise RuntimeError(f"Expected all tensors to be on the same device ({func})")
    asked = kwargs.get("device")
    goes_there = bool(there) if asked is None else torch.device(asked).type == KIND
    if asked is not None and goes_there:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    found = func(*tree_map(_near, args), **tree_map(_near, kwargs))
    if func is _aten.copy_.default:
        return args[0]

    def placed(one: Any) -> Any:
        if not isinstance(one, Tensor) or not goes_there:
            return one
        # What was changed in place is the tensor that was given, not another one with its values.
        return there[id(one)] if id(one) in there else FarTensor(one)

    return tree_map(placed, found)


def _near(one: Any) -> Any:
    return one.near if isinstance(one, FarTensor) else one
