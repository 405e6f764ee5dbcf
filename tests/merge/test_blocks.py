"""The table of blocks: every tensor of a model in the block that the peers put it in."""

from __future__ import annotations

import pytest

from merge.models import shapes
from modelsmith.errors import UnknownNameError, UsageError
from modelsmith.merge.blocks import (
    BASE,
    LAYOUTS,
    PLACEMENTS,
    PLAIN,
    BlockLayout,
    layout_for,
    parse_weights,
    place_like,
    preset_weights,
    presets_for,
)
from modelsmith.merge.presets import BY_GROUP, PRESETS, fold_to_sdxl, preset, spread


@pytest.mark.parametrize(
    ("architecture", "count", "last"),
    [("sd1", 26, "OUT11"), ("sd2", 26, "OUT11"), ("sdxl", 21, "VAE"), ("sd3-24", 29, "OUT"), ("sd3-38", 43, "OUT"),
     ("flux1", 61, "OUT"), ("flux2-dev", 59, "OUT"), ("qwen-image", 63, "OUT")],
)  # fmt: skip
def test_sizes_of_plain_lists(architecture: str, count: int, last: str) -> None:
    layout = LAYOUTS[architecture]
    assert len(layout.positional) == count and layout.positional[-1] == last
    assert set(layout.positional) <= set(layout.ids) and len(set(layout.ids)) == len(layout.ids)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_every_block_of_a_unet_holds_tensors(family: str) -> None:
    layout = LAYOUTS[family]
    held: dict[str, list[str]] = {}
    for name in shapes(family):
        held.setdefault(layout.block_of(name), []).append(name)
    assert set(layout.ids) - {BASE} <= set(held)
    assert all(name.startswith("model.diffusion_model.input_blocks.7.") for name in held["IN07"])
    assert all("first_stage_model" in name for name in held["VAE"])


@pytest.mark.parametrize(
    ("architecture", "key", "block"),
    [
        ("sdxl", "model.diffusion_model.input_blocks.1.0.in_layers.0.weight", "IN01"),
        ("sdxl", "input_blocks.1.0.in_layers.0.weight", "IN01"),
        ("sdxl", "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight", "M00"),
        ("sdxl", "model.diffusion_model.output_blocks.0.1.transformer_blocks.0.attn1.to_out.0.weight", "OUT00"),
        ("sdxl", "model.diffusion_model.out.2.weight", "FINAL"),
        ("sdxl", "model.diffusion_model.label_emb.0.0.weight", "TIME"),
        ("sdxl", "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias", "CLIP_L"),
        ("sdxl", "conditioner.embedders.1.model.transformer.resblocks.3.ln_1.bias", "CLIP_G"),
        ("sdxl", "v_pred", "BASE"),
        ("sd1", "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.weight", "CLIP"),
        ("flux1", "model.diffusion_model.double_blocks.11.img_attn.qkv.weight", "D11"),
        ("flux1", "single_blocks.1.linear1.weight", "S01"),
        ("flux1", "img_in.weight", "IN"),
        ("flux1", "model.diffusion_model.final_layer.linear.weight", "OUT"),
        ("flux1", "text_encoders.t5xxl.transformer.shared.weight", "T5"),
        ("chroma", "distilled_guidance_layer.in_proj.weight", "GUIDE"),
        ("sd3-24", "model.diffusion_model.joint_blocks.23.x_block.attn.qkv.weight", "J23"),
        ("qwen-image", "transformer_blocks.59.attn.to_q.weight", "B59"),
        ("z-image", "noise_refiner.1.attention.qkv.weight", "NR01"),
        ("z-image", "layers.29.attention.qkv.weight", "L29"),
    ],
)
def test_where_a_tensor_belongs(architecture: str, key: str, block: str) -> None:
    assert LAYOUTS[architecture].block_of(key) == block


def test_depth_decides_where_one_architecture_has_several() -> None:
    assert layout_for("sd3", ["joint_blocks.37.x"]).id == "sd3-38"
    assert layout_for("sd3", ["joint_blocks.23.x"]).id == "sd3-24"
    assert layout_for("flux2", ["single_blocks.47.x"]).id == "flux2-dev"
    assert layout_for("flux2", ["single_blocks.23.x"]).id == "flux2-klein-9b"
    assert layout_for("flux2", ["single_blocks.19.x"]).id == "flux2-klein-4b"
    assert layout_for(None).ids == (BASE,)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_preset_fits_every_layout(layout: BlockLayout) -> None:
    for name in PRESETS:
        weights = preset_weights(name, layout)
        assert set(weights) <= set(layout.ids)
        assert all(-1e-9 <= value <= 1 + 1e-9 for value in weights.values())
    assert set(layout.resolve(preset_weights("ALL_B", layout), 0.5).values()) <= {1.0, 0.0}


def test_known_values_of_presets() -> None:
    assert len(PRESETS) == 38  # 36 curves and the two that give one model whole
    assert all(len(values) == 26 for values in PRESETS.values())
    assert preset("GRAD_V")[:4] == pytest.approx((0, 1, 11 / 12, 10 / 12)) and preset("GRAD_V")[13] == 0
    assert preset("GRAD_A")[-3:] == pytest.approx((2 / 12, 1 / 12, 0))
    assert preset("smoothstep")[2] == pytest.approx(0.00506365740740741)
    assert preset("SMOOTHSTEP*3")[11] == pytest.approx(0.871527777777778)
    assert preset("R_SMOOTHSTEP/3")[4] == pytest.approx(0.68359375)
    assert preset("COSINE")[2] == pytest.approx(0.995722430686905)
    assert preset("TRUE_CUBIC_HERMITE")[1:3] == pytest.approx((0, 0.199031876929012))
    assert preset("FAKE_REVERSE_CUBIC_HERMITE")[2] == pytest.approx(0.842423804012346)
    assert [index for index, value in enumerate(preset("RING08_SOFT")) if value == 1.0] == [7, 8, 9, 17, 18, 19]
    with pytest.raises(UnknownNameError, match="GRAD_V"):
        preset("GRAD_W")


def test_26_values_are_folded_for_sdxl() -> None:
    values = [index / 100 for index in range(26)]
    folded = fold_to_sdxl(values)
    # BASE, IN00-08 keep their places; M00 stands at 13 of 26, OUT00-08 follow it.
    assert folded == (*values[:10], *values[13:23], 0.0) and len(folded) == 21
    weights = parse_weights(",".join(map(str, values)), LAYOUTS["sdxl"])
    assert (weights["IN08"], weights["M00"], weights["OUT00"], weights["OUT08"]) == (0.09, 0.13, 0.14, 0.22)
    without_base = parse_weights(",".join(map(str, values[1:])), LAYOUTS["sdxl"])
    assert "BASE" not in without_base and without_base["M00"] == 0.13


def test_names_and_numbers_may_be_mixed() -> None:
    layout = LAYOUTS["sdxl"]
    weights = layout.resolve(parse_weights("GRAD_V, vae=0.3, TIME=0.8", layout), 0.5)
    assert (weights["VAE"], weights["TIME"], weights["IN00"], weights["FINAL"]) == (0.3, 0.8, 1.0, weights["OUT08"])
    weights = layout.resolve(parse_weights("IN03=0.1", layout), 0.5)
    assert (weights["IN03"], weights["IN04"], weights["CLIP_L"]) == (0.1, 0.5, 0.5)
    assert layout.resolve({"BASE": 0.2}, 0.9)["CLIP_G"] == 0.2


@pytest.mark.parametrize("text", ["1,2,3", "IN03=x", "nan," * 20 + "1", "0.5,zero"])
def test_lists_that_do_not_fit_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_weights(text, LAYOUTS["sdxl"])
    with pytest.raises(UnknownNameError, match="IN03"):
        parse_weights("IN3=0.5", LAYOUTS["sdxl"])


def test_spread_keeps_both_ends() -> None:
    assert spread((0.0, 1.0, 0.5), 5) == (0.0, 0.5, 1.0, 0.75, 0.5)
    assert spread((0.0, 1.0, 0.5), 1) == (1.0,)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_presets_by_group_fit_the_layouts_that_have_the_groups(layout: BlockLayout) -> None:
    found = presets_for(layout)
    assert set(PRESETS) <= set(found) and all(set(weights) <= set(layout.ids) for weights in found.values())
    groups = {block.id: block.group for block in layout.blocks}
    outs = {name for name, group in groups.items() if group == "out"} | ({"TIME", "FINAL"} & set(groups))
    assert found["OUT_FROM_B"] == dict.fromkeys(outs, 1.0) and found["OUT_FROM_A"] == dict.fromkeys(outs, 0.0)
    parts = {name for name, group in groups.items() if group in ("text", "vae", "base")}
    assert set(found["NETWORK_ONLY"]) == parts and set(found["PARTS_ONLY"]) == set(groups) - parts
    assert all(value == 0.0 for name in ("NETWORK_ONLY", "PARTS_ONLY") for value in found[name].values())
    up = list(found["DEPTH_UP"].values())
    assert up == sorted(up) and (up[0], up[-1]) == (0.0, 1.0) and next(iter(found["DEPTH_UP"])) in ("IN", "IN00")
    early, late = found["EARLY_B"], found["LATE_B"]
    assert all(early[name] + late[name] == 1.0 for name in early)
    assert ("DOUBLE_B" in found) == any(name.startswith("D0") for name in layout.ids)
    assert ("REFINERS_B" in found) == ("NR00" in layout.ids)


def test_presets_of_stacks_take_that_stack_alone() -> None:
    flux = preset_weights("DOUBLE_B", LAYOUTS["flux1"])
    assert flux["D18"] == 1.0 and flux["S00"] == 0.0 and flux["IN"] == 0.0 and "T5" not in flux
    assert parse_weights("single_b, IN=0.5", LAYOUTS["flux1"])["IN"] == 0.5
    with pytest.raises(UsageError, match="fits no block"):
        preset_weights("REFINERS_B", LAYOUTS["sdxl"])
    assert presets_for(PLAIN).keys() == PRESETS.keys()
    with pytest.raises(UnknownNameError, match="OUT_FROM_B"):
        preset_weights("OUT_FROM_BB", LAYOUTS["sdxl"])
    assert set(BY_GROUP) >= {"OUT_FROM_A", "OUT_FROM_B"}


def test_the_embeddings_may_go_where_another_program_has_them() -> None:
    layout = LAYOUTS["sdxl"]
    given = {"BASE": 0.25, "IN00": 0.75}
    assert layout.resolve(place_like(given, layout, "supermerger", 0.5), 0.5)["TIME"] == 0.75
    assert layout.resolve(place_like(given, layout, "sd-mecha", 0.5), 0.5)["TIME"] == 0.25
    assert layout.resolve(place_like(given, layout, "Chattiori (SDXL)", 0.5), 0.5)["TIME"] == 0.0
    sd1 = LAYOUTS["sd1"]
    assert sd1.resolve(place_like({"OUT11": 0.1}, sd1, "Chattiori (SD1, SD2)", 0.5), 0.5)["TIME"] == 0.1
    with pytest.raises(UnknownNameError):
        place_like(given, layout, "nobody", 0.5)
    assert all(set(moves) <= {"TIME"} for moves in PLACEMENTS.values())


def test_parts_in_files_of_their_own_have_blocks_too() -> None:
    names = shapes("sdxl")
    vae = [name.removeprefix("first_stage_model.") for name in names if name.startswith("first_stage_model.")]
    layout = layout_for(None, vae)
    assert layout.id == "vae" and {layout.block_of(name) for name in vae} == set(layout.ids)
    assert layout.block_of("decoder.up.3.block.0.conv1.weight") == "DEC3"
    assert layout.block_of("decoder.conv_out.weight") == "DEC"
    for prefix in ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."):
        text = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        layout = layout_for(None, text)
        assert layout.id.startswith("text-") and layout.positional[:3] == (BASE, "EMB", "L00")
        assert {"EMB", "L00"} <= {layout.block_of(name) for name in text}
    assert layout_for(None, ["a.weight"]) is PLAIN and layout_for("pixart", vae) is PLAIN
    assert preset_weights("DEPTH_UP", layout_for(None, vae))["DEC"] == 1.0
