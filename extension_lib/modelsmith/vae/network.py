"""The VAE's encoder and decoder as functions over a table of weights.

Written out plainly so that every value that a 16-bit run would store can be looked at, and rounded where a 16-bit run
is imitated.  The network is that of latent diffusion (Rombach et al., 2022, arXiv:2112.10752): ResNet blocks of
GroupNorm, SiLU and 3x3 convolutions, one attention in the middle, nearest-neighbour upsampling, and downsampling with
padding on the right and the bottom only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from modelsmith.vae.layout import GROUPS, Layout, Level, Side

EPS = 1e-6
"""What every GroupNorm of these networks adds to the variance."""

FP16_MAX = 65504.0

Weights = Mapping[str, Tensor]
"""Canonical name -> tensor; attention matrices as [C, C]."""


@dataclass
class Probe:
    """Looks at every stored value on its way.

    storage: values are rounded to this type as they are stored (weights must be rounded by the caller), the arithmetic
    itself staying wider: so a 16-bit run on a GPU works, which adds up in fp32.  None: nothing is rounded.
    maxima: layer -> largest absolute value; infinity where a value was not finite.
    variances: GroupNorm -> smallest variance of a group that it normalised.
    """

    storage: torch.dtype | None = None
    measuring: bool = True
    maxima: dict[str, float] = field(default_factory=lambda: dict[str, float]())
    variances: dict[str, float] = field(default_factory=lambda: dict[str, float]())

    def store(self, name: str, value: Tensor) -> Tensor:
        """Take a layer's result and give it back as it would be read again."""
        if self.storage is not None and value.dtype != self.storage:
            value = value.to(self.storage).to(value.dtype)
        if self.measuring:
            self.note(name, value)
        return value

    def note(self, name: str, value: Tensor) -> None:
        """Keep the largest absolute value of a layer."""
        largest = float(value.abs().amax()) if value.numel() else 0.0
        largest = largest if largest == largest else float("inf")
        self.maxima[name] = max(largest, self.maxima.get(name, 0.0))

    def before_norm(self, name: str, value: Tensor) -> None:
        """Keep the smallest variance that a group has before it is normalised."""
        if self.measuring:
            groups = value.float().reshape(value.shape[0], GROUPS, -1)
            least = float(groups.var(dim=2, unbiased=False).amin())
            self.variances[name] = min(least, self.variances.get(name, float("inf")))


@dataclass(frozen=True)
class Network:
    """A VAE that can be run: its shape, its weights and what looks at the values."""

    layout: Layout
    weights: Weights
    probe: Probe = field(default_factory=lambda: Probe(measuring=False))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [N, latent channels, h, w] -> image [N, 3, h * factor, w * factor], about -1 to 1."""
        value = latents
        if self.layout.post_quant_conv:
            value = self._conv("post_quant_conv", value, padding=0)
        value = self._conv("decoder.conv_in", value)
        value = self._middle("decoder", value)
        for number, level in reversed(list(enumerate(self.layout.up))):
            value = self._blocks(f"decoder.up.{number}", level, value)
            if number:
                value = F.interpolate(value, scale_factor=2.0, mode="nearest")
                value = self._conv(f"decoder.up.{number}.upsample.conv", value)
        return self._conv("decoder.conv_out", self._norm_silu("decoder.norm_out", value))

    def encode(self, image: Tensor) -> Tensor:
        """Image [N, 3, H, W] in -1..1 -> means and log-variances [N, 2 * latent channels, H / factor, W / factor]."""
        value = self._conv("encoder.conv_in", image)
        for number, level in enumerate(self.layout.down):
            value = self._blocks(f"encoder.down.{number}", level, value)
            if number + 1 < len(self.layout.down):
                value = F.pad(value, (0, 1, 0, 1))
                value = self._conv(f"encoder.down.{number}.downsample.conv", value, padding=0, stride=2)
        value = self._middle("encoder", value)
        value = self._conv("encoder.conv_out", self._norm_silu("encoder.norm_out", value))
        return self._conv("quant_conv", value, padding=0) if self.layout.quant_conv else value

    def run(self, side: Side, value: Tensor) -> Tensor:
        """``decode`` or ``encode``, by name."""
        return self.decode(value) if side == "decoder" else self.encode(value)

    def _middle(self, side: Side, value: Tensor) -> Tensor:
        value = self._block(f"{side}.mid.block_1", value)
        if self.layout.attention:
            value = self._attention(f"{side}.mid.attn_1", value)
        return self._block(f"{side}.mid.block_2", value)

    def _blocks(self, name: str, level: Level, value: Tensor) -> Tensor:
        for number in range(level.blocks):
            value = self._block(f"{name}.block.{number}", value)
        return value

    def _block(self, name: str, value: Tensor) -> Tensor:
        branch = self._conv(f"{name}.conv1", self._norm_silu(f"{name}.norm1", value))
        branch = self._conv(f"{name}.conv2", self._norm_silu(f"{name}.norm2", branch))
        if f"{name}.nin_shortcut.weight" in self.weights:
            value = self._conv(f"{name}.nin_shortcut", value, padding=0)
        return self.probe.store(name, value + branch)

    def _attention(self, name: str, value: Tensor) -> Tensor:
        count, width, height, breadth = value.shape
        rows = self._norm(f"{name}.norm", value).reshape(count, width, -1).transpose(1, 2)
        query, key, content = (self._linear(f"{name}.{layer}", rows) for layer in ("q", "k", "v"))
        if self.probe.measuring:
            # Attention that scales after the product (ldm's plain one) stores these; fused kernels do not.
            self.probe.note(f"{name}.scores", query @ key.transpose(1, 2))
        mixed = F.scaled_dot_product_attention(query[:, None], key[:, None], content[:, None])[:, 0]
        mixed = self._linear(f"{name}.proj_out", self.probe.store(f"{name}.mixed", mixed))
        return self.probe.store(name, value + mixed.transpose(1, 2).reshape(count, width, height, breadth))

    def _linear(self, name: str, rows: Tensor) -> Tensor:
        return self.probe.store(name, F.linear(rows, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]))

    def _conv(self, name: str, value: Tensor, padding: int = 1, stride: int = 1) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return self.probe.store(name, F.conv2d(value, weight, bias, stride=stride, padding=padding))

    def _norm(self, name: str, value: Tensor) -> Tensor:
        self.probe.before_norm(name, value)
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return self.probe.store(name, F.group_norm(value, GROUPS, weight, bias, EPS))

    def _norm_silu(self, name: str, value: Tensor) -> Tensor:
        return self.probe.store(f"{name}.silu", F.silu(self._norm(name, value)))


def decode(layout: Layout, weights: Weights, latents: Tensor, probe: Probe | None = None) -> Tensor:
    """Decode latents with a table of weights; see ``Network.decode``."""
    return Network(layout, weights, probe or Probe(measuring=False)).decode(latents)


def encode(layout: Layout, weights: Weights, image: Tensor, probe: Probe | None = None) -> Tensor:
    """Encode an image with a table of weights; see ``Network.encode``."""
    return Network(layout, weights, probe or Probe(measuring=False)).encode(image)
