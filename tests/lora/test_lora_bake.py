"""Baking: every algebra and naming into every layout, exactly; and all that must be refused or listed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lora.lora_files import load, ulp, worst_ulp, write_lora, write_model
from lora.lora_modules import CONV, LINEAR, Made, dora, full, loha, lora, oft, peft
from lora.templates import Shapes, flux_shapes, sd1_shapes, sd2_shapes, sdxl_shapes
from modelsmith.cli import main
from modelsmith.errors import BadFileError, Cancelled, MergeError, UsageError
from modelsmith.lora import bake as bake_module
from modelsmith.lora.bake import BakeRequest, bake
from modelsmith.lora.stack import LoraSpec

UNET = "model.diffusion_model."
L_MLP = "text_model.encoder.layers.1.mlp.fc1"
G_K = "text_model.encoder.layers.2.self_attn.k_proj"

# Name of a module in a LoRA, key of the checkpoint, first row and number of rows (None: all).
T0 = "transformer_blocks.0"
SD1_CASES = [
    ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", f"input_blocks.4.1.{T0}.attn2.to_k"),
    ("lora_unet_input_blocks_4_1_transformer_blocks_0_ff_net_0_proj", f"input_blocks.4.1.{T0}.ff.net.0.proj"),
    (f"unet.mid_block.attentions.0.{T0}.attn1.to_out.0", f"middle_block.1.{T0}.attn1.to_out.0"),
    (f"diffusion_model.output_blocks.5.1.{T0}.attn1.to_v", f"output_blocks.5.1.{T0}.attn1.to_v"),
    ("lora_unet_up_blocks_1_attentions_0_proj_in", "output_blocks.3.1.proj_in"),
]
CONV_CASES = [
    ("lora_unet_down_blocks_0_resnets_1_conv1", "input_blocks.2.0.in_layers.2"),
    ("lora_unet_up_blocks_1_upsamplers_0_conv", "output_blocks.5.2.conv"),
    ("lora_unet_input_blocks_3_0_op", "input_blocks.3.0.op"),
]
Rows = tuple[int, int] | None
CASES: list[tuple[str, str, str, Rows]] = [
    *(("sd1", name, f"{UNET}{key}.weight", None) for name, key in [*SD1_CASES, *CONV_CASES]),
    ("sd1", "lora_te_text_model_encoder_layers_1_mlp_fc1", f"cond_stage_model.transformer.{L_MLP}.weight", None),
    *(
        ("sd2", name, "cond_stage_model.model.transformer.resblocks.2.attn.in_proj_weight", (16, 16))
        for name in (f"text_encoder.{G_K}", "lora_te_text_model_encoder_layers_2_self_attn_k_proj")
    ),
    (
        "sdxl",
        "lora_unet_input_blocks_7_1_transformer_blocks_9_attn2_to_v",
        f"{UNET}input_blocks.7.1.transformer_blocks.9.attn2.to_v.weight",
        None,
    ),
    (
        "sdxl",
        "lora_unet_down_blocks_2_attentions_0_transformer_blocks_9_attn2_to_v",
        f"{UNET}input_blocks.7.1.transformer_blocks.9.attn2.to_v.weight",
        None,
    ),
    ("sdxl", "lora_unet_input_blocks_6_0_op", f"{UNET}input_blocks.6.0.op.weight", None),
    ("sdxl", f"text_encoder.{L_MLP}", f"conditioner.embedders.0.transformer.{L_MLP}.weight", None),
    (
        "sdxl",
        "lora_te2_text_model_encoder_layers_2_self_attn_k_proj",
        "conditioner.embedders.1.model.transformer.resblocks.2.attn.in_proj_weight",
        (20, 20),
    ),
    ("flux", "lora_unet_double_blocks_0_img_attn_qkv", f"{UNET}double_blocks.0.img_attn.qkv.weight", None),
    ("flux", "transformer.transformer_blocks.1.attn.add_q_proj", f"{UNET}double_blocks.1.txt_attn.qkv.weight", (0, 16)),
    ("flux", "transformer.single_transformer_blocks.0.attn.to_v", f"{UNET}single_blocks.0.linear1.weight", (32, 16)),
    ("flux", "transformer.single_transformer_blocks.1.proj_mlp", f"{UNET}single_blocks.1.linear1.weight", (48, 64)),
    ("flux", "diffusion_model.single_blocks.1.linear2", f"{UNET}single_blocks.1.linear2.weight", None),
]
SHAPES: dict[str, Shapes] = {
    "sd1": sd1_shapes(),
    "sd2": sd2_shapes(),
    "sdxl": sdxl_shapes(),
    "flux": flux_shapes(2, 2),
}


def baked(
    folder: Path, loras: list[LoraSpec], **options: object
) -> tuple[dict[str, torch.Tensor], bake_module.BakeResult]:
    request = BakeRequest(folder / "model.safetensors", tuple(loras), folder / "out.safetensors", **options)  # type: ignore[arg-type]
    result = bake(request)
    return load(result.path), result


@pytest.mark.parametrize("architecture", ["sd1", "sd2", "sdxl", "flux"])
def test_every_algebra_and_naming_is_within_one_rounding(architecture: str, tmp_path: Path) -> None:
    """fp32 arithmetic and one rounding to fp16: half a unit in the last place, and what fp32 itself loses.

    That loss is bounded by 2⁻²¹ of the largest weight; it shows where a result is small beside its terms.
    """
    model = write_model(tmp_path / "model.safetensors", SHAPES[architecture])
    tried = 0
    for number, label in enumerate(LINEAR | CONV):
        modules: dict[str, tuple[str, int, Made]] = {}
        # Two names of one layer take turns.
        cases = [case for case in CASES if case[0] == architecture]
        for _, name, key, rows in {case[2:]: case for case in cases[:: 1 if number % 2 else -1]}.values():
            start, length = rows or (0, model[key].shape[0])
            shape = (length, *model[key].shape[1:])
            make = (CONV if len(shape) == 4 and shape[2] > 1 else LINEAR).get(label)
            if make is not None:
                modules[name] = (key, start, make(shape))
        if not modules:
            continue
        path = write_lora(tmp_path / "lora.safetensors", {name: made for name, (_, _, made) in modules.items()})
        out, result = baked(tmp_path, [LoraSpec(path, 0.8)], overwrite=True)
        assert result.changed == len({key for key, _, _ in modules.values()}) and not result.reports[0].unmatched
        for key in model:
            wanted = model[key].double()
            for name, (own_key, start, made) in modules.items():
                if own_key == key:
                    length = next(rows[1] if rows else wanted.shape[0] for _, n, _, rows in cases if n == name)
                    wanted[start : start + length] = made.apply(wanted[start : start + length].clone(), 0.8)
                    tried += 1
            if torch.equal(wanted, model[key].double()):
                assert torch.equal(out[key], model[key]), key
                continue
            slack = 2**-21 * float(torch.maximum(model[key].double().abs().max(), wanted.abs().max()))
            error = (out[key].double() - wanted).abs()
            assert bool((error <= 0.5 * ulp(wanted, torch.float16) + slack).all()), (key, label)
    assert tried >= 15


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_plain_loras_stay_within_the_stated_bound(dtype: torch.dtype, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.safetensors", SHAPES["sd1"], dtype)
    key = f"{UNET}input_blocks.8.1.transformer_blocks.0.ff.net.2.weight"
    model[key] = model[key] * 4  # results away from zero, where nothing cancels
    from safetensors.torch import save_file

    save_file(model, tmp_path / "model.safetensors")
    made = lora(tuple(model[key].shape), rank=8, alpha=4.0)
    path = write_lora(tmp_path / "a.safetensors", {"lora_unet_input_blocks_8_1_transformer_blocks_0_ff_net_2": made})
    out, _ = baked(tmp_path, [LoraSpec(path, 0.75)])
    wanted = made.apply(model[key].double(), 0.75)
    plain = wanted.abs() > model[key].double().abs() / 2
    assert out[key].dtype == dtype
    assert worst_ulp(out[key][plain], wanted[plain]) <= 0.502


def test_rows_in_pieces_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "model.safetensors", SHAPES["flux"])
    modules = {
        "transformer.transformer_blocks.0.attn.to_k": lora((16, 16)),
        "transformer.single_transformer_blocks.0.proj_mlp": peft((64, 16)),
        "lora_unet_single_blocks_0_linear1": lora((112, 16)),
        "lora_unet_double_blocks_1_img_mlp_0": full((64, 16)),
    }
    path = write_lora(tmp_path / "a.safetensors", modules)
    whole, first = baked(tmp_path, [LoraSpec(path)])
    monkeypatch.setattr(bake_module, "RUN", 100)
    pieces, second = baked(tmp_path, [LoraSpec(path)], overwrite=True)
    assert first.changed == second.changed == 3
    assert all(torch.equal(pieces[name], whole[name]) for name in whole)


def test_the_number_of_threads_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "model.safetensors", SHAPES["sdxl"])
    block = "lora_unet_input_blocks_4_1_transformer_blocks_0"
    conv = "lora_unet_input_blocks_2_0_in_layers_2"
    modules = {f"{block}_attn1_to_q": lora((16, 16)), f"{block}_attn1_to_k": dora((16, 16)), conv: loha((8, 8, 3, 3))}
    path = write_lora(tmp_path / "a.safetensors", modules)
    hashes: set[str | None] = set()
    for threads in (1, 2, 5):
        monkeypatch.setattr("modelsmith.convert.write.filling_threads", lambda number=threads: number)
        hashes.add(baked(tmp_path, [LoraSpec(path, 0.3)], overwrite=True)[1].sha256)
    assert len(hashes) == 1


def test_several_loras_add_up(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.safetensors", SHAPES["sdxl"])
    key = f"{UNET}input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"
    shape = tuple(model[key].shape)
    names = (
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    )
    made = [lora(shape), oft(shape, None), peft(shape)]
    specs = [
        LoraSpec(write_lora(tmp_path / f"{number}.safetensors", {name: one}), strength)
        for number, (name, one, strength) in enumerate(zip(names, made, (0.5, 1.0, -0.3), strict=True))
    ]
    out, result = baked(tmp_path, specs)
    wanted = model[key].double()
    for one, spec in zip(made, specs, strict=True):
        wanted = one.apply(wanted, spec.strength)
    assert worst_ulp(out[key], wanted) <= 0.502
    assert result.changed == 1
    from modelsmith.files.header import read_header

    records = json.loads(read_header(result.path).metadata["modelsmith_loras"])
    assert [(row["name"], row["strength"], row["modules"]) for row in records] == [
        ("0.safetensors", 0.5, 1),
        ("1.safetensors", 1.0, 1),
        ("2.safetensors", -0.3, 1),
    ]
    assert all(len(row["sha256"]) == 64 for row in records)


def test_block_weights_scale_by_block(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.safetensors", SHAPES["sdxl"])
    keys = {
        "input_blocks.4.1.proj_in": 0.25,
        "middle_block.1.proj_in": 0.0,
        "output_blocks.2.1.proj_in": 1.0,
    }
    made = {name: lora(tuple(model[f"{UNET}{name}.weight"].shape)) for name in keys}
    path = write_lora(
        tmp_path / "a.safetensors", {f"lora_unet_{name.replace('.', '_')}": one for name, one in made.items()}
    )
    out, result = baked(tmp_path, [LoraSpec(path, 0.5, "IN04=0.25,M00=0")])
    for name, weight in keys.items():
        key = f"{UNET}{name}.weight"
        assert worst_ulp(out[key], made[name].apply(model[key].double(), 0.5 * weight)) <= 0.502
    assert result.changed == 2
    assert torch.equal(out[f"{UNET}middle_block.1.proj_in.weight"], model[f"{UNET}middle_block.1.proj_in.weight"])


def test_biases_norms_and_scales(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.safetensors", SHAPES["flux"], torch.float32)
    path = tmp_path / "a.safetensors"
    from safetensors.torch import save_file

    values = {
        "transformer.transformer_blocks.0.attn.to_k.diff_b": torch.randn(16),
        "lora_unet_double_blocks_0_img_mlp_0.diff_b": torch.randn(64),
        "diffusion_model.double_blocks.0.img_attn.norm.key_norm.diff": torch.randn(4),
        "diffusion_model.double_blocks.1.img_attn.norm.key_norm.scale.diff": torch.randn(4),
        "transformer.norm_out.linear.diff": torch.randn(32, 16),
        "transformer.norm_out.linear.diff_b": torch.randn(32),
    }
    save_file(values, path)
    out, result = baked(tmp_path, [LoraSpec(path, 0.5)])
    assert not result.reports[0].unmatched
    change = {name: (out[name].double() - model[name].double()) * 2 for name in model}
    found = {name: value for name, value in change.items() if value.any()}
    given = list(values.values())
    wanted = {
        f"{UNET}double_blocks.0.img_attn.qkv.bias": torch.cat([torch.zeros(16), given[0], torch.zeros(16)]),
        f"{UNET}double_blocks.0.img_mlp.0.bias": given[1],
        f"{UNET}double_blocks.0.img_attn.norm.key_norm.scale": given[2],
        f"{UNET}double_blocks.1.img_attn.norm.key_norm.scale": given[3],
        f"{UNET}final_layer.adaLN_modulation.1.weight": given[4].roll(16, 0),
        f"{UNET}final_layer.adaLN_modulation.1.bias": given[5].roll(16, 0),
    }
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value.double(), rtol=0, atol=1e-6)


def test_a_transposed_text_projection(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.safetensors", SHAPES["sdxl"])
    made = lora((20, 20))
    path = write_lora(tmp_path / "a.safetensors", {"lora_te2_text_projection": made})
    out, _ = baked(tmp_path, [LoraSpec(path)])
    key = "conditioner.embedders.1.model.text_projection"
    assert worst_ulp(out[key], made.apply(model[key].double().T, 1.0).T) <= 0.502


def test_alpha_from_diffusers_metadata(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.safetensors", SHAPES["flux"])
    made = peft((16, 16), rank=4)
    note = {"lora_adapter_metadata": json.dumps({"transformer.r": 4, "transformer.lora_alpha": 8})}
    path = write_lora(tmp_path / "a.safetensors", {"transformer.transformer_blocks.0.attn.to_out.0": made}, note)
    out, _ = baked(tmp_path, [LoraSpec(path, 0.5)])
    key = f"{UNET}double_blocks.0.img_attn.proj.weight"
    assert worst_ulp(out[key], made.apply(model[key].double(), 1.0)) <= 0.502


def test_strength_zero_changes_nothing(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.safetensors", SHAPES["sd1"])
    path = write_lora(tmp_path / "a.safetensors", {"lora_unet_mid_block_attentions_0_proj_in": lora((32, 32, 1, 1))})
    out, result = baked(tmp_path, [LoraSpec(path, 0.0)])
    assert result.changed == 0 and all(torch.equal(out[name], model[name]) for name in model)


@pytest.mark.parametrize("label", ["fp32", "fp16", "bf16"])
def test_output_precision(label: str, tmp_path: Path) -> None:
    shapes = SHAPES["sd1"]
    model = write_model(tmp_path / "model.safetensors", shapes, torch.float32)
    made = lora((32, 32, 1, 1))
    path = write_lora(tmp_path / "a.safetensors", {"lora_unet_mid_block_attentions_0_proj_in": made})
    out, _ = baked(tmp_path, [LoraSpec(path)], dtype=label)
    kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[label]
    assert {tensor.dtype for tensor in out.values()} == {kind}
    other = f"{UNET}out.2.weight"
    assert torch.equal(out[other], model[other].to(kind))
    key = f"{UNET}middle_block.1.proj_in.weight"
    assert worst_ulp(out[key], made.apply(model[key].double(), 1.0)) <= 0.502


def test_fp8_is_rounded_once_and_saturates(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    key = f"{UNET}double_blocks.0.img_attn.proj.weight"
    shapes = flux_shapes(1, 1)
    tensors = {name: (torch.randn(shape) * 2).to(torch.float8_e4m3fn) for name, shape in shapes.items()}
    tensors[key] = torch.full((16, 16), 400.0).to(torch.float8_e4m3fn)
    save_file(tensors, tmp_path / "model.safetensors")
    big = Made({".diff": torch.full((16, 16), 300.0)}, lambda weight, strength: weight)
    path = write_lora(tmp_path / "a.safetensors", {"diffusion_model.double_blocks.0.img_attn.proj": big})
    out, _ = baked(tmp_path, [LoraSpec(path)])
    assert out[key].dtype == torch.float8_e4m3fn
    assert bool((out[key].float() == 448).all())


def test_what_matches_nothing_is_listed_with_its_reason(tmp_path: Path) -> None:
    write_model(tmp_path / "model.safetensors", SHAPES["sd1"])
    modules = {
        "lora_unet_mid_block_attentions_0_proj_in": lora((32, 32, 1, 1)),
        "lora_unet_down_blocks_9_attentions_0_proj_in": lora((8, 8)),
        "lora_te_text_model_encoder_layers_77_mlp_fc1": lora((8, 8)),
        "lora_unet_mid_block_resnets_0": Made({".strange_thing": torch.ones(3)}, lambda weight, strength: weight),
    }
    path = write_lora(tmp_path / "a.safetensors", modules)
    _, result = baked(tmp_path, [LoraSpec(path)])
    assert dict(result.reports[0].unmatched) == {
        "lora_unet_down_blocks_9_attentions_0_proj_in": "the checkpoint has no such module",
        "lora_te_text_model_encoder_layers_77_mlp_fc1": "the checkpoint has no such module",
        "lora_unet_mid_block_resnets_0.strange_thing": "no kind of LoRA tensor that is known here",
    }
    with pytest.raises(MergeError, match="3 modules match nothing"):
        baked(tmp_path, [LoraSpec(path)], strict=True, overwrite=True)


def test_a_text_encoder_that_is_not_there(tmp_path: Path) -> None:
    write_model(tmp_path / "model.safetensors", {k: v for k, v in SHAPES["sd1"].items() if k.startswith(UNET)})
    text = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    modules = {"lora_unet_mid_block_attentions_0_proj_in": lora((32, 32, 1, 1)), text: lora((8, 8))}
    _, result = baked(tmp_path, [LoraSpec(write_lora(tmp_path / "a.safetensors", modules))])
    assert dict(result.reports[0].unmatched) == {text: "the checkpoint has no first text encoder"}


def refused(tmp_path: Path, error: type[Exception], match: str, specs: list[LoraSpec], **options: object) -> None:
    with pytest.raises(error, match=match):
        baked(tmp_path, specs, **options)
    assert sorted(path.name for path in tmp_path.iterdir() if "out" in path.name or path.name.endswith(".tmp")) == []


def test_a_wrong_shape_is_named(tmp_path: Path) -> None:
    write_model(tmp_path / "model.safetensors", SHAPES["sd1"])
    path = write_lora(tmp_path / "a.safetensors", {"lora_unet_mid_block_attentions_0_proj_in": lora((32, 31))})
    refused(
        tmp_path, MergeError, r"mid_block_attentions_0_proj_in.*32 × 31.*middle_block\.1\.proj_in", [LoraSpec(path)]
    )


def test_factors_that_do_not_fit_each_other_are_named(tmp_path: Path) -> None:
    write_model(tmp_path / "model.safetensors", SHAPES["sd1"])
    broken = Made({".lora_up.weight": torch.ones(32, 4), ".lora_down.weight": torch.ones(3, 32)}, lambda w, s: w)
    path = write_lora(tmp_path / "a.safetensors", {"lora_unet_mid_block_attentions_0_proj_in": broken})
    refused(tmp_path, MergeError, "do not fit each other", [LoraSpec(path)])


def test_a_missing_factor_is_named(tmp_path: Path) -> None:
    write_model(tmp_path / "model.safetensors", SHAPES["sd1"])
    broken = Made({".lora_up.weight": torch.ones(32, 4)}, lambda w, s: w)
    path = write_lora(tmp_path / "a.safetensors", {"lora_unet_mid_block_attentions_0_proj_in": broken})
    refused(tmp_path, BadFileError, r"proj_in.*but no down", [LoraSpec(path)])


def test_nan_in_a_lora_is_named(tmp_path: Path) -> None:
    write_model(tmp_path / "model.safetensors", SHAPES["sd1"])
    made = lora((32, 32, 1, 1))
    made.tensors[".lora_down.weight"][0, 0] = float("nan")
    path = write_lora(tmp_path / "a.safetensors", {"lora_unet_mid_block_attentions_0_proj_in": made})
    refused(tmp_path, BadFileError, r"proj_in\.lora_down\.weight.*NaN", [LoraSpec(path)])


def test_a_lora_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "model.safetensors", SHAPES["sd1"])
    path = write_lora(tmp_path / "a.safetensors", {"lora_unet_nowhere": lora((32, 32))})
    refused(tmp_path, MergeError, "none of its 1 modules", [LoraSpec(path)])


def test_a_checkpoint_in_place_of_a_lora(tmp_path: Path) -> None:
    write_model(tmp_path / "model.safetensors", SHAPES["sd1"])
    refused(tmp_path, BadFileError, "holds no LoRA", [LoraSpec(tmp_path / "model.safetensors")])


def test_another_architecture_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """True widths, so that both sides are identified: an SD1 LoRA on an SDXL checkpoint."""
    from makers import write_header_only

    wide = write_header_only(
        tmp_path / "model.safetensors",
        {name: ("F16", tuple(real_width(size) for size in shape)) for name, shape in sdxl_shapes().items()},
    )
    assert wide.exists()
    modules = {
        f"lora_unet_down_blocks_{level}_attentions_{index}_transformer_blocks_0_attn2_to_k": lora((width, 768))
        for level, width in ((0, 320), (1, 640), (2, 1280))
        for index in (0, 1)
    }
    path = write_lora(tmp_path / "a.safetensors", modules)
    from modelsmith.files.header import read_header
    from modelsmith.identify import identify_header

    assert identify_header(read_header(path)).architecture == "sd1"
    assert identify_header(read_header(wide)).architecture == "sdxl"
    refused(tmp_path, MergeError, r"a\.safetensors was made for sd1, but model\.safetensors is sdxl", [LoraSpec(path)])
    with pytest.raises(MergeError) as caught:
        bake(BakeRequest(wide, (LoraSpec(path),), tmp_path / "o.safetensors"))
    assert caught.value.remedy == "Choose a LoRA for this architecture"
    assert main(["lora", "bake", "-m", str(wide), "-l", str(path), "-o", str(tmp_path / "o.safetensors")]) == 1
    assert "--any-architecture" in capsys.readouterr().err  # only this command has it


def real_width(size: int) -> int:
    """SDXL's width for one of the template's."""
    return {8: 320, 16: 640, 24: 2816, 32: 1280, 20: 2048, 12: 768}.get(size, size if size < 8 else size * 40)


def test_quantised_targets_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {name: torch.randn(shape).to(torch.float8_e4m3fn) for name, shape in flux_shapes(1, 1).items()}
    tensors[f"{UNET}double_blocks.0.img_attn.proj.scale_weight"] = torch.ones(())
    save_file(tensors, tmp_path / "model.safetensors")
    path = write_lora(tmp_path / "a.safetensors", {"diffusion_model.double_blocks.0.img_attn.proj": lora((16, 16))})
    refused(tmp_path, MergeError, r"img_attn\.proj\.weight' is quantised", [LoraSpec(path)])


def test_no_lora_and_unknown_precision(tmp_path: Path) -> None:
    write_model(tmp_path / "model.safetensors", SHAPES["sd1"])
    refused(tmp_path, UsageError, "no LoRA", [])
    path = write_lora(tmp_path / "a.safetensors", {"lora_unet_mid_block_attentions_0_proj_in": lora((32, 32, 1, 1))})
    refused(tmp_path, UsageError, "unknown precision", [LoraSpec(path)], dtype="fp12")


def test_stopping_leaves_nothing(tmp_path: Path) -> None:
    write_model(tmp_path / "model.safetensors", SHAPES["sd1"])
    path = write_lora(tmp_path / "a.safetensors", {"lora_unet_mid_block_attentions_0_proj_in": lora((32, 32, 1, 1))})
    request = BakeRequest(tmp_path / "model.safetensors", (LoraSpec(path),), tmp_path / "out.safetensors")
    with pytest.raises(Cancelled):
        bake(request, cancelled=lambda: True)
    assert not any("out" in entry.name for entry in tmp_path.iterdir())
