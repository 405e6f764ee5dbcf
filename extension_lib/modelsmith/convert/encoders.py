"""CLIP text encoders: where they lie in each kind of file, and OpenCLIP's form against transformers' form.

OpenCLIP (mlfoundations/open_clip, src/open_clip/transformer.py) keeps query, key and value in one matrix and the text
projection turned over; transformers (models/clip/modeling_clip.py) has them one by one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from modelsmith.convert.nodes import Joined, Node, Rows, transposed

Slot = Literal["clip_l", "clip_h", "clip_g"]
Form = Literal["transformers", "open_clip"]

WIDTHS: Mapping[int, Slot] = {768: "clip_l", 1024: "clip_h", 1280: "clip_g"}
"""Width of the encoder's layers: what tells the encoders of SD1 and SDXL, SD2, and SDXL apart."""

Family = Literal["sd1", "sd2", "sdxl", "sdxl-refiner"]

PLACES: Mapping[tuple[Family, Slot], tuple[str, Form]] = {
    ("sd1", "clip_l"): ("cond_stage_model.transformer.", "transformers"),
    ("sd2", "clip_h"): ("cond_stage_model.model.", "open_clip"),
    ("sdxl", "clip_l"): ("conditioner.embedders.0.transformer.", "transformers"),
    ("sdxl", "clip_g"): ("conditioner.embedders.1.model.", "open_clip"),
    ("sdxl-refiner", "clip_g"): ("conditioner.embedders.0.model.", "open_clip"),
}
"""Where each family's checkpoint keeps its encoders, and in which form."""

# Longest first; the last is a file of its own.
_ROOTS = (
    "cond_stage_model.transformer.",
    "cond_stage_model.model.",
    "conditioner.embedders.0.transformer.",
    "conditioner.embedders.1.model.",
    "conditioner.embedders.0.model.",
    "text_encoders.clip_l.transformer.",
    "text_encoders.clip_g.transformer.",
    "text_encoder_2.",
    "text_encoder.",
    "",
)
_TOP = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_TOP_BACK = {new: old for old, new in _TOP.items()}
_LAYER_BACK = {new: old for old, new in _LAYER.items()}
_OPEN = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)\Z")
_PLAIN = re.compile(r"text_model\.encoder\.layers\.(\d+)\.(.+)\Z")
_QKV = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class Encoder:
    """One text encoder of a file: its tensors without prefix, and where they were."""

    slot: Slot
    form: Form
    root: str
    tensors: Mapping[str, Node]


def find_encoders(tensors: Mapping[str, Node]) -> dict[Slot, Encoder]:
    """All CLIP encoders of a file, by slot; told by the width of the token embedding, whatever the file is."""
    found: dict[Slot, Encoder] = {}
    for root in _ROOTS:
        for token, form, inner in (
            ("text_model.embeddings.token_embedding.weight", "transformers", ""),
            ("embeddings.token_embedding.weight", "transformers", "text_model."),
            ("token_embedding.weight", "open_clip", ""),
        ):
            node = tensors.get(root + token)
            slot = WIDTHS.get(node.shape[1]) if node is not None and len(node.shape) == 2 else None
            if slot is None or slot in found:
                continue
            # transformers 5 and the oldest SD1 files leave "text_model." out
            prefix = _starts(root, form)
            part = {
                inner + name[len(root) :]
                if not name[len(root) :].startswith(("text_projection", "logit"))
                else name[len(root) :]: value
                for name, value in tensors.items()
                if name.startswith(prefix)
            }
            found[slot] = Encoder(slot, "transformers" if form == "transformers" else "open_clip", root, part)
    return found


def _starts(root: str, form: str) -> tuple[str, ...]:
    """Beginnings of the names of one encoder; a bare one must not take a whole file with it."""
    if root:
        return (root,)
    if form == "open_clip":
        return ("token_embedding.", "positional_embedding", "transformer.resblocks.", "ln_final.", "text_projection",
                "logit_scale")  # fmt: skip
    return ("text_model.", "embeddings.", "encoder.layers.", "final_layer_norm.", "text_projection", "logit_scale")


def in_form(encoder: Encoder, form: Form) -> dict[str, Node]:
    """The encoder's tensors under the names, and in the shapes, of one form."""
    if encoder.form == form:
        return dict(encoder.tensors)
    return _to_transformers(encoder.tensors) if form == "transformers" else _to_open_clip(encoder.tensors)


def _to_transformers(tensors: Mapping[str, Node]) -> dict[str, Node]:
    out: dict[str, Node] = {}
    for name, node in tensors.items():
        found = _OPEN.match(name)
        if name in _TOP:
            out[_TOP[name]] = node
        elif name == "text_projection":
            out["text_projection.weight"] = transposed(node)
        elif found is None:
            out[name] = node
        else:
            layer = f"text_model.encoder.layers.{found[1]}"
            if found[2] in ("attn.in_proj_weight", "attn.in_proj_bias"):
                rows = node.shape[0] // 3
                for index, part in enumerate(_QKV):
                    out[f"{layer}.self_attn.{part}.{found[2].rpartition('_')[2]}"] = Rows(node, index * rows, rows)
            else:
                module, _, kind = found[2].rpartition(".")
                out[f"{layer}.{_LAYER.get(module, module)}.{kind}"] = node
    return out


def _to_open_clip(tensors: Mapping[str, Node]) -> dict[str, Node]:
    out: dict[str, Node] = {}
    for name, node in tensors.items():
        found = _PLAIN.match(name)
        if name in _TOP_BACK:
            out[_TOP_BACK[name]] = node
        elif name == "text_projection.weight":
            out["text_projection"] = transposed(node)
        elif name.endswith(".position_ids"):
            continue  # OpenCLIP has none
        elif found is None:
            out[name] = node
        else:
            layer = f"transformer.resblocks.{found[1]}"
            module, _, kind = found[2].rpartition(".")
            short = module.rpartition(".")[2]
            if short == "q_proj":
                parts = [tensors[f"text_model.encoder.layers.{found[1]}.self_attn.{part}.{kind}"] for part in _QKV]
                out[f"{layer}.attn.in_proj_{kind}"] = Joined(parts)
            elif short not in _QKV:
                out[f"{layer}.{_LAYER_BACK.get(module, module)}.{kind}"] = node
    return out
