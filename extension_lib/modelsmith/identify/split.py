"""Taking a file apart into its components by the prefixes of its tensors' names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelsmith.files.header import TensorInfo
from modelsmith.identify.prediction import MARKERS, OTHER_MARKERS

Tensors = dict[str, TensorInfo]

# Prefix of the diffusion model, longest first; "" is a file that holds nothing else.
_MODEL_PREFIXES = (
    "model.diffusion_model.",
    "diffusion_model.",
    "net.",
    "model.model.",
    "unet.",
    "transformer.",
    "prior.",
    "decoder.",
)
_VAE_PREFIXES = ("first_stage_model.", "vae.")
_ENCODER_PREFIXES = (
    "cond_stage_model.transformer.",
    "cond_stage_model.model.",
    "conditioner.embedders.0.transformer.",
    "conditioner.embedders.0.model.",
    "conditioner.embedders.1.transformer.",
    "conditioner.embedders.1.model.",
    "text_encoder.",
    "text_encoder_2.",
    "text_encoder_3.",
)
_AUXILIARY = {
    "depth_model.": "midas_depth",
    "embedder.": "clip_vision",
    "noise_augmentor.": "noise_augmentor",
    "low_scale_model.": "low_scale_model",
    "image_encoder.": "clip_vision",
}
_LEFTOVERS = frozenset(
    {
        "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod",
        "posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
        "logvar", "lvlb_weights", "scale_factor", "sigmas", "log_sigmas",
    }
)  # fmt: skip


@dataclass
class Parts:
    """The tensors of a file by component; names are without the prefix, which is the key where there can be several."""

    model: Tensors = field(default_factory=dict[str, TensorInfo])
    model_prefix: str = ""
    vaes: dict[str, Tensors] = field(default_factory=dict[str, Tensors])
    encoders: dict[str, Tensors] = field(default_factory=dict[str, Tensors])
    auxiliary: dict[str, Tensors] = field(default_factory=dict[str, Tensors])
    control: Tensors = field(default_factory=dict[str, TensorInfo])
    control_prefix: str = ""
    ema: Tensors = field(default_factory=dict[str, TensorInfo])
    schedule: Tensors = field(default_factory=dict[str, TensorInfo])
    markers: frozenset[str] = frozenset()
    rest: Tensors = field(default_factory=dict[str, TensorInfo])


def split(tensors: Mapping[str, TensorInfo]) -> Parts:
    """Sort every tensor into its component. One pass over the names, then the prefix of the rest is found."""
    parts = Parts()
    found_markers: set[str] = set()
    heads: dict[str, Tensors] = {}
    for name, info in tensors.items():
        if name.startswith("model.diffusion_model."):
            parts.model[name[22:]] = info
            continue
        if name.startswith("model.model_sampling."):
            parts.schedule[name] = info
            continue
        heads.setdefault(name.partition(".")[0], {})[name] = info
    prefix = "model.diffusion_model." if parts.model else ""
    for head, group in heads.items():
        if not _take_known(parts, head, group):
            parts.rest.update(group)
    for name in [*parts.rest, *parts.model]:
        bare = name.removeprefix("model.diffusion_model.").removeprefix("model.")
        if bare in MARKERS or bare.rpartition(".")[2] in OTHER_MARKERS or bare in OTHER_MARKERS:
            found_markers.add(bare if bare in MARKERS else bare.rpartition(".")[2])
            if bare in MARKERS:
                parts.rest.pop(name, None)
                parts.model.pop(name, None)
    parts.markers = frozenset(found_markers)
    if not parts.model:
        prefix = _find_model(parts)
    parts.model_prefix = prefix
    return parts


def _take_known(parts: Parts, head: str, group: Tensors) -> bool:
    """Sort a group whose first part says where it belongs; False where it does not."""
    if head == "model_ema":
        parts.ema.update(group)
        return True
    if head in _LEFTOVERS:
        parts.schedule.update(group)
        return True
    if head in ("first_stage_model", "vae"):
        parts.vaes[head + "."] = {name[len(head) + 1 :]: info for name, info in group.items()}
        return True
    if head == "control_model":
        parts.control.update({name[14:]: info for name, info in group.items()})
        parts.control_prefix = "control_model."
        return True
    if head + "." in _AUXILIARY:
        parts.auxiliary[_AUXILIARY[head + "."]] = group
        return True
    if head in ("cond_stage_model", "conditioner", "text_encoders", "text_encoder", "text_encoder_2", "text_encoder_3"):
        left = _take_encoders(parts, head, group)
        parts.rest.update(left)
        return True
    return False


def _take_encoders(parts: Parts, head: str, group: Tensors) -> Tensors:
    if head == "text_encoders":
        for name, info in group.items():
            prefix = ".".join(name.split(".", 2)[:2]) + "."
            parts.encoders.setdefault(prefix, {})[name[len(prefix) :]] = info
        return {}
    prefixes = [prefix for prefix in _ENCODER_PREFIXES if prefix.startswith(head + ".")]
    left: Tensors = {}
    for name, info in group.items():
        for prefix in prefixes:
            if name.startswith(prefix):
                parts.encoders.setdefault(prefix, {})[name[len(prefix) :]] = info
                break
        else:
            left[name] = info
    return left


def _find_model(parts: Parts) -> str:
    """Move the diffusion model out of the rest: under a prefix that at least six names have, or bare."""
    for prefix in _MODEL_PREFIXES[1:]:
        taken = {name: info for name, info in parts.rest.items() if name.startswith(prefix)}
        if len(taken) > 5 and not (prefix == "decoder." and "decoder.conv_in.weight" in taken):
            inner = {name[len(prefix) :]: info for name, info in taken.items()}
            if prefix in ("net.", "model.model.", "diffusion_model.") or _plausible(inner):
                parts.model = inner
                for name in taken:
                    del parts.rest[name]
                return prefix
    bare_model = {n[6:]: i for n, i in parts.rest.items() if n.startswith("model.")}
    if len(bare_model) > 5 and _plausible(bare_model):
        parts.model = bare_model
        for name in bare_model:
            del parts.rest["model." + name]
        return "model."
    if _plausible(parts.rest):
        parts.model = parts.rest
        parts.rest = {}
    return ""


_HEADS = frozenset(
    {
        "input_blocks", "output_blocks", "middle_block", "conv_in", "up_blocks", "down_blocks", "double_blocks",
        "single_blocks", "joint_blocks", "transformer_blocks", "single_transformer_blocks", "blocks", "layers",
        "double_layers", "joint_transformer_blocks", "clf", "noise_refiner", "patch_embedding", "x_embedder",
        "double_stream_modulation_img", "distilled_guidance_layer", "zero_convs", "input_hint_block",
        "controlnet_cond_embedding", "controlnet_blocks", "mlp_t5", "t_block", "control_blocks",
    }
)  # fmt: skip


def _plausible(tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether names without a prefix can be those of a diffusion model or a ControlNet."""
    return any(name.partition(".")[0] in _HEADS for name in tensors)
