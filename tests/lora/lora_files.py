"""Tiny checkpoints and LoRA files with true key names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lora.lora_modules import Made
from lora.templates import Shapes

FLUX = "model.diffusion_model."


def write_model(path: Path, shapes: Shapes, dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
    """Write a checkpoint with random values and give them back."""
    tensors = {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}
    save_file(tensors, path, {"format": "pt"})
    return tensors


def write_lora(path: Path, modules: Mapping[str, Made], metadata: dict[str, str] | None = None) -> Path:
    """Write a LoRA of modules by name."""
    tensors = {
        name + suffix: tensor.contiguous() for name, made in modules.items() for suffix, tensor in made.tensors.items()
    }
    save_file(tensors, path, metadata)
    return path


def load(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file."""
    return load_file(path)


def ulp(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The distance between neighbours of a type at each of some fp64 values."""
    bits = {torch.float16: 10, torch.bfloat16: 7, torch.float32: 23}[dtype]
    low = {torch.float16: -14, torch.bfloat16: -126, torch.float32: -126}[dtype]
    exponent = torch.frexp(values.abs()).exponent - 1
    return torch.ldexp(torch.ones_like(values), exponent.clamp_min(low) - bits)


def worst_ulp(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest error in units of the last place of ``found``'s type; ``wanted`` is the fp64 result."""
    return float(((found.double() - wanted).abs() / ulp(wanted, found.dtype)).max())
