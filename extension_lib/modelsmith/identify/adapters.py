"""The small files: LoRA and its relatives, textual inversion, hypernetworks, ControlNets, and the base they fit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from modelsmith.files.header import FileHeader, TensorInfo
from modelsmith.identify.adapter_bases import bases_of

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
    bases = bases_of(header)
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
