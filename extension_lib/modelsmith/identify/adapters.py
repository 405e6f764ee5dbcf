"""The small files: LoRA and its relatives, textual inversion, hypernetworks, ControlNets, and the base they fit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from modelsmith.files.header import FileHeader, TensorInfo

# Endings of adapter tensors (ComfyUI comfy/lora.py and weight_adapter/*): the first group makes it a LoRA.
_ENDINGS = (
    ".lora_up.weight", ".lora_down.weight", ".lora_mid.weight", ".alpha", ".lora_A.weight", ".lora_B.weight",
    ".lora_A", ".lora_B", ".lora_A.default.weight", ".lora_B.default.weight", ".lora.up.weight", ".lora.down.weight",
    "_lora.up.weight", "_lora.down.weight", ".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight",
    ".hada_w1_a", ".hada_w1_b", ".hada_w2_a", ".hada_w2_b", ".hada_t1", ".hada_t2",
    ".lokr_w1", ".lokr_w2", ".lokr_w1_a", ".lokr_w1_b", ".lokr_w2_a", ".lokr_w2_b", ".lokr_t2",
    ".dora_scale", ".lora_magnitude_vector", ".lora_magnitude_vector.weight", ".lora_magnitude_vector.default.weight",
    ".oft_blocks", ".oft_diag", ".oft_R.weight", ".oft_R", ".rescale", ".a1.weight", ".a2.weight", ".b1.weight",
    ".b2.weight", ".w_norm", ".b_norm", ".diff", ".diff_b", ".set_weight", ".reshape_weight", ".on_input",
    ".lora_up.bias", ".lora_A.bias", ".lora_B.bias", ".glora_a", ".scale", ".bundle_emb",
)  # fmt: skip
_SURE = (
    "lora_up", "lora_down", "lora_A", "lora_B", "lora.up", "lora.down", "hada_w", "lokr_w", "oft_blocks", "oft_diag",
    "oft_R", "dora_scale", "lora_linear_layer", "w_norm", ".diff", ".a1.weight",
)  # fmt: skip
_SHARE = 0.8  # of the names; a few embeddings may lie beside the adapter


@dataclass(frozen=True)
class Adapter:
    """A LoRA or relative: its type, the naming it uses, the bases it fits and how that is known."""

    type: str
    layout: str
    bases: tuple[str, ...]
    parts: tuple[str, ...]


def is_adapter(tensors: Mapping[str, TensorInfo]) -> bool:
    """At least four in five names end as an adapter's do, and one of them as only an adapter's does."""
    if not tensors:
        return False
    others_left = (1 - _SHARE) * len(tensors)
    for name in tensors:
        if not name.endswith(_ENDINGS):
            others_left -= 1
            if others_left < 0:
                return False
    return any(any(part in name for part in _SURE) for name in tensors)


def read_adapter(header: FileHeader) -> Adapter:
    """Type, naming and base of a file for which :func:`is_adapter` holds."""
    tensors = header.tensors
    bases = _bases(header)
    parts = ["diffusion_model"] if any(not _is_text(name) for name in tensors) else []
    for label, starts in _TEXT_PARTS:
        if any(name.startswith(starts) for name in tensors):
            parts.append(label)
    return Adapter(_type(header), _layout(header), bases, tuple(parts))


_TEXT_PARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("clip_l", ("lora_te1_", "text_encoders.clip_l.", "clip_l.")),
    ("clip_g", ("lora_te2_", "text_encoder_2.", "text_encoders.clip_g.", "clip_g.")),
    ("t5xxl", ("lora_te3_", "text_encoders.t5xxl.")),
    ("text_encoder", ("lora_te_", "text_encoder.")),
)
_TEXT_STARTS = tuple(start for _, starts in _TEXT_PARTS for start in starts)


def _is_text(name: str) -> bool:
    return name.startswith(_TEXT_STARTS)


def _any(tensors: Iterable[str], part: str) -> bool:
    return any(part in name for name in tensors)


def _type(header: FileHeader) -> str:
    tensors = header.tensors
    if _any(tensors, ".dora_scale") or _any(tensors, "lora_magnitude_vector"):
        return "dora"
    for mark, found in (("hada_w", "loha"), ("lokr_w", "lokr"), ("oft_", "oft"), (".a1.weight", "glora")):
        if _any(tensors, mark):
            return found
    # LoCon also adapts convolutions: a down matrix with a kernel wider than one
    wide = any(
        len(info.shape) == 4 and info.shape[2:] != (1, 1)
        for name, info in tensors.items()
        if "lora_down" in name or "lora_A" in name or "lora_mid" in name
    )
    algorithm = _network_arguments(header).get("algo", "")
    return (
        "locon"
        if wide or _any(tensors, "lora_mid") or (algorithm in ("locon", "lora") and "lycoris" in _module(header))
        else "lora"
    )


def _module(header: FileHeader) -> str:
    return header.metadata.get("ss_network_module", "")


def _network_arguments(header: FileHeader) -> dict[str, str]:
    text = header.metadata.get("ss_network_args", "")
    try:
        found: object = json.loads(text) if 0 < len(text) < 100_000 else {}
    except (ValueError, RecursionError):
        return {}
    return (
        {key: str(value) for key, value in cast("dict[str, object]", found).items()} if isinstance(found, dict) else {}
    )


def _layout(header: FileHeader) -> str:
    first = next(iter(header.tensors))
    if "lycoris" in _module(header) or first.startswith("lycoris_"):
        return "lycoris"
    if any(
        name.startswith(("lora_unet_", "lora_te", "lora_transformer_", "lora_prior_unet_")) for name in header.tensors
    ):
        return "kohya"
    if any(
        name.startswith(("diffusion_model.", "text_encoders.", "model.diffusion_model.")) for name in header.tensors
    ):
        return "comfy-diffusion_model"
    if any(name.startswith(("transformer.", "unet.", "text_encoder", "base_model.model.")) for name in header.tensors):
        return "diffusers-peft"
    return "bare"


# ---- the base

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


def _bases(header: FileHeader) -> tuple[str, ...]:
    """By names, then by the widths of plain LoRA matrices, then by metadata (LoKr hides widths)."""
    tensors = header.tensors
    claimed = base_from_metadata(header.metadata)
    by_names = _by_names(tensors)
    if len(by_names) == 1:
        return by_names
    if claimed is not None and (not by_names or claimed in by_names):
        return (claimed,)
    return by_names


def _by_names(tensors: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    # "." and "_" alike, so that one test serves every naming
    flat = {name.replace(".", "_"): info for name, info in tensors.items()}
    text = "\n".join(flat)
    for rule in (_flux_bases, _transformer_bases):
        found = rule(text, flat)
        if found:
            return found
    return _unet_bases(text, flat)


_DOWN = r"(lora_down|lora_A|lora_A_default|hada_w1_b|hada_w2_b|diff)(_weight)?$"
_UP = r"(lora_up|lora_B|lora_B_default|hada_w1_a|hada_w2_a|diff)(_weight)?$"


def _width(flat: Mapping[str, TensorInfo], stem: str) -> int | None:
    """Input width of the layer whose flattened name ends in ``stem``, from its down matrix or its LoKr factors."""
    wanted = re.compile(f"{stem}_{_DOWN}")
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


def _flux_bases(text: str, flat: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    if "distilled_guidance_layer" in text:
        return ("chroma",)
    double, single = "double_blocks_" in text, "single_blocks_" in text
    if "single_transformer_blocks_" in text:
        if "attn_to_qkv_mlp_proj" in text or "ff_linear_in" in text:  # names of FLUX.2 in diffusers
            return ("flux2",)
        if "norm_linear" in text.replace("norm1_linear", "") or "time_text_embed" in text or "norm1_linear" in text:
            return ("flux1",)  # Chroma has no modulation layers of its own
        return ("flux1", "chroma")
    if not double and not single:
        return ()
    if "double_stream_modulation" in text or "single_stream_modulation" in text:
        return ("flux2",)
    if "_mod_lin" in text or "modulation_lin" in text or "vector_in" in text or "guidance_in" in text:
        return ("flux1",)
    for stem, flux1 in (("single_blocks_0_linear1", 21504), ("double_blocks_0_img_mlp_0", 12288)):
        found = _height(flat, stem)
        if found is not None:
            return ("flux1", "chroma") if found == flux1 else ("flux2",)
    width = _width(flat, r"double_blocks_0_(img|txt)_attn_(qkv|proj)")
    if width is not None and width != 3072:
        return ("flux2",)
    return ("flux1", "flux2", "chroma") if width is None else ("flux1", "chroma", "flux2")


def _transformer_bases(text: str, flat: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    if "double_layers_" in text or ("joint_transformer_blocks_" in text):
        return ("auraflow",)
    if "joint_blocks_" in text:
        return ("sd3",)
    if re.search(r"transformer_blocks_\d+_img_(mlp|mod)", text):
        return ("qwen-image",)
    if re.search(r"(^|_)(layers|noise_refiner|context_refiner)_\d+_(attention|feed_forward|adaLN)", text, re.M):
        width = _width(flat, r"layers_\d+_(attention_(qkv|to_q|to_k|to_v)|feed_forward_(w1|w3))")
        return {2304: ("lumina2",), 3840: ("z-image",)}.get(width or 0, ("lumina2", "z-image"))
    if (
        re.search(r"blocks_\d+_self_attn_(q|k|v|o)(_|$)", text, re.M) and "_ffn_" in text
    ) or "_cross_attn_k_img" in text:
        return ("wan",)
    if re.search(r"blocks_\d+_(self_attn|cross_attn)_(q|k|v|o)_(lora|hada|lokr|diff|alpha)", text):
        return ("wan",)
    if re.search(r"blocks_\d+_cross_attn_(q|kv)_linear", text):
        return ("pixart",)
    if re.search(r"(?<!joint_)(?<!single_)transformer_blocks_\d+_attn_(to_|add_)", text):
        return _double_stream_bases(text, flat)
    if _width(flat, r"transformer_blocks_\d+_attn[12]_to_[qkv]") == 1152:
        return ("pixart",)
    if re.search(r"(down|up)_blocks_\d+_\d+_(attention|kv_mapper)", text):
        return ("stable-cascade",)
    return ()


def _double_stream_bases(text: str, flat: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    """diffusers gives SD3, FLUX.1, Chroma and Qwen-Image the same attention names: width and depth tell."""
    width = _width(flat, r"transformer_blocks_\d+_attn_(to_q|add_q_proj|to_k|add_k_proj|to_v|add_v_proj|to_out_0)")
    if width in (1536, 2432):
        return ("sd3",)
    last = max(int(number) for number in re.findall(r"transformer_blocks_(\d+)_", text))
    if last >= 38:  # SD3.5 Large has 38 blocks, FLUX.1 has 19, Qwen-Image 60
        return ("qwen-image",)
    if re.search(r"transformer_blocks_\d+_(ff|ff_context|norm1|norm1_context)_", text):
        return ("flux1",) if re.search(r"_norm1(_context)?_linear", text) else ("flux1", "chroma")
    return ("flux1", "chroma", "qwen-image") if width == 3072 else ("sd3", "flux1", "chroma", "qwen-image")


_CONTEXT_BASES: Mapping[int, tuple[str, ...]] = {
    768: ("sd1",),
    1024: ("sd2",),
    2048: ("sdxl",),
    1280: ("sdxl-refiner",),
}


def _unet_bases(text: str, flat: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    width = _width(flat, r"attn2_(processor_)?(to_k|to_v)")
    if width is not None and width in _CONTEXT_BASES:
        return _CONTEXT_BASES[width]
    if "lora_te2_" in text or re.search(r"transformer_blocks_[2-9]_", text):
        return ("sdxl",)
    if re.search(r"text_model_encoder_layers_\d+", text):
        found = _width(flat, r"text_model_encoder_layers_\d+_(mlp_fc1|self_attn_[qkv]_proj)")
        return {768: ("sd1",) if "lora_te1_" not in text else ("sdxl",), 1024: ("sd2",), 1280: ("sdxl",)}.get(
            found or 0, ()
        )
    if re.search(r"(down_blocks_0_attentions|input_blocks_1_1_|input_blocks_2_1_|up_blocks_3_attentions)", text):
        return ("sd1", "sd2")
    if re.search(r"(input_blocks|output_blocks|down_blocks|up_blocks|mid_block|middle_block)_", text):
        return ("sd1", "sd2", "sdxl")
    return ()


# ---- textual inversion, hypernetwork


def read_embedding(header: FileHeader) -> tuple[str, ...] | None:
    """The bases of a textual inversion, None for anything else (A1111 textual_inversion.py:287-300)."""
    names = header.tensors
    if not names or len(names) > 64:
        return None
    widths = {side for info in names.values() if len(info.shape) <= 2 for side in info.shape[-1:]}
    if "clip_l" in names and "clip_g" in names and len(names) <= 6:
        return ("sd3",) if "t5xxl" in names else ("sdxl",)
    told = any(name.startswith("string_to_param") for name in names) or "emb_params" in names
    lone = len(names) == 1 and len(next(iter(names.values())).shape) in (1, 2) and widths <= {768, 1024, 1280}
    word = lone and not any(name.endswith((".weight", ".bias")) for name in names)
    if not told and not word:
        return None
    main = [i for n, i in names.items() if n.startswith(("string_to_param", "emb_params")) or lone]
    shape = main[0].shape if main else ()
    width = shape[len(shape) - 1] if shape else 0
    return {768: ("sd1",), 1024: ("sd2",), 1280: ("sdxl",)}.get(width, ())


def is_hypernetwork(header: FileHeader) -> bool:
    """A pickle whose top names are layer widths, each a pair of small networks (A1111 hypernetwork.py:212-231)."""
    names = header.tensors
    return bool(names) and all(re.match(r"(320|640|768|1024|1280)\.[01]\.linear\.\d+\.", name) for name in names)


def hypernetwork_bases(header: FileHeader) -> tuple[str, ...]:
    """768 is the text width of SD1, 1024 that of SD2."""
    widths = {name.partition(".")[0] for name in header.tensors}
    return ("sd2",) if "1024" in widths else ("sd1",) if "768" in widths else ("sd1", "sd2")
