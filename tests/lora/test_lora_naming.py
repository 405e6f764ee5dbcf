"""Every layer is reachable by every name that trainers give it, and no name means two layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora.templates import (
    SD1,
    SD2,
    SDXL,
    Shapes,
    UNet,
    clip_layers,
    flux_shapes,
    sd1_shapes,
    sd2_shapes,
    sdxl_shapes,
    unet_layers,
)
from modelsmith.files.header import FileHeader, TensorInfo
from modelsmith.lora.naming import Part, unet_to_diffusers
from modelsmith.lora.parse import split_key, split_name
from modelsmith.lora.targets import DIFFUSION, TargetIndex, rows_of


def header_of(shapes: Shapes) -> FileHeader:
    tensors = {name: TensorInfo("F16", shape, 0, 0) for name, shape in shapes.items()}
    return FileHeader(Path("model.safetensors"), "safetensors", 0, tensors)


def found(index: TargetIndex, spelled: str) -> tuple[str | None, Part] | None:
    target = index.find(*split_name(spelled))
    return None if target is None else (target.weight, target.part)


WHOLE = Part()


@pytest.mark.parametrize(
    ("config", "shapes"), [(SD1, sd1_shapes()), (SD2, sd2_shapes()), (SDXL, sdxl_shapes())], ids=["sd1", "sd2", "sdxl"]
)
def test_every_unet_layer_is_reachable_by_both_namings(config: UNet, shapes: Shapes) -> None:
    index = TargetIndex(header_of(shapes))
    layers = list(unet_layers(config))
    assert len({layer.diffusers for layer in layers}) == len(layers) > 250
    for layer in layers:
        wanted = (f"model.diffusion_model.{layer.original}.weight", WHOLE)
        for name in (layer.original, layer.diffusers):
            flat = name.replace(".", "_")
            spellings = (f"lora_unet_{flat}", f"lycoris_{flat}", f"unet.{name}", f"diffusion_model.{name}")
            for spelled in spellings:
                assert found(index, spelled) == wanted, spelled
        assert unet_to_diffusers(layer.original.replace(".", "_")) == layer.diffusers.replace(".", "_")


def test_a_unet_in_diffusers_layout_takes_both_namings() -> None:
    shapes = {f"{layer.diffusers}.weight": layer.shape for layer in unet_layers(SD1)}
    index = TargetIndex(header_of(shapes))
    for layer in unet_layers(SD1):
        for name in (layer.original, layer.diffusers):
            assert found(index, f"lora_unet_{name.replace('.', '_')}") == (f"{layer.diffusers}.weight", WHOLE)


@pytest.mark.parametrize(
    ("shapes", "starts", "root", "depth", "width", "fused"),
    [
        (sd1_shapes(), ("lora_te_", "text_encoder."), "cond_stage_model.transformer.", 12, 12, False),
        (sd2_shapes(), ("lora_te_", "text_encoder."), "cond_stage_model.model.", 23, 16, True),
        (sdxl_shapes(), ("lora_te1_", "text_encoder."), "conditioner.embedders.0.transformer.", 12, 12, False),
        (sdxl_shapes(), ("lora_te2_", "text_encoder_2."), "conditioner.embedders.1.model.", 32, 20, True),
    ],
    ids=["sd1", "sd2", "sdxl-l", "sdxl-g"],
)
def test_every_text_encoder_layer_is_reachable(
    shapes: Shapes, starts: tuple[str, str], root: str, depth: int, width: int, fused: bool
) -> None:
    index = TargetIndex(header_of(shapes))
    for name, open_clip, _ in clip_layers(depth, width):
        if not fused:
            wanted = (f"{root}{name}.weight", WHOLE)
        elif open_clip.endswith("in_proj"):
            which = "qkv".index(name.rpartition(".")[2][0])
            wanted = (f"{root}{open_clip}_weight", Part("qkv", which))
        else:
            wanted = (f"{root}{open_clip}.weight", WHOLE)
        assert found(index, starts[0] + name.replace(".", "_")) == wanted
        assert found(index, starts[1] + name) == wanted
        assert found(index, starts[1] + name.removeprefix("text_model.")) == wanted


@pytest.mark.parametrize(
    "shapes", [sd1_shapes(), sd2_shapes(), sdxl_shapes(), flux_shapes(2, 2)], ids=["sd1", "sd2", "sdxl", "flux"]
)
def test_canonical_names_are_unique_and_lead_back(shapes: Shapes) -> None:
    index = TargetIndex(header_of(shapes))
    names = [target.kohya for _, target in index.canonical]
    assert len(set(names)) == len(names)
    covered: set[str | None] = set()
    for _, target in index.canonical:
        back = index.find(*split_name(target.kohya))
        assert back is not None
        assert (back.weight, back.bias, back.part) == (target.weight, target.bias, target.part)
        covered |= {target.weight, target.bias}
    assert set(shapes) <= covered


@pytest.mark.parametrize(
    ("shapes", "names"),
    [
        (sd1_shapes(), ("lora_unet_down_blocks_1_attentions_0_proj_in", "lora_te_text_model_encoder_layers_0_mlp_fc1")),
        (sdxl_shapes(), ("lora_unet_input_blocks_4_1_proj_in", "lora_te2_text_model_encoder_layers_0_mlp_fc1")),
        (flux_shapes(2, 2), ("lora_unet_double_blocks_0_img_attn_qkv", "lora_unet_single_blocks_1_linear1")),
    ],
    ids=["sd1", "sdxl", "flux"],
)
def test_the_canonical_names_are_those_of_sd_scripts(shapes: Shapes, names: tuple[str, ...]) -> None:
    assert set(names) <= {target.kohya for _, target in TargetIndex(header_of(shapes)).canonical}


def test_parts_of_fused_projections_tile_them() -> None:
    for part, rows, columns, wanted in (
        ("qkv", 48, 16, [(0, 16), (16, 16), (32, 16)]),
        ("qkv", 3840, 2304, [(0, 2304), (2304, 768), (3072, 768)]),  # Lumina 2: 24 query heads, 8 of key and value
        ("qkvm", 7 * 16, 16, [(0, 16), (16, 16), (32, 16), (48, 64)]),
    ):
        assert [rows_of(Part(part, index), rows, columns) for index in range(len(wanted))] == wanted  # type: ignore[arg-type]


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", ""])
def test_flux_by_its_diffusers_names(prefix: str) -> None:
    index = TargetIndex(header_of(flux_shapes(2, 2, prefix=prefix)))
    cases = {
        "transformer_blocks.1.attn.to_k": ("double_blocks.1.img_attn.qkv", Part("qkv", 1)),
        "transformer_blocks.1.attn.add_v_proj": ("double_blocks.1.txt_attn.qkv", Part("qkv", 2)),
        "transformer_blocks.0.attn.to_out.0": ("double_blocks.0.img_attn.proj", WHOLE),
        "transformer_blocks.0.attn.to_add_out": ("double_blocks.0.txt_attn.proj", WHOLE),
        "transformer_blocks.0.ff.net.0.proj": ("double_blocks.0.img_mlp.0", WHOLE),
        "transformer_blocks.0.ff_context.net.2": ("double_blocks.0.txt_mlp.2", WHOLE),
        "transformer_blocks.0.norm1.linear": ("double_blocks.0.img_mod.lin", WHOLE),
        "single_transformer_blocks.1.attn.to_q": ("single_blocks.1.linear1", Part("qkvm", 0)),
        "single_transformer_blocks.1.proj_mlp": ("single_blocks.1.linear1", Part("qkvm", 3)),
        "single_transformer_blocks.1.proj_out": ("single_blocks.1.linear2", WHOLE),
        "x_embedder": ("img_in", WHOLE),
        "norm_out.linear": ("final_layer.adaLN_modulation.1", Part("swap")),
    }
    for name, (original, part) in cases.items():
        wanted = (f"{prefix}{original}.weight", part)
        flat = name.replace(".", "_")
        for spelled in (
            f"transformer.{name}",
            f"base_model.model.{name}",
            f"lora_transformer_{flat}",
            f"lycoris_{flat}",
        ):
            assert found(index, spelled) == wanted, spelled
    assert found(index, "transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj") == (
        f"{prefix}single_blocks.0.linear1.weight",
        WHOLE,
    )


def test_sd3_by_its_diffusers_names() -> None:
    shapes: Shapes = {}
    for index in (0, 1):
        base = f"model.diffusion_model.joint_blocks.{index}"
        for side in ("x_block", "context_block"):
            halves = 2 if (index, side) == (1, "context_block") else 6
            shapes |= {
                f"{base}.{side}.attn.qkv.weight": (48, 16),
                f"{base}.{side}.adaLN_modulation.1.weight": (16 * halves, 16),
            }
    shapes["model.diffusion_model.joint_blocks.0.x_block.attn2.qkv.weight"] = (48, 16)
    index_ = TargetIndex(header_of(shapes))
    root = "model.diffusion_model.joint_blocks"
    cases = {
        "transformer_blocks.0.attn.to_v": (f"{root}.0.x_block.attn.qkv.weight", Part("qkv", 2)),
        "transformer_blocks.0.attn2.to_q": (f"{root}.0.x_block.attn2.qkv.weight", Part("qkv", 0)),
        "transformer_blocks.1.attn.add_k_proj": (f"{root}.1.context_block.attn.qkv.weight", Part("qkv", 1)),
        "transformer_blocks.0.norm1_context.linear": (f"{root}.0.context_block.adaLN_modulation.1.weight", WHOLE),
        # The last block only normalises the context; diffusers keeps scale before shift there.
        "transformer_blocks.1.norm1_context.linear": (
            f"{root}.1.context_block.adaLN_modulation.1.weight",
            Part("swap"),
        ),
    }
    for name, wanted in cases.items():
        assert found(index_, f"transformer.{name}") == wanted
    assert found(index_, "lora_unet_joint_blocks_0_x_block_attn_qkv") == (f"{root}.0.x_block.attn.qkv.weight", WHOLE)


def test_lumina_and_z_image_by_their_diffusers_names() -> None:
    shapes: Shapes = {"cap_embedder.1.weight": (8, 8), "x_embedder.weight": (8, 8)}
    for stack in ("layers", "noise_refiner", "context_refiner"):
        shapes |= {
            f"{stack}.0.attention.qkv.weight": (24, 8),
            f"{stack}.0.attention.out.weight": (8, 8),
            f"{stack}.0.feed_forward.w3.weight": (32, 8),
        }
    index = TargetIndex(header_of(shapes))
    for stack in ("layers", "noise_refiner", "context_refiner"):
        for attention in ("attention", "attn"):
            assert found(index, f"diffusion_model.{stack}.0.{attention}.to_k") == (
                f"{stack}.0.attention.qkv.weight",
                Part("qkv", 1),
            )
            for out in ("to_out.0", "to_out"):
                assert found(index, f"transformer.{stack}.0.{attention}.{out}") == (
                    f"{stack}.0.attention.out.weight",
                    WHOLE,
                )
        assert found(index, f"transformer.{stack}.0.feed_forward.linear_3") == (
            f"{stack}.0.feed_forward.w3.weight",
            WHOLE,
        )
    assert found(index, "transformer.all_x_embedder.2-1") == ("x_embedder.weight", WHOLE)


def test_qwen_image_uses_one_naming() -> None:
    index = TargetIndex(header_of({"transformer_blocks.0.attn.add_q_proj.weight": (8, 8), "img_in.weight": (8, 8)}))
    for spelled in (
        "transformer.transformer_blocks.0.attn.add_q_proj",
        "lora_unet_transformer_blocks_0_attn_add_q_proj",
        "diffusion_model.transformer_blocks.0.attn.add_q_proj",
        "transformer_blocks.0.attn.add_q_proj",
    ):
        assert found(index, spelled) == ("transformer_blocks.0.attn.add_q_proj.weight", WHOLE)


@pytest.mark.parametrize(
    ("key", "module", "role"),
    [
        ("lora_unet_a.lora_up.weight", "lora_unet_a", "up"),
        ("unet.a.to_q.lora_A.weight", "unet.a.to_q", "down"),
        ("unet.a.to_q.lora_B.default.weight", "unet.a.to_q", "up"),
        ("unet.a.to_q.lora_A.my_adapter.weight", "unet.a.to_q", "down"),
        ("blocks.0.lora_B", "blocks.0", "up"),
        ("unet.a.processor.to_q_lora.up.weight", "unet.a.processor.to_q", "up"),
        ("text_encoder.a.q_proj.lora_linear_layer.down.weight", "text_encoder.a.q_proj", "down"),
        ("transformer.a.lora_magnitude_vector", "transformer.a", "dora_scale"),
        ("lora_unet_a.hada_t1", "lora_unet_a", "hada_t1"),
        ("lora_unet_a.lokr_w2_a", "lora_unet_a", "lokr_w2_a"),
        ("diffusion_model.a.diff_b", "diffusion_model.a", "diff_b"),
        ("lora_unet_a.oft_blocks", "lora_unet_a", "oft_blocks"),
    ],
)
def test_endings(key: str, module: str, role: str) -> None:
    assert split_key(key) == (module, role)


@pytest.mark.parametrize("key", ["model.diffusion_model.out.2.weight", "a.lora_A.bias", "a.reshape_weight", "v_pred"])
def test_other_endings_are_no_lora(key: str) -> None:
    assert split_key(key) is None


def test_old_attention_processor_names() -> None:
    slot, name = split_name("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out")
    assert (slot, name) == (DIFFUSION, "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out")
    assert TargetIndex(header_of(unet := sd1_shapes())).find(slot, name) is not None, len(unet)
