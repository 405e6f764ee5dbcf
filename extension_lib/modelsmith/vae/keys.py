"""Names of a VAE's tensors: the ldm spelling, the diffusers spelling, and the way between them.

The ldm spelling with ``quant_conv`` and ``post_quant_conv`` at the top is the one that this package calculates with
("canonical").  CompVis/latent-diffusion counts the decoder's levels from the finest one up, diffusers from the
coarsest one down.  The original FLUX.2 files keep the two 1x1 convolutions inside encoder and decoder.
"""

from __future__ import annotations

import re
from typing import Literal

Naming = Literal["ldm", "ldm-nested", "diffusers"]
"""``ldm-nested`` is ldm with ``encoder.quant_conv`` and ``decoder.post_quant_conv`` (FLUX.2's original files)."""

PREFIXES = ("first_stage_model.", "vae.", "")
"""Where a VAE lies in a checkpoint; the last one is a file of its own."""

_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_ATTENTION_BACK = {
    **{diffusers: ldm for ldm, diffusers in _ATTENTION.items()},
    # diffusers before 0.17 wrote the attention's layers under these names
    "query": "q",
    "key": "k",
    "value": "v",
    "proj_attn": "proj_out",
}
_LDM_LEVEL = re.compile(r"^(encoder\.down|decoder\.up)\.(\d+)\.(block|downsample|upsample)\.(.+)$")
_DIFFUSERS_LEVEL = re.compile(
    r"^(encoder\.down_blocks|decoder\.up_blocks)\.(\d+)\.(resnets|downsamplers\.0|upsamplers\.0)\.(.+)$"
)
_LDM_MID = re.compile(r"^(encoder|decoder)\.mid\.(block|attn)_(\d+)\.(.+)$")
_DIFFUSERS_MID = re.compile(r"^(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)$")
_PARTS = {"block": "resnets", "downsample": "downsamplers.0", "upsample": "upsamplers.0"}
_PARTS_BACK = {diffusers: ldm for ldm, diffusers in _PARTS.items()}
_TOP = {
    "encoder.norm_out.": "encoder.conv_norm_out.",
    "decoder.norm_out.": "decoder.conv_norm_out.",
}
_NESTED = {"quant_conv.": "encoder.quant_conv.", "post_quant_conv.": "decoder.post_quant_conv."}


def spell(name: str, naming: Naming, levels: int) -> str:
    """Give a canonical name in another spelling. levels: resolutions of the VAE (the decoder's count turns around)."""
    if naming == "ldm":
        return name
    if naming == "ldm-nested":
        return _swap_start(name, _NESTED)
    if found := _LDM_LEVEL.match(name):
        side, level, part, rest = found.groups()
        number = int(level) if side == "encoder.down" else levels - 1 - int(level)
        return f"{side}_blocks.{number}.{_PARTS[part]}.{rest.replace('nin_shortcut', 'conv_shortcut')}"
    if found := _LDM_MID.match(name):
        side, part, number, rest = found.groups()
        if part == "block":
            rest = rest.replace("nin_shortcut", "conv_shortcut")
            return f"{side}.mid_block.resnets.{int(number) - 1}.{rest}"
        layer, kind = rest.rsplit(".", 1)
        return f"{side}.mid_block.attentions.{int(number) - 1}.{_ATTENTION.get(layer, layer)}.{kind}"
    return _swap_start(name, _TOP)


def canonical(name: str, levels: int) -> str:
    """Give the canonical name for a name in any spelling; a name of no known form comes back as it is."""
    if found := _DIFFUSERS_LEVEL.match(name):
        side, level, part, rest = found.groups()
        number = int(level) if side == "encoder.down_blocks" else levels - 1 - int(level)
        return f"{side.removesuffix('_blocks')}.{number}.{_PARTS_BACK[part]}.{_shortcut_back(rest)}"
    if found := _DIFFUSERS_MID.match(name):
        side, part, number, rest = found.groups()
        if part == "resnets":
            return f"{side}.mid.block_{int(number) + 1}.{_shortcut_back(rest)}"
        layer, _, kind = rest.rpartition(".")
        return f"{side}.mid.attn_{int(number) + 1}.{_ATTENTION_BACK.get(layer, layer)}.{kind}"
    back = {new: old for old, new in (*_TOP.items(), *_NESTED.items())}
    return _swap_start(name, back)


def is_attention_matrix(name: str) -> bool:
    """Whether a canonical name is one of the attention's four matrices: [C, C, 1, 1] in ldm, [C, C] in diffusers."""
    return ".attn_" in name and name.endswith((".q.weight", ".k.weight", ".v.weight", ".proj_out.weight"))


def _shortcut_back(rest: str) -> str:
    return rest.replace("conv_shortcut", "nin_shortcut")


def _swap_start(name: str, table: dict[str, str]) -> str:
    for old, new in table.items():
        if name.startswith(old):
            return new + name[len(old) :]
    return name
