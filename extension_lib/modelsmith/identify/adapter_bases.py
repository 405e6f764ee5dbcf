"""Which base a LoRA or relative fits: by names, by ratios and widths of its layers, last by metadata.

Widths alone are never trusted where names or ratios of one layer can tell, since models of reduced width exist; and
a LoRA may hold a single layer, so that often more than one base is left.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from modelsmith.files.header import FileHeader, TensorInfo

_METADATA_BASES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"refiner"), "sdxl-refiner"),
    (re.compile(r"sdxl|stable-diffusion-xl|illustrious|pony|noob"), "sdxl"),
    (re.compile(r"stable-diffusion-v3|sd3|stable-diffusion-3"), "sd3"),
    (re.compile(r"stable-diffusion-v2|^sd[_-]?v?2|sd 2"), "sd2"),
    (re.compile(r"stable-diffusion-v1|^sd[_-]?v?1|sd 1"), "sd1"),
    (re.compile(r"chroma"), "chroma"),
    (re.compile(r"flux[-_.]?2|klein"), "flux2"),
    (re.compile(r"flux"), "flux1"),
    (re.compile(r"qwen[-_]?image"), "qwen-image"),
    (re.compile(r"z[-_]?image"), "z-image"),
    (re.compile(r"lumina"), "lumina2"),
    (re.compile(r"auraflow"), "auraflow"),
    (re.compile(r"pixart"), "pixart"),
    (re.compile(r"hunyuan[-_]?dit"), "hunyuan-dit"),
    (re.compile(r"kolors"), "kolors"),
    (re.compile(r"cascade"), "stable-cascade"),
    (re.compile(r"wan"), "wan"),
)


def base_from_metadata(metadata: Mapping[str, str]) -> str | None:
    """The architecture that the metadata names, by the fields of kohya and of the model specification."""
    for name in ("modelspec.architecture", "ss_base_model_version", "ot_model_type", "modelspec.implementation"):
        said = metadata.get(name, "").strip().lower()
        if not said:
            continue
        for pattern, base in _METADATA_BASES:
            if pattern.search(said):
                return base
    return None


# A base whose LoRAs can have the same names and shapes as another's: metadata may say it is this one.
_TWINS: Mapping[str, tuple[str, ...]] = {"sdxl": ("kolors",)}


def bases_of(header: FileHeader) -> tuple[str, ...]:
    """By names, then by the sides of plain LoRA matrices, then by metadata (OFT has no sides to go by)."""
    claimed = base_from_metadata(header.metadata)
    found = _by_names(header.tensors)
    if claimed is None or (len(found) == 1 and claimed not in _TWINS.get(found[0], ())):
        return found
    allowed = {*found, *(twin for base in found for twin in _TWINS.get(base, ()))}
    return (claimed,) if not found or claimed in allowed else found


def _by_names(tensors: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    # "." and "_" alike, so that one test serves every naming
    flat = {name.replace(".", "_"): info for name, info in tensors.items()}
    text = "\n".join(flat)
    if _is_stranger(text, "\n".join(tensors)):
        return ()
    for rule in (_flux_bases, _next_dit_bases, _transformer_bases, _plain_block_bases):
        found = rule(text, flat)
        if found:
            return found
    return _unet_bases(text, flat) or _text_bases(text, flat)


def _is_stranger(text: str, names: str) -> bool:
    """Video models with FLUX.1's block names: HunyuanVideo fuses the names of attention and calls its layers linear."""
    return bool(
        re.search(r"double_blocks_\d+_(img|txt)_(mod_linear|mlp_fc[12])|single_blocks_\d+_modulation_linear", text)
        or re.search(r"double_blocks\.\d+\.(img|txt)_attn_(qkv|proj)", names)
    )


# ---- sides of layers

_DOWN = r"(lora_down|lora_A|lora_A_default|hada_w1_b|hada_w2_b|diff)(_weight)?$"
_UP = r"(lora_up|lora_B|lora_B_default|hada_w1_a|hada_w2_a|diff)(_weight)?$"
_DIFFUSERS_DOWN = r"_lora(_linear_layer)?_down_weight$"


def _width(flat: Mapping[str, TensorInfo], stem: str) -> int | None:
    """Input width of the layer whose flattened name ends in ``stem``, from its down matrix or its LoKr factors."""
    wanted = re.compile(f"{stem}(_{_DOWN}|{_DIFFUSERS_DOWN})")
    for name, info in flat.items():
        if wanted.search(name) and len(info.shape) >= 2:
            return info.shape[1]
    return _lokr_side(flat, stem, 1)


def _height(flat: Mapping[str, TensorInfo], stem: str) -> int | None:
    """Output width of a layer, from its up matrix or its LoKr factors."""
    wanted = re.compile(f"{stem}_{_UP}")
    for name, info in flat.items():
        if wanted.search(name) and info.shape:
            return info.shape[0]
    return _lokr_side(flat, stem, 0)


def _lokr_side(flat: Mapping[str, TensorInfo], stem: str, axis: int) -> int | None:
    """LoKr's weight is the Kronecker product of two factors, so its sides are the products of theirs.

    A factor is whole (``lokr_w2``) or itself a product of two (``_a`` has the rows, ``_b`` the columns).
    """
    wanted = re.compile(f"({stem})_lokr_w[12](_[ab])?$")
    for name in flat:
        found = wanted.search(name)
        if found is None:
            continue
        base = name[: found.end(1)] + "_lokr_w"
        sides: list[int] = []
        for factor in ("1", "2"):
            info = flat.get(base + factor) or flat.get(base + factor + ("_b" if axis else "_a"))
            if info is not None and len(info.shape) >= 2:
                sides.append(info.shape[axis])
        if len(sides) == 2:
            return sides[0] * sides[1]
    return None


def _last(text: str, stem: str) -> int:
    """The highest number of a block that is named, -1 where there is none."""
    return max((int(number) for number in re.findall(rf"(?<![a-z]){stem}_(\d+)_", text)), default=-1)


# ---- FLUX.1, Chroma, FLUX.2

_FLUX = ("flux1", "flux2", "chroma")
# One layer's output over its input: FLUX.1 and Chroma have an MLP of 4 widths, FLUX.2 a gated one of 2 x 3 widths
# (ComfyUI ldm/flux/layers.py; diffusers transformer_flux2.py). The order is (FLUX.1, FLUX.2).
_RATIOS: tuple[tuple[str, tuple[float, float]], ...] = (
    (r"single_blocks_\d+_linear1", (7, 9)),  # 3 for the attention and the MLP
    (r"single_blocks_\d+_linear2", (1 / 5, 1 / 4)),
    (r"double_blocks_\d+_(img|txt)_mlp_0", (4, 6)),
    (r"double_blocks_\d+_(img|txt)_mlp_2", (1 / 4, 1 / 3)),
)
_FLUX1_DOUBLE, _FLUX2_DOUBLE, _FLUX1_SINGLE = 19, 8, 38  # blocks, of FLUX.2's three models at most


_AURAFLOW_SINGLE = r"single_transformer_blocks_\d+_(attn_to_out_0|ff_(linear_[12]|out_projection))"


def _flux_bases(text: str, flat: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    if "distilled_guidance_layer" in text:
        return ("chroma",)
    if "joint_transformer_blocks_" in text or re.search(_AURAFLOW_SINGLE, text):
        return ("auraflow",)
    if "single_transformer_blocks_" in text:
        return _diffusers_flux_bases(text)
    if not re.search(r"(double|single)_blocks_\d", text):
        return ()
    if "double_stream_modulation" in text or "single_stream_modulation" in text:
        return ("flux2",)
    if re.search(r"_mod_lin_|modulation_lin_|vector_in_|guidance_in_", text):
        # only the dev of FLUX.2 has guidance too, and it has no vector
        return ("flux1",) if re.search(r"_mod_lin_|modulation_lin_|vector_in_", text) else ("flux1", "flux2")
    for stem, ratios in _RATIOS:
        rows, columns = _height(flat, stem), _width(flat, stem)
        for bases, ratio in zip((("flux1", "chroma"), ("flux2",)), ratios, strict=True):
            if rows and columns and rows == columns * ratio:
                return bases
    if _last(text, "double_blocks") >= _FLUX2_DOUBLE:
        return ("flux1", "chroma")
    if _last(text, "single_blocks") >= _FLUX1_SINGLE:
        return ("flux2",)
    # dev and klein 9B; klein 4B is as wide as FLUX.1, and other widths are no real model's
    width = _width(flat, r"(double_blocks_\d+_(img|txt)_attn_(qkv|proj)|single_blocks_\d+_linear1)")
    return ("flux2",) if width in (4096, 6144) else _FLUX


def _diffusers_flux_bases(text: str) -> tuple[str, ...]:
    """diffusers' single blocks: FLUX.2 fuses attention and MLP; Chroma has no modulation layers of its own."""
    if re.search(r"attn_to_qkv_mlp_proj|ff(_context)?_linear_(in|out)|single_transformer_blocks_\d+_attn_to_out", text):
        return ("flux2",)
    if re.search(r"single_transformer_blocks_\d+_norm_linear|norm1(_context)?_linear|time_text_embed", text):
        return ("flux1",)
    return ("flux1", "chroma")


# ---- other transformers


def _next_dit_bases(text: str, flat: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    """Lumina 2 and Z-Image have one set of blocks: the place of the modulation tells, else the width. AuraFlow too
    calls its blocks layers."""
    if re.search(r"(double|single)_layers_\d", text):
        return ("auraflow",)
    block = r"(layers|noise_refiner|context_refiner)_\d+_"
    if not re.search(rf"(^|_){block}(attention|attn|feed_forward|adaLN)_", text, re.M):
        return ()
    if re.search(rf"{block}adaLN_modulation_1_", text) or re.search(rf"(^|_){block}attn_", text, re.M):
        return ("lumina2",)  # diffusers calls the attention of Lumina 2 "attn", that of Z-Image "attention"
    if re.search(rf"{block}adaLN_modulation_0_", text):
        return ("z-image",)
    width = _width(flat, rf"{block}(attention_(qkv|to_q|to_k|to_v)|feed_forward_(w1|w3))") or _height(
        flat, rf"{block}(attention_out|attention_to_out_0|feed_forward_w2)"
    )
    return {2304: ("lumina2",), 3840: ("z-image",)}.get(width or 0, ("lumina2", "z-image"))


def _transformer_bases(text: str, flat: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    if re.search(r"joint_blocks_\d", text):
        return ("sd3",)
    if re.search(r"(?<!joint_)transformer_blocks_\d+_(img|txt)_(mlp|mod)_", text):
        return ("qwen-image",)
    if re.search(r"(^|_)transformer_blocks_\d+_(attn_(to_|add_)|ff_|ff_context_|norm1_)", text, re.M) and not (
        _UNET_BLOCKS.search(text) or re.search(r"transformer_blocks_\d+_attn1_", text)
    ):
        return _double_stream_bases(text, flat)
    if re.search(r"(down|up)_blocks_\d+_\d+_(attention|kv_mapper|channelwise|depthwise|mapper)", text):
        return ("stable-cascade",)
    return ()


def _double_stream_bases(text: str, flat: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    """diffusers gives SD3, FLUX, Chroma and Qwen-Image the same attention names: width and depth tell."""
    if re.search(r"_ff(_context)?_linear_(in|out)", text):
        return ("flux2",)
    width = _width(flat, r"transformer_blocks_\d+_attn_(to_q|add_q_proj|to_k|add_k_proj|to_v|add_v_proj|to_out_0)")
    width = width or _width(flat, r"transformer_blocks_\d+_(ff_net_0_proj|ff_context_net_0_proj)")
    lone = not re.search(r"transformer_blocks_\d+_(attn|ff_context|norm1)_", text)  # PixArt has that much of it too
    if width in (1152, 1536, 2432):
        return ("pixart",) if width == 1152 else ("sd3",)
    last = _last(text, "transformer_blocks")
    fits = {3072: ("flux1", "chroma", "flux2", "qwen-image"), 4096: ("flux2",), 6144: ("flux2",)}.get(width or 0)
    bases = fits or ("sd3", "flux1", "chroma", "flux2", "qwen-image", *(("pixart",) if lone else ()))
    if re.search(r"_attn2_to_", text):
        bases = ("sd3",)
    if re.search(r"transformer_blocks_\d+_(ff|ff_context|norm1|norm1_context)_", text):
        modulated = re.search(r"_norm1(_context)?_linear_", text)
        bases = tuple(
            base for base in bases if base in (("sd3", "flux1") if modulated else ("sd3", "flux1", "chroma", "pixart"))
        )
    # blocks that each has at most: a LoRA of few blocks says nothing by them, one with a late block much
    depth = {
        "sd3": 38,
        "flux1": _FLUX1_DOUBLE,
        "chroma": _FLUX1_DOUBLE,
        "flux2": _FLUX2_DOUBLE,
        "qwen-image": 60,
        "pixart": 28,
    }
    return tuple(base for base in bases if last < depth[base])


def _plain_block_bases(text: str, flat: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    """Models whose blocks are just called blocks (diffusers' PixArt: transformer blocks with two attentions)."""
    block = r"(?<!joint_)(?<!up_)(?<!down_)(?<!input_)(?<!output_)blocks_\d+_"
    if re.search(rf"{block}(cross_attn_(k|v)_img|(self|cross)_attn_[qkvo]_(?!linear)|ffn_)", text):
        return ("wan",)
    if re.search(rf"{block}(cross_attn_(q|kv)_linear|attn_(qkv|proj)_)", text):
        return ("pixart",)
    if re.search(rf"{block}attn[12]_(Wqkv|q_proj|kv_proj|inner_attn)", text):
        return ("hunyuan-dit",)
    if re.search(rf"{block}mlp_fc[12]_", text):
        width = _width(flat, rf"{block}mlp_fc1") or _height(flat, rf"{block}mlp_fc2")
        return {1152: ("pixart",), 1408: ("hunyuan-dit",)}.get(width or 0, ("pixart", "hunyuan-dit"))
    if _UNET_BLOCKS.search(text) or not re.search(rf"{block}attn[12]_to_[qkv]_", text):
        return ()
    if re.search(rf"{block}attn2_add_[kv]_proj", text):
        return ("wan",)
    # 2048 is LTX-Video's
    width = _width(flat, rf"{block}attn[12]_to_[qkv]")
    sure: dict[int, tuple[str, ...]] = {
        2048: (),
        1152: ("pixart",),
        1408: ("hunyuan-dit",),
        5120: ("wan",),
        3072: ("wan",),
        1536: ("wan",),
    }
    return sure.get(width or 0, ("pixart", "hunyuan-dit", "wan"))


# ---- UNets

_UNET_BLOCKS = re.compile(r"(input_blocks|output_blocks|down_blocks|up_blocks|mid_block|middle_block)_")
_CONTEXT_BASES: Mapping[int, tuple[str, ...]] = {
    768: ("sd1",),
    1024: ("sd2",),
    2048: ("sdxl",),
    1280: ("sdxl-refiner",),
}


def _unet_bases(text: str, flat: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    if not _UNET_BLOCKS.search(text):
        return ()
    width = _width(flat, r"attn2_(processor_)?(to_k|to_v)")
    if width is not None and width in _CONTEXT_BASES:
        return _CONTEXT_BASES[width]
    if "lora_te2_" in text or re.search(r"transformer_blocks_[4-9]_", text):
        return ("sdxl",)
    inner = _width(flat, r"_transformer_blocks_\d+_attn1_(processor_)?to_[qkv]")
    if inner in (384, 768, 1536):  # the refiner's levels; the others have 320, 640 and 1280
        return ("sdxl-refiner",)
    if re.search(r"transformer_blocks_[1-3]_", text):
        if re.search(r"up_blocks_0_attentions|output_blocks_[0-2]_1_transformer", text):
            return ("sdxl",)  # of the two only SDXL has a transformer on its lowest level
        if re.search(r"up_blocks_2_attentions|output_blocks_[6-8]_1_transformer", text):
            return ("sdxl-refiner",)
        return ("sdxl",) if inner in (640, 1280) else ("sdxl", "sdxl-refiner")
    if re.search(
        r"(down_blocks_0_attentions|input_blocks_[12]_1_|up_blocks_3_attentions|output_blocks_(9|10|11)_1_)", text
    ):
        return _sd1_or_2(flat)
    return ("sd1", "sd2", "sdxl")


def _sd1_or_2(flat: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    """SD1 projects into its transformers by a convolution of 1x1 (four sides), SD2 by a matrix."""
    for name, info in flat.items():
        if re.search(r"_proj_in_(lora_down|lora_A)(_default)?_weight$", name):
            return ("sd1",) if len(info.shape) == 4 else ("sd2",)
    return ("sd1", "sd2")


def _text_bases(text: str, flat: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    """LoRAs of text encoders alone: CLIP-L serves many, and kohya numbers the encoders of those that have two."""
    if "lora_te3_" in text or "t5xxl_" in text:
        return ("sd3", "flux1")
    if not re.search(r"text_model_encoder_layers_\d+", text):
        return ()
    width = _width(flat, r"text_model_encoder_layers_\d+_(mlp_fc1|self_attn_[qkv]_proj)")
    if re.search(r"lora_te2_|text_encoder_2_|clip_g_", text) or width == 1280:
        return ("sdxl", "sd3")
    if re.search(r"lora_te1_|clip_l_", text):
        return ("sdxl", "sd3", "flux1")
    return {768: ("sd1",), 1024: ("sd2",)}.get(width or 0, ())
