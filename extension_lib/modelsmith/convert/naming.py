"""UNet names of SD1, SD2 and SDXL: the original (ldm) spelling, the diffusers spelling, and the way between them.

The original counts blocks along the network (three input blocks for a level: two residual ones and the step down),
diffusers counts levels and layers in them (diffusers scripts/convert_original_stable_diffusion_to_diffusers.py and
CompVis/stable-diffusion ldm/modules/diffusionmodules/openaimodel.py state both orders).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_LAYERS = 2  # residual layers of a level, in all three families
_STEP = _LAYERS + 1

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
"""Layers of a residual block, from the original names to those of diffusers."""

_RESNET_BACK = {new: old for old, new in RESNET.items()}
TOP = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
"""Layers outside the blocks, likewise."""

_TOP_BACK = {new: old for old, new in TOP.items()}
# A label is a picture's size and pooled text in SDXL, and the picture itself in SD2's unCLIP.
_LABELS_BACK = {
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "class_embedding.linear_1": "label_emb.0.0",
    "class_embedding.linear_2": "label_emb.0.2",
}
_BLOCK = re.compile(r"(input|output)_blocks\.(\d+)\.(\d+)\.(.+)\Z")
_MIDDLE = re.compile(r"middle_block\.([012])\.(.+)\Z")
_LEVEL = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)\Z")
_MID = re.compile(r"mid_block\.(resnets|attentions)\.([01])\.(.+)\Z")
_ATTENTION = ("norm.", "proj_in.", "transformer_blocks.", "proj_out.")


def unet_to_diffusers(name: str, label: str = "add_embedding") -> str | None:
    """Give the diffusers name for an original one without prefix; None for a name of no known form.

    label: what the label embedding is called, ``add_embedding`` (SDXL) or ``class_embedding`` (unCLIP).
    """
    layer, _, kind = name.rpartition(".")
    if layer in TOP:
        return f"{TOP[layer]}.{kind}"
    if layer in ("label_emb.0.0", "label_emb.0.2"):
        return f"{label}.linear_{1 if layer.endswith('.0.0') else 2}.{kind}"
    if found := _MIDDLE.match(name):
        number, rest = int(found[1]), found[2]
        if number == 1:
            return f"mid_block.attentions.0.{rest}"
        inner = _renamed(rest, RESNET)
        return None if inner is None else f"mid_block.resnets.{number // 2}.{inner}"
    found = _BLOCK.match(name)
    if found is None:
        return None
    side, block, part, rest = found[1], int(found[2]), int(found[3]), found[4]
    if side == "input":
        return _input_to_diffusers(block, part, rest)
    return _output_to_diffusers(block, part, rest)


def _input_to_diffusers(block: int, part: int, rest: str) -> str | None:
    level, layer = divmod(block - 1, _STEP)
    if block < 1:
        return None
    if rest.startswith("op."):
        return f"down_blocks.{level}.downsamplers.0.conv.{rest[3:]}"
    if part == 1 and rest.startswith(_ATTENTION):
        return f"down_blocks.{level}.attentions.{layer}.{rest}"
    inner = _renamed(rest, RESNET)
    return None if inner is None or part else f"down_blocks.{level}.resnets.{layer}.{inner}"


def _output_to_diffusers(block: int, part: int, rest: str) -> str | None:
    level, layer = divmod(block, _STEP)
    if part and rest.startswith("conv."):
        return f"up_blocks.{level}.upsamplers.0.{rest}"
    if part == 1 and rest.startswith(_ATTENTION):
        return f"up_blocks.{level}.attentions.{layer}.{rest}"
    inner = _renamed(rest, RESNET)
    return None if inner is None or part else f"up_blocks.{level}.resnets.{layer}.{inner}"


def _renamed(rest: str, table: dict[str, str]) -> str | None:
    layer, _, kind = rest.rpartition(".")
    return f"{table[layer]}.{kind}" if layer in table else None


def levels_with_attention(names: Iterable[str]) -> frozenset[int]:
    """Levels of the upward half that have attention, from diffusers names; needed for :func:`unet_to_ldm`."""
    found: set[int] = set()
    for name in names:
        match = _LEVEL.match(name)
        if match and match[1] == "up" and match[3] == "attentions":
            found.add(int(match[2]))
    return frozenset(found)


def unet_to_ldm(name: str, attention: frozenset[int]) -> str | None:
    """Give the original name for a diffusers one without prefix; None for a name of no known form.

    attention: upward levels that have attention. The step up comes after it, hence its place depends on it.
    """
    layer, _, kind = name.rpartition(".")
    top = _TOP_BACK.get(layer) or _LABELS_BACK.get(layer)
    if top is not None:
        return f"{top}.{kind}"
    if found := _MID.match(name):
        if found[1] == "attentions":
            return f"middle_block.1.{found[3]}" if found[2] == "0" else None
        inner = _renamed(found[3], _RESNET_BACK)
        return None if inner is None else f"middle_block.{2 * int(found[2])}.{inner}"
    found = _LEVEL.match(name)
    if found is None:
        return None
    side, level, part, number, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    if part == "downsamplers":
        return f"input_blocks.{_STEP * (level + 1)}.0.op.{rest[5:]}" if rest.startswith("conv.") else None
    if part == "upsamplers":
        return f"output_blocks.{_STEP * level + _LAYERS}.{2 if level in attention else 1}.{rest}"
    block = (
        f"input_blocks.{_STEP * level + number + 1}" if side == "down" else f"output_blocks.{_STEP * level + number}"
    )
    if part == "attentions":
        return f"{block}.1.{rest}"
    inner = _renamed(rest, _RESNET_BACK)
    return None if inner is None else f"{block}.0.{inner}"
