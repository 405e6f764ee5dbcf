"""Two independent implementations of the same network: diffusers' AutoencoderKL and latent diffusion's own classes."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from vae_makers import spelled

from modelsmith.vae.layout import Layout

LDM_FOLDER = "repositories/stable-diffusion-stability-ai"


def diffusers_model(layout: Layout, weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float64) -> Any:
    """AutoencoderKL of this shape with these weights, loaded strictly."""
    diffusers = pytest.importorskip("diffusers")
    model = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(layout.down),
        up_block_types=("UpDecoderBlock2D",) * len(layout.up),
        block_out_channels=tuple(level.channels for level in layout.down),
        layers_per_block=layout.down[0].blocks,
        latent_channels=layout.latent_channels,
        use_quant_conv=layout.quant_conv,
        use_post_quant_conv=layout.post_quant_conv,
    )
    tensors = {n: t for n, t in spelled(layout, weights, "diffusers").items() if not n.startswith("bn.")}
    model.load_state_dict(tensors, strict=True)
    return model.to(dtype).eval()


def diffusers_run(model: Any, side: str, value: Tensor) -> Tensor:
    """Decode, or encode to moments."""
    with torch.no_grad():
        if side == "decoder":
            return model.decode(value).sample
        return model.encode(value).latent_dist.parameters


class LdmModel:
    """The encoder and decoder classes that A1111 uses, from a webui's own copy of the repository."""

    def __init__(self, layout: Layout, weights: Mapping[str, Tensor]) -> None:
        webui = os.environ.get("MODELSMITH_LDM") or os.path.join(os.environ.get("MODELSMITH_WEBUI", ""), LDM_FOLDER)
        if not (Path(webui) / "ldm").is_dir():
            pytest.skip("no latent-diffusion repository (set MODELSMITH_LDM or MODELSMITH_WEBUI)")
        pytest.importorskip("einops")
        if webui not in sys.path:
            sys.path.append(webui)
        from ldm.modules.diffusionmodules.model import Decoder, Encoder  # pyright: ignore

        finest = layout.down[0].channels
        shape: dict[str, Any] = {
            "ch": finest,
            "out_ch": 3,
            "ch_mult": tuple(level.channels // finest for level in layout.down),
            "num_res_blocks": layout.down[0].blocks,
            "attn_resolutions": [],
            "in_channels": 3,
            "resolution": 64,
            "z_channels": layout.latent_channels,
        }
        self.encoder, self.decoder = Encoder(**shape, double_z=True), Decoder(**shape)
        self.quant = torch.nn.Conv2d(2 * layout.latent_channels, 2 * layout.latent_channels, 1)
        self.post = torch.nn.Conv2d(layout.latent_channels, layout.latent_channels, 1)
        tensors = spelled(layout, weights, "ldm")
        for module, start in (
            (self.encoder, "encoder."),
            (self.decoder, "decoder."),
            (self.quant, "quant_conv."),
            (self.post, "post_quant_conv."),
        ):
            own = {n[len(start) :]: t for n, t in tensors.items() if n.startswith(start)}
            module.load_state_dict(own, strict=True)
            module.eval()

    def run(self, side: str, value: Tensor) -> Tensor:
        for module in (self.encoder, self.decoder, self.quant, self.post):
            module.to(value.dtype)
        with torch.no_grad():
            if side == "decoder":
                return self.decoder(self.post(value))
            return self.quant(self.encoder(value))
