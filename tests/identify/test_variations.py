"""Files as they are in the wild: other prefixes, markers, packed weights, parts missing, parts too many, lies."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from headers import (
    Entries,
    bitsandbytes,
    cast,
    comfy,
    comfy_values,
    ema_copy,
    load,
    numbers,
    part,
    scaled_fp8,
    under,
    without,
    write,
)

from modelsmith.identify import Report, identify

MODEL = "model.diffusion_model."
V: Entries = {"v_pred": ("F32", [0])}
Z: Entries = {"ztsnr": ("F32", [0])}


@pytest.fixture
def seen(tmp_path: Path) -> Any:
    def look(entries: Entries, metadata: dict[str, str] | None = None, name: str = "model", **rest: Any) -> Report:
        return identify(write(tmp_path / f"{name}.safetensors", entries, metadata, **rest))

    return look


def warned(report: Report) -> set[str]:
    return {message.id for message in report.warnings}


# ---- prediction


def test_markers_of_an_sdxl_v_model(seen: Any) -> None:
    sdxl = load("sdxl_base_fp16")
    both = seen({**sdxl, **V, **Z}).prediction
    assert (both.type, both.zero_terminal_snr, both.conflict) == ("v_prediction", True, False)
    assert seen({**sdxl, **V, **Z}).badge() == "SDXL · v-pred · ZTSNR · fp16"
    alone = seen({**sdxl, **V}).prediction
    assert (alone.type, alone.zero_terminal_snr) == ("v_prediction", None)
    assert [piece.grade for piece in alone.evidence] == ["strong", "default"]


@pytest.mark.parametrize("prefix", [MODEL, "model."])
def test_markers_that_a_loader_prefixed(seen: Any, prefix: str) -> None:
    found = seen({**load("sdxl_base_fp16"), **under(V, prefix), **under(Z, prefix)})
    assert (found.prediction.type, found.prediction.zero_terminal_snr) == ("v_prediction", True)
    assert "unexpected" not in warned(found)


def test_markers_of_a_bare_unet(seen: Any) -> None:
    found = seen({**part(load("sdxl_base_fp16"), MODEL), **V, **Z})
    assert (found.kind, found.layout) == ("diffusion_model", "ldm-bare")
    assert (found.prediction.type, found.prediction.zero_terminal_snr) == ("v_prediction", True)


def test_stray_markers_do_not_flip_a_model(seen: Any) -> None:
    sd1 = seen({**load("sd15_emaonly_fp32_sched"), **V})
    assert sd1.prediction.type == "epsilon"
    assert sd1.prediction.conflict
    assert "stray-v-pred" in warned(sd1)
    both = seen({**load("sd15_emaonly_fp32_sched"), **V, **Z}, name="my-vpred")
    told = " ".join(message.text() for message in both.warnings)
    assert "alone" not in told and "name-hint" not in warned(both)
    stated = seen({**load("sd15_emaonly_fp32_sched"), **V, **Z}, {"modelspec.prediction_type": "v"})
    assert (stated.prediction.type, stated.prediction.zero_terminal_snr) == ("v_prediction", True)
    assert not {"prediction-conflict", "stray-v-pred", "stray-ztsnr"} & set(warned(stated))
    lone = seen({**load("sdxl_base_fp16"), **Z})
    assert lone.prediction.type == "epsilon"
    assert lone.prediction.zero_terminal_snr is None
    assert "stray-ztsnr" in warned(lone)
    flux = seen({**load("flux1_kontext_bare_bf16"), **V, **Z})
    assert (flux.prediction.type, flux.prediction.zero_terminal_snr) == ("flow", False)
    assert flux.prediction.evidence[-1].detail == "FLUX.1 dev / kontext / krea models are so"


def test_sources_that_disagree_are_a_conflict(seen: Any) -> None:
    sdxl = load("sdxl_base_fp16")
    found = seen({**sdxl, **V}, {"modelspec.prediction_type": "epsilon"})
    assert found.prediction.conflict
    assert {piece.says for piece in found.prediction.evidence} >= {"epsilon", "v_prediction"}
    assert "prediction-conflict" in warned(found)
    assert not seen({**sdxl, **V}, {"modelspec.predict_key": "v"}).prediction.conflict


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"modelspec.prediction_type": "v"}, "v_prediction"),
        ({"modelspec.prediction_type": "epsilon"}, "epsilon"),
        ({"modelspec.predict_key": "v"}, "v_prediction"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v"}, "v_prediction"),
        ({"modelspec.architecture": "stable-diffusion-v2-512"}, "epsilon"),
        ({}, "undetermined"),
    ],
)
def test_metadata_decides_sd2(seen: Any, metadata: dict[str, str], expected: str) -> None:
    found = seen(load("sd2_unet_bare_fp16"), metadata)
    assert found.prediction.type == expected
    variant = {"v_prediction": "768-v", "epsilon": "base512", "undetermined": "base-or-768v"}[expected]
    assert found.variant == variant


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.2, -0.2] * 160, "v_prediction"),  # spread 0.2
        ([0.05, -0.05] * 160, "epsilon"),
        ([0.0] * 320, "undetermined"),  # a hole, not weights
        ([float("nan")] * 320, "undetermined"),
    ],
)
@pytest.mark.parametrize("prefix", ["", MODEL])
def test_one_bias_decides_sd2(seen: Any, values: list[float], expected: str, prefix: str) -> None:
    name = prefix + "output_blocks.11.1.transformer_blocks.0.norm1.bias"
    found = seen(under(load("sd2_unet_bare_fp16"), prefix), values={name: numbers(values, "e")})
    assert found.prediction.type == expected


def schedule(last_is_zero: bool) -> bytes:
    """alphas_cumprod of the default schedule, rescaled or not, computed here on its own."""
    start, end = 0.00085**0.5, 0.012**0.5
    alphas: list[float] = []
    product = 1.0
    for step in range(1000):
        product *= 1 - (start + (end - start) * step / 999) ** 2
        alphas.append(product)
    if last_is_zero:
        roots = [value**0.5 for value in alphas]
        first, last = roots[0], roots[-1]
        alphas = [((root - last) * first / (first - last)) ** 2 for root in roots]
    return numbers(alphas)


@pytest.mark.parametrize(("rescaled", "expected"), [(True, True), (False, False)])
def test_a_kept_schedule_tells_zero_terminal_snr(seen: Any, rescaled: bool, expected: bool) -> None:
    entries = {**load("sdxl_base_fp16"), **V, "alphas_cumprod": ("F32", [1000])}
    found = seen(entries, values={"alphas_cumprod": schedule(rescaled)})
    assert found.prediction.zero_terminal_snr is expected


@pytest.mark.parametrize(
    ("kept", "expected"),
    [("0.0", True), ("4.897e-08", True), ("0.00466", False), ("soon", None), ("nan", None), ("7", None)],
)
def test_the_last_value_of_a_dropped_schedule_still_counts(seen: Any, kept: str, expected: bool | None) -> None:
    metadata = {"modelsmith.alphas_cumprod_last": kept}
    found = seen({**load("sdxl_base_fp16"), **V}, metadata)
    assert found.prediction.zero_terminal_snr is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('model:\n  params:\n    parameterization: "v"\n', "v_prediction"),
        ("model:\n  params:\n    parameterization: eps\n", "epsilon"),
        ("denoiser_config:\n  params:\n    scaling_config:\n      target: sgm.modules.VScaling\n", "v_prediction"),
        ("# parameterization: v\n", "epsilon"),
        ("{ this is: [no yaml", "epsilon"),
    ],
)
def test_a_yaml_beside_the_file(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path / "model.safetensors", load("sdxl_base_fp16"))
    (tmp_path / "model.yaml").write_text(text)
    found = identify(path).prediction
    assert found.type == expected
    assert not found.conflict


def test_a_name_is_only_a_hint(seen: Any) -> None:
    found = seen(load("sdxl_base_fp16"), name="my-noob-vpred-ztsnr")
    assert found.prediction.type == "epsilon"
    assert [p.grade for p in found.prediction.evidence if p.source == "file name"] == ["weak", "weak"]
    assert "name-hint" in warned(found)


# ---- prefixes, layouts, EMA


@pytest.mark.parametrize("prefix", [MODEL, "diffusion_model.", "net.", "model.model.", "model.", "unet.", ""])
def test_prefixes_of_a_unet(seen: Any, prefix: str) -> None:
    found = seen(under(part(load("sdxl_base_fp16"), MODEL), prefix))
    assert (found.kind, found.architecture, found.complete) == ("diffusion_model", "sdxl", True)


@pytest.mark.parametrize("prefix", [MODEL, "diffusion_model.", "net.", "model.", "transformer.", ""])
@pytest.mark.parametrize("name", ["flux1_kontext_bare_bf16", "qwenimage_bare_bf16", "wan21_t2v_1_3b_bare_bf16"])
def test_prefixes_of_a_transformer(seen: Any, prefix: str, name: str) -> None:
    plain = seen(load(name))
    found = seen(under(load(name), prefix))
    assert (found.kind, found.architecture, found.variant) == ("diffusion_model", plain.architecture, plain.variant)


def test_ema(seen: Any) -> None:
    full = load("sd15_emaonly_fp32_sched")
    assert seen({**full, **ema_copy(full)}).ema == "both"
    only = seen({**without(full, lambda name: name.startswith(MODEL)), **ema_copy(full)})
    assert (only.ema, only.architecture, only.kind) == ("only", "sd1", "checkpoint")
    assert seen(ema_copy(load("sdxl_base_fp16"))).architecture == "sdxl"
    assert seen(ema_copy(under(load("sd2_unet_bare_fp16"), MODEL))).architecture == "sd2"


def test_old_and_new_names_of_clip(seen: Any) -> None:
    sd1 = load("sd15_emaonly_fp32_sched")
    nai = seen({name.replace("transformer.text_model.", "transformer."): value for name, value in sd1.items()})
    assert [c.name for c in nai.components] == ["diffusion_model", "vae", "clip_l"]
    bare = seen(part(load("te_clip_l_fp16"), "text_model."))  # transformers 5 drops the module's name
    assert (bare.kind, bare.architecture) == ("text_encoder", "clip-l")


def test_sd21_turbo_is_no_refiner(seen: Any) -> None:
    encoder = part(load("sd2_depth_fp16"), "cond_stage_model.model.")
    found = seen({**under(load("sd2_unet_bare_fp16"), MODEL), **under(encoder, "conditioner.embedders.0.model.")})
    assert (found.architecture, [c.name for c in found.components]) == ("sd2", ["diffusion_model", "clip_h"])


# ---- parts missing, parts too many


def test_a_half_unet_is_named_and_said_to_be_half(seen: Any) -> None:
    for entries in (load("sd15_emaonly_fp32_sched"), load("sd15_unet_bare_fp16")):
        found = seen(without(entries, lambda name: "output_blocks" in name))
        assert found.architecture == "sd1"
        assert found.components[0].missing == 384
        assert warned(found) >= {"partial", "incomplete"}


def test_half_a_text_encoder_is_noticed(seen: Any) -> None:
    cut = re.compile(r"embedders\.1.*resblocks\.(1[6-9]|2\d|3\d)\.")
    found = seen(without(load("sdxl_base_fp16"), lambda name: bool(cut.search(name))))
    assert {c.name: c.missing for c in found.components if c.missing} == {"clip_g": 16 * 12}
    assert found.complete is False
    lone = seen(without(load("te_clip_g_fp16"), lambda name: bool(re.search(r"layers\.(2\d|3\d)\.", name))))
    assert (lone.architecture, lone.complete) == ("clip-g", False)


def test_parts_that_are_left_out_or_there_twice(seen: Any) -> None:
    sdxl = load("sdxl_base_fp16")
    assert "needs-vae" in {m.id for m in seen(without(sdxl, lambda n: n.startswith("first_stage"))).advice}
    assert "needs-text-encoder" in {m.id for m in seen(without(sdxl, lambda n: n.startswith("conditioner"))).advice}
    assert "twice" in warned(seen({**sdxl, **under(load("sdxl_vae_fp32"), "vae.")}))
    assert "unexpected" in warned(seen({**sdxl, "something.else": ("F16", [3])}))


def test_a_controlnet_with_its_checkpoint_is_a_controlnet(seen: Any) -> None:
    control = under(load("controlnet_sd15_ldm_bare_fp16"), "control_model.")
    found = seen({**load("sd15_emaonly_fp32_sched"), **control})
    assert (found.kind, found.architecture) == ("controlnet", "sd1")


def test_metadata_that_lies(seen: Any) -> None:
    found = seen(load("sd15_unet_bare_fp16"), {"modelspec.architecture": "stable-diffusion-xl-v1-base"})
    assert found.architecture == "sd1"
    assert "mixed-metadata" in warned(found)


def test_files_of_nothing(seen: Any) -> None:
    for entries in ({}, {"a": ("F32", [0])}, {"foo.weight": ("F32", [768, 768])}):
        found = seen(entries)
        assert (found.kind, found.architecture, found.error) == ("unknown", None, None)


@pytest.mark.parametrize(
    "name", ["sd15_emaonly_fp32_sched", "sdxl_base_fp16", "sdxl_refiner_fp16", "sd2_unet_bare_fp16"]
)
def test_reduced_width_is_named_and_said(seen: Any, name: str) -> None:
    plain = seen(load(name))
    narrow = {key: (dtype, [s // 10 if s >= 320 else s for s in shape]) for key, (dtype, shape) in load(name).items()}
    found = seen(narrow)
    assert (found.architecture, found.variant, found.reduced) == (plain.architecture, plain.variant, True)
    assert [c.name for c in found.components] == [c.name for c in plain.components]


@pytest.mark.parametrize(
    ("start", "dtype", "expected"),
    [(0, "I64", set()), (1, "I64", {"position-ids-damaged"}), (0, "F32", {"position-ids-dtype"})],
)
def test_position_ids(seen: Any, start: int, dtype: str, expected: set[str]) -> None:
    name = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    entries = {**load("sd15_emaonly_fp32_sched"), name: (dtype, [1, 77])}
    values = [*range(start, 70), *range(70, 77), *range(start)]
    found = seen(entries, values={name: numbers(values, "q" if dtype == "I64" else "f")})
    assert {i for i in warned(found) if i.startswith("position")} == expected


# ---- packed weights


PACKED = {
    "nf4": (lambda e: bitsandbytes(e), "bnb_nf4", "nf4"),
    "nf4-double": (lambda e: bitsandbytes(e, double=True), "bnb_nf4_double", "nf4"),
    "fp4": (lambda e: bitsandbytes(e, "fp4"), "bnb_fp4", "fp4"),
    "fp8": (lambda e: cast(e, "F8_E4M3"), "fp8_e4m3", "fp8_e4m3"),
    "fp8-e5m2": (lambda e: cast(e, "F8_E5M2"), "fp8_e5m2", "fp8_e5m2"),
    "scaled": (lambda e: scaled_fp8(e), "fp8_e4m3_scaled", "fp8_e4m3"),
    "scaled-e5m2": (lambda e: scaled_fp8(e, "F8_E5M2"), "fp8_e5m2_scaled", "fp8_e5m2"),
    "nvfp4": (lambda e: comfy(e, "nvfp4"), "comfy_nvfp4", "nvfp4"),
    "mxfp8": (lambda e: comfy(e, "mxfp8"), "comfy_mxfp8", "fp8_e4m3"),
    "int8": (lambda e: comfy(e, "int8_tensorwise"), "comfy_int8", "int8"),
    "comfy-fp8": (lambda e: comfy(e, "float8_e4m3fn"), "comfy_fp8_e4m3", "fp8_e4m3"),
}
MODELS = [
    "flux1_kontext_bare_bf16", "flux1_depth_canny_bare_bf16", "flux2_dev_bare_bf16", "flux2_klein9b_bare_bf16",
    "qwenimage_bare_bf16", "sd35_medium_bare_bf16", "wan21_i2v_14b_bare_bf16", "sd15_unet_bare_fp16",
    "sd2_unet_bare_fp16", "auraflow_bare_fp16", "pixart_alpha_bare_fp16", "diffusers/flux_fill_diffusers",
    "diffusers/zimage_diffusers", "diffusers/sdxl_diffusers", "diffusers/chroma_diffusers", "te_qwen3_8b_bf16",
    "diffusers/te_t5xxl", "te_clip_l_fp16",
]  # fmt: skip


@pytest.mark.parametrize("scheme", sorted(PACKED))
@pytest.mark.parametrize("name", MODELS)
def test_packed(seen: Any, name: str, scheme: str) -> None:
    pack, quantization, precision = PACKED[scheme]
    plain = seen(load(name))
    found = seen(pack(load(name)))
    assert (found.kind, found.candidates, found.variant) == (plain.kind, plain.candidates, plain.variant)
    assert found.quantization == quantization
    assert found.complete == plain.complete
    assert not found.reduced
    main = found.components[0]
    # schemes that pack only the matrices leave convolutions as they are, and a UNet is then truly mixed
    allowed = (
        (precision,) if scheme in ("nf4", "nf4-double", "fp4", "fp8", "fp8-e5m2", "nvfp4") else (precision, "mixed")
    )
    assert main.precision in allowed


@pytest.mark.parametrize("form", ["nvfp4", "mxfp8", "int8_tensorwise", "float8_e4m3fn", "awq_w4a16"])
def test_comfy_formats_are_read_from_their_notes(seen: Any, form: str) -> None:
    entries = comfy(load("flux1_kontext_bare_bf16"), form)
    found = seen(entries, values=comfy_values(entries, form))
    expected = {"float8_e4m3fn": "comfy_fp8_e4m3"}.get(form, f"comfy_{form}")
    assert found.quantization == expected


def test_packed_model_beside_plain_parts(seen: Any) -> None:
    sdxl = load("sdxl_base_fp16")
    rest = without(sdxl, lambda name: name.startswith(MODEL))
    found = seen({**under(bitsandbytes(part(sdxl, MODEL)), MODEL), **rest})
    assert {c.name: c.precision for c in found.components} == {
        "diffusion_model": "nf4", "vae": "fp16", "clip_l": "fp16", "clip_g": "fp16",
    }  # fmt: skip
    assert (found.precision, found.architecture) == ("mixed", "sdxl")


def test_svdquant(seen: Any) -> None:
    entries: Entries = {
        "single_transformer_blocks.0.mlp_fc1.qweight": ("I8", [12288, 1536]),
        "single_transformer_blocks.0.mlp_fc1.wscales": ("BF16", [48, 12288]),
        "single_transformer_blocks.0.norm.linear.qweight": ("I32", [2304, 1536]),
        "single_transformer_blocks.0.norm.linear.wzeros": ("BF16", [48, 9216]),
        "x_embedder.weight": ("BF16", [3072, 64]),
        "x_embedder.bias": ("BF16", [3072]),
        "time_text_embed.text_embedder.linear_1.weight": ("BF16", [3072, 768]),
        "time_text_embed.guidance_embedder.linear_1.weight": ("BF16", [3072, 256]),
    }
    found = seen(entries)
    assert (found.architecture, found.quantization, found.precision) == ("flux1", "svdquant_int4", "int4")
    entries["single_transformer_blocks.0.mlp_fc1.wscales"] = ("F8_E4M3", [192, 12288])
    assert seen(entries).quantization == "svdquant_fp4"


def test_fp16_sdxl_vae_is_warned_about_unless_known(seen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib
    import json

    sdxl = load("sdxl_base_fp16")
    bias = numbers([i / 512 for i in range(512)], "e")
    values = {"first_stage_model.decoder.conv_in.bias": bias}
    assert "fp16-sdxl-vae" in warned(seen(sdxl, values=values))
    table = tmp_path / "known.json"
    table.write_text(json.dumps({"tensors": {hashlib.sha256(bias).hexdigest(): "my fixed VAE"}}))
    monkeypatch.setenv("MODELSMITH_KNOWN_VAES", str(table))
    found = seen(sdxl, values=values)
    assert "fp16-sdxl-vae" not in warned(found)
    assert [c.known_as for c in found.components if c.name == "vae"] == ["my fixed VAE"]
    wide = {**sdxl, "first_stage_model.decoder.conv_in.bias": ("F32", [512])}
    values = {"first_stage_model.decoder.conv_in.bias": numbers([i / 512 for i in range(512)])}
    assert [c.known_as for c in seen(wide, values=values).components if c.name == "vae"] == ["my fixed VAE"]
