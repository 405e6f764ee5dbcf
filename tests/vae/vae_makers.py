"""Narrow VAEs with the true tensor names, random or driven beyond the range of fp16."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from modelsmith.vae.keys import Naming, is_attention_matrix, spell
from modelsmith.vae.layout import Layout, Level


def narrow_layout(
    latent: int = 4, widths: tuple[int, ...] = (32, 64), blocks: int = 1, batch_norm: bool = False, quant: bool = True
) -> Layout:
    """A VAE of the usual form, ``widths`` from the finest level to the coarsest."""
    return Layout(
        latent_channels=latent,
        image_channels=3,
        down=tuple(Level(width, blocks) for width in widths),
        up=tuple(Level(width, blocks + 1) for width in widths),
        encoder_mid=widths[-1],
        decoder_mid=widths[-1],
        attention=True,
        quant_conv=quant,
        post_quant_conv=quant,
        batch_norm=batch_norm,
    )


def random_weights(layout: Layout, seed: int = 0, gain: float = 1.0, branch: float = 1.0) -> dict[str, Tensor]:
    """Weights by canonical name. gain: of what writes into the residual stream. branch: of every conv1."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for name, shape in layout.tensors().items():
        noise = torch.randn(shape, generator=generator)
        if "norm" in name:
            value = 1 + 0.1 * noise if name.endswith("weight") else 0.1 * noise
        elif name.endswith("bias"):
            value = 0.05 * noise
        else:
            value = noise / (shape[1] * shape[2] * shape[3]) ** 0.5
        if ".conv2." in name or name.endswith(("coder.conv_in.weight", "coder.conv_in.bias")) or ".proj_out." in name:
            value = value * gain
        if ".conv1." in name:
            value = value * branch
        found[name] = value
    return found


def statistics(layout: Layout) -> dict[str, Tensor]:
    """FLUX.2's running statistics."""
    if not layout.batch_norm:
        return {}
    count = 4 * layout.latent_channels
    return {
        "bn.running_mean": torch.linspace(-0.5, 0.5, count),
        "bn.running_var": torch.linspace(0.5, 2.0, count),
        "bn.num_batches_tracked": torch.tensor(7),
    }


def flat(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Attention matrices as [C, C], as the network takes them."""
    return {n: t.reshape(t.shape[:2]) if is_attention_matrix(n) else t for n, t in weights.items()}


def spelled(layout: Layout, weights: Mapping[str, Tensor], naming: Naming, prefix: str = "") -> dict[str, Tensor]:
    """The tensors as a file of that spelling has them."""
    found = {}
    for name, tensor in weights.items():
        if naming == "diffusers" and is_attention_matrix(name):
            tensor = tensor.reshape(tensor.shape[:2])
        found[prefix + spell(name, naming, len(layout.up))] = tensor.contiguous()
    found.update({prefix + name: tensor for name, tensor in statistics(layout).items()})
    return found


def write_vae(
    path: Path,
    layout: Layout,
    weights: Mapping[str, Tensor],
    naming: Naming = "ldm",
    dtype: torch.dtype = torch.float32,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write a VAE file with safetensors itself."""
    save_file({n: t.to(dtype) for n, t in spelled(layout, weights, naming).items()}, path, metadata or {"format": "pt"})
    return path


def unet_tensors(architecture: str = "sdxl") -> dict[str, Tensor]:
    """A few tensors of a diffusion model, enough to be one for a human; the merge-sized rest is left out."""
    prefix = "model.diffusion_model."
    block, width = {"sd1": ("1.1", 768), "sdxl": ("4.1", 2048)}[architecture]
    to_k = f"{prefix}input_blocks.{block}.transformer_blocks.0.attn2.to_k.weight"
    generator = torch.Generator().manual_seed(5)
    found = {
        f"{prefix}input_blocks.0.0.weight": torch.randn((32, 4, 3, 3), generator=generator).half(),
        to_k: torch.randn((64, width), generator=generator).half(),
        f"{prefix}output_blocks.0.0.in_layers.0.weight": torch.ones(64).half(),
        f"{prefix}out.2.weight": torch.randn((4, 32, 3, 3), generator=generator).half(),
        "position_ids": torch.arange(77)[None],
    }
    if architecture == "sdxl":
        found[f"{prefix}label_emb.0.0.weight"] = torch.randn((128, 2816), generator=generator).half()
    return found
