"""Quantised inputs, decoded while they are read; fp8 outputs; a precision for each component."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from files.gguf_maker import header
from merge.models import Model, tensors
from merge.reference import worst_ulp
from modelsmith.errors import UnknownNameError, UsageError
from modelsmith.merge import pieces
from modelsmith.merge.engine import run_merge
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.request import EngineOptions, MergeRequest

Models = tuple[Path, Path, Path]
UNET = "model.diffusion_model."
KEY = f"{UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
CONV = f"{UNET}input_blocks.1.0.in_layers.2.weight"
TEXT = "conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
VAE = "first_stage_model.decoder.mid.block_1.conv1.weight"
NF4 = torch.linspace(-1, 1, 16)  # any table does: the file holds it


def run(request: MergeRequest, options: EngineOptions | None = None) -> dict[str, Tensor]:
    run_merge(plan_merge(request), options=options)
    return load_file(str(request.output))


def four_bit(value: Tensor, double: bool) -> tuple[dict[str, Tensor], Tensor]:
    """The companions of a 4-bit weight as bitsandbytes writes them, with random codes; and what they decode to."""
    blocks = -(-value.numel() // 64)
    codes = torch.randint(0, 16, (blocks * 64,))[: value.numel()]
    state: dict[str, object] = {"blocksize": 64, "shape": list(value.shape), "dtype": "float16", "quant_type": "nf4"}
    packed = (codes[0::2] << 4 | codes[1::2]).to(torch.uint8)[:, None]
    found = {"": packed, ".quant_map": NF4}
    if double:
        codes2, table, outer = (
            torch.randint(0, 256, (blocks,)),
            torch.linspace(-1, 1, 256),
            torch.rand(-(-blocks // 256)),
        )
        state |= {"nested_blocksize": 256, "nested_offset": 0.25, "nested_dtype": "float32"}
        found |= {".absmax": codes2.to(torch.uint8), ".nested_quant_map": table, ".nested_absmax": outer}
        absmax = table[codes2] * outer.repeat_interleave(256)[:blocks] + 0.25
    else:
        absmax = found[".absmax"] = torch.rand(blocks)
    found[".quant_state.bitsandbytes__nf4"] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    plain = NF4[codes] * absmax.repeat_interleave(64)[: value.numel()]
    return found, plain.reshape(value.shape)


@pytest.mark.parametrize("double", [False, True])
def test_four_bit_inputs(abc: Models, tmp_path: Path, double: bool) -> None:
    state = tensors(Model(seed=5))
    parts, plain = four_bit(state.pop(KEY), double)
    save_file({**state, **{KEY + name: value for name, value in parts.items()}}, tmp_path / "q.safetensors")
    other = load_file(str(abc[1]))
    request = MergeRequest(
        (tmp_path / "q.safetensors", abc[1]), "weighted_sum", tmp_path / "o.safetensors", {"alpha": 0.3}
    )
    assert any("nf4" in notice.text for notice in plan_merge(request).notices)
    found = run(request, EngineOptions(2, 4096))
    assert found.keys() == other.keys() and found[KEY].dtype == torch.float16
    assert worst_ulp(found[KEY], plain.double() + (other[KEY].double() - plain.double()) * 0.3) <= 0.502
    assert worst_ulp(found[CONV], state[CONV].double() + (other[CONV].double() - state[CONV].double()) * 0.3) <= 0.502


@pytest.mark.parametrize("rows", [False, True])
def test_scaled_fp8_inputs_in_second_place(abc: Models, tmp_path: Path, rows: bool) -> None:
    state = tensors(Model(seed=5))
    scale = torch.rand(6, 1) + 0.5 if rows else torch.tensor(0.37)
    eight = state[KEY].to(torch.float8_e4m3fn)
    state |= {KEY: eight, KEY.replace(".weight", ".scale_weight"): scale.reshape(-1) if rows else scale}
    state |= {f"{UNET}scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn)}
    save_file(state, tmp_path / "q.safetensors")
    found = run(
        MergeRequest((abc[0], tmp_path / "q.safetensors"), "weighted_sum", tmp_path / "o.safetensors", {"alpha": 0.6})
    )
    a = load_file(str(abc[0]))
    assert found.keys() == a.keys()
    plain = (eight.float() * scale).double()
    assert worst_ulp(found[KEY], a[KEY].double() + (plain - a[KEY].double()) * 0.6) <= 0.502


def test_gguf_inputs(abc: Models, tmp_path: Path) -> None:
    """A diffusion model in Q8_0 and fp16 under bare names, as A and as B."""
    state = {key.removeprefix(UNET): value for key, value in tensors(Model(seed=5)).items() if key.startswith(UNET)}
    packs = {key: value.dim() == 2 and value.shape[-1] % 32 == 0 for key, value in state.items()}
    assert packs[KEY.removeprefix(UNET)]
    table = {key: (8 if packs[key] else 1, list(value.shape)) for key, value in state.items()}
    top, _ = header(table, {"general.architecture": "sdxl"})
    body, plain = b"", dict[str, Tensor]()
    for key, value in state.items():
        if packs[key]:
            blocks = value.float().reshape(-1, 32)
            scale = (blocks.abs().amax(1, keepdim=True) / 127).half()
            codes = (blocks / scale.float()).round().clamp(-127, 127).to(torch.int8)
            data = np.concatenate([scale.numpy().view(np.uint8), codes.numpy().view(np.uint8)], axis=1).tobytes()
            plain[key] = (codes.float() * scale.float()).reshape(value.shape)
        else:
            data, plain[key] = value.numpy().tobytes(), value
        body += data + b"\0" * (-len(data) % 32)
    quantised = tmp_path / "q.gguf"
    quantised.write_bytes(top + body)
    a = load_file(str(abc[0]))
    for models in ((quantised, abc[0]), (abc[0], quantised)):
        found = run(MergeRequest(models, "weighted_sum", tmp_path / "o.safetensors", {"alpha": 0.25}, overwrite=True))
        share = 0.25 if models[0] == abc[0] else 0.75
        assert len(found) == (len(a) if models[0] == abc[0] else len(state))
        for key, value in plain.items():
            result = found[UNET + key] if models[0] == abc[0] else found[key]
            assert result.dtype == torch.float16
            mine = a[UNET + key].double()
            assert worst_ulp(result, mine + (value.double() - mine) * share) <= 0.502, key


@pytest.mark.parametrize(("label", "kind"), [("fp8_e4m3", torch.float8_e4m3fn), ("fp8_e5m2", torch.float8_e5m2)])
def test_fp8_outputs(abc: Models, tmp_path: Path, label: str, kind: torch.dtype) -> None:
    found = run(MergeRequest(abc[:2], "weighted_sum", tmp_path / "o.safetensors", {"alpha": 0.3}, dtype=label))
    a, b = load_file(str(abc[0])), load_file(str(abc[1]))
    for key, value in found.items():
        eight = value.dim() >= 2 and not key.startswith("first_stage_model.")
        assert value.dtype == (kind if eight else torch.float16), key
        wanted = a[key].double() + (b[key].double() - a[key].double()) * 0.3
        if eight:  # the nearest of all 256 values
            levels = torch.arange(256, dtype=torch.uint8).view(kind).double()
            levels = levels[levels.isfinite()].unique()
            place = torch.searchsorted(levels, wanted.reshape(-1)).clamp(1, len(levels) - 1)
            low, high = levels[place - 1], levels[place]
            best = torch.minimum((wanted.reshape(-1) - low).abs(), (high - wanted.reshape(-1)).abs())
            error = (value.double().reshape(-1) - wanted.reshape(-1)).abs()
            assert bool((error <= best + (high - low) * 0.002).all()), key


def test_fp8_takes_its_largest_value_for_what_lies_beyond(tmp_path: Path) -> None:
    from merge.models import write_model

    huge = torch.full_like(tensors(Model())[KEY], 3000.0)
    models = tuple(write_model(tmp_path / f"{n}.safetensors", Model(seed=n, extra={KEY: huge})) for n in range(2))
    request = MergeRequest(models, "weighted_sum", tmp_path / "o.safetensors", {"alpha": 0.5}, dtype="fp8_e4m3")
    assert bool((run(request)[KEY].float() == 448).all())


def test_scaled_fp8_output(abc: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 4096)
    out = tmp_path / "o.safetensors"
    request = MergeRequest(
        abc[:2], "weighted_sum", out, {"alpha": 0.3}, overwrite=True,
        component_dtypes={"unet": "fp8_scaled", "text_encoder": "bf16", "vae": "fp32"},
    )  # fmt: skip
    found = run(request)
    a, b = load_file(str(abc[0])), load_file(str(abc[1]))
    wanted = a[KEY].double() + (b[KEY].double() - a[KEY].double()) * 0.3
    scale = found[KEY.replace(".weight", ".scale_weight")]
    assert scale.shape == () and scale.dtype == torch.float32
    assert float(scale) == pytest.approx(float(wanted.abs().max()) / 448, rel=1e-6)
    assert found[KEY].dtype == torch.float8_e4m3fn and found[f"{UNET}scaled_fp8"].shape == (0,)
    error = (found[KEY].double() * float(scale) - wanted).abs()
    step = torch.maximum(wanted.abs() / 16, torch.tensor(2**-9) * float(scale))  # at most half a step of 3 bits
    assert bool((error <= step * 1.004).all())
    assert (
        found[CONV].dtype == torch.float16 and found[TEXT].dtype == torch.bfloat16 and found[VAE].dtype == torch.float32
    )
    digests = set[str]()
    for threads, chunk in ((0, 2 << 20), (1, 4096), (3, 12288)):
        run_merge(plan_merge(request), options=EngineOptions(threads, chunk))
        digests.add(hashlib.sha256(out.read_bytes()).hexdigest())
    assert len(digests) == 1
    again = run(MergeRequest((out, out), "weighted_sum", tmp_path / "p.safetensors", {"alpha": 0.5}, dtype="fp32"))
    assert torch.equal(again[KEY], found[KEY].float() * scale)
    assert not any(key.endswith("scale_weight") for key in again)


def test_unknown_components_and_precisions_are_named(abc: Models, tmp_path: Path) -> None:
    def plan(**parts: str) -> None:
        plan_merge(MergeRequest(abc[:2], "weighted_sum", tmp_path / "o.safetensors", component_dtypes=parts))

    with pytest.raises(UnknownNameError, match="text_encoder"):
        plan(text_encodr="fp16")
    with pytest.raises(UnknownNameError, match="fp16"):
        plan(unet="fp61")
    with pytest.raises(UsageError, match="unet only"):
        plan(text_encoder="fp8_scaled")
