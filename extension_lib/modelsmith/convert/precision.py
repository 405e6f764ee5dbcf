"""Which precision each part of a model is written in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast as as_type

import torch

from modelsmith.convert.casts import LossBook
from modelsmith.convert.dequantize_scaled import MARKER, is_marker
from modelsmith.convert.model import Model
from modelsmith.convert.nodes import Constant, Node
from modelsmith.convert.parts import Part, PartTable
from modelsmith.convert.rounding import Cast
from modelsmith.convert.scaled import Scale, ScaledWeight, ScaleValue
from modelsmith.errors import UnknownNameError, UsageError
from modelsmith.files.dtypes import DTYPES, count, torch_dtype

KINDS: Mapping[str, str] = {
    "fp32": "F32",
    "fp16": "F16",
    "bf16": "BF16",
    "fp8_e4m3": "F8_E4M3",
    "fp8_e5m2": "F8_E5M2",
    "fp8_scaled": "F8_E4M3",
}
"""Precisions by the name that people use, and the safetensors type of each."""

PARTS: tuple[Part, ...] = ("unet", "te", "vae")
_SCALED_PREFIX = re.compile(r"model\.diffusion_model\.|text_encoders\.[^.]+\.(?:transformer\.)?")
_NEVER = (".position_ids", "logit_scale")
# Tables that are looked up and never multiplied: the scaled form is known to hosts for linear layers only.
_TABLES = ("embedding.weight", "embed_tokens.weight", "shared.weight", "relative_attention_bias.weight")


@dataclass(frozen=True)
class Precision:
    """The precision of each part; a part that is not named keeps what it has.

    clip: fp16 takes its largest value, 65504, for what lies beyond it, instead of infinity.
    """

    parts: Mapping[Part, str]
    clip: bool = False


def parse_precision(text: str, *, clip: bool = False) -> Precision:
    """Read ``fp16`` or ``unet=fp8_e4m3,te=fp16,vae=fp32``; ``keep`` leaves a part alone.

    Raises UnknownNameError for an unknown part or precision, UsageError for a part given twice.
    """
    found: dict[Part, str] = {}
    for item in (piece.strip() for piece in text.split(",") if piece.strip()):
        name, mark, label = item.rpartition("=")
        label = label.strip().lower()
        if label not in KINDS and label != "keep":
            raise UnknownNameError("precision", label, [*KINDS, "keep"])
        chosen: list[Part] = [part for part in PARTS if not mark or part == name.strip().lower()]
        if not chosen:
            raise UnknownNameError("part", name.strip(), PARTS)
        for part in chosen:
            if mark and part in found:
                raise UsageError(f"the part {part} has two precisions in {text!r}", "Give one")
            found[part] = label
    if not found:
        raise UsageError(f"{text!r} names no precision", "Write for instance fp16 or unet=fp8_e4m3,te=fp16")
    return Precision({part: label for part, label in found.items() if label != "keep"}, clip)


def set_precision(model: Model, precision: Precision, book: LossBook | None = None) -> LossBook:
    """Put every floating tensor of the named parts into its precision, decoding what was quantised.

    Markers, schedule buffers and integers stay as they are. In fp8 only matrices and kernels become eight bits wide;
    vectors (norms, biases) are kept in fp16, or bf16 where they were that. GGUF's packed types exist in no other
    format: a part that is not named becomes fp16 where it holds such.
    Returns the book, the given one if any, that fills with losses while the model is written. Raises UsageError where
    a part cannot be written in that form.
    """
    book = book or LossBook()
    table = model.parts()
    scaled_prefixes: set[str] = set()
    for name in list(model.tensors):
        if name not in model.tensors:
            continue  # it went with a packed weight
        label = _label_of(model, table, name, precision)
        if label is None:
            continue
        node = _decoded(model, name)
        if not DTYPES[node.dtype].floating or name.endswith(_NEVER):
            continue
        if label == "fp8_scaled" and _is_linear(name, node):
            prefix = _scaled_prefix(name, table)
            scaled_prefixes.add(prefix)
            _scale(model, name, node, book)
            continue
        kind = _kind_of(label, node)
        model.tensors[name] = node if kind == node.dtype else Cast(node, kind, book, name, precision.clip)
    _settle_markers(model, scaled_prefixes)
    return book


def decode_all(model: Model, precision: Precision, book: LossBook) -> None:
    """Undo every quantisation. A part without a precision of its own becomes fp16, since float32 was never there."""
    table = model.parts()
    for name, packed in model.quantized.items():
        part: Part = table.part_of(name)
        node = packed.node
        known = precision.parts.get("unet" if part == "ema" else part)
        model.tensors[name] = node if known else Cast(node, "F16", book, name)
        for companion in packed.companions:
            model.tensors.pop(companion, None)
    if model.quantized:
        for name in [name for name in model.tensors if name.rpartition(".")[2] == "scaled_fp8"]:
            del model.tensors[name]
        model.metadata.pop("_quantization_metadata", None)
    model.quantized.clear()


def _label_of(model: Model, table: PartTable, name: str, precision: Precision) -> str | None:
    part = table.part_of(name)
    part = "unet" if part == "ema" else part
    label = precision.parts.get(part)
    if label is None and model.header.format == "gguf" and name in model.quantized:
        return "fp16"
    return label


def _decoded(model: Model, name: str) -> Node:
    """The plain values of a tensor; what belonged to the packed form leaves the model."""
    packed = model.quantized.pop(name, None)
    if packed is None:
        return model.tensors[name]
    for companion in packed.companions:
        model.tensors.pop(companion, None)
    return packed.node


def _kind_of(label: str, node: Node) -> str:
    kind = KINDS[label]
    narrow = DTYPES[kind].bits == 8
    if narrow and (len(node.shape) < 2 or label == "fp8_scaled"):
        return "BF16" if node.dtype == "BF16" else "F16"
    return kind


def _is_linear(name: str, node: Node) -> bool:
    return len(node.shape) == 2 and name.endswith(".weight") and not name.endswith(_TABLES) and count(node.shape) > 0


def _scaled_prefix(name: str, table: PartTable) -> str:
    """Where the marker of scaled weights stands.

    ComfyUI looks for it at the root of a file that holds one model, and in a checkpoint under the diffusion model's
    prefix and those of its own text encoders (``text_encoders.t5xxl.transformer.``).
    """
    if table.bare is not None:
        return ""
    match = _SCALED_PREFIX.match(name)
    if match is not None:
        return match[0]
    raise UsageError(
        f"{name} lies in a part of a checkpoint for which the scaled fp8 form is not defined",
        "Use fp8_scaled for the unet only, for instance unet=fp8_scaled,te=fp16",
    )


def _scale(model: Model, name: str, node: Node, book: LossBook) -> None:
    """Replace a weight by its scaled form: ``scale = max|w| / 448``, stored as ``w / scale`` (ComfyUI, fp8_ops)."""
    scale = Scale(node)
    layer = name[: -len(".weight")]
    model.tensors[name] = ScaledWeight(node, scale, book, name)
    model.tensors[layer + ".scale_weight"] = ScaleValue(scale)


def _settle_markers(model: Model, prefixes: set[str]) -> None:
    """Drop ``scaled_fp8`` where no scaled weight is left, add it where there are new ones."""
    for name in [name for name in model.tensors if is_marker(name)]:
        prefix = name[: -len(MARKER)]
        left = any(
            other.startswith(prefix) for other, packed in model.quantized.items() if packed.scheme == "fp8_scaled"
        )
        if not left:
            del model.tensors[name]
    for prefix in sorted(prefixes):
        model.tensors[prefix + MARKER] = Constant(torch.empty(0, dtype=torch_dtype("F8_E4M3")))
    _settle_metadata(model)


def _settle_metadata(model: Model) -> None:
    """Of what the header says about quantised layers, keep those that still are."""
    text = model.metadata.pop("_quantization_metadata", None)
    if text is None or not model.quantized:
        return
    try:
        said: object = json.loads(text)
    except (ValueError, RecursionError):
        return
    layers = as_type("dict[str, object]", said).get("layers") if isinstance(said, dict) else None
    if isinstance(said, dict) and isinstance(layers, dict):
        told = as_type("dict[str, object]", layers)
        left = {layer: facts for layer, facts in told.items() if layer + ".weight" in model.quantized}
        if left:
            whole = {**as_type("dict[str, object]", said), "layers": left}
            model.metadata["_quantization_metadata"] = json.dumps(whole)
