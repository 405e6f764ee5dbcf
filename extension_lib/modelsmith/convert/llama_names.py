"""Text encoders of GGUF files: from llama.cpp's names to those of transformers, which hosts look for.

Names: ggml-org/llama.cpp, ``gguf-py/gguf/constants.py`` and ``tensor_mapping.py``. Two values differ as well: its
converter adds one to the norms of Gemma, and turns the rows of Llama's and Mistral 3's queries and keys for its own
rotary embedding (``conversion/llama.py``, ``mistral3.py``: Mistral 3 is converted as Llama is).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from modelsmith.convert.nodes import Computed, Node, whole
from modelsmith.errors import BadFileError

if TYPE_CHECKING:
    from modelsmith.convert.model import Model

_T5 = frozenset({"t5", "t5encoder"})
_GEMMA = frozenset({"gemma2", "gemma3"})
_TURNED = frozenset({"llama", "mistral3"})
_DECODERS = frozenset({*_TURNED, "qwen2", "qwen2vl", "qwen3", *_GEMMA})

_T5_ATTENTION = {"attn_q": "q", "attn_k": "k", "attn_v": "v", "attn_o": "o", "attn_rel_b": "relative_attention_bias"}
_T5_FEED = {"ffn_gate": "wi_0", "ffn_up": "wi_1", "ffn_down": "wo"}
_T5_TOP = {
    "token_embd": "shared",
    "enc.output_norm": "encoder.final_layer_norm",
    "dec.output_norm": "decoder.final_layer_norm",
    "output": "lm_head",
}
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA_BLOCK = {
    **_BLOCK,
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_COMPUTED = "rope_freqs"  # follows from the configuration and is no weight
_IN_BLOCK = re.compile(r"^(?:(enc|dec)\.)?blk\.(\d+)\.(\w+)$")


def transformers_name(name: str, architecture: str, *, gated: bool = True) -> str | None:
    """The name in transformers of a tensor of llama.cpp; None where there is none.

    gated: T5's feed-forward layer has a gate (version 1.1 on).
    """
    stem, _, ending = name.rpartition(".")
    if ending not in ("weight", "bias"):
        return None
    match = _IN_BLOCK.match(stem)
    if architecture in _T5:
        found = _t5_name(match, gated) if match else _T5_TOP.get(stem)
    elif match is None:
        found = _TOP.get(stem)
    else:
        table = _GEMMA_BLOCK if architecture in _GEMMA else _BLOCK
        inner = table.get(match[3])
        found = f"model.layers.{match[2]}.{inner}" if inner and not match[1] else None
    return f"{found}.{ending}" if found else None


def _t5_name(match: re.Match[str], gated: bool) -> str | None:
    side, number, what = match.groups()
    if side is None:
        return None
    block = f"{'encoder' if side == 'enc' else 'decoder'}.block.{number}.layer"
    feed = 1 if side == "enc" else 2
    if what == "attn_norm":
        return f"{block}.0.layer_norm"
    if what in _T5_ATTENTION:
        return f"{block}.0.SelfAttention.{_T5_ATTENTION[what]}"
    if what == "cross_attn_norm":
        return f"{block}.1.layer_norm"
    if what.startswith("cross_") and what[6:] in _T5_ATTENTION:
        return f"{block}.1.EncDecAttention.{_T5_ATTENTION[what[6:]]}"
    if what == "ffn_norm":
        return f"{block}.{feed}.layer_norm"
    if what == "ffn_up" and not gated:
        return f"{block}.{feed}.DenseReluDense.wi"
    return f"{block}.{feed}.DenseReluDense.{_T5_FEED[what]}" if what in _T5_FEED else None


def rename(model: Model) -> None:
    """Give a text encoder out of llama.cpp the names and values of transformers; other models stay as they are.

    Raises BadFileError where a tensor of such an encoder has a name that is not known, or the heads are not counted.
    """
    architecture = model.header.metadata.get("general.architecture", "")
    if model.header.format != "gguf" or architecture not in _T5 | _DECODERS:
        return
    if not any(_IN_BLOCK.match(name.rpartition(".")[0]) for name in model.tensors):
        return  # an image model that calls itself so
    gated = any(".ffn_gate." in name for name in model.tensors)
    tensors, quantized = dict(model.tensors), dict(model.quantized)
    model.tensors.clear()
    model.quantized.clear()
    for name, node in tensors.items():
        if name.startswith(_COMPUTED):
            continue
        new = transformers_name(name, architecture, gated=gated)
        if new is None:
            raise BadFileError(
                model.path, f"tensor {name!r} is none of a {architecture} text encoder", "Use it in GGUF as it is"
            )
        changed = _changed(model, node, new, architecture)
        model.tensors[new] = changed
        if name in quantized:
            model.quantized[new] = replace(quantized[name], node=changed)
    model.notes.append(f"the names of llama.cpp ({architecture}) became those of transformers")


def _changed(model: Model, node: Node, name: str, architecture: str) -> Node:
    if architecture in _GEMMA and name.endswith("norm.weight"):
        return Computed(node.dtype, node.shape, lambda: whole(node) - 1)
    if architecture in _TURNED and ".q_proj." in name:
        return _turned_back(node, _heads(model, architecture, "head_count"))
    if architecture in _TURNED and ".k_proj." in name:
        return _turned_back(node, _heads(model, architecture, "head_count_kv"))
    return node


def _heads(model: Model, architecture: str, key: str) -> int:
    for name in (f"{architecture}.attention.{key}", f"{architecture}.attention.head_count"):
        text = model.header.metadata.get(name, "")
        if text.isdigit() and int(text) > 0:
            return int(text)
    raise BadFileError(model.path, "it does not say how many attention heads it has", "Use another copy of the model")


def _turned_back(node: Node, heads: int) -> Node:
    """Undo llama.cpp's order of rows: within a head it puts row i beside row i + half. Held whole while it is read."""

    def compute() -> torch.Tensor:
        values = whole(node)
        rows = values.reshape(heads, -1, 2, *values.shape[1:])
        return rows.swapaxes(1, 2).reshape(values.shape)

    return Computed(node.dtype, node.shape, compute)
