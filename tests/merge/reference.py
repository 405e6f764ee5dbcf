"""The reference: the formulas in fp64 on whole tensors, and the distance of a result from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

State = dict[str, Tensor]


def ulp(reference: Tensor, kind: torch.dtype) -> Tensor:
    """The distance between neighbouring values of a type around each value, in fp64."""
    info = torch.finfo(kind)
    significand = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}[kind]
    _, exponent = np.frexp(reference.abs().reshape(-1).numpy())
    smallest = np.log2(info.smallest_normal)
    return torch.from_numpy(np.exp2(np.maximum(exponent - 1, smallest) - (significand - 1))).reshape(reference.shape)


def worst_ulp(result: Tensor, reference: Tensor) -> float:
    """The largest error of a result in units of its own type; ``reference`` is in fp64."""
    if not result.numel():
        return 0.0
    assert result.shape == reference.shape and reference.dtype == torch.float64
    return float(((result.double() - reference).abs() / ulp(reference, result.dtype)).max())


def compare(
    output: Path, models: tuple[Path, ...], formula: Callable[[str, list[Tensor]], Tensor]
) -> tuple[float, State]:
    """The worst error over all tensors of a merged file, as the safetensors library reads it, and the file."""
    inputs = [load_file(str(path)) for path in models]
    result = load_file(str(output))
    worst = 0.0
    for name, tensor in result.items():
        if tensor.is_floating_point():
            worst = max(worst, worst_ulp(tensor, formula(name, [state[name].double() for state in inputs])))
    return worst, result
