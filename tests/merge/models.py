"""Tiny models with true key names for merge tests: every dimension that tells nothing is cut short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from host.checkpoints import SD1, SD2, SDXL, Family, text_encoders, unet, vae

FAMILIES: Mapping[str, Family] = {"sd1": SD1, "sd2": SD2, "sdxl": SDXL}
TELLING = (
    "attn2.to_k.weight",
    "label_emb.0.0.weight",
    "ln_final.weight",
    "final_layer_norm.weight",
    "time_embed.0.weight",
)
CUT = 6


def shrink(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Cut a shape, but not the widths by which architectures are told apart."""
    if name.endswith("token_embedding.weight"):
        return (CUT, shape[1])
    if name.endswith(("input_blocks.0.0.weight", "out.2.weight", "conv_in.weight", "conv_out.weight")):
        return (min(shape[0], 320), *shape[1:]) if name.endswith("input_blocks.0.0.weight") else tuple(shape)
    if name.endswith(TELLING):
        return (min(shape[0], CUT), *shape[1:]) if len(shape) > 1 else tuple(shape)
    return tuple(min(size, CUT) for size in shape)


@lru_cache(maxsize=16)
def shapes(family: str, in_channels: int = 4) -> dict[str, tuple[int, ...]]:
    """Names and cut shapes of a whole checkpoint."""
    kind = FAMILIES[family]
    entries = [*unet(kind, kind.width, in_channels), *vae(8), *text_encoders(kind, 1)]
    return {name: shrink(name, shape) for name, shape in entries}


@dataclass(frozen=True)
class Model:
    """One checkpoint to write."""

    family: str = "sdxl"
    dtype: torch.dtype = torch.float16
    seed: int = 0
    markers: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    in_channels: int = 4
    extra: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    without: tuple[str, ...] = ()


def tensors(model: Model) -> dict[str, Tensor]:
    """The state dict of a model: random values, empty markers, extras."""
    generator = torch.Generator().manual_seed(model.seed)
    state = {
        name: (torch.randn(shape, generator=generator) * 0.05).to(model.dtype)
        for name, shape in shapes(model.family, model.in_channels).items()
    }
    state |= {marker: torch.empty(0) for marker in model.markers}
    state |= dict(model.extra)
    for name in model.without:
        del state[name]
    return state


def write_model(path: Path, model: Model = Model()) -> Path:
    """Write a model and return its path."""
    save_file(tensors(model), str(path), metadata=dict(model.metadata) or None)
    return path
