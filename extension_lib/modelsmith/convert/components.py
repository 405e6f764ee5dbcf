"""Taking parts out of a model, putting parts in, and spelling the whole in the original or in diffusers' names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

from modelsmith.convert.encoders import PLACES, Family, Form, Slot, find_encoders, in_form
from modelsmith.convert.model import Model
from modelsmith.convert.naming import levels_with_attention, unet_to_diffusers, unet_to_ldm
from modelsmith.convert.nodes import Constant, Node, Reshaped
from modelsmith.convert.parts import Part, is_marker
from modelsmith.errors import BadFileError, UnknownNameError, UsageError
from modelsmith.vae.keys import canonical, is_attention_matrix, spell

Layout = Literal["ldm", "diffusers"]

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
CHOICES = ("unet", "te", "vae", "clip_l", "clip_h", "clip_g")
"""Parts that can be taken out or put in; ``te`` is all text encoders together."""

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
    family = family_of(model.tensors)
    unet, vae = unet_tensors(model.tensors, "ldm"), vae_tensors(model.tensors, "ldm")
    encoders = find_encoders(model.tensors)
    if family is None and (unet or len(encoders) > 1 or not (vae or encoders)):
        raise UsageError(f"{model.path} is of no family whose original names are known", _REMEDY)
    single = bool(unet) + bool(vae) + len(encoders) == 1
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
    left = len(model.tensors) - taken - sum(is_marker(name) for name in model.tensors)
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
    model.tensors = unet or vae or texts[0]


def keep_only(model: Model, choice: str) -> None:
    """Take one part out. A UNet keeps its prefix (hosts look for markers beside it), the others lose it.

    Raises UnknownNameError for a word that names no part, BadFileError where the file does not hold it.
    """
    if choice not in CHOICES:
        raise UnknownNameError("part", choice, CHOICES)
    if choice == "unet":
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


def drop(model: Model, part: Part) -> None:
    """Leave a part out. Raises BadFileError where the file does not hold it or holds nothing else."""
    table = model.parts()
    kept = {name: node for name, node in model.tensors.items() if table.part_of(name) != part}
    if len(kept) == len(model.tensors):
        raise BadFileError(model.path, f"it holds no {part}", "Choose another file or another part")
    if not kept:
        raise BadFileError(model.path, f"it holds nothing but its {part}", "Keep at least one part")
    model.tensors = kept


def put_in(model: Model, donor: Model, choice: str) -> int:
    """Put a part of another file into this checkpoint, in place of what is there, and return how many tensors came.

    Names and forms are turned into those of this checkpoint. The donor's files stay open as long as this model's.
    Raises BadFileError where the donor does not hold the part, UsageError where this model has no place for it.
    """
    if choice not in CHOICES:
        raise UnknownNameError("part", choice, CHOICES)
    family = family_of(model.tensors)
    if family is None:
        raise UsageError(f"{model.path} is of no family whose parts can be exchanged", _REMEDY)
    if choice == "vae":
        found = {VAE_PREFIX + name: node for name, node in vae_tensors(donor.tensors, "ldm").items()}
        old = VAE_PREFIX
    elif choice == "unet":
        if family_of(donor.tensors) != family:
            raise UsageError(f"{donor.path} is of another family than {model.path}", "Choose a UNet of the same family")
        found = {UNET_PREFIX + name: node for name, node in unet_tensors(donor.tensors, "ldm").items()}
        old = UNET_PREFIX
    else:
        return _put_encoders(model, donor, family, choice)
    return _exchange(model, donor, found, old, choice)


def _put_encoders(model: Model, donor: Model, family: Family, choice: str) -> int:
    wanted: list[Slot] = [slot for known, slot in PLACES if known == family and choice in ("te", slot)]
    if not wanted:
        raise UsageError(f"a model of the family {family} has no place for {choice}", "Choose another part")
    available = find_encoders(donor.tensors)
    came = 0
    for slot in wanted:
        if slot not in available:
            if choice == "te" and came:
                continue
            raise BadFileError(donor.path, f"it holds no {slot}", "Choose another file")
        prefix, form = PLACES[family, slot]
        found = {prefix + name: node for name, node in in_form(available[slot], _form(form)).items()}
        came += _exchange(model, donor, found, prefix, slot)
    return came


def _form(form: Form) -> Form:
    return form


def _exchange(model: Model, donor: Model, found: dict[str, Node], prefix: str, choice: str) -> int:
    if not found:
        raise BadFileError(donor.path, f"it holds no {choice}", "Choose another file")
    _check_fit(model, donor, found)
    for name in [name for name in model.tensors if name.startswith(prefix)]:
        del model.tensors[name]
        model.quantized.pop(name, None)
    model.tensors.update(found)
    model.adopt(donor)
    model.notes.append(f"{choice} ({len(found)} tensors) was taken from {donor.path.name}")
    return len(found)


def _check_fit(model: Model, donor: Model, found: Mapping[str, Node]) -> None:
    for name, node in found.items():
        here = model.tensors.get(name)
        if here is not None and here.shape != node.shape and name not in model.quantized:
            raise UsageError(
                f"tensor {name!r} is {node.shape} in {donor.path} and {here.shape} in {model.path}",
                "Choose a part of the same family",
            )
