"""Every sample header against what is known about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from headers import DATA, load, metadata_of, write

from modelsmith.files.header import TensorInfo, read_header
from modelsmith.identify import Report, identify
from modelsmith.identify.architectures import ARCHITECTURES
from modelsmith.identify.encoders import ENCODERS, VAES, find_encoder
from modelsmith.identify.split import split
from modelsmith.identify.view import View

TRUTH = json.loads((DATA / "truth.json").read_text())["cases"]
SAMPLES = sorted(name[: -len(".json.gz")] for name in TRUTH)
# The names of these files' metadata say fp16, their tensors are BF16.
BF16_LORAS = {"lora_flux2_comfy", "lora_qwenimage_peft", "lora_zimage_peft"}
# Same tensors, so the header alone cannot say which of them it is.
VARIANT_SETS = {
    "flux1_dev_checkpoint_fp8": "dev-or-kontext-or-krea",
    "qwenimage_bare_bf16": "qwen-image-or-edit",
}


def identified(name: str, folder: Path) -> Report:
    return identify(write(folder / f"{name.split('/')[-1]}.safetensors", load(name), metadata_of(name)))


@pytest.mark.parametrize("name", SAMPLES)
def test_sample(name: str, tmp_path: Path) -> None:
    truth = TRUTH[name + ".json.gz"]
    report = identified(name, tmp_path)
    assert report.error is None
    assert report.kind == truth["kind"]
    true_set = set(truth["architecture"].split("|"))
    assert true_set <= set(report.candidates)
    if report.kind != "vae":  # the truth of a VAE is where it came from; its header fits others too
        assert report.candidates == (truth["architecture"],)
        assert report.architecture == truth["architecture"]
    assert report.prediction.type == (truth["prediction_type"] or "undetermined")
    assert bool(report.prediction.zero_terminal_snr) == truth["ztsnr"]
    assert not report.prediction.conflict
    assert sorted(part.name for part in report.components) == sorted(truth["components"])
    assert report.precision == ("bf16" if name in BF16_LORAS else truth["precision"])
    assert report.quantization == truth["quantisation"]
    assert report.ema == truth["ema"]
    assert report.inpainting == truth["inpainting"]
    assert report.layout == truth["layout"]
    assert report.lora_type == truth.get("lora_type")
    assert report.in_channels == truth.get("in_channels", report.in_channels)
    assert not report.reduced
    assert report.complete in (True, None)


@pytest.mark.parametrize(
    "name", [n for n in SAMPLES if TRUTH[n + ".json.gz"]["kind"] in ("checkpoint", "diffusion_model")]
)
def test_variant(name: str, tmp_path: Path) -> None:
    truth = TRUTH[name + ".json.gz"]["variant"]
    assert identified(name, tmp_path).variant == VARIANT_SETS.get(name, truth)


@pytest.mark.parametrize("name", [n for n in SAMPLES if "precision_by_component" in TRUTH[n + ".json.gz"]])
def test_precision_by_component(name: str, tmp_path: Path) -> None:
    found = {part.name: part.precision for part in identified(name, tmp_path).components}
    assert found == TRUTH[name + ".json.gz"]["precision_by_component"]


# What diffusers' own classes write, made from the public configurations: kind, architectures, variant.
DIFFUSERS: dict[str, tuple[str, tuple[str, ...], str | None]] = {
    "sd1_diffusers": ("diffusion_model", ("sd1",), "v1"),
    "sd1_inpaint_diffusers": ("diffusion_model", ("sd1",), "inpainting"),
    "sd1_ip2p_diffusers": ("diffusion_model", ("sd1",), "instruct-pix2pix"),
    "sd2_diffusers": ("diffusion_model", ("sd2",), "base-or-768v"),
    "sd2_inpaint_diffusers": ("diffusion_model", ("sd2",), "inpainting"),
    "sd2_depth_diffusers": ("diffusion_model", ("sd2",), "depth"),
    "sd2_unclip_h_diffusers": ("diffusion_model", ("sd2",), "unclip-h"),
    "sd2_unclip_l_diffusers": ("diffusion_model", ("sd2",), "unclip-l"),
    "sd2_x4_diffusers": ("diffusion_model", ("sd2",), "x4-upscaler"),
    "sdxl_diffusers": ("diffusion_model", ("sdxl",), "base"),
    "sdxl_inpaint_diffusers": ("diffusion_model", ("sdxl",), "inpainting"),
    "ssd1b_diffusers": ("diffusion_model", ("sdxl",), "ssd-1b"),
    "vega_diffusers": ("diffusion_model", ("sdxl",), "segmind-vega"),
    "kolors_diffusers": ("diffusion_model", ("kolors",), "kolors"),
    "refiner_diffusers": ("diffusion_model", ("sdxl-refiner",), "refiner"),
    "cn_sd1_diffusers": ("controlnet", ("sd1",), "controlnet"),
    "cn_sd2_diffusers": ("controlnet", ("sd2",), "controlnet"),
    "cn_sdxl_diffusers": ("controlnet", ("sdxl",), "controlnet"),
    "cn_flux_diffusers": ("controlnet", ("flux1",), "controlnet"),
    "cn_sd3_diffusers": ("controlnet", ("sd3",), "controlnet"),
    "cn_qwen_diffusers": ("controlnet", ("qwen-image",), "controlnet"),
    "sd3_diffusers": ("diffusion_model", ("sd3",), "3.0-medium"),
    "sd35m_diffusers": ("diffusion_model", ("sd3",), "3.5-medium"),
    "sd35l_diffusers": ("diffusion_model", ("sd3",), "3.5-large"),
    "flux_dev_diffusers": ("diffusion_model", ("flux1",), "dev-or-kontext-or-krea"),
    "flux_schnell_diffusers": ("diffusion_model", ("flux1",), "schnell"),
    "flux_fill_diffusers": ("diffusion_model", ("flux1",), "fill"),
    "flux_depth_diffusers": ("diffusion_model", ("flux1",), "depth-or-canny"),
    "chroma_diffusers": ("diffusion_model", ("chroma",), "chroma"),
    "flux2_dev_diffusers": ("diffusion_model", ("flux2",), "dev"),
    "zimage_diffusers": ("diffusion_model", ("z-image",), "z-image-or-turbo"),
    "lumina2_diffusers": ("diffusion_model", ("lumina2",), "lumina2-or-netayume"),
    "qwen_diffusers": ("diffusion_model", ("qwen-image",), "qwen-image-or-edit"),
    "pixart_alpha_diffusers": ("diffusion_model", ("pixart",), "alpha"),
    "pixart_sigma_diffusers": ("diffusion_model", ("pixart",), "sigma"),
    "auraflow_diffusers": ("diffusion_model", ("auraflow",), "auraflow"),
    "wan_t2v_14b_diffusers": ("diffusion_model", ("wan",), "wan2.1-t2v_14b"),
    "wan_i2v_14b_diffusers": ("diffusion_model", ("wan",), "wan2.1-i2v_14b"),
    "wan_t2v_1b_diffusers": ("diffusion_model", ("wan",), "wan2.1-t2v_1_3b"),
    "cascade_c_diffusers": ("diffusion_model", ("stable-cascade",), "stage-c"),
    "cascade_b_diffusers": ("diffusion_model", ("stable-cascade",), "stage-b"),
    "vae_kl4_diffusers": ("vae", ("sd1", "sd2", "sdxl"), None),
    "vae_kl16_diffusers": ("vae", ("sd3", "flux1"), None),
    "vae_x4_diffusers": ("vae", ("sd2",), None),
    "vae_flux2_diffusers": ("vae", ("flux2",), None),
    "vae_wan_diffusers": ("vae", ("wan", "qwen-image"), None),
    "vae_wan22_diffusers": ("vae", ("wan",), None),
    "vae_tiny_diffusers": ("vae", ("sd1", "sd2", "sdxl"), None),
    "vae_tiny16_diffusers": ("vae", ("sd3", "flux1"), None),
    "te_clip_l": ("text_encoder", ("clip-l",), None),
    "te_clip_h": ("text_encoder", ("clip-h",), None),
    "te_t5xxl": ("text_encoder", ("t5-xxl",), None),
    "te_umt5xxl": ("text_encoder", ("umt5-xxl",), None),
    "te_gemma2_2b": ("text_encoder", ("gemma2-2b",), None),
    "te_qwen3_06b": ("text_encoder", ("qwen3-0.6b",), None),
    "te_qwen3_4b": ("text_encoder", ("qwen3-4b",), None),
    "te_t5base": ("text_encoder", (), None),
    # models that are none of ours must not be taken for one
    **{
        f"{name}_diffusers": ("unknown", (), None)
        for name in ("bria", "cogvideo", "cogview4", "cosmos", "hunyuanvideo", "kandinsky3", "ltx", "mochi", "sana")
    },
}  # fmt: skip


def test_every_diffusers_header_has_an_expectation() -> None:
    assert {path.name[:-8] for path in (DATA / "diffusers").glob("*.json.gz")} == set(DIFFUSERS)


@pytest.mark.parametrize("name", sorted(DIFFUSERS))
def test_diffusers_layout(name: str, tmp_path: Path) -> None:
    kind, candidates, variant = DIFFUSERS[name]
    report = identified("diffusers/" + name, tmp_path)
    assert (report.kind, report.candidates) == (kind, candidates)
    if variant is not None:
        assert report.variant == variant
    assert report.complete is (None if kind in ("controlnet", "unknown") or name in NO_TEMPLATE else True)
    assert not report.reduced


NO_TEMPLATE = {"cascade_b_diffusers", "vae_tiny_diffusers", "vae_tiny16_diffusers", "te_t5base"}


@pytest.mark.parametrize("name", SAMPLES + ["diffusers/" + name for name in sorted(DIFFUSERS)])
def test_no_two_records_claim_one_file(name: str, tmp_path: Path) -> None:
    header = read_header(write(tmp_path / "x.safetensors", load(name)))
    parts = split(header.tensors)
    view = View(parts.model, parts.model_prefix, header, parts.markers)
    assert len([record for record in ARCHITECTURES if record.when(view)]) <= 1
    whole = View(header.tensors, "", header)
    assert len([record for record in VAES if record.when(whole)]) <= 1
    encoder = find_encoder(header.tensors, whole)
    if encoder is not None:
        assert [record for record in ENCODERS if record.when(encoder[1])] == [encoder[0]]


def test_records_are_about_tensors_only() -> None:
    """Conditions answer for an empty component too, and claim nothing."""
    empty: dict[str, TensorInfo] = {}
    assert not [record for record in ARCHITECTURES if record.when(View(empty))]
    assert not [record for record in (*ENCODERS, *VAES) if record.when(View(empty))]


def narrowed(name: str) -> dict[str, tuple[str, list[int]]]:
    """The sample with every side of 64 and more a sixteenth as long."""
    return {
        key: (dtype, [side // 16 if side >= 64 else side for side in shape])
        for key, (dtype, shape) in load(name).items()
    }


@pytest.mark.parametrize(
    ("name", "kind", "candidates", "variant"),
    [
        ("flux2_klein9b_bare_bf16", "diffusion_model", ("flux2",), "klein-9b"),
        ("wan21_t2v_1_3b_bare_bf16", "diffusion_model", ("wan",), "wan2.1-t2v_1_3b"),
        ("wan21_i2v_14b_bare_bf16", "diffusion_model", ("wan",), "wan2.1-i2v_14b"),
        ("sd35_medium_bare_bf16", "diffusion_model", ("sd3",), "3.5-medium"),
        ("sdxl_vae_fp32", "vae", ("sd1", "sd2", "sdxl"), None),
        ("te_clip_l_fp16", "text_encoder", ("clip-l",), None),
        ("te_clip_g_fp16", "text_encoder", ("clip-g",), None),
        ("te_mistral3_24b_bf16", "text_encoder", ("mistral3-24b",), None),
        ("te_qwen3_8b_bf16", "text_encoder", (), None),
        ("diffusers/te_t5xxl", "text_encoder", ("t5-xxl",), None),
        ("diffusers/te_t5base", "text_encoder", (), None),
        ("te_qwen25vl_7b_bf16", "text_encoder", ("qwen2.5-vl-7b",), None),
    ],
)
def test_files_of_reduced_width_are_named_and_said_to_be_so(
    name: str, kind: str, candidates: tuple[str, ...], variant: str | None, tmp_path: Path
) -> None:
    report = identify(write(tmp_path / "x.safetensors", narrowed(name)))
    assert (report.kind, report.candidates) == (kind, candidates)
    assert report.reduced is bool(candidates)
    if variant is not None:
        assert report.variant == variant
