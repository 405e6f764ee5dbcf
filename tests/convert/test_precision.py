"""Formats and precisions: round trips that have to be exact, and losses that have to be named."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from convert.helpers import converted, loaded, metadata_of, same_bits, saved, tiny_checkpoint
from modelsmith.convert import dequantize_gguf, nodes
from modelsmith.convert.block_bits import scale_runs
from modelsmith.convert.casts import cast, decode_fp8
from modelsmith.convert.dequantize_gguf import DECODERS
from modelsmith.convert.model import open_model
from modelsmith.convert.precision import parse_precision
from modelsmith.errors import BadFileError, ModelsmithError, UnknownNameError, UnsafeFileError, UsageError
from modelsmith.files.dtypes import DTYPES
from modelsmith.files.gguf import TYPES
from modelsmith.files.header import read_header

UNET = "model.diffusion_model.time_embed.0.weight"


@pytest.mark.parametrize("legacy", [False, True])
def test_ckpt_becomes_safetensors_bit_for_bit(tmp_path: Path, legacy: bool) -> None:
    tensors = tiny_checkpoint()
    tensors["model.diffusion_model.turned"] = torch.randn(30, 20).t()  # strided in the file
    source = tmp_path / "a.ckpt"
    torch.save({"state_dict": tensors, "global_step": 5}, source, _use_new_zipfile_serialization=not legacy)
    before = source.read_bytes()
    converted(source, tmp_path / "a.safetensors")
    result = loaded(tmp_path / "a.safetensors")
    assert set(result) == set(tensors)
    assert all(same_bits(result[name], tensors[name]) for name in tensors)
    assert metadata_of(tmp_path / "a.safetensors")["global_step"] == "5"
    assert source.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_compressed_ckpt_is_unpacked_first(tmp_path: Path) -> None:
    tensors = tiny_checkpoint()
    torch.save(tensors, tmp_path / "plain.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "plain.ckpt") as plain,
        zipfile.ZipFile(tmp_path / "packed.ckpt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    converted(tmp_path / "packed.ckpt", tmp_path / "out.safetensors")
    result = loaded(tmp_path / "out.safetensors")
    assert all(same_bits(result[name], tensors[name]) for name in tensors)


class _Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.marker),)


def test_hostile_pickle_is_not_run_and_its_globals_are_named(tmp_path: Path) -> None:
    marker = tmp_path / "was-run"
    weights = {"model.diffusion_model.out.2.weight": torch.randn(4, 4)}
    torch.save({"state_dict": weights, "callbacks": _Hostile(marker)}, tmp_path / "bad.ckpt")
    result = converted(tmp_path / "bad.ckpt", tmp_path / "good.safetensors")
    assert not marker.exists()
    assert any("mkdir" in note and "none of it was executed" in note for note in result.notes)
    assert same_bits(loaded(tmp_path / "good.safetensors")["model.diffusion_model.out.2.weight"], weights.popitem()[1])
    torch.save(_Hostile(marker), tmp_path / "worse.ckpt")
    with pytest.raises(UnsafeFileError, match="mkdir"):
        converted(tmp_path / "worse.ckpt", tmp_path / "no.safetensors")
    assert not marker.exists() and not (tmp_path / "no.safetensors").exists()


@pytest.mark.parametrize(
    ("label", "kind"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
def test_plain_precisions_equal_torch(tmp_path: Path, label: str, kind: torch.dtype) -> None:
    tensors = tiny_checkpoint()
    tensors[UNET] = torch.randn(700, 900) * torch.logspace(-9, 4, 900)  # subnormals, and more than one tile
    result = converted(saved(tmp_path / "a.safetensors", tensors), tmp_path / "b.safetensors", label)
    out = loaded(tmp_path / "b.safetensors")
    for name, value in tensors.items():
        expected = value if name == "alphas_cumprod" or not value.is_floating_point() else value.to(kind)
        assert same_bits(out[name], expected), name
    finite = tensors[UNET].to(kind).float()
    error = (finite - tensors[UNET]).abs()[finite.isfinite()].max()
    assert result.losses.get(UNET) is None if kind == torch.float32 else result.losses[UNET].largest_error == error


def test_each_part_has_its_own_precision(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.safetensors", tiny_checkpoint())
    converted(source, tmp_path / "b.safetensors", "unet=fp8_e4m3, te=fp16, vae=fp32")
    out = loaded(tmp_path / "b.safetensors")
    assert out[UNET].dtype == torch.float8_e4m3fn
    assert out["model.diffusion_model.input_blocks.0.0.bias"].dtype == torch.float16
    assert out["cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"].dtype == torch.float16
    assert out["first_stage_model.decoder.conv_in.weight"].dtype == torch.float32
    assert out["cond_stage_model.transformer.text_model.embeddings.position_ids"].dtype == torch.int64
    assert out["alphas_cumprod"].dtype == torch.float32


def test_fp16_overflow_is_named_and_clipping_is_offered(tmp_path: Path) -> None:
    tensors = tiny_checkpoint()
    tensors[UNET][3, 5] = 70000.0
    tensors[UNET][4, 5] = -65519.0  # still rounds to the largest half
    source = saved(tmp_path / "a.safetensors", tensors)
    loss = converted(source, tmp_path / "b.safetensors", "fp16").losses[UNET]
    assert loss.clipped == 1
    assert loss.largest_error == 15.0
    assert loaded(tmp_path / "b.safetensors")[UNET][3, 5] == torch.inf
    loss = converted(source, tmp_path / "c.safetensors", "fp16", clip=True).losses[UNET]
    assert loaded(tmp_path / "c.safetensors")[UNET][3, 5] == 65504.0
    assert loss.clipped == 1


def test_nan_is_named_also_where_nothing_is_converted(tmp_path: Path) -> None:
    tensors = tiny_checkpoint()
    tensors[UNET][0, 0] = torch.nan
    tensors[UNET][0, 1] = torch.inf
    source = saved(tmp_path / "a.safetensors", tensors)
    for precision in ("", "fp16", "fp8_e5m2"):
        losses = converted(source, tmp_path / f"b{precision}.safetensors", precision).losses
        assert (losses[UNET].nan, losses[UNET].infinite) == (1, 1), precision


@pytest.mark.parametrize(("kind", "name"), [("F8_E4M3", "float8_e4m3fn"), ("F8_E5M2", "float8_e5m2")])
def test_fp8_rounds_as_torch_and_saturates(kind: str, name: str) -> None:
    torch_kind = getattr(torch, name)
    values = torch.randn(100_000) * torch.logspace(-6, 2, 100_000)
    out, loss = cast(values, kind)
    assert same_bits(out, values.to(torch_kind))
    assert loss.vanished == int(((out.float() == 0) & (values != 0)).sum())
    assert loss.largest_error == (out.float() - values).abs().max()
    out, loss = cast(torch.tensor([1e6, -1e6, 1.0, torch.nan, torch.inf]), kind)
    limit = torch.finfo(torch_kind).max
    assert out.float()[:3].tolist() == [limit, -limit, 1.0]
    assert bool(out.float()[3].isnan()) and float(out.float()[4]) == limit
    assert (loss.clipped, loss.nan, loss.infinite) == (2, 1, 1)
    codes = torch.arange(256, dtype=torch.uint8).view(torch_kind)
    for scale in (1.0, 0.3, -2.5e-7, 3e37, torch.inf, 1e-42):
        factor = torch.tensor(scale)
        assert torch.equal(
            decode_fp8(codes, scale=float(factor)).nan_to_num(1e9), (codes.float() * factor).nan_to_num(1e9)
        )


def test_doubles_are_rounded_once() -> None:
    halfway = 1.0 + 2.0**-11  # between two halves; the tail decides, and float32 would lose it
    values = torch.tensor([halfway + 2.0**-40, halfway - 2.0**-40, halfway, -halfway - 2.0**-40], dtype=torch.float64)
    values = torch.cat((values, torch.randn(20_000, dtype=torch.float64)))
    assert np.array_equal(cast(values, "F16")[0].numpy(), values.numpy().astype(np.float16))


def test_fp8_scaled_there_and_back(tmp_path: Path) -> None:
    tensors = tiny_checkpoint()
    source = saved(tmp_path / "a.safetensors", tensors)
    result = converted(source, tmp_path / "b.safetensors", "unet=fp8_scaled,te=fp16,vae=fp16")
    out = loaded(tmp_path / "b.safetensors")
    scale = out[UNET.replace(".weight", ".scale_weight")]
    assert scale.shape == () and scale == tensors[UNET].abs().max() / 448
    assert same_bits(out[UNET], (tensors[UNET] / scale).to(torch.float8_e4m3fn))
    assert out["model.diffusion_model.scaled_fp8"].shape == (0,)
    assert out["model.diffusion_model.input_blocks.0.0.weight"].dtype == torch.float16  # no linear layer
    back = out[UNET].float() * scale
    assert result.losses[UNET].largest_error == pytest.approx((back - tensors[UNET]).abs().max().item(), rel=1e-5)
    converted(tmp_path / "b.safetensors", tmp_path / "c.safetensors", "fp32")
    again = loaded(tmp_path / "c.safetensors")
    assert same_bits(again[UNET], back)
    assert not any("scale" in name for name in again)
    converted(tmp_path / "b.safetensors", tmp_path / "d.safetensors")  # kept as it is
    kept = loaded(tmp_path / "d.safetensors")
    assert set(kept) == set(out) and all(same_bits(kept[name], out[name]) for name in out)
    with pytest.raises(UsageError, match="unet"):
        converted(source, tmp_path / "e.safetensors", "fp8_scaled")


@pytest.mark.parametrize(("rows", "last"), [(3, False), (4, True)])
def test_scales_come_last_where_they_lie_aligned(tmp_path: Path, rows: int, last: bool) -> None:
    source = saved(tmp_path / "a.safetensors", {UNET: torch.randn(rows, 7), "model.diffusion_model.b": torch.randn(2)})
    converted(source, tmp_path / "b.safetensors", "fp8_scaled")
    header = read_header(tmp_path / "b.safetensors")
    scale = UNET.replace(".weight", ".scale_weight")
    assert all(info.start % DTYPES[info.dtype].itemsize == 0 for info in header.tensors.values())
    assert (header.tensors[scale].start > header.tensors[UNET].start) == last
    assert set(loaded(tmp_path / "b.safetensors")) == set(header.tensors)


def test_comfy_quant_by_row_and_unknown_schemes(tmp_path: Path) -> None:
    weight = torch.randn(6, 10).to(torch.float8_e4m3fn)
    rows = torch.rand(6, 1) + 0.5
    layer = "model.diffusion_model.time_embed.0"

    def facts(name: str) -> torch.Tensor:
        return torch.tensor(list(json.dumps({"format": name}).encode()), dtype=torch.uint8)

    tensors = {f"{layer}.weight": weight, f"{layer}.weight_scale": rows, f"{layer}.comfy_quant": facts("float8_e4m3fn")}
    converted(saved(tmp_path / "a.safetensors", tensors), tmp_path / "b.safetensors", "fp32")
    out = loaded(tmp_path / "b.safetensors")
    assert set(out) == {f"{layer}.weight"}
    assert same_bits(out[f"{layer}.weight"], weight.float() * rows)
    tensors[f"{layer}.comfy_quant"] = facts("nvfp4")
    with pytest.raises(BadFileError, match="nvfp4"):
        converted(saved(tmp_path / "c.safetensors", tensors), tmp_path / "d.safetensors", "fp32")


@pytest.mark.parametrize("scheme", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("shape", [(64, 64), (33, 70), (640, 1000)])
def test_four_bit_equals_bitsandbytes(tmp_path: Path, scheme: str, double: bool, shape: tuple[int, int]) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    packed, state = functional.quantize_4bit(torch.randn(shape), quant_type=scheme, compress_statistics=double)
    name = "model.diffusion_model.time_embed.0.weight"
    tensors = {name: packed, "model.diffusion_model.time_embed.0.bias": torch.randn(4)}
    tensors.update({f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()})
    source = saved(tmp_path / "a.safetensors", tensors)
    expected = functional.dequantize_4bit(packed, state).float()
    for label, kind in (("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)):
        converted(source, tmp_path / f"{label}.safetensors", label)
        out = loaded(tmp_path / f"{label}.safetensors")
        assert set(out) == {name, "model.diffusion_model.time_embed.0.bias"}
        assert same_bits(out[name], expected.to(kind)), label


def test_gguf_equals_its_reference(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "sd1")
    expected: dict[str, np.ndarray] = {}
    names = [*DECODERS, "BF16"]
    assert {kind.name for kind in gguf.quants._type_traits} <= {*names, "F16", "F32"}  # all that it decodes
    for label in names:
        kind = getattr(gguf.GGMLQuantizationType, label)
        block, width = gguf.GGML_QUANT_SIZES[kind]
        raw = rng.integers(0, 256, (6, 512 // block * width), dtype=np.uint8)
        with np.errstate(all="ignore"):
            expected[f"{label}.weight"] = gguf.quants.dequantize(raw, kind)
        writer.add_tensor(f"{label}.weight", raw, raw_dtype=kind)
    for name, value in (
        ("half", rng.standard_normal((3, 5)).astype("f2")),
        ("full", rng.standard_normal(7).astype("f4")),
    ):
        writer.add_tensor(name, value)
        expected[name] = value.astype("f4")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    converted(tmp_path / "a.gguf", tmp_path / "b.safetensors", "fp32")
    out = loaded(tmp_path / "b.safetensors")
    assert set(out) == set(expected)
    for name, value in expected.items():
        got = out[name].numpy()
        assert got.shape == value.shape
        assert np.array_equal(got.view(np.uint32)[~np.isnan(value)], value.view(np.uint32)[~np.isnan(value)]), name
        assert np.array_equal(np.isnan(got), np.isnan(value)), name
    converted(tmp_path / "a.gguf", tmp_path / "c.safetensors")  # packed types become fp16, the others stay
    out = loaded(tmp_path / "c.safetensors")
    assert out["Q4_K.weight"].dtype == torch.float16 and out["BF16.weight"].dtype == torch.bfloat16
    assert same_bits(out["Q8_0.weight"], torch.from_numpy(expected["Q8_0.weight"]).half())


@pytest.mark.parametrize("label", list(DECODERS))
def test_a_block_alone_is_what_it_is_among_others(label: str) -> None:
    """Blocks know nothing of each other: neither of how many there are nor of where they lie in memory."""
    block, width = {name: (block, width) for name, block, width in TYPES.values()}[label]
    raw = torch.randint(0, 256, (5, width), dtype=torch.uint8)
    kept = raw.clone()
    together = DECODERS[label](raw).reshape(5, block)
    assert torch.equal(raw, kept)
    for index in range(5):
        alone = DECODERS[label](raw[index : index + 1]).reshape(block)
        assert same_bits(alone[~alone.isnan()], together[index][~alone.isnan()])
        assert torch.equal(alone.isnan(), together[index].isnan())


@pytest.mark.parametrize("run", [3, 16, 64])
def test_factors_meet_their_runs_wherever_reading_starts(run: int) -> None:
    values, factors = torch.randn(run * 8), torch.randn(8)
    expected = values * factors.repeat_interleave(run)
    for first, elements in ((0, run * 8), (run, run * 2), (1, run), (run - 1, run * 3), (5, 1)):
        piece = values[first : first + elements].clone()
        assert same_bits(scale_runs(piece, factors, run, first), expected[first : first + elements])


@pytest.mark.parametrize("label", ["Q8_0", "Q4_K", "Q5_K", "Q6_K"])
def test_pieces_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: str) -> None:
    """Decoding any range, at once or piece by piece, gives that range of the whole."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "sd1")
    kind = getattr(gguf.GGMLQuantizationType, label)
    block, width = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(0).integers(0, 60, (8, 2048 // block * width), dtype=np.uint8)
    expected = torch.from_numpy(gguf.quants.dequantize(raw, kind)).reshape(-1)
    writer.add_tensor("w", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_model(tmp_path / "a.gguf") as model:
        node = model.tensors["w"]
        for tile in (1 << 19, 512, 300):
            monkeypatch.setattr(nodes, "TILE", tile)
            monkeypatch.setattr(dequantize_gguf, "TILE", tile)
            for first, elements in ((0, 16384), (0, 1), (31, 2), (33, 700), (255, 513), (5, 0), (300, 16000)):
                wanted = expected[first : first + elements]
                assert torch.equal(node.read(first, elements), wanted)
                pieces = list(nodes.in_pieces(node, first, elements))
                assert all(len(piece) <= tile for piece in pieces)
                assert torch.equal(torch.cat([torch.empty(0), *pieces]), wanted)


def test_bad_words_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="fp16"):
        parse_precision("fp61")
    with pytest.raises(UnknownNameError, match="unet"):
        parse_precision("unett=fp16")
    with pytest.raises(UsageError):
        parse_precision("unet=fp16,unet=fp32")
    with pytest.raises(UsageError):
        parse_precision(" , ")


def test_the_input_is_never_the_target(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.safetensors", tiny_checkpoint())
    with pytest.raises(ModelsmithError):
        converted(source, source, "fp16")


def test_scaled_dits_and_text_encoders(tmp_path: Path) -> None:
    """One model alone has its marker at the root, a checkpoint under each part that ComfyUI looks into."""
    dit = {
        "double_blocks.0.img_attn.qkv.weight": torch.randn(12, 8),
        "double_blocks.0.img_attn.norm.key_norm.scale": torch.randn(4),
    }
    t5 = {
        "encoder.block.0.layer.0.SelfAttention.q.weight": torch.randn(8, 8),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": torch.randn(32, 2),
        "shared.weight": torch.randn(20, 8),
    }
    for name, tensors in (("dit", dit), ("t5", t5)):
        source = saved(tmp_path / f"{name}.safetensors", tensors)
        converted(source, tmp_path / f"{name}-8.safetensors", "fp8_scaled")
        out = loaded(tmp_path / f"{name}-8.safetensors")
        assert {key for key, value in out.items() if value.dtype == torch.float8_e4m3fn} == {
            "scaled_fp8",
            next(iter(tensors)),
        }
        converted(tmp_path / f"{name}-8.safetensors", tmp_path / f"{name}-16.safetensors", "fp16")
        back = loaded(tmp_path / f"{name}-16.safetensors")
        assert set(back) == set(tensors)
        assert all(torch.allclose(back[key].float(), tensors[key], rtol=0.07, atol=2e-3) for key in tensors)
    whole = {f"model.diffusion_model.{name}": value for name, value in dit.items()}
    whole |= {f"text_encoders.t5xxl.transformer.{name}": value for name, value in t5.items()}
    whole |= {"vae.decoder.conv_in.weight": torch.randn(4, 4, 3, 3)}
    source = saved(tmp_path / "whole.safetensors", whole)
    converted(source, tmp_path / "whole-8.safetensors", "unet=fp8_scaled,te=fp8_scaled,vae=fp16")
    markers = {name for name in loaded(tmp_path / "whole-8.safetensors") if name.endswith("scaled_fp8")}
    assert markers == {"model.diffusion_model.scaled_fp8", "text_encoders.t5xxl.transformer.scaled_fp8"}
