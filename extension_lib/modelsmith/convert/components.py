"""Taking parts out of a model, putting parts in, and spelling the whole in the original or in diffusers' names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

from modelsmith.convert.encoders import PLACES, Family, find_encoders, in_form
from modelsmith.convert.model import Model
from modelsmith.convert.naming import levels_with_attention, unet_to_diffusers, unet_to_ldm
from modelsmith.convert.nodes import Constant, Node, Reshaped
from modelsmith.convert.parts import Part, is_marker
from modelsmith.convert.prune import SCHEDULE, keep_last_alpha
from modelsmith.errors import BadFileError, UnknownNameError, UsageError
from modelsmith.markers import LAST_ALPHA
from modelsmith.vae.keys import canonical, is_attention_matrix, spell

Layout = Literal["ldm", "diffusers"]

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
CHOICES = ("unet", "te", "vae", "clip_l", "clip_h", "clip_g")
"""Parts that can be taken out or put in; ``te`` is all text encoders together."""

PREDICTION_FIELDS = ("modelspec.prediction_type", "modelspec.predict_key", LAST_ALPHA)
"""Metadata that say how the UNet predicts."""

_UNET_ROOTS = (UNET_PREFIX, "unet.", "")
_VAE_ROOTS = (VAE_PREFIX, "vae.", "")
_WIDTHS: Mapping[int, Family] = {768: "sd1", 1024: "sd2", 2048: "sdxl", 1280: "sdxl-refiner"}
_REMEDY = "Choose a model of the SD1, SD2 or SDXL family"


def find_unet(tensors: Mapping[str, Node]) -> tuple[str, Layout] | None:
    """Prefix and spelling of the UNet of a file, None where it has none of the known form."""
    for root in _UNET_ROOTS:
        if root + "input_blocks.0.0.weight" in tensors:
            return root, "ldm"
        if root + "conv_in.weight" in tensors and root + "time_embedding.linear_1.weight" in tensors:
            return root, "diffusers"
    return None


def find_vae(tensors: Mapping[str, Node]) -> tuple[str, Layout] | None:
    """Prefix and spelling of the VAE of a file, None where it has none of the known form."""
    for root in _VAE_ROOTS:
        for side in ("decoder", "encoder"):
            if root + side + ".mid_block.resnets.0.conv1.weight" in tensors:
                return root, "diffusers"
            if root + side + ".mid.block_1.conv1.weight" in tensors:
                return root, "ldm"
    return None


def family_of(tensors: Mapping[str, Node]) -> Family | None:
    """The family by the width of the cross attention; without a UNet by the text encoders."""
    unet = find_unet(tensors)
    if unet is not None:
        ending = ".attn2.to_k.weight"
        widths = {
            node.shape[-1] for name, node in tensors.items() if name.startswith(unet[0]) and name.endswith(ending)
        }
        return _WIDTHS.get(widths.pop()) if len(widths) == 1 else None
    slots = set(find_encoders(tensors))
    if slots == {"clip_l", "clip_g"}:
        return "sdxl"
    return {"clip_l": "sd1", "clip_h": "sd2", "clip_g": "sdxl-refiner"}.get(slots.pop()) if len(slots) == 1 else None  # type: ignore[return-value]


def unet_tensors(tensors: Mapping[str, Node], layout: Layout) -> dict[str, Node]:
    """The UNet's tensors without prefix in one spelling. Empty where the file has none; KeyError never."""
    found = find_unet(tensors)
    if found is None:
        return {}
    root, present = found
    bare = {name[len(root) :]: node for name, node in tensors.items() if name.startswith(root) and not is_marker(name)}
    if not root:
        bare = {name: node for name, node in bare.items() if _is_unet_name(name)}
    if present == layout:
        return bare
    attention = levels_with_attention(bare)
    label = "add_embedding" if family_of(tensors) in ("sdxl", "sdxl-refiner") else "class_embedding"
    out: dict[str, Node] = {}
    for name, node in bare.items():
        new = unet_to_ldm(name, attention) if layout == "ldm" else unet_to_diffusers(name, label)
        if new is None:
            raise UsageError(f"the UNet tensor {name!r} has no name in the {layout} spelling", _REMEDY)
        out[new] = node
    return out


def _is_unet_name(name: str) -> bool:
    starts = ("input_blocks.", "middle_block.", "output_blocks.", "out.", "time_embed.", "label_emb.", "down_blocks.",
              "up_blocks.", "mid_block.", "conv_in.", "conv_out.", "conv_norm_out.", "time_embedding.",
              "add_embedding.", "class_embedding.")  # fmt: skip
    return name.startswith(starts)


def vae_tensors(tensors: Mapping[str, Node], layout: Layout) -> dict[str, Node]:
    """The VAE's tensors without prefix in one spelling; the attention's matrices change their shape with it."""
    found = find_vae(tensors)
    if found is None:
        return {}
    root, present = found
    bare = {name[len(root) :]: node for name, node in tensors.items() if name.startswith(root)}
    if not root:
        starts = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
        bare = {name: node for name, node in bare.items() if name.startswith(starts)}
    if present == layout:
        return bare
    mark = "decoder.up_blocks." if present == "diffusers" else "decoder.up."
    levels = 1 + max((int(name[len(mark) :].split(".")[0]) for name in bare if name.startswith(mark)), default=3)
    out: dict[str, Node] = {}
    for name, node in bare.items():
        plain = canonical(name, levels) if present == "diffusers" else name
        shape = (*node.shape[:2], 1, 1) if layout == "ldm" else node.shape[:2]
        if is_attention_matrix(plain) and len(node.shape) in (2, 4):
            node = Reshaped(node, shape)
        out[plain if layout == "ldm" else spell(plain, "diffusers", levels)] = node
    return out


def to_ldm(model: Model) -> None:
    """Turn a diffusers folder, or a file in diffusers' names, into the original layout of its family.

    A whole model gets the prefixes of a checkpoint; a single part stays without prefix. What the folder's scheduler
    says about the prediction becomes metadata, and markers for SDXL. Raises UsageError for other families.
    """
    _arrange(model, as_checkpoint=False)


def to_checkpoint(model: Model) -> None:
    """Give the parts of a model the names and prefixes of a checkpoint, a single part too. Raises as :func:`to_ldm`."""
    _arrange(model, as_checkpoint=True)


def is_checkpoint(model: Model) -> bool:
    """Whether the parts lie under the prefixes of a checkpoint, in the original names."""
    unet = find_unet(model.tensors)
    if unet is not None:
        return unet == (UNET_PREFIX, "ldm")
    return any(name.startswith((VAE_PREFIX, "cond_stage_model.", "conditioner.")) for name in model.tensors)


def _arrange(model: Model, *, as_checkpoint: bool) -> None:
    family = family_of(model.tensors)
    unet, vae = unet_tensors(model.tensors, "ldm"), vae_tensors(model.tensors, "ldm")
    encoders = find_encoders(model.tensors)
    parts = bool(unet) + bool(vae) + len(encoders)
    if not parts or (family is None and (unet or len(encoders) > 1 or as_checkpoint)):
        raise UsageError(f"{model.path} is of no family whose original names are known", _REMEDY)
    single = parts == 1 and not as_checkpoint
    keep_last_alpha(model)
    out: dict[str, Node] = {}
    out.update((("" if single else UNET_PREFIX) + name, node) for name, node in unet.items())
    for slot, encoder in encoders.items():
        place = PLACES.get((family, slot)) if family is not None and not single else None
        prefix, form = place or ("", "transformers")
        out.update((prefix + name, node) for name, node in in_form(encoder, form).items())
    out.update((("" if single else VAE_PREFIX) + name, node) for name, node in vae.items())
    out.update((name, node) for name, node in model.tensors.items() if is_marker(name))
    _note_left_out(model, len(unet) + len(vae) + sum(len(encoder.tensors) for encoder in encoders.values()))
    model.tensors = out
    _carry_scheduler(model, family)


def _note_left_out(model: Model, taken: int) -> None:
    left = len(model.tensors) - taken - sum(is_marker(name) or name in SCHEDULE for name in model.tensors)
    if left > 0:
        model.notes.append(f"{left} tensors belong to no known part and were left out")


def _carry_scheduler(model: Model, family: Family | None) -> None:
    prediction = model.metadata.get("diffusers.scheduler.prediction_type")
    for name in [name for name in model.metadata if name.startswith("diffusers.")]:
        if name != "diffusers.scheduler.prediction_type":
            continue
        model.metadata["modelspec.prediction_type"] = {"v_prediction": "v"}.get(
            model.metadata[name], model.metadata[name]
        )
    if prediction == "v_prediction" and family == "sdxl":
        zero = model.metadata.get("diffusers.scheduler.rescale_betas_zero_snr", "").lower() == "true"
        for name in ("v_pred", "ztsnr") if zero else ("v_pred",):
            model.tensors.setdefault(name, Constant(torch.empty(0)))
            model.notes.append(f"the marker {name} was added: the folder's scheduler says so")
    model.metadata = {name: text for name, text in model.metadata.items() if not name.startswith("diffusers.")}


def to_diffusers(model: Model) -> None:
    """Spell a file that holds one part (a UNet, a VAE or a text encoder) in diffusers' names, without prefix.

    A whole diffusers model is a folder with configurations, which cannot be made from weights alone: raises
    UsageError for a file with several parts.
    """
    unet, vae = unet_tensors(model.tensors, "diffusers"), vae_tensors(model.tensors, "diffusers")
    encoders = find_encoders(model.tensors)
    if bool(unet) + bool(vae) + len(encoders) != 1:
        raise UsageError(
            f"{model.path} holds {bool(unet) + bool(vae) + len(encoders)} parts; diffusers' names are for one",
            "Take one out, for instance with --only unet",
        )
    texts = [in_form(encoder, "transformers") for encoder in encoders.values()]
    keep_last_alpha(model)
    model.tensors = unet or vae or texts[0]


def keep_only(model: Model, choice: str) -> None:
    """Take one part out. A UNet keeps its prefix (hosts look for markers beside it), the others lose it.

    Raises UnknownNameError for a word that names no part, BadFileError where the file does not hold it.
    """
    if choice not in CHOICES:
        raise UnknownNameError("part", choice, CHOICES)
    if choice == "unet":
        keep_last_alpha(model)
        table = model.parts()
        kept = {name: node for name, node in model.tensors.items() if table.part_of(name) in ("unet", "marker")}
    elif choice == "vae":
        kept = vae_tensors(model.tensors, (find_vae(model.tensors) or ("", "ldm"))[1])
    else:
        encoders = find_encoders(model.tensors)
        if choice == "te" and len(encoders) > 1:
            raise UsageError(f"{model.path} has the encoders {', '.join(encoders)}", "Choose one of them by name")
        chosen = next(iter(encoders.values()), None) if choice == "te" else encoders.get(choice)  # type: ignore[call-overload]
        kept = {} if chosen is None else in_form(chosen, "transformers")
    if not any(not is_marker(name) for name in kept):
        raise BadFileError(model.path, f"it holds no {choice}", "Choose another file or another part")
    model.tensors = kept
    if choice != "unet":
        forget_prediction(model)


def drop(model: Model, part: Part) -> None:
    """Leave a part out. Raises BadFileError where the file does not hold it or holds nothing else."""
    table = model.parts()
    kept = {name: node for name, node in model.tensors.items() if table.part_of(name) != part}
    if len(kept) == len(model.tensors):
        raise BadFileError(model.path, f"it holds no {part}", "Choose another file or another part")
    if not any(not is_marker(name) and name not in SCHEDULE for name in kept):
        raise BadFileError(model.path, f"it holds nothing but its {part}", "Keep at least one part")
    model.tensors = kept
    if part == "unet":
        forget_prediction(model)


def forget_prediction(model: Model) -> None:
    """Take away what says how the UNet predicts, where that is no longer in the file: markers, schedule, metadata."""
    for name in [name for name in model.tensors if is_prediction(name)]:
        del model.tensors[name]
    for name in PREDICTION_FIELDS:
        model.metadata.pop(name, None)


def is_prediction(name: str) -> bool:
    """Whether a tensor says how the UNet predicts or on which schedule it was trained."""
    return name in SCHEDULE or (is_marker(name) and not name.endswith("scaled_fp8"))
