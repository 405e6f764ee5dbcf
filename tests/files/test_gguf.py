"""GGUF headers of both versions, damaged ones, and the models in them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from gguf_maker import BLOCKS, header, write
from headers import Entries, load, part, under

from modelsmith.errors import BadFileError
from modelsmith.files.header import read_header
from modelsmith.identify import identify

Q4_K, Q8_0, F32, F16 = 12, 8, 0, 1


def packed(entries: Entries, kind: int = Q4_K) -> dict[str, tuple[int, list[int]]]:
    """Matrices packed where their rows are whole blocks, everything else in F32, as the converters do."""
    block = BLOCKS[kind][0]
    return {
        name: (kind if len(shape) == 2 and shape[-1] % block == 0 else F32, shape or [1])
        for name, (_, shape) in entries.items()
        if len(shape) <= 4
    }


@pytest.mark.parametrize("version", [2, 3])
def test_a_good_file(tmp_path: Path, version: int) -> None:
    path = write(
        tmp_path / "x.gguf",
        {"a": (F32, [3]), "b": (Q4_K, [2, 256])},
        {"general.architecture": "flux", "n": 7, "on": True, "list": [1, 2], "words": ["x"] * 100, "f": 1.5},
        version,
    )
    found = read_header(path)
    assert found.format == "gguf"
    assert found.metadata["general.architecture"] == "flux"
    assert found.scalars["list"] == [1, 2]
    assert found.scalars["words"] == "<100 texts>"
    a, b = found.tensors["a"], found.tensors["b"]
    assert (a.dtype, a.shape, a.nbytes, a.start % 32) == ("F32", (3,), 12, 0)
    assert (b.dtype, b.shape, b.nbytes, b.start - a.start) == ("Q4_K", (2, 256), 288, 32)


def test_the_original_shape_wins(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.gguf", {"patch.weight": (F16, [64, 8])}, {"comfy.gguf.orig_shape.patch.weight": [4, 16, 1, 2, 4]}
    )
    assert read_header(path).tensors["patch.weight"].shape == (4, 16, 1, 2, 4)


def damaged(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    with pytest.raises(BadFileError) as caught:
        read_header(path)
    return caught.value.problem


def test_damage(tmp_path: Path) -> None:
    good, size = header({"a": (F32, [3]), "b": (Q8_0, [2, 32])}, {"k": "v"})
    whole = good + b"\0" * size
    assert "cut short" in damaged(tmp_path, good[:40])
    assert "cut short" in damaged(tmp_path, whole[:-40])
    assert "version 1" in damaged(tmp_path, b"GGUF" + struct.pack("<I", 1) + whole[8:])
    assert "big-endian" in damaged(tmp_path, b"GGUF" + struct.pack(">I", 3) + whole[8:])
    assert "unknown version 9" in damaged(tmp_path, b"GGUF" + struct.pack("<I", 9) + whole[8:])
    assert "more entries" in damaged(tmp_path, b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1) + whole[24:])
    assert "cut short" in damaged(tmp_path, b"GGUF" + struct.pack("<IQQQ", 3, 1, 1, 1 << 62) + whole[32:])
    nested = struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 9, 1)
    assert "nests arrays" in damaged(tmp_path, b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + nested + b"\0" * 64)
    kind = struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 4, 99, 0)
    assert "unknown GGUF type 99" in damaged(tmp_path, b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + kind + b"\0" * 64)
    twice = (struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 4, 0, 0)) * 2
    assert "twice" in damaged(tmp_path, b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + twice + b"\0" * 64)


@pytest.mark.parametrize("named", ["flux", "", "pig"])
@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("flux1_kontext_bare_bf16", "flux1"), ("flux2_klein9b_bare_bf16", "flux2"),
        ("qwenimage_bare_bf16", "qwen-image"),
        ("sd35_medium_bare_bf16", "sd3"), ("sd15_unet_bare_fp16", "sd1"), ("auraflow_bare_fp16", "auraflow"),
    ],
)  # fmt: skip
def test_models_are_named_by_their_tensors(tmp_path: Path, named: str, name: str, architecture: str) -> None:
    scalars: dict[str, object] = {"general.architecture": named} if named else {}
    report = identify(write(tmp_path / "x.gguf", packed(load(name)), scalars))
    assert (report.kind, report.architecture, report.format) == ("diffusion_model", architecture, "gguf")
    assert report.quantization == "gguf_q4_k"
    assert report.complete is True
    assert not report.warnings


def test_a_whole_checkpoint(tmp_path: Path) -> None:
    report = identify(write(tmp_path / "x.gguf", packed(load("sdxl_base_fp16"), Q8_0), {}))
    assert (report.kind, report.architecture) == ("checkpoint", "sdxl")
    assert report.quantization == "gguf_q8_0"


def llama(width: int, layers: int, extra: dict[str, list[int]]) -> dict[str, tuple[int, list[int]]]:
    found = {"token_embd.weight": (Q8_0, [1024, width]), "output_norm.weight": (F32, [width])}
    for layer in range(layers):
        found[f"blk.{layer}.attn_norm.weight"] = (F32, [width])
        found[f"blk.{layer}.ffn_gate.weight"] = (Q8_0, [32768, width])
        for name, shape in extra.items():
            found[f"blk.{layer}.{name}"] = (F32, shape)
    return found


@pytest.mark.parametrize(
    ("tensors", "architecture"),
    [
        (llama(2560, 2, {"attn_q_norm.weight": [128]}), "qwen3-4b"),
        (llama(4096, 2, {"attn_q_norm.weight": [128]}), "qwen3-8b"),
        (llama(3584, 2, {"attn_k.bias": [512]}), "qwen2.5-vl-7b"),
        (llama(2304, 2, {"post_ffw_norm.weight": [2304]}), "gemma2-2b"),
        (llama(5120, 2, {}), "mistral3-24b"),
        (llama(4096, 2, {}), None),
        ({"enc.blk.0.attn_k.weight": (Q8_0, [4096, 4096]), "enc.blk.0.attn_norm.weight": (F32, [4096])}, "t5-xxl"),
        (
            {
                "enc.blk.0.attn_k.weight": (Q8_0, [4096, 4096]),
                "enc.blk.0.attn_norm.weight": (F32, [4096]),
                "enc.blk.1.attn_rel_b.weight": (F32, [64, 32]),
            },
            "umt5-xxl",
        ),
    ],
)
def test_text_encoders_under_the_names_of_llama(
    tmp_path: Path, tensors: dict[str, tuple[int, list[int]]], architecture: str | None
) -> None:
    report = identify(write(tmp_path / "x.gguf", tensors, {"general.architecture": "llama"}))
    assert (report.kind, report.architecture) == ("text_encoder", architecture)


def test_prefixed_names(tmp_path: Path) -> None:
    unet = under(part(load("sdxl_base_fp16"), "model.diffusion_model."), "model.diffusion_model.")
    report = identify(write(tmp_path / "x.gguf", packed(unet), {}))
    assert (report.kind, report.architecture) == ("diffusion_model", "sdxl")
