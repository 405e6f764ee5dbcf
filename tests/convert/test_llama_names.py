"""GGUF text encoders get the names and values that transformers and the hosts look for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from convert.helpers import converted, loaded, same_bits
from modelsmith.convert.llama_names import transformers_name
from modelsmith.errors import BadFileError
from modelsmith.identify import identify

ARCHITECTURES = {
    "t5": "T5", "t5encoder": "T5ENCODER", "llama": "LLAMA", "qwen2": "QWEN2", "qwen2vl": "QWEN2VL", "qwen3": "QWEN3",
    "gemma2": "GEMMA2", "gemma3": "GEMMA3", "mistral3": "MISTRAL3",
}  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_names_are_those_that_gguf_maps_back(architecture: str) -> None:
    gguf: Any = pytest.importorskip("gguf")
    model = getattr(gguf.MODEL_ARCH, ARCHITECTURES[architecture])
    known = gguf.get_tensor_name_map(model, 3)
    seen = 0
    for tensor in gguf.MODEL_TENSORS[model]:
        name = gguf.TENSOR_NAMES[tensor].format(bid=2) + ".weight"
        if any(word in name for word in ("rope_freqs", "_exps", "gate_inp", "attn_rot_embd", "cross_attn_rel_b")):
            continue  # no weight, or of mixtures of experts; T5 has no bias between its two halves
        found = transformers_name(name, architecture)
        if architecture in ("gemma3", "t5encoder") and name == "output.weight":
            continue  # these write no head of their own
        assert found is not None, name
        assert known.get_name(found, try_suffixes=(".weight",)) == name, (name, found)
        seen += 1
    assert seen >= 12


def _written(path: Path, architecture: str, tensors: dict[str, np.ndarray], **numbers: int) -> Path:
    gguf: Any = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, architecture)
    for name, number in numbers.items():
        writer.add_uint32(f"{architecture}.attention.{name}", number)
    for name, value in tensors.items():
        if value.ndim == 2 and value.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(value, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _values(*shape: int) -> np.ndarray:
    """Values that Q8_0 holds exactly: whole numbers up to 127 with one of 127 in every 32."""
    values = np.random.default_rng(3).integers(-126, 127, shape).astype(np.float32)
    values.reshape(-1)[::32] = 127.0
    return values


@pytest.mark.parametrize("architecture", ["llama", "mistral3"])
def test_llama_rows_are_turned_back(tmp_path: Path, architecture: str) -> None:
    heads, groups = 4, 2
    query, key, value = _values(64, 32), _values(32, 32), _values(32, 32)

    def turned(weights: np.ndarray, count: int) -> np.ndarray:
        """As llama.cpp's converter does (LlamaModel.permute)."""
        halves = weights.reshape(count, 2, weights.shape[0] // count // 2, *weights.shape[1:])
        return halves.swapaxes(1, 2).reshape(weights.shape)

    source = _written(
        tmp_path / "a.gguf",
        architecture,
        {
            "token_embd.weight": _values(10, 32),
            "rope_freqs.weight": np.ones(16, np.float32),
            "blk.0.attn_q.weight": turned(query, heads),
            "blk.0.attn_k.weight": turned(key, groups),
            "blk.0.attn_v.weight": value,
        },
        head_count=heads,
        head_count_kv=groups,
    )
    result = converted(source, tmp_path / "b.safetensors", "fp32")
    out = loaded(tmp_path / "b.safetensors")
    attention = "model.layers.0.self_attn"
    assert set(out) == {"model.embed_tokens.weight", *(f"{attention}.{letter}_proj.weight" for letter in "qkv")}
    for letter, expected in (("q", query), ("k", key), ("v", value)):
        assert np.array_equal(out[f"{attention}.{letter}_proj.weight"].numpy(), expected), letter
    assert any("llama.cpp" in note for note in result.notes)
    assert result.losses == {}


def test_gemma_norms_lose_the_one_that_was_added(tmp_path: Path) -> None:
    norm = torch.tensor([0.25, -0.5, 1.5])
    tensors = {"blk.0.attn_norm.weight": (norm + 1).numpy(), "output_norm.weight": (norm + 1).numpy()}
    converted(_written(tmp_path / "a.gguf", "gemma2", tensors), tmp_path / "b.safetensors")
    out = loaded(tmp_path / "b.safetensors")
    assert same_bits(out["model.layers.0.input_layernorm.weight"], norm)
    assert same_bits(out["model.norm.weight"], norm)


def test_t5_is_known_afterwards(tmp_path: Path) -> None:
    tensors = {"token_embd.weight": _values(20, 32), "enc.output_norm.weight": _values(32)}
    for number in range(24):
        block = f"enc.blk.{number}"
        tensors[f"{block}.attn_norm.weight"] = tensors[f"{block}.ffn_norm.weight"] = _values(32)
        for name in ("attn_q", "attn_k", "attn_v", "attn_o", "ffn_gate", "ffn_up", "ffn_down"):
            tensors[f"{block}.{name}.weight"] = _values(32, 32)
    tensors["enc.blk.0.attn_rel_b.weight"] = _values(32, 2)
    converted(_written(tmp_path / "a.gguf", "t5encoder", tensors), tmp_path / "b.safetensors", "fp16")
    out = loaded(tmp_path / "b.safetensors")
    assert "encoder.block.23.layer.1.DenseReluDense.wi_0.weight" in out and len(out) == len(tensors)
    assert identify(tmp_path / "b.safetensors").kind == "text_encoder"


def test_an_ungated_t5_and_a_strange_name(tmp_path: Path) -> None:
    name = "encoder.block.1.layer.1.DenseReluDense.wi.weight"
    assert transformers_name("enc.blk.1.ffn_up.weight", "t5", gated=False) == name
    source = _written(
        tmp_path / "a.gguf", "qwen3", {"blk.0.attn_norm.weight": _values(3), "blk.0.odd.weight": _values(3)}
    )
    with pytest.raises(BadFileError, match=r"blk\.0\.odd\.weight"):
        converted(source, tmp_path / "b.safetensors")
