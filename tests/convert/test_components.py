"""Parts and names: every tensor arrives under the name, and in the shape, that the other layout has for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from convert.helpers import loaded, metadata_of, same_bits, saved
from modelsmith.convert.casts import LossBook
from modelsmith.convert.components import (
    drop,
    family_of,
    find_unet,
    keep_only,
    to_diffusers,
    to_ldm,
    unet_tensors,
    vae_tensors,
)
from modelsmith.convert.encoders import Encoder, find_encoders, in_form
from modelsmith.convert.exchange import put_in
from modelsmith.convert.model import open_model
from modelsmith.convert.naming import levels_with_attention, unet_to_ldm
from modelsmith.convert.nodes import Constant, whole
from modelsmith.convert.write import write_model
from modelsmith.errors import BadFileError, UnknownNameError, UsageError

SD1 = {"cross_attention_dim": 768}
SD2 = {"cross_attention_dim": 1024, "use_linear_projection": True, "attention_head_dim": [5, 10, 20, 20]}
SDXL = {
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@pytest.mark.parametrize(("config", "tensors"), [(SD1, 686), (SD2, 686), (SDXL, 1680)])
def test_unet_names_equal_those_of_diffusers(config: dict[str, object], tensors: int) -> None:
    """diffusers' own converter turns our original names back into the names of its model."""
    diffusers = pytest.importorskip("diffusers")
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    with torch.device("meta"):
        model = diffusers.UNet2DConditionModel(**config)
    state = model.state_dict()
    attention = levels_with_attention(state)
    original = {unet_to_ldm(name, attention): value for name, value in state.items()}
    assert None not in original and len(original) == len(state) == tensors
    config = {"class_embed_type": None, **dict(model.config)}
    prefixed = {f"model.diffusion_model.{name}": value for name, value in original.items()}
    back = convert_ldm_unet_checkpoint(dict(prefixed), config)
    assert {name: value.shape for name, value in back.items()} == {name: value.shape for name, value in state.items()}
    nodes = {f"model.diffusion_model.{name}": _Shape(value.shape) for name, value in original.items() if name}
    ours = unet_tensors(nodes, "diffusers")
    assert {name: node.shape for name, node in ours.items()} == {
        name: tuple(value.shape) for name, value in state.items()
    }


class _Shape:
    """A node whose values nobody asks for."""

    dtype = "F32"

    def __init__(self, shape: torch.Size) -> None:
        self.shape = tuple(shape)

    def read(self, first: int, elements: int) -> torch.Tensor:
        raise AssertionError((first, elements))


def test_vae_equals_that_of_diffusers_in_names_and_values() -> None:
    diffusers = pytest.importorskip("diffusers")
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    sides = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    model = diffusers.AutoencoderKL(block_out_channels=(8, 8, 16, 16), norm_num_groups=4, layers_per_block=2, **sides)
    state = model.state_dict()
    original = vae_tensors({f"vae.{name}": Constant(value) for name, value in state.items()}, "ldm")
    assert original["decoder.mid.attn_1.q.weight"].shape == (16, 16, 1, 1)
    ldm = {f"first_stage_model.{name}": whole(node) for name, node in original.items()}
    back = convert_ldm_vae_checkpoint(ldm, dict(model.config))
    assert set(back) == set(state)
    assert all(torch.equal(back[name], state[name]) for name in state)
    again = vae_tensors(original, "diffusers")
    assert all(same_bits(whole(again[name]), state[name]) for name in state) and len(again) == len(state)


def _clip(width: int, projection: bool = True, layers: int = 2) -> dict[str, torch.Tensor]:
    """A text encoder in transformers' names, narrow in everything but the width that tells its kind."""
    out = {
        "text_model.embeddings.token_embedding.weight": (7, width),
        "text_model.embeddings.position_embedding.weight": (5, width),
        "text_model.final_layer_norm.weight": (width,),
    }
    for layer in range(layers):
        at = f"text_model.encoder.layers.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            out[f"{at}.self_attn.{part}.weight"] = (width, 3)
            out[f"{at}.self_attn.{part}.bias"] = (width,)
        for part in ("mlp.fc1", "mlp.fc2", "layer_norm1", "layer_norm2"):
            out[f"{at}.{part}.weight"] = (4, 3)
    if projection:
        out["text_projection.weight"] = (6, width)
    return {name: torch.randn(shape) for name, shape in out.items()}


def test_open_clip_is_fused_and_taken_apart_again() -> None:
    state = _clip(1280)
    encoder = Encoder("clip_g", "transformers", "", {name: Constant(value) for name, value in state.items()})
    fused = in_form(encoder, "open_clip")
    q, k, v = (state[f"text_model.encoder.layers.1.self_attn.{part}_proj.weight"] for part in "qkv")
    assert torch.equal(whole(fused["transformer.resblocks.1.attn.in_proj_weight"]), torch.cat((q, k, v)))
    assert torch.equal(whole(fused["text_projection"]), state["text_projection.weight"].t())
    found = find_encoders({f"conditioner.embedders.1.model.{name}": node for name, node in fused.items()})
    assert found["clip_g"].form == "open_clip"
    back = in_form(found["clip_g"], "transformers")
    assert set(back) == set(state) and all(same_bits(whole(back[name]), state[name]) for name in state)


def test_open_clip_names_equal_what_diffusers_makes_of_them() -> None:
    pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPTextConfig(
        hidden_size=1280,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=9,
        projection_dim=5,
    )
    state = transformers.CLIPTextModelWithProjection(config).state_dict()
    state = {name if name.startswith("text_") else f"text_model.{name}": value for name, value in state.items()}
    encoder = Encoder("clip_g", "transformers", "", {name: Constant(value) for name, value in state.items()})
    fused = in_form(encoder, "open_clip")
    expected = {"token_embedding.weight", "positional_embedding", "ln_final.weight", "ln_final.bias", "text_projection"}
    rest = ("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias", "attn.in_proj_weight", "attn.in_proj_bias",
            "attn.out_proj.weight", "attn.out_proj.bias", "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight",
            "mlp.c_proj.bias")  # fmt: skip
    expected |= {f"transformer.resblocks.{layer}.{name}" for layer in range(2) for name in rest}
    assert set(fused) == expected
    back = in_form(Encoder("clip_g", "open_clip", "", fused), "transformers")
    known = {name: value for name, value in state.items() if not name.endswith("position_ids")}
    assert set(back) == set(known) and all(torch.equal(whole(back[name]), known[name]) for name in known)


def _unet(width: int) -> dict[str, torch.Tensor]:
    names = {
        "conv_in.weight": (2, 4, 3, 3),
        "time_embedding.linear_1.weight": (3, 2),
        "down_blocks.0.resnets.1.norm1.weight": (2,),
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": (2, width),
        "down_blocks.1.downsamplers.0.conv.weight": (2, 2, 3, 3),
        "mid_block.resnets.1.conv2.weight": (2, 2, 3, 3),
        "up_blocks.0.attentions.2.norm.weight": (2,),
        "up_blocks.0.upsamplers.0.conv.weight": (2, 2, 3, 3),
        "up_blocks.2.resnets.2.conv_shortcut.weight": (2, 2, 1, 1),
        "add_embedding.linear_1.weight": (3, 2816),
        "conv_out.bias": (4,),
    }
    return {name: torch.randn(shape) for name, shape in names.items()}


def _vae() -> dict[str, torch.Tensor]:
    return {
        "decoder.mid_block.resnets.0.conv1.weight": torch.randn(2, 2, 3, 3),
        "decoder.mid_block.attentions.0.to_q.weight": torch.randn(2, 2),
        "decoder.up_blocks.3.resnets.0.conv1.weight": torch.randn(2, 2, 3, 3),
        "quant_conv.weight": torch.randn(8, 8, 1, 1),
    }


def test_a_diffusers_folder_becomes_a_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    parts = {"unet": _unet(2048), "vae": _vae(), "text_encoder": _clip(768, False), "text_encoder_2": _clip(1280)}
    for part, tensors in parts.items():
        (folder / part).mkdir(parents=True)
        saved(
            folder / part / ("model.safetensors" if "text" in part else "diffusion_pytorch_model.safetensors"), tensors
        )
    (folder / "scheduler").mkdir()
    scheduler = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    with open_model(folder) as model:
        to_ldm(model)
        result = write_model(model, tmp_path / "out.safetensors", LossBook())
    out = loaded(result.path)
    unet = "model.diffusion_model."
    expected = parts["unet"]["up_blocks.0.upsamplers.0.conv.weight"]
    assert same_bits(out[unet + "output_blocks.2.2.conv.weight"], expected)
    assert same_bits(
        out[unet + "input_blocks.6.0.op.weight"], parts["unet"]["down_blocks.1.downsamplers.0.conv.weight"]
    )
    assert same_bits(out[unet + "label_emb.0.0.weight"], parts["unet"]["add_embedding.linear_1.weight"])
    assert out["first_stage_model.decoder.mid.attn_1.q.weight"].shape == (2, 2, 1, 1)
    assert "first_stage_model.decoder.up.0.block.0.conv1.weight" in out
    assert "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight" in out
    assert out["conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight"].shape == (3840, 3)
    assert {"v_pred", "ztsnr"} <= set(out)
    assert metadata_of(result.path) == {"modelspec.prediction_type": "v"}
    keys = 11 + 4 + len(parts["text_encoder"]) + len(parts["text_encoder_2"]) - 8 + 2  # q, k, v of 2 layers fuse
    assert len(out) == keys
    with open_model(result.path) as model:
        assert family_of(model.tensors) == "sdxl" and find_unet(model.tensors) == (unet, "ldm")
        keep_only(model, "unet")
        assert {"v_pred", "ztsnr"} <= set(model.tensors)
        to_diffusers(model)
        back = {name: whole(node) for name, node in model.tensors.items()}
    assert set(back) == set(parts["unet"]) and all(same_bits(back[name], parts["unet"][name]) for name in back)
    for choice, part in (("clip_l", "text_encoder"), ("clip_g", "text_encoder_2")):
        with open_model(result.path) as model:
            keep_only(model, choice)
            assert set(model.tensors) == set(parts[part])
            assert all(same_bits(whole(node), parts[part][name]) for name, node in model.tensors.items())


def test_putting_in_and_leaving_out(tmp_path: Path) -> None:
    checkpoint = {
        f"model.diffusion_model.{unet_to_ldm(name, frozenset({0}))}": value for name, value in _unet(768).items()
    }
    checkpoint["cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"] = torch.randn(7, 768)
    checkpoint["first_stage_model.decoder.mid.block_1.conv1.weight"] = torch.zeros(2, 2, 3, 3)
    source = saved(tmp_path / "a.safetensors", checkpoint)
    vae = saved(tmp_path / "vae.safetensors", _vae())
    text = saved(tmp_path / "te.safetensors", _clip(768, False))
    with open_model(source) as model:
        with open_model(vae) as donor:
            assert put_in(model, donor, "vae") == 4
        with open_model(text) as donor:
            put_in(model, donor, "te")
        out = loaded(write_model(model, tmp_path / "b.safetensors", LossBook()).path)
    assert same_bits(out["first_stage_model.decoder.mid.block_1.conv1.weight"],
                     _loaded(vae, "decoder.mid_block.resnets.0.conv1.weight"))  # fmt: skip
    name = "text_model.embeddings.token_embedding.weight"
    assert same_bits(out[f"cond_stage_model.transformer.{name}"], _loaded(text, name))
    wrong = saved(tmp_path / "g.safetensors", _clip(1280))
    with open_model(source) as model, open_model(wrong) as donor, pytest.raises(BadFileError, match="clip_l"):
        put_in(model, donor, "te")
    with open_model(source) as model, pytest.raises(UnknownNameError, match="vae"):
        keep_only(model, "vea")
    with open_model(source) as model:
        drop(model, "vae")
        assert not any(name.startswith("first_stage") for name in model.tensors)
        with pytest.raises(BadFileError):
            drop(model, "vae")
        with pytest.raises(UsageError, match="one"):
            to_diffusers(model)


def _loaded(path: Path, name: str) -> torch.Tensor:
    return loaded(path)[name]
