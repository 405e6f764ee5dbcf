"""Small models in every format, and a way to run one conversion."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from modelsmith.convert.model import open_model
from modelsmith.convert.precision import parse_precision, set_precision
from modelsmith.convert.write import WriteResult, write_model


def tiny_checkpoint() -> dict[str, torch.Tensor]:
    """A few true SD1 names with narrow values in float32."""
    names = {
        "model.diffusion_model.input_blocks.0.0.weight": (8, 4, 3, 3),
        "model.diffusion_model.input_blocks.0.0.bias": (8,),
        "model.diffusion_model.time_embed.0.weight": (40, 70),
        "model.diffusion_model.out.2.weight": (4, 8, 3, 3),
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (50, 16),
        "cond_stage_model.transformer.text_model.final_layer_norm.weight": (16,),
        "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (24, 16),
        "first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3),
        "first_stage_model.encoder.conv_in.weight": (8, 3, 3, 3),
    }
    tensors = {name: torch.randn(shape) * 0.1 for name, shape in names.items()}
    tensors["alphas_cumprod"] = torch.linspace(0.999, 0.00466, 1000)
    tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77).reshape(1, 77)
    return tensors


def saved(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Write with the safetensors library, which is independent of the writer under test."""
    save_file({name: value.contiguous() for name, value in tensors.items()}, str(path), dict(metadata or {}) or None)
    return path


def converted(source: Path, target: Path, precision: str = "", *, clip: bool = False) -> WriteResult:
    """Convert a file whole."""
    with open_model(source) as model:
        book = set_precision(model, parse_precision(precision or "keep", clip=clip))
        return write_model(model, target, book)


def loaded(path: Path) -> dict[str, torch.Tensor]:
    """Read with the safetensors library."""
    return load_file(str(path))


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata as they lie in the file."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length)).get("__metadata__", {})


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Equal type, shape and bytes, NaN included."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return torch.equal(
        left.contiguous().reshape(-1).view(torch.uint8), right.contiguous().reshape(-1).view(torch.uint8)
    )
