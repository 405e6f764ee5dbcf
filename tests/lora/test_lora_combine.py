"""Merging LoRAs: the merged one does what all of them do together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lora.lora_files import load, write_lora, write_model
from lora.lora_modules import Made, dora, full, loha, lokr, lora, oft, peft
from lora.templates import sd1_shapes, sdxl_shapes
from modelsmith.errors import Cancelled, MergeError, UsageError
from modelsmith.files.header import read_header
from modelsmith.lora.bake import BakeRequest, bake
from modelsmith.lora.combine import CombineRequest, CombineResult, combine, plan_combine
from modelsmith.lora.factorise import RankChoice
from modelsmith.lora.stack import LoraSpec

Q = "transformer_blocks_0_attn1_to_q"
SGM, DIFFUSERS = f"lora_unet_input_blocks_4_1_{Q}", f"lora_unet_down_blocks_1_attentions_0_{Q}"
CONV = "lora_unet_input_blocks_2_0_in_layers_2"


def combined(folder: Path, specs: list[LoraSpec], **options: Any) -> CombineResult:
    options.setdefault("dtype", "fp32")
    return combine(CombineRequest(tuple(specs), folder / "merged.safetensors", **options))


def both_ways(folder: Path, specs: list[LoraSpec]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The checkpoint with all LoRAs baked in, and with the merged one."""
    write_model(folder / "model.safetensors", sdxl_shapes(), torch.float32)
    one = bake(BakeRequest(folder / "model.safetensors", tuple(specs), folder / "one.safetensors"))
    merged = (LoraSpec(folder / "merged.safetensors"),)
    two = bake(BakeRequest(folder / "model.safetensors", merged, folder / "two.safetensors"))
    assert not two.reports[0].unmatched
    return load(one.path), load(two.path)


def files(folder: Path, *modules: dict[str, Made]) -> list[Path]:
    return [write_lora(folder / f"{number}.safetensors", each) for number, each in enumerate(modules)]


def test_the_exact_form_is_exact_across_namings(tmp_path: Path) -> None:
    mid = "lora_unet_middle_block_1_proj_in"
    paths = files(
        tmp_path,
        {SGM: lora((16, 16), 3), CONV: lora((8, 8, 3, 3), 2), mid: lora((32, 32))},
        {DIFFUSERS: lora((16, 16), 4), CONV: lora((8, 8, 3, 3), 2, tucker=True)},
        {f"unet.down_blocks.1.attentions.0.{Q.replace('_0_attn1_', '.0.attn1.')}": peft((16, 16), 2)},
    )
    specs = [LoraSpec(path, strength) for path, strength in zip(paths, (0.5, -1.0, 1.0), strict=True)]
    result = combined(tmp_path, specs)
    assert sorted(result.ranks) == [3, 4, 9] and result.energy == 1.0 and result.modules == 3
    one, two = both_ways(tmp_path, specs)
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=2e-6)


def test_resizing_keeps_what_it_says(tmp_path: Path) -> None:
    paths = files(tmp_path, {SGM: lora((16, 16), 5)}, {DIFFUSERS: lora((16, 16), 5)})
    specs = [LoraSpec(path) for path in paths]
    whole = combined(tmp_path, specs, resize=RankChoice(10))
    assert whole.energy == pytest.approx(1.0) and whole.ranks == (10,)
    one, two = both_ways(tmp_path, specs)
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=5e-6)
    small = combined(tmp_path, specs, resize=RankChoice(4), overwrite=True)
    assert small.ranks == (4,) and 0.4 < small.energy < 0.99
    key = f"model.diffusion_model.input_blocks.4.1.{Q.replace('_0_attn1_', '.0.attn1.')}.weight"
    model = load(tmp_path / "model.safetensors")
    merged = BakeRequest(
        tmp_path / "model.safetensors", (LoraSpec(tmp_path / "merged.safetensors"),), tmp_path / "c.st"
    )
    shrunk = load(bake(BakeRequest(merged.model, merged.loras, tmp_path / "c.safetensors")).path)
    change, rest = (one[key] - model[key]).double(), (one[key] - shrunk[key]).double()
    assert float(rest.norm() ** 2 / change.norm() ** 2) == pytest.approx(1 - small.energy, abs=1e-4)


def test_other_algebras_by_singular_values(tmp_path: Path) -> None:
    paths = files(tmp_path, {SGM: loha((16, 16))}, {SGM: lokr((16, 16), "both")}, {SGM: lora((16, 16))})
    specs = [LoraSpec(path, 0.7) for path in paths]
    with pytest.raises(MergeError, match=r"LoHa.*no exact sum"):
        combined(tmp_path, specs)
    result = combined(tmp_path, specs, resize=RankChoice(99, energy=1.0))
    assert result.energy == pytest.approx(1.0)
    one, two = both_ways(tmp_path, specs)
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=5e-6)


def test_differences_are_summed_and_lone_modules_kept(tmp_path: Path) -> None:
    norm = "lora_unet_middle_block_1_norm"
    lone = "lora_unet_middle_block_1_proj_out"
    paths = files(
        tmp_path,
        {norm: full((32,)), lone: dora((32, 32)), SGM: lora((16, 16))},
        {norm: full((32,), ".w_norm"), SGM: lora((16, 16))},
    )
    specs = [LoraSpec(path) for path in paths]
    combined(tmp_path, [specs[0], LoraSpec(paths[1], 0.5)])
    one, two = both_ways(tmp_path, [specs[0], LoraSpec(paths[1], 0.5)])
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=2e-6)


@pytest.mark.parametrize(("made", "label"), [(dora((16, 16)), "DoRA"), (oft((16, 16), None), "OFT")])
def test_what_depends_on_the_checkpoint_is_refused_by_name(made: Made, label: str, tmp_path: Path) -> None:
    paths = files(tmp_path, {SGM: lora((16, 16))}, {SGM: made})
    with pytest.raises(MergeError, match=rf"1\.safetensors: '{SGM}' is {label}"):
        combined(tmp_path, [LoraSpec(path) for path in paths])


def test_shapes_that_differ_and_too_few(tmp_path: Path) -> None:
    paths = files(tmp_path, {SGM: lora((16, 16))}, {SGM: lora((16, 12))})
    with pytest.raises(MergeError, match=r"16 × 16, 16 × 12"):
        combined(tmp_path, [LoraSpec(path) for path in paths])
    with pytest.raises(UsageError, match="at least two"):
        combined(tmp_path, [LoraSpec(paths[0])])
    with pytest.raises(UsageError, match="block weights"):
        combined(tmp_path, [LoraSpec(path, 1.0, "IN04=0") for path in paths])


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    first = {
        f"lora_unet_down_blocks_{n}_attentions_0_transformer_blocks_0_attn2_to_k": lora((320 * n, 768)) for n in (1, 2)
    }
    second = {f"lora_unet_double_blocks_{n}_img_attn_qkv": lora((9216, 3072)) for n in range(3)}
    second |= {f"lora_unet_single_blocks_{n}_linear1": lora((21504, 3072)) for n in range(3)}
    paths = files(tmp_path, first, second)
    with pytest.raises(MergeError, match=r"0\.safetensors was made for sd1, 1\.safetensors for .*flux1"):
        combined(tmp_path, [LoraSpec(path) for path in paths])


def test_metadata_names_the_parts(tmp_path: Path) -> None:
    paths = files(tmp_path, {SGM: lora((16, 16))}, {SGM: lora((16, 16))})
    combined(tmp_path, [LoraSpec(paths[0]), LoraSpec(paths[1], 0.25)])
    metadata = read_header(tmp_path / "merged.safetensors").metadata
    assert '"strength": 0.25' in metadata["modelsmith_lora_merge"]
    assert metadata["ss_network_dim"] == "6"
    assert len(sd1_shapes()) > 800


def test_a_plan_says_what_will_come_of_it(tmp_path: Path) -> None:
    paths = files(tmp_path, {SGM: lora((16, 16), 3), CONV: lora((8, 8, 3, 3), 2)}, {DIFFUSERS: lora((16, 16), 4)})
    specs = tuple(LoraSpec(path) for path in paths)
    request = CombineRequest(specs, tmp_path / "merged.safetensors")
    plan = plan_combine(request)
    assert (plan.modules, sorted(plan.ranks), plan.leftover) == (2, [2, 7], ())
    assert not (tmp_path / "merged.safetensors").exists()
    told: list[tuple[int, int]] = []
    result = combine(request, lambda done, total: told.append((done, total)))
    assert sorted(result.ranks) == sorted(plan.ranks) and told == [(1, 2), (2, 2)]
    resized = plan_combine(CombineRequest(specs, tmp_path / "other.safetensors", RankChoice(3)))
    assert sorted(resized.ranks) == [2, 3]
    with pytest.raises(UsageError, match="exists already"):
        plan_combine(request)
    with pytest.raises(Cancelled):
        combine(CombineRequest(specs, tmp_path / "third.safetensors"), cancelled=lambda: True)
    assert not (tmp_path / "third.safetensors").exists()
