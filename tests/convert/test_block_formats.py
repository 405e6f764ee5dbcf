"""ComfyUI's block formats, against the package that ComfyUI itself uses, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from convert.helpers import converted, loaded, metadata_of, same_bits, saved
from modelsmith.convert.model import open_model
from modelsmith.errors import BadFileError

LAYER = "model.diffusion_model.time_embed.0"
SHAPES = [(128, 64), (160, 96), (3, 32), (256, 1024)]


def _kitchen() -> Any:
    pytest.importorskip("comfy_kitchen")
    from comfy_kitchen.backends.eager import quantization

    return quantization


def _facts(**said: object) -> torch.Tensor:
    return torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)


def _check(tmp_path: Path, tensors: dict[str, torch.Tensor], expected: torch.Tensor) -> None:
    source = saved(tmp_path / "a.safetensors", tensors)
    converted(source, tmp_path / "b.safetensors", "fp32")
    out = loaded(tmp_path / "b.safetensors")
    assert set(out) == {f"{LAYER}.weight"}
    assert same_bits(out[f"{LAYER}.weight"], expected)
    with open_model(source) as model:
        node = model.quantized[f"{LAYER}.weight"].node
        size = expected.numel()
        for first, elements in ((0, 1), (17, 40), (size - 5, 5), (3, size - 3)):
            assert torch.equal(node.read(first, elements), expected.reshape(-1)[first : first + elements])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("named", [True, False])
def test_nvfp4_equals_comfy_kitchen(tmp_path: Path, shape: tuple[int, int], named: bool) -> None:
    kitchen = _kitchen()
    values = torch.randn(shape)
    whole = values.abs().max() / (448 * 6)
    packed, scales = kitchen.quantize_nvfp4(values, whole, pad_16x=shape[0] % 16 != 0)
    expected = kitchen.dequantize_nvfp4(packed, whole, scales, torch.float32)
    tensors = {
        f"{LAYER}.weight": packed, f"{LAYER}.weight_scale": scales, f"{LAYER}.weight_scale_2": whole,
    }  # fmt: skip
    if named:
        tensors[f"{LAYER}.comfy_quant"] = _facts(format="nvfp4")
        tensors[f"{LAYER}.input_scale"] = torch.ones(())
    _check(tmp_path, tensors, expected)


def test_rows_that_only_fill_up_are_left_out(tmp_path: Path) -> None:
    """A bias tells how many rows there are; one that does not fit the padding tells nothing."""
    levels = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    packed = torch.randint(0, 256, (16, 16), dtype=torch.uint8)
    scales = torch.full((128, 4), 0x38, dtype=torch.uint8).view(torch.float8_e4m3fn)  # ones
    values = torch.stack((levels[packed.int() >> 4], levels[packed.int() & 15]), 2).reshape(16, 32)
    for rows, kept in ((3, 3), (16, 16), (40, 16)):
        tensors = {
            f"{LAYER}.weight": packed, f"{LAYER}.weight_scale": scales, f"{LAYER}.weight_scale_2": torch.ones(()),
            f"{LAYER}.bias": torch.zeros(rows),
        }  # fmt: skip
        source = saved(tmp_path / f"{rows}.safetensors", tensors)
        converted(source, tmp_path / "b.safetensors", "fp32")
        assert torch.equal(loaded(tmp_path / "b.safetensors")[f"{LAYER}.weight"], values[:kept])
        (tmp_path / "b.safetensors").unlink()


@pytest.mark.parametrize("shape", SHAPES)
def test_mxfp8_equals_comfy_kitchen(tmp_path: Path, shape: tuple[int, int]) -> None:
    kitchen = _kitchen()
    values = torch.randn(shape) * torch.logspace(-6, 6, shape[1])
    values[0] = 0.0
    packed, scales = kitchen.quantize_mxfp8(values)
    expected = kitchen.dequantize_mxfp8(packed, scales, torch.float32)
    tensors = {f"{LAYER}.weight": packed, f"{LAYER}.weight_scale": scales.view(torch.uint8)}
    _check(tmp_path, tensors, expected)


@pytest.mark.parametrize("rowwise", [False, True])
def test_int8_equals_comfy_kitchen(tmp_path: Path, rowwise: bool) -> None:
    kitchen = _kitchen()
    values = torch.randn(40, 72)
    quantize = kitchen.quantize_int8_rowwise if rowwise else kitchen.quantize_int8_tensorwise
    packed, scale = quantize(values)
    tensors = {f"{LAYER}.weight": packed, f"{LAYER}.weight_scale": scale, f"{LAYER}.comfy_quant":
               _facts(format="int8_tensorwise")}  # fmt: skip
    _check(tmp_path, tensors, kitchen.dequantize_int8_simple(packed, scale))


@pytest.mark.parametrize("kind", ["int8_blockwise", "float8_e4m3fn_blockwise", "float8_e4m3fn_rowwise"])
def test_square_blocks_and_rows(tmp_path: Path, kind: str) -> None:
    """Each block times its scale, worked out by a Kronecker product."""
    shape = (12, 1) if kind.endswith("rowwise") else (3, 4)
    scale = torch.rand(shape) + 0.5
    dtype = torch.int8 if kind.startswith("int8") else torch.float8_e4m3fn
    packed = torch.randint(-100, 100, (12, 32)).float().to(dtype)
    expected = packed.float() * torch.kron(scale, torch.ones(12 // shape[0], 32 // shape[1]))
    tensors = {f"{LAYER}.weight": packed, f"{LAYER}.weight_scale": scale}
    metadata = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": {LAYER: {"format": kind}}})}
    source = saved(tmp_path / "a.safetensors", tensors, metadata)
    converted(source, tmp_path / "b.safetensors", "fp32")
    assert same_bits(loaded(tmp_path / "b.safetensors")[f"{LAYER}.weight"], expected)
    assert "_quantization_metadata" not in metadata_of(tmp_path / "b.safetensors")
    converted(source, tmp_path / "c.safetensors")  # kept as it is, with what the header says
    assert set(loaded(tmp_path / "c.safetensors")) == set(tensors)
    assert metadata_of(tmp_path / "c.safetensors") == metadata


def test_what_others_made_of_the_same_weights(tmp_path: Path) -> None:
    """Weights and what bitsandbytes (NF4, FP4, also double) and ComfyUI's package (nvfp4, mxfp8) decoded them to, kept
    for where they are not installed: made by their own functions from random values (see the file's metadata)."""
    kept = loaded(Path(__file__).parent / "data" / "dequantised.safetensors")
    expected = {name.removeprefix("expected."): kept.pop(name) for name in list(kept) if name.startswith("expected.")}
    assert len(expected) == 6
    source = saved(tmp_path / "a.safetensors", {f"model.diffusion_model.{name}": value for name, value in kept.items()})
    for precision, kind in (("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)):
        converted(source, tmp_path / f"{precision}.safetensors", precision)
        out = loaded(tmp_path / f"{precision}.safetensors")
        for name, value in expected.items():
            assert same_bits(out[f"model.diffusion_model.{name}"], value.to(kind)), (name, precision)
        assert len(out) == len(expected) + 1  # and one bias


@pytest.mark.parametrize(
    ("extra", "word"),
    [
        ({f"{LAYER}.qweight": torch.zeros(4, 4, dtype=torch.int8)}, "SVDQuant"),
        ({f"{LAYER}.wscales": torch.zeros(4)}, "SVDQuant"),
        ({f"{LAYER}.comfy_quant": _facts(format="convrot_w4a4")}, "convrot_w4a4"),
        ({f"{LAYER}.comfy_quant": _facts(format="int8_tensorwise", convrot=True)}, "ConvRot"),
        ({f"{LAYER}.comfy_quant": torch.tensor([1, 2], dtype=torch.uint8)}, "unreadable"),
        ({f"{LAYER}.pre_quant_scale": torch.zeros(4)}, "AWQ"),
    ],
)
def test_the_others_are_refused_by_name(tmp_path: Path, extra: dict[str, torch.Tensor], word: str) -> None:
    source = saved(tmp_path / "a.safetensors", {f"{LAYER}.weight": torch.zeros(4, 4), **extra})
    with pytest.raises(BadFileError, match=word) as caught:
        converted(source, tmp_path / "b.safetensors", "fp16")
    assert LAYER in caught.value.message and "Use the unquantised model" in caught.value.remedy
    assert not (tmp_path / "b.safetensors").exists()


def test_damaged_scales_are_named(tmp_path: Path) -> None:
    tensors = {
        f"{LAYER}.weight": torch.zeros(128, 32, dtype=torch.uint8),
        f"{LAYER}.weight_scale": torch.zeros(100, 4, dtype=torch.uint8),
        f"{LAYER}.weight_scale_2": torch.ones(()),
    }
    with pytest.raises(BadFileError, match="400 bytes where 512 belong"):
        converted(saved(tmp_path / "a.safetensors", tensors), tmp_path / "b.safetensors", "fp16")
