"""Which part of a model a tensor belongs to, by its name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Part = Literal["unet", "te", "vae", "ema", "marker", "other"]

# Longest first: the first prefix that fits decides.
PREFIXES: tuple[tuple[str, Part], ...] = (
    ("model.diffusion_model.", "unet"),
    ("model_ema.", "ema"),
    ("first_stage_model.", "vae"),
    ("cond_stage_model.", "te"),
    ("conditioner.embedders.", "te"),
    ("text_encoders.", "te"),
    ("text_encoder.", "te"),
    ("text_encoder_2.", "te"),
    ("text_encoder_3.", "te"),
    ("unet.", "unet"),
    ("transformer.", "unet"),
    ("vae.", "vae"),
)
MARKERS = frozenset(
    {"v_pred", "ztsnr", "edm_mean", "edm_std", "scaled_fp8", "__x0__", "__index_timestep_zero__",
     "edm_vpred.sigma_max", "edm_vpred.sigma_min"}
)  # fmt: skip
"""Tensors that say something about the model instead of taking part in it; they are kept always."""

_VAE_SIGNS = ("decoder.conv_in.weight", "encoder.conv_in.weight", "decoder.mid.block_1.conv1.weight")
_TEXT_SIGNS = (
    "text_model.", "transformer.resblocks.", "encoder.block.", "model.embed_tokens.", "embeddings.token_embedding.",
    "token_embedding.weight", "shared.weight",
)  # fmt: skip


def is_marker(name: str) -> bool:
    """Whether a tensor is a marker, also under the prefix of the diffusion model, where some tools put it."""
    return name in MARKERS or name.rpartition("model.diffusion_model.")[2] in MARKERS or name.endswith(".scaled_fp8")


def bare_part(names: Iterable[str]) -> Part:
    """The part that a file without any known prefix holds: a VAE, a text encoder, or else the diffusion model."""
    known = list(names)
    if any(name in _VAE_SIGNS for name in known):
        return "vae"
    if any(name.startswith(_TEXT_SIGNS) for name in known):
        return "te"
    return "unet"


class PartTable:
    """Answers for one file, whose bare names are judged together."""

    def __init__(self, names: Iterable[str]) -> None:
        known = list(names)
        prefixed = any(name.startswith(prefix) for name in known for prefix, _ in PREFIXES[:6])
        folder = any(name.startswith(("unet.", "transformer.", "vae.", "text_encoder.")) for name in known)
        # Bare text encoders of OpenCLIP begin with "transformer." as the part of a diffusers folder does.
        if folder and any(name.startswith("transformer.resblocks.") for name in known):
            folder = False
        self.bare: Part | None = None if prefixed or folder else bare_part(known)

    def part_of(self, name: str) -> Part:
        """The part of one tensor; ``other`` for schedule buffers, training leftovers and all that is unknown."""
        if is_marker(name):
            return "marker"
        if self.bare is not None:
            return self.bare
        for prefix, part in PREFIXES:
            if name.startswith(prefix):
                return part
        return "other"
