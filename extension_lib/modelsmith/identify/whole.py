"""The large files: what the diffusion model is, and which VAE and text encoders lie beside it or alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from modelsmith.files.header import TensorInfo
from modelsmith.identify.architectures import Architecture, Variant
from modelsmith.identify.conditions import context_width
from modelsmith.identify.draft import Draft, match
from modelsmith.identify.encoders import find_encoder, find_vae, is_narrow, looks_like_encoder
from modelsmith.identify.known import known_vae
from modelsmith.identify.messages import say
from modelsmith.identify.prediction import judge
from modelsmith.identify.split import Tensors
from modelsmith.identify.templates import measure, unflatten_ema
from modelsmith.identify.view import View

_CONTROL_HEADS = frozenset(
    {
        "input_hint_block", "zero_convs", "controlnet_cond_embedding", "controlnet_blocks", "controlnet_x_embedder",
        "controlnet_down_blocks", "controlnet_mode_embedder", "control_blocks", "control_layers", "lora_controlnet",
    }
)  # fmt: skip
_EMA_SHARE = 100  # diffusers takes more than so many names under model_ema for a second set of weights


# ---- ControlNet


def add_control(draft: Draft) -> bool:
    """Recognise a ControlNet, alone or with the checkpoint that it was trained on."""
    parts = draft.parts
    if parts.control:
        tensors, prefix = parts.control, parts.control_prefix
    elif not _CONTROL_HEADS.isdisjoint(draft.view(parts.model, parts.model_prefix).heads):
        tensors, prefix = parts.model, parts.model_prefix
    elif not _CONTROL_HEADS.isdisjoint(draft.view(parts.rest, "").heads):
        tensors, prefix = parts.rest, ""
    else:
        return False
    view = draft.view(tensors, prefix)
    draft.kind = "controlnet"
    draft.candidates = _control_bases(view)
    draft.variant = (
        "control-lora" if view.has("lora_controlnet") or "lora_controlnet" in parts.markers else "controlnet"
    )
    ldm = view.has_stem("input_blocks")
    draft.layout = ("ldm" if prefix else "ldm bare") if ldm else "diffusers"
    draft.in_channels = view.side("input_blocks.0.0.weight" if ldm else "conv_in.weight", 1)
    draft.components.append(draft.component("controlnet", tensors, prefix))
    if parts.control and parts.model:
        draft.components.append(draft.component("diffusion_model", parts.model, parts.model_prefix))
    add_vaes(draft)
    add_encoders(draft)
    return True


def _control_bases(view: View) -> tuple[str, ...]:
    for block in ("input_blocks.1.1", "input_blocks.4.1", "down_blocks.0.attentions.0", "down_blocks.1.attentions.0"):
        width = context_width(view, block)
        if width is not None:
            found = {768: "sd1", 1024: "sd2", 2048: "sdxl", 1280: "sdxl-refiner"}.get(width)
            return (found,) if found else ("sd1", "sd2", "sdxl")
    if view.has("label_emb.0.0.weight") or view.has("add_embedding.linear_1.weight"):
        return ("sdxl",)
    if view.has_stem("input_blocks") or view.has_stem("down_blocks"):
        return ("sd1", "sd2", "sdxl")
    if view.has("txt_norm.weight"):
        return ("qwen-image",)
    if view.has_stem("joint_blocks") or view.has("pos_embed_input.proj.weight") or view.has("pos_embed.proj.weight"):
        return ("hunyuan-dit",) if view.has("text_embedding_padding") else ("sd3",)
    if view.has_stem("double_blocks") or view.has("controlnet_x_embedder.weight"):
        return ("flux1",)
    if view.has("transformer_blocks.0.attn.add_q_proj.weight"):
        return ("sd3", "flux1")
    return ()


# ---- the diffusion model


def add_model(draft: Draft, yaml_text: str | None) -> bool:
    """Name the diffusion model and weigh its prediction; False where the file has none that is known."""
    parts = draft.parts
    tensors: Tensors = parts.model
    prefix = parts.model_prefix
    if not tensors and len(parts.ema) > _EMA_SHARE:
        tensors, prefix = unflatten_ema(parts.ema), "model_ema."
    if not tensors:
        return False
    view = draft.view(tensors, prefix)
    found = match(view) or _partial(draft, view)
    if found is None:
        return False
    record, variant = found
    draft.kind = "diffusion_model"
    draft.architecture = record
    draft.candidates = (record.id,)
    draft.inpainting = variant.inpainting
    draft.in_channels = view.side(*record.inputs)
    width = view.side(record.width[0], record.width[1])
    draft.reduced = width is not None and width not in record.width[2]
    draft.prediction = judge(draft.header, record, variant, (prefix, parts.markers), yaml_text)
    draft.variant = _variant(draft, variant)
    draft.layout = _layout(record, prefix)
    part = draft.component("diffusion_model", tensors, prefix)
    draft.components.append(
        replace(part, architecture=record.id, **measure(record, variant, tensors, part.quantization))
    )
    return True


def _variant(draft: Draft, variant: Variant) -> str:
    """SD2's base and 768-v have one header; where the evidence tells the prediction, it tells the variant."""
    if variant.id == "base-or-768v" and not draft.prediction.conflict:
        return {"epsilon": "base512", "v_prediction": "768-v"}.get(draft.prediction.type, variant.id)
    return variant.id


def _layout(record: Architecture, prefix: str) -> str:
    if record.layout == "diffusers":
        return "diffusers"
    return record.layout if prefix else f"{record.layout}-bare"


def _partial(draft: Draft, view: View) -> tuple[Architecture, Variant] | None:
    """A UNet of which one end is missing is still named, and said to be a part.

    Its first end decides: what is lacking is put in place for the question only.
    """
    if not view.has("input_blocks.0.0.weight") or (not draft.parts.model_prefix and view.blocks("input_blocks") < 9):
        return None
    filled = dict(view.tensors)
    blank = TensorInfo("F16", (0,), -1, 0)
    for name in ("out.2.weight", "output_blocks.0.0.in_layers.0.weight"):
        filled.setdefault(name, blank)
    found = match(draft.view(filled, view.prefix))
    if found is not None:
        draft.partial = True
        draft.warnings.append(say("partial"))
    return found


# ---- VAEs and text encoders beside it


def add_vaes(draft: Draft) -> None:
    """The VAEs of a checkpoint."""
    for prefix, tensors in draft.parts.vaes.items():
        part = replace(draft.component("vae", tensors, prefix), known_as=known_vae(draft.header, prefix))
        found = find_vae(draft.view(tensors, prefix))
        architecture = None
        if found is not None:
            base = draft.candidates[0] if draft.candidates else ""
            architecture = base if base in found.bases else "|".join(found.bases)
            facts = measure(found, None, tensors, part.quantization)
            part = replace(part, **facts)
        draft.components.append(replace(part, architecture=architecture))


def add_encoders(draft: Draft) -> None:
    """The text encoders of a checkpoint."""
    for prefix, tensors in draft.parts.encoders.items():
        found = find_encoder(tensors, draft.view(tensors, prefix))
        name = found[0].component if found else _named_by(prefix)
        part = draft.component(name, tensors, prefix)
        if found is not None:
            facts = measure(found[0], None, found[1].tensors, part.quantization)
            part = replace(part, architecture=found[0].id, **facts)
        draft.components.append(part)


def _named_by(prefix: str) -> str:
    """The name of an encoder whose widths tell nothing, by where it stands in the file."""
    found = re.match(r"text_encoders\.([^.]+)\.", prefix)
    return found.group(1)[:40] if found else _BY_PLACE.get(prefix, "text_encoder")


_BY_PLACE = {
    "cond_stage_model.transformer.": "clip_l",
    "cond_stage_model.model.": "clip_h",
    "conditioner.embedders.0.transformer.": "clip_l",
    "conditioner.embedders.0.model.": "clip_g",
    "conditioner.embedders.1.model.": "clip_g",
}


def add_auxiliary(draft: Draft) -> None:
    """Depth estimators, image encoders and the like."""
    for name, tensors in draft.parts.auxiliary.items():
        draft.components.append(draft.component(name, tensors))


# ---- files without a diffusion model


def name_alone(draft: Draft) -> None:
    """A file that holds only text encoders, only a VAE, or nothing known."""
    parts = draft.parts
    everything = dict(draft.header.tensors)
    if parts.vaes or parts.encoders:
        add_vaes(draft)
        add_encoders(draft)
        _kind_of_parts(draft)
        return
    encoder = find_encoder(everything, draft.view(everything, ""))
    if encoder is not None:
        record, view = encoder
        draft.kind = "text_encoder"
        draft.candidates = (record.id,)
        draft.reduced = is_narrow(record)
        draft.variant = record.label
        draft.layout = record.layout
        part = draft.component("text_encoder", everything)
        part = replace(part, architecture=record.id, **measure(record, None, view.tensors, part.quantization))
        draft.components.append(part)
        if any(name.startswith(("visual.", "vision_tower.", "model.visual.")) for name in everything):
            vision = {
                n: i for n, i in everything.items() if n.startswith(("visual.", "vision_tower.", "model.visual."))
            }
            draft.components.append(draft.component("vision_encoder", vision))
        return
    if _add_lone_vae(draft, everything):
        return
    if looks_like_encoder(everything):
        draft.kind = "text_encoder"
        draft.components.append(draft.component("text_encoder", everything))
    elif everything:
        draft.components.append(draft.component("unknown", everything))


def _add_lone_vae(draft: Draft, tensors: Mapping[str, TensorInfo]) -> bool:
    found = find_vae(draft.view(tensors, ""))
    if found is None:
        return False
    draft.kind = "vae"
    draft.candidates = found.bases
    draft.variant = found.variant
    draft.layout = found.layout
    if found.variant.startswith("kl-"):  # all of them have 512 at their lowest level
        draft.reduced = draft.view(tensors, "").side("decoder.conv_in.weight", 0) not in (512, None)
    part = replace(draft.component("vae", tensors), known_as=known_vae(draft.header, ""))
    draft.components.append(
        replace(part, architecture="|".join(found.bases), **measure(found, None, tensors, part.quantization))
    )
    return True


def _kind_of_parts(draft: Draft) -> None:
    """A file of checkpoint parts without the diffusion model."""
    parts = draft.parts
    if parts.encoders:
        draft.kind = "text_encoder"
        known = [part.architecture for part in draft.components if part.name != "vae" and part.architecture]
        draft.candidates = tuple(dict.fromkeys(known))
        draft.variant = "+".join(known) or None
        draft.layout = "comfy-checkpoint"
    if parts.vaes and not parts.encoders:
        prefix, tensors = next(iter(parts.vaes.items()))
        found = find_vae(draft.view(tensors, prefix))
        draft.kind = "vae" if found is not None else "unknown"
        if found is not None:
            draft.candidates, draft.variant, draft.layout = found.bases, found.variant, found.layout
