"""Names of modules: what trainers call them, and which key of a checkpoint in original (ldm) layout is meant.

Every name is compared with its dots replaced by underscores, as kohya's sd-scripts writes them (networks/lora.py
870-876 at 48d368fa), so that ``lora_unet_…``, ``unet.…`` and ``diffusion_model.…`` meet in one table. The tables state
facts about public layouts: diffusers' UNet against ldm (a traversal of blocks with two resnets per level), diffusers'
transformers against the original FLUX, SD3, Lumina 2 and Z-Image code (ComfyUI comfy/utils.py ``unet_to_diffusers``,
``mmdit_to_diffusers``, ``flux_to_diffusers``, ``z_image_to_diffusers``; diffusers scripts/convert_sd3_to_diffusers.py,
convert_flux2_to_diffusers.py, convert_lumina2_to_diffusers.py), OpenCLIP against transformers' CLIP.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from modelsmith.convert.naming import RESNET, TOP

PartKind = Literal["all", "qkv", "qkvm", "swap", "swap_last", "transpose"]


@dataclass(frozen=True, slots=True)
class Part:
    """Which rows of a tensor a module stands for.

    kind ``all``: every row. ``qkv``: third ``index`` of fused query, key, value. ``qkvm``: the same with an MLP as
    the fourth part. ``swap``: all rows, with the two halves in the other order (diffusers keeps scale before shift).
    ``swap_last``: ``swap`` where the module has two halves only, as in SD3's last block, else ``all``.
    ``transpose``: the tensor is stored transposed.
    """

    kind: PartKind = "all"
    index: int = 0


WHOLE = Part()

_QKV = tuple(Part("qkv", index) for index in range(3))
_QKVM = tuple(Part("qkvm", index) for index in range(4))
_SWAP = Part("swap")

Alias = tuple[str, Part]


@dataclass(frozen=True, slots=True)
class Rule:
    """Modules whose original name matches ``pattern`` are also called by each template (``re.Match.expand``)."""

    pattern: re.Pattern[str]
    aliases: tuple[Alias, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """Original layouts that share a table. ``marker``: a module that tells the family in a checkpoint."""

    id: str
    marker: str
    rules: tuple[Rule, ...]


def _rules(*rows: tuple[str | Alias, ...]) -> tuple[Rule, ...]:
    """Make rules of rows: the original name (``#`` stands for a number), then its other names."""
    made: list[Rule] = []
    for first, *names in rows:
        pattern = first if isinstance(first, str) else first[0]
        aliases = tuple((name, WHOLE) if isinstance(name, str) else name for name in names)
        made.append(Rule(re.compile(pattern.replace(".", r"\.").replace("#", r"(\d+)") + r"\Z"), aliases))
    return tuple(made)


def _fused(names: tuple[str, ...], parts: tuple[Part, ...]) -> tuple[Alias, ...]:
    return tuple(zip(names, parts, strict=True))


_FLUX = _rules(
    (
        "double_blocks.#.img_attn.qkv",
        *_fused(tuple(rf"transformer_blocks.\1.attn.to_{x}" for x in "qkv"), _QKV),
    ),
    (
        "double_blocks.#.txt_attn.qkv",
        *_fused(tuple(rf"transformer_blocks.\1.attn.add_{x}_proj" for x in "qkv"), _QKV),
    ),
    ("double_blocks.#.img_attn.proj", r"transformer_blocks.\1.attn.to_out.0"),
    ("double_blocks.#.txt_attn.proj", r"transformer_blocks.\1.attn.to_add_out"),
    ("double_blocks.#.img_attn.norm.query_norm", r"transformer_blocks.\1.attn.norm_q"),
    ("double_blocks.#.img_attn.norm.key_norm", r"transformer_blocks.\1.attn.norm_k"),
    ("double_blocks.#.txt_attn.norm.query_norm", r"transformer_blocks.\1.attn.norm_added_q"),
    ("double_blocks.#.txt_attn.norm.key_norm", r"transformer_blocks.\1.attn.norm_added_k"),
    ("double_blocks.#.img_mod.lin", r"transformer_blocks.\1.norm1.linear"),
    ("double_blocks.#.txt_mod.lin", r"transformer_blocks.\1.norm1_context.linear"),
    ("double_blocks.#.img_mlp.0", r"transformer_blocks.\1.ff.net.0.proj", r"transformer_blocks.\1.ff.linear_in"),
    ("double_blocks.#.img_mlp.2", r"transformer_blocks.\1.ff.net.2", r"transformer_blocks.\1.ff.linear_out"),
    (
        "double_blocks.#.txt_mlp.0",
        r"transformer_blocks.\1.ff_context.net.0.proj",
        r"transformer_blocks.\1.ff_context.linear_in",
    ),
    (
        "double_blocks.#.txt_mlp.2",
        r"transformer_blocks.\1.ff_context.net.2",
        r"transformer_blocks.\1.ff_context.linear_out",
    ),
    (
        "single_blocks.#.linear1",
        *_fused(
            (
                *(rf"single_transformer_blocks.\1.attn.to_{x}" for x in "qkv"),
                r"single_transformer_blocks.\1.proj_mlp",
            ),
            _QKVM,
        ),
        r"single_transformer_blocks.\1.attn.to_qkv_mlp_proj",
    ),
    ("single_blocks.#.linear2", r"single_transformer_blocks.\1.proj_out", r"single_transformer_blocks.\1.attn.to_out"),
    ("single_blocks.#.modulation.lin", r"single_transformer_blocks.\1.norm.linear"),
    ("single_blocks.#.norm.query_norm", r"single_transformer_blocks.\1.attn.norm_q"),
    ("single_blocks.#.norm.key_norm", r"single_transformer_blocks.\1.attn.norm_k"),
    ("img_in", "x_embedder"),
    ("txt_in", "context_embedder"),
    (
        "time_in.in_layer",
        "time_text_embed.timestep_embedder.linear_1",
        "time_guidance_embed.timestep_embedder.linear_1",
    ),
    (
        "time_in.out_layer",
        "time_text_embed.timestep_embedder.linear_2",
        "time_guidance_embed.timestep_embedder.linear_2",
    ),
    ("vector_in.in_layer", "time_text_embed.text_embedder.linear_1"),
    ("vector_in.out_layer", "time_text_embed.text_embedder.linear_2"),
    (
        "guidance_in.in_layer",
        "time_text_embed.guidance_embedder.linear_1",
        "time_guidance_embed.guidance_embedder.linear_1",
    ),
    (
        "guidance_in.out_layer",
        "time_text_embed.guidance_embedder.linear_2",
        "time_guidance_embed.guidance_embedder.linear_2",
    ),
    ("double_stream_modulation_img.lin", "double_stream_modulation_img.linear"),
    ("double_stream_modulation_txt.lin", "double_stream_modulation_txt.linear"),
    ("single_stream_modulation.lin", "single_stream_modulation.linear"),
    ("distilled_guidance_layer.layers.#.in_layer", r"distilled_guidance_layer.layers.\1.linear_1"),
    ("distilled_guidance_layer.layers.#.out_layer", r"distilled_guidance_layer.layers.\1.linear_2"),
    ("final_layer.linear", "proj_out"),
    ("final_layer.adaLN_modulation.1", ("norm_out.linear", _SWAP)),
)

_MMDIT = _rules(
    ("joint_blocks.#.x_block.attn.qkv", *_fused(tuple(rf"transformer_blocks.\1.attn.to_{x}" for x in "qkv"), _QKV)),
    ("joint_blocks.#.x_block.attn2.qkv", *_fused(tuple(rf"transformer_blocks.\1.attn2.to_{x}" for x in "qkv"), _QKV)),
    (
        "joint_blocks.#.context_block.attn.qkv",
        *_fused(tuple(rf"transformer_blocks.\1.attn.add_{x}_proj" for x in "qkv"), _QKV),
    ),
    ("joint_blocks.#.x_block.attn.proj", r"transformer_blocks.\1.attn.to_out.0"),
    ("joint_blocks.#.x_block.attn2.proj", r"transformer_blocks.\1.attn2.to_out.0"),
    ("joint_blocks.#.context_block.attn.proj", r"transformer_blocks.\1.attn.to_add_out"),
    ("joint_blocks.#.x_block.attn.ln_q", r"transformer_blocks.\1.attn.norm_q"),
    ("joint_blocks.#.x_block.attn.ln_k", r"transformer_blocks.\1.attn.norm_k"),
    ("joint_blocks.#.x_block.attn2.ln_q", r"transformer_blocks.\1.attn2.norm_q"),
    ("joint_blocks.#.x_block.attn2.ln_k", r"transformer_blocks.\1.attn2.norm_k"),
    ("joint_blocks.#.context_block.attn.ln_q", r"transformer_blocks.\1.attn.norm_added_q"),
    ("joint_blocks.#.context_block.attn.ln_k", r"transformer_blocks.\1.attn.norm_added_k"),
    ("joint_blocks.#.x_block.mlp.fc1", r"transformer_blocks.\1.ff.net.0.proj"),
    ("joint_blocks.#.x_block.mlp.fc2", r"transformer_blocks.\1.ff.net.2"),
    ("joint_blocks.#.context_block.mlp.fc1", r"transformer_blocks.\1.ff_context.net.0.proj"),
    ("joint_blocks.#.context_block.mlp.fc2", r"transformer_blocks.\1.ff_context.net.2"),
    ("joint_blocks.#.x_block.adaLN_modulation.1", r"transformer_blocks.\1.norm1.linear"),
    (
        "joint_blocks.#.context_block.adaLN_modulation.1",
        (r"transformer_blocks.\1.norm1_context.linear", Part("swap_last")),
    ),
    ("t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_1"),
    ("t_embedder.mlp.2", "time_text_embed.timestep_embedder.linear_2"),
    ("y_embedder.mlp.0", "time_text_embed.text_embedder.linear_1"),
    ("y_embedder.mlp.2", "time_text_embed.text_embedder.linear_2"),
    ("x_embedder.proj", "pos_embed.proj"),
    ("final_layer.linear", "proj_out"),
    ("final_layer.adaLN_modulation.1", ("norm_out.linear", _SWAP)),
)

_ANY = r"(layers|noise_refiner|context_refiner).#"
_NEXTDIT = _rules(
    (
        _ANY + ".attention.qkv",
        *_fused(tuple(rf"\1.\2.attention.to_{x}" for x in "qkv"), _QKV),
        *_fused(tuple(rf"\1.\2.attn.to_{x}" for x in "qkv"), _QKV),
    ),
    (_ANY + ".attention.out", r"\1.\2.attention.to_out.0", r"\1.\2.attn.to_out.0"),
    (_ANY + ".attention.q_norm", r"\1.\2.attention.norm_q", r"\1.\2.attn.norm_q"),
    (_ANY + ".attention.k_norm", r"\1.\2.attention.norm_k", r"\1.\2.attn.norm_k"),
    (_ANY + ".feed_forward.w#", r"\1.\2.feed_forward.linear_\3"),
    (_ANY + ".adaLN_modulation.1", r"\1.\2.norm1.linear"),
    (r"(layers|noise_refiner).#.attention_norm1", r"\1.\2.norm1.norm"),
    (r"(context_refiner).#.attention_norm1", r"\1.\2.norm1"),
    (_ANY + ".attention_norm2", r"\1.\2.norm2"),
    ("cap_embedder.#", r"time_caption_embed.caption_embedder.\1"),
    ("t_embedder.mlp.0", "time_caption_embed.timestep_embedder.linear_1"),
    ("t_embedder.mlp.2", "time_caption_embed.timestep_embedder.linear_2"),
    ("x_embedder", "all_x_embedder.2-1"),
    ("final_layer.linear", "all_final_layer.2-1.linear", "norm_out.linear_2"),
    ("final_layer.adaLN_modulation.1", "all_final_layer.2-1.adaLN_modulation.1", "norm_out.linear_1"),
)

FAMILIES = (
    Family("flux", "single_blocks.0.linear1", _FLUX),
    Family("flux", "double_blocks.0.img_attn.qkv", _FLUX),
    Family("mmdit", "joint_blocks.0.x_block.attn.qkv", _MMDIT),
    Family("nextdit", "layers.0.attention.qkv", _NEXTDIT),
)
"""Transformers whose original names differ from diffusers'; Qwen-Image uses the same in both."""

_OPENCLIP = _rules(
    (
        "transformer.resblocks.#.attn.in_proj",
        *_fused(tuple(rf"text_model.encoder.layers.\1.self_attn.{x}_proj" for x in "qkv"), _QKV),
    ),
    ("transformer.resblocks.#.attn.out_proj", r"text_model.encoder.layers.\1.self_attn.out_proj"),
    ("transformer.resblocks.#.mlp.c_fc", r"text_model.encoder.layers.\1.mlp.fc1"),
    ("transformer.resblocks.#.mlp.c_proj", r"text_model.encoder.layers.\1.mlp.fc2"),
    ("transformer.resblocks.#.ln_1", r"text_model.encoder.layers.\1.layer_norm1"),
    ("transformer.resblocks.#.ln_2", r"text_model.encoder.layers.\1.layer_norm2"),
    ("ln_final", "text_model.final_layer_norm"),
    ("token_embedding", "text_model.embeddings.token_embedding"),
    ("positional_embedding", "text_model.embeddings.position_embedding"),
    ("text_projection", ("text_projection", Part("transpose"))),
)


def flat(name: str) -> str:
    """The name as kohya writes it: dots become underscores."""
    return name.replace(".", "_")


def rule_aliases(rules: tuple[Rule, ...], module: str) -> Iterator[Alias]:
    """Other names of an original module, flat."""
    for rule in rules:
        match = rule.pattern.match(module)
        if match:
            for template, part in rule.aliases:
                yield flat(match.expand(template)), part


def openclip_aliases(module: str) -> Iterator[Alias]:
    """Names in transformers' CLIP for a module of OpenCLIP's text encoder, flat."""
    yield from rule_aliases(_OPENCLIP, module)


# Modules of a LoRA are spelled with underscores where the model has dots.
_RESNET = {old.replace(".", "_"): new for old, new in RESNET.items()}
_UNET_TOP = {old.replace(".", "_"): new.replace(".", "_") for old, new in TOP.items()} | {
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
}
_UNET_BLOCK = re.compile(r"(input|output)_blocks_(\d+)_(\d+)_(.+)\Z")
_UNET_MIDDLE = re.compile(r"middle_block_([012])_(.+)\Z")


def unet_to_diffusers(name: str) -> str | None:
    """The diffusers name of a UNet module given by its flat ldm (sgm) name; None where there is none.

    Levels have two resnets each going down and three going up, in SD1, SD2, SDXL and its distillations alike.
    """
    if name in _UNET_TOP:
        return _UNET_TOP[name]
    middle = _UNET_MIDDLE.match(name)
    if middle:
        sub, rest = middle.groups()
        if sub == "1":
            return f"mid_block_attentions_0_{rest}"
        return f"mid_block_resnets_{int(sub) // 2}_{_RESNET[rest]}" if rest in _RESNET else None
    block = _UNET_BLOCK.match(name)
    if not block:
        return None
    side, number, sub, rest = block[1], int(block[2]), block[3], block[4]
    if side == "input":
        level, index = divmod(number - 1, 3)
        if rest == "op":
            return f"down_blocks_{level}_downsamplers_0_conv"
        place = f"down_blocks_{level}"
    else:
        level, index = divmod(number, 3)
        if rest == "conv":
            return f"up_blocks_{level}_upsamplers_0_conv"
        place = f"up_blocks_{level}"
    if sub == "0":
        return f"{place}_resnets_{index}_{_RESNET[rest]}" if rest in _RESNET else None
    return f"{place}_attentions_{index}_{rest}"


def unet_aliases(module: str) -> Iterator[Alias]:
    """Names in diffusers' UNet for a module of an ldm UNet, flat."""
    name = unet_to_diffusers(flat(module))
    if name is None:
        return
    yield name, WHOLE
    if name.startswith("add_embedding_"):
        yield name.replace("add_", "class_", 1), WHOLE
