"""Taking a file apart into its components by the prefixes of its tensors' names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelsmith.files.header import TensorInfo
from modelsmith.identify.prediction import OTHER_MARKERS
from modelsmith.markers import MARKERS, SCHEDULE_BUFFERS

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
_AUXILIARY = {
    "depth_model.": "midas_depth",
    "embedder.": "clip_vision",
    "noise_augmentor.": "noise_augmentor",
    "low_scale_model.": "low_scale_model",
    "image_encoder.": "clip_vision",
}
_LEFTOVERS = SCHEDULE_BUFFERS | {"scale_factor", "sigmas", "log_sigmas"}


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
    parts.markers = _markers(tensors)
    model = {name[22:]: info for name, info in tensors.items() if name.startswith("model.diffusion_model.")}
    parts.model = model
    heads: dict[str, Tensors] = {}
    for name, info in tensors.items():
        if name.startswith("model.diffusion_model."):
            continue
        head = name.partition(".")[0]
        group = heads.get(head)
        if group is None:
            group = heads[head] = {}
        group[name] = info
    for head, group in heads.items():
        if head == "model":
            for name in [name for name in group if name.startswith("model.model_sampling.")]:
                parts.schedule[name] = group.pop(name)
        if not _take_known(parts, head, group):
            parts.rest.update(group)
    for name in parts.markers:
        for prefix in _MARKER_PREFIXES:
            parts.rest.pop(prefix + name, None)
        if name in MARKERS:
            model.pop(name, None)
    parts.model_prefix = "model.diffusion_model." if model else _find_model(parts)
    return parts


_MARKER_PREFIXES = ("", "model.diffusion_model.", "model.", "diffusion_model.")


def _markers(tensors: Mapping[str, TensorInfo]) -> frozenset[str]:
    """Marker tensors stand bare or, after a loader has prefixed all names, under the model's prefix."""
    names = (*MARKERS, *OTHER_MARKERS)
    return frozenset(name for name in names if any(prefix + name in tensors for prefix in _MARKER_PREFIXES))


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


_DEPTHS = {"cond_stage_model": 2, "conditioner": 4, "text_encoders": 2}


def _take_encoders(parts: Parts, head: str, group: Tensors) -> Tensors:
    """Sort encoders by what stands before their names; what has no such prefix is left."""
    depth = _DEPTHS.get(head, 1)
    left: Tensors = {}
    prefix = "\0"  # the one before, since the names of one encoder follow each other in most files
    encoder: Tensors = {}
    for name, info in group.items():
        if not name.startswith(prefix):
            pieces = name.split(".", depth)
            if len(pieces) <= depth:
                left[name] = info
                continue
            prefix = name[: len(name) - len(pieces[depth])]
            encoder = parts.encoders.setdefault(prefix, {})
        encoder[name[len(prefix) :]] = info
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
