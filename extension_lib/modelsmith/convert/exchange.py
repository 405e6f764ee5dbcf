"""Putting a part of another file into a checkpoint, with all that belongs to the part."""

from __future__ import annotations

from collections.abc import Mapping

from modelsmith.convert.casts import LossBook
from modelsmith.convert.components import (
    CHOICES,
    PREDICTION_FIELDS,
    UNET_PREFIX,
    VAE_PREFIX,
    family_of,
    find_vae,
    forget_prediction,
    is_checkpoint,
    is_prediction,
    to_checkpoint,
    unet_tensors,
    vae_tensors,
)
from modelsmith.convert.encoders import PLACES, Family, Slot, find_encoders, in_form
from modelsmith.convert.model import Model
from modelsmith.convert.nodes import Node
from modelsmith.convert.parts import is_marker
from modelsmith.convert.precision import Precision, decode_all
from modelsmith.errors import BadFileError, UnknownNameError, UsageError
from modelsmith.vae.company import with_company
from modelsmith.vae.families import Hints, fits, identify_vae
from modelsmith.vae.health import FIX_RECORD
from modelsmith.vae.layout import find_vae as vae_in_header

_REMEDY = "Choose a model of the SD1, SD2 or SDXL family"


def put_in(model: Model, donor: Model, choice: str, book: LossBook | None = None) -> int:
    """Put a part of another file into this checkpoint, in place of what is there, and return how many tensors came.

    Names and forms are turned into those of a checkpoint; a bare UNet becomes one. With a UNet come the markers, the
    schedule and the metadata that say how it predicts, with a VAE the record of its cure. The donor's files stay open
    as long as this model's. book: where losses go if a bare UNet has to be decoded to get the names of a checkpoint.
    Raises BadFileError where the donor does not hold the part, UsageError where it does not fit or this model has no
    place for it.
    """
    if choice not in CHOICES:
        raise UnknownNameError("part", choice, CHOICES)
    if not is_checkpoint(model):
        decode_all(model, Precision({}), book or LossBook())
        to_checkpoint(model)
    family = family_of(model.plain())
    if family is None:
        raise UsageError(f"{model.path} is of no family whose parts can be exchanged", _REMEDY)
    if choice == "vae":
        return _put_vae(model, donor, family)
    if choice == "unet":
        return _put_unet(model, donor, family)
    return _put_encoders(model, donor, family, choice)


def _put_vae(model: Model, donor: Model, family: Family) -> int:
    found = {VAE_PREFIX + name: node for name, node in vae_tensors(donor.tensors, "ldm").items()}
    if found:
        _check_vae(model, donor, family)
    here = find_vae(model.tensors)
    came = _exchange(model, donor, found, (here[0] if here else "") or VAE_PREFIX, "vae")
    record = donor.header.metadata.get(FIX_RECORD)
    model.metadata.pop(FIX_RECORD, None)
    if record is not None:
        model.metadata[FIX_RECORD] = record
    return came


def _check_vae(model: Model, donor: Model, family: Family) -> None:
    """Raise UsageError for a VAE that is known to belong to another latent space: it would give wrong colours."""
    try:
        vae = vae_in_header(donor.header)
    except BadFileError:
        return  # of a shape that is not known there, and is compared tensor by tensor
    identity = identify_vae(vae, with_company(vae, Hints()))
    if fits(identity, family) == "does_not_fit":
        raise UsageError(
            f"the VAE of {donor.path} is one of {identity.label()}, and {model.path} is {family}",
            "Choose a VAE of the same family, or bake it in and say that it is to be baked all the same",
        )


def _put_unet(model: Model, donor: Model, family: Family) -> int:
    if family_of(donor.tensors) != family:
        raise UsageError(f"{donor.path} is of another family than {model.path}", "Choose a UNet of the same family")
    found = {UNET_PREFIX + name: node for name, node in unet_tensors(donor.tensors, "ldm").items()}
    told = {name: node for name, node in donor.tensors.items() if is_prediction(name)}
    before = {name for name in model.tensors if is_prediction(name) and is_marker(name)}
    came = _exchange(model, donor, found, UNET_PREFIX, "unet")
    forget_prediction(model)
    model.tensors.update(told)
    model.metadata.update({name: donor.metadata[name] for name in PREDICTION_FIELDS if name in donor.metadata})
    after = {name for name in told if is_marker(name)}
    if before != after:
        names = ", ".join(sorted(before | after))
        model.notes.append(f"the markers ({names}) follow the UNet of {donor.path.name}")
    return came


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
        here = find_encoders(model.tensors).get(slot)
        found = {prefix + name: node for name, node in in_form(available[slot], form).items()}
        came += _exchange(model, donor, found, (here.root if here else "") or prefix, slot)
    return came


def _exchange(model: Model, donor: Model, found: dict[str, Node], old: str, choice: str) -> int:
    """old: the prefix of what is replaced."""
    if not found:
        raise BadFileError(donor.path, f"it holds no {choice}", "Choose another file")
    _check_fit(model, donor, found)
    for name in [name for name in model.tensors if name.startswith(old)]:
        del model.tensors[name]
        model.quantized.pop(name, None)
    model.tensors.update(found)
    model.adopt(donor)
    model.notes.append(f"{choice} ({len(found)} tensors) was taken from {donor.path.name}")
    return len(found)


def _check_fit(model: Model, donor: Model, found: Mapping[str, Node]) -> None:
    here = model.plain()
    for name, node in found.items():
        if name in here and here[name].shape != node.shape:
            raise UsageError(
                f"tensor {name!r} is {node.shape} in {donor.path} and {here[name].shape} in {model.path}",
                "Choose a part of the same family",
            )
