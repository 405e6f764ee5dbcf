"""The condition of a file: second sets of weights, leftovers, damage, parts that are there twice."""

from __future__ import annotations

import math

from modelsmith.errors import BadFileError
from modelsmith.files.ranges import read_values
from modelsmith.identify.adapter_bases import base_from_metadata
from modelsmith.identify.draft import Draft
from modelsmith.identify.messages import say
from modelsmith.identify.report import LABELS, Ema
from modelsmith.identify.split import Parts

_SUFFIXES = {
    "safetensors": (".safetensors", ".sft"),
    "ckpt": (".ckpt", ".pt", ".pth", ".bin"),
    "ckpt-legacy": (".ckpt", ".pt", ".pth", ".bin"),
    "gguf": (".gguf",),
}
_FORMAT_NAMES = {
    "safetensors": ("safetensors", "safetensors"),
    "ckpt": ("a PyTorch pickle", "PyTorch の pickle"),
    "ckpt-legacy": ("an old PyTorch pickle", "古い形式の PyTorch の pickle"),
    "gguf": ("GGUF", "GGUF"),
}
TRAINING_PARTS = (
    "optimizer_states",
    "lr_schedulers",
    "callbacks",
    "loops",
    "hyper_parameters",
    "pytorch-lightning_version",
)
"""What a training program keeps beside the weights in a pickle (PyTorch Lightning's names)."""
_EMA_MANY = 100
_POSITIONS = 77


def ema_of(parts: Parts) -> Ema:
    """Whether a second set of weights is there, or is all there is."""
    if len(parts.ema) <= _EMA_MANY:
        return "none"
    return "both" if parts.model else "only"


def add_health(draft: Draft) -> None:
    """Add every warning that the condition of the file gives reason for."""
    header = draft.header
    endings = _SUFFIXES.get(header.format)
    if endings is not None and header.path.suffix.lower() not in endings:
        english, japanese = _FORMAT_NAMES[header.format]
        draft.warnings.append(say("renamed", format=english, format_ja=japanese))
    if header.forbidden:
        draft.warnings.append(say("unsafe", names=", ".join(header.forbidden[:12])))
    for part in draft.components:
        if part.complete is False:
            draft.warnings.append(say("incomplete", part=part.name, missing=part.missing, expected=part.expected))
    if draft.reduced:
        draft.warnings.append(say("reduced"))
    _claims(draft)
    _prediction(draft)
    _leftovers(draft)
    _positions(draft)
    _vae(draft)
    _unexpected(draft)


def _prediction(draft: Draft) -> None:
    prediction = draft.prediction
    name = LABELS.get(draft.candidates[0], "") if draft.candidates else ""
    stray = [e for e in prediction.evidence if e.source == "marker tensor" and e.says in ("v_prediction", "nothing")]
    if prediction.conflict:
        told = [e for e in prediction.evidence if e.says in ("epsilon", "v_prediction", "edm", "edm_v_prediction")]
        sources = "; ".join(f"{e.source} ({e.detail}) = {e.says}" for e in told)
        japanese = "、".join(f"{e.source_text('ja')}（{e.detail_text('ja')}）= {e.says}" for e in told)
        draft.warnings.append(say("prediction-conflict", sources=sources, sources_ja=japanese))
    if stray and prediction.type not in ("v_prediction",) and any(e.grade == "weak" for e in stray):
        draft.warnings.append(say("stray-v-pred", name=name))
    if any(e.says == "ztsnr" and e.grade == "weak" and e.source == "marker tensor" for e in prediction.evidence):
        draft.warnings.append(say("stray-ztsnr"))
    for evidence in prediction.evidence:
        if evidence.source != "file name" or evidence.says in (prediction.type, "flow"):
            continue
        if not any(one.says == evidence.says and one.source != "file name" for one in prediction.evidence):
            draft.warnings.append(say("name-hint", hint=evidence.says))


def _claims(draft: Draft) -> None:
    """Metadata that names another architecture than the tensors do: it was copied by a merge, or it lies."""
    claimed = base_from_metadata(draft.header.metadata)
    if claimed is not None and draft.candidates and claimed not in draft.candidates:
        found = " / ".join(LABELS.get(name, name) for name in draft.candidates)
        draft.warnings.append(say("mixed-metadata", claimed=LABELS.get(claimed, claimed), found=found))


def _leftovers(draft: Draft) -> None:
    parts = draft.parts
    ema = ema_of(parts)
    if ema == "both":
        size = sum(info.nbytes for info in parts.ema.values()) / 1e9
        draft.warnings.append(say("ema-both", size=f"{size:.2f} GB"))
    elif ema == "only":
        draft.warnings.append(say("ema-only"))
    found = [name for name in TRAINING_PARTS if name in draft.header.scalars]
    if any(name.startswith("loss.") for vae in parts.vaes.values() for name in vae):
        found.append("first_stage_model.loss")
    if "optimizer_states" in found or "first_stage_model.loss" in found:
        draft.warnings.append(say("training-leftovers", names=", ".join(found)))


def _positions(draft: Draft) -> None:
    """``position_ids`` must be the whole numbers 0 to 76; merging as floats damages it."""
    if draft.kind == "lora":
        return
    groups = list(draft.parts.encoders.items()) or [("", draft.header.tensors)]
    found = [prefix + name for prefix, group in groups for name in group if name.endswith("position_ids")]
    for name in found:
        info = draft.header.tensors[name]
        if info.shape[-1:] != (_POSITIONS,):
            continue
        if info.dtype != "I64":
            draft.warnings.append(say("position-ids-dtype", dtype=info.dtype))
        try:
            values = read_values(draft.header, name)
        except BadFileError:
            continue
        if any(values):  # all zeros: the hole of a sparse file
            wrong = sum(1 for place, value in enumerate(values) if not math.isfinite(value) or int(value) != place)
            if wrong:
                draft.warnings.append(say("position-ids-damaged", count=wrong))


def _vae(draft: Draft) -> None:
    sdxl = draft.candidates in (("sdxl",), ("sdxl-refiner",))
    for part in draft.components:
        if part.name == "vae" and sdxl and part.precision == "fp16" and not part.known_as:
            draft.warnings.append(say("fp16-sdxl-vae"))


def _unexpected(draft: Draft) -> None:
    if len(draft.parts.vaes) > 1:
        first, second = list(draft.parts.vaes)[:2]
        draft.warnings.append(say("twice", part="VAE", first=first, second=second))
    if draft.kind in ("checkpoint", "diffusion_model") and draft.parts.rest:
        rest = list(draft.parts.rest)
        draft.warnings.append(say("unexpected", count=len(rest), example=rest[0][:100]))
