"""LoRA and relatives in every naming, and the base that they fit; textual inversion and hypernetworks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from headers import Entries, write

from modelsmith.identify import identify

DEEP = "lora_unet_down_blocks_2_attentions_0_transformer_blocks_9_attn1_to_q"
OLD = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora"
PEFT = ("lora_A.weight", "lora_B.weight")
KOHYA = ("lora_down.weight", "lora_up.weight")
ATTN2 = "transformer_blocks_0_attn2_to_k"


def lora(layers: dict[str, tuple[int, int]], names: tuple[str, str] = KOHYA, rank: int = 4) -> Entries:
    found: Entries = {}
    for name, (rows, columns) in layers.items():
        found[f"{name}.{names[0]}"] = ("F16", [rank, columns])
        found[f"{name}.{names[1]}"] = ("F16", [rows, rank])
        if names is KOHYA:
            found[f"{name}.alpha"] = ("F16", [])
    return found


BASES: dict[str, tuple[Entries, tuple[str, ...], str]] = {
    "sd1 kohya": (lora({f"lora_unet_down_blocks_0_attentions_0_{ATTN2}": (320, 768)}), ("sd1",), "kohya"),
    "sd2 kohya": (lora({f"lora_unet_down_blocks_0_attentions_0_{ATTN2}": (320, 1024)}), ("sd2",), "kohya"),
    "sdxl sgm": (lora({f"lora_unet_input_blocks_4_1_{ATTN2}": (640, 2048)}), ("sdxl",), "kohya"),
    "sdxl diffusers": (
        lora({"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k": (640, 2048)}, PEFT),
        ("sdxl",),
        "diffusers-peft",
    ),
    "refiner": (lora({f"lora_unet_input_blocks_4_1_{ATTN2}": (768, 1280)}), ("sdxl-refiner",), "kohya"),
    "sdxl by depth": (lora({DEEP: (1280, 1280)}), ("sdxl",), "kohya"),
    "nothing that tells": (
        lora({"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q": (1280, 1280)}),
        ("sd1", "sd2", "sdxl"),
        "kohya",
    ),
    "flux kohya": (
        lora({"lora_unet_double_blocks_0_img_mod_lin": (18432, 3072)}),
        ("flux1",),
        "kohya",
    ),
    "flux or chroma": (lora({"lora_unet_single_blocks_0_linear1": (21504, 3072)}), ("flux1", "chroma"), "kohya"),
    "flux diffusers": (
        lora({"transformer.single_transformer_blocks.0.norm.linear": (9216, 3072)}, PEFT),
        ("flux1",),
        "diffusers-peft",
    ),
    "flux2 klein": (lora({"lora_unet_single_blocks_0_linear1": (27648, 3072)}), ("flux2",), "kohya"),
    "flux, narrow": (lora({"lora_unet_single_blocks_0_linear1": (448, 64)}), ("flux1", "chroma"), "kohya"),
    "flux2, narrow": (lora({"lora_unet_double_blocks_0_img_mlp_0": (384, 64)}), ("flux2",), "kohya"),
    "flux, narrow, modulation": (lora({"lora_unet_single_blocks_0_modulation_lin": (192, 64)}), ("flux1",), "kohya"),
    "any flux, narrow": (
        lora({"lora_unet_double_blocks_0_img_attn_qkv": (192, 64)}),
        ("flux1", "flux2", "chroma"),
        "kohya",
    ),
    "klein 4b is as wide as flux": (
        lora({"lora_unet_double_blocks_0_img_attn_qkv": (9216, 3072)}),
        ("flux1", "flux2", "chroma"),
        "kohya",
    ),
    "klein 9b by width": (lora({"lora_unet_double_blocks_0_img_attn_qkv": (12288, 4096)}), ("flux2",), "kohya"),
    "flux by a late double block": (
        lora({"lora_unet_double_blocks_18_img_attn_proj": (3072, 3072)}),
        ("flux1", "chroma"),
        "kohya",
    ),
    "flux2 dev by a late single block": (
        lora({"lora_unet_single_blocks_47_norm_query_norm": (6144, 64)}),
        ("flux2",),
        "kohya",
    ),
    "hunyuan video is no flux": (
        lora({"lora_unet_double_blocks_0_img_mod_linear": (18432, 3072)}),
        (),
        "kohya",
    ),
    "ltx is no sdxl": (
        lora({"transformer.transformer_blocks.0.attn2.to_k": (2048, 2048)}, PEFT),
        (),
        "diffusers-peft",
    ),
    "sd1 by a convolution": (
        {
            "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": ("F16", [4, 320, 1, 1]),
            "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight": ("F16", [320, 4, 1, 1]),
        },
        ("sd1",),
        "kohya",
    ),
    "text encoder of two": (
        lora({"lora_te1_text_model_encoder_layers_0_mlp_fc1": (3072, 768)}),
        ("sdxl", "sd3", "flux1"),
        "kohya",
    ),
    "text encoder of one": (lora({"lora_te_text_model_encoder_layers_0_mlp_fc1": (3072, 768)}), ("sd1",), "kohya"),
    "lumina in diffusers": (
        lora({"transformer.layers.0.attn.to_q": (2304, 2304)}, PEFT),
        ("lumina2",),
        "diffusers-peft",
    ),
    "pixart": (
        lora({"transformer.transformer_blocks.0.attn1.to_q": (1152, 1152)}, PEFT),
        ("pixart",),
        "diffusers-peft",
    ),
    "flux2 diffusers": (
        lora({"transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj": (55296, 6144)}, PEFT),
        ("flux2",),
        "diffusers-peft",
    ),
    "lumina": (lora({"lora_unet_layers_0_attention_qkv": (6912, 2304)}), ("lumina2",), "kohya"),
    "z-image": (lora({"lora_unet_layers_0_attention_qkv": (11520, 3840)}), ("z-image",), "kohya"),
    "wan": (
        lora({"diffusion_model.blocks.0.self_attn.q": (5120, 5120)}, PEFT),
        ("wan",),
        "comfy-diffusion_model",
    ),
    "sd3": (lora({"transformer.transformer_blocks.0.attn.to_q": (1536, 1536)}, PEFT), ("sd3",), "diffusers-peft"),
    "qwen": (lora({"lora_unet_transformer_blocks_0_img_mlp_net_0_proj": (12288, 3072)}), ("qwen-image",), "kohya"),
    "qwen by depth": (
        lora({"transformer.transformer_blocks.59.attn.to_q": (3072, 3072)}, PEFT),
        ("qwen-image",),
        "diffusers-peft",
    ),
    "auraflow": (
        lora({"diffusion_model.double_layers.0.attn.w1q": (3072, 3072)}, PEFT),
        ("auraflow",),
        "comfy-diffusion_model",
    ),
    "cascade": (lora({"lora_unet_down_blocks_0_2_attention_attn_to_q": (2048, 2048)}), ("stable-cascade",), "kohya"),
    "two tensors": (
        {
            f"lora_unet_down_blocks_0_attentions_0_{ATTN2}.lora_down.weight": ("F16", [4, 768]),
            f"lora_unet_down_blocks_0_attentions_0_{ATTN2}.lora_up.weight": ("F16", [320, 4]),
        },
        ("sd1",),
        "kohya",
    ),
    "first diffusers form": (
        {
            f"{OLD}.down.weight": ("F16", [4, 768]),
            f"{OLD}.up.weight": ("F16", [320, 4]),
        },
        ("sd1",),
        "diffusers-peft",
    ),
}


@pytest.mark.parametrize("name", sorted(BASES))
def test_base(name: str, tmp_path: Path) -> None:
    entries, bases, layout = BASES[name]
    report = identify(write(tmp_path / "x.safetensors", entries))
    assert (report.kind, report.candidates, report.layout) == ("lora", bases, layout)
    assert report.architecture == (bases[0] if len(bases) == 1 else None)


KEY = f"lora_unet_down_blocks_1_attentions_0_{ATTN2}"
TYPES: dict[str, Entries] = {
    "lora": lora({KEY: (640, 2048)}),
    "locon": {**lora({KEY: (640, 2048)}), "lora_unet_x_conv.lora_down.weight": ("F16", [4, 640, 3, 3])},
    "loha": {
        f"{KEY}.hada_{name}": ("F16", shape)
        for name, shape in {"w1_a": [640, 4], "w1_b": [4, 2048], "w2_a": [640, 4], "w2_b": [4, 2048]}.items()
    },
    "lokr": {f"{KEY}.lokr_w1": ("F16", [8, 8]), f"{KEY}.lokr_w2": ("F16", [80, 256])},
    "dora": {**lora({KEY: (640, 2048)}), f"{KEY}.dora_scale": ("F16", [1, 2048])},
}


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_type(kind: str, tmp_path: Path) -> None:
    report = identify(write(tmp_path / "x.safetensors", TYPES[kind]))
    assert (report.kind, report.lora_type, report.candidates) == ("lora", kind, ("sdxl",))


def test_lokr_in_factors_of_factors(tmp_path: Path) -> None:
    entries: Entries = {
        f"{KEY}.lokr_w1": ("F16", [8, 8]),
        f"{KEY}.lokr_w2_a": ("F16", [80, 4]),
        f"{KEY}.lokr_w2_b": ("F16", [4, 96]),
    }
    assert identify(write(tmp_path / "x.safetensors", entries)).candidates == ("sd1",)


def test_metadata_helps_where_the_widths_do_not(tmp_path: Path) -> None:
    entries: Entries = {f"{KEY.replace('attn2_to_k', 'attn1_to_q')}.oft_blocks": ("F16", [4, 160, 160])}
    report = identify(write(tmp_path / "x.safetensors", entries))
    assert (report.lora_type, report.candidates) == ("oft", ("sd1", "sd2", "sdxl"))
    known = identify(write(tmp_path / "y.safetensors", entries, {"ss_base_model_version": "sdxl_base_v1-0"}))
    assert known.candidates == ("sdxl",)
    chroma = lora({"lora_unet_single_blocks_0_linear1": (21504, 3072)})
    assert identify(write(tmp_path / "z.safetensors", chroma, {"modelspec.architecture": "chroma"})).candidates == (
        "chroma",
    )


@pytest.mark.parametrize(("width", "base"), [(768, "sd1"), (1024, "sd2"), (1280, "sdxl")])
def test_embeddings(width: int, base: str, tmp_path: Path) -> None:
    for name in ("emb_params", "<my-word>"):
        report = identify(write(tmp_path / "x.safetensors", {name: ("F32", [2, width])}))
        assert (report.kind, report.architecture) == ("textual_inversion", base)


def test_pickled_embedding_and_hypernetwork(tmp_path: Path) -> None:
    torch: Any = pytest.importorskip("torch")
    word = torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.ones(2, 768))})
    torch.save({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": word, "name": "x"}, tmp_path / "e.pt")
    report = identify(tmp_path / "e.pt")
    assert (report.kind, report.architecture, report.forbidden) == ("textual_inversion", "sd1", ())
    layers = {"linear.0.weight": torch.ones(4, 4), "linear.0.bias": torch.ones(4)}
    torch.save(
        {768: (layers, layers), 320: (layers, layers), "step": 3, "layer_structure": [1, 2, 1]}, tmp_path / "h.pt"
    )
    report = identify(tmp_path / "h.pt")
    assert (report.kind, report.architecture) == ("hypernetwork", "sd1")
