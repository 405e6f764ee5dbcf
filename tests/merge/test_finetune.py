"""Adjustments after a merge: supermerger's numbers on the tensors that they are for, and on no other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from merge.models import Model, write_model
from modelsmith.errors import UnknownNameError, UsageError
from modelsmith.merge.engine import run_merge
from modelsmith.merge.finetune import adjustments, parse_finetune
from modelsmith.merge.in_memory import merge_to_tensors
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.replay import Finder, read_recipe, replay
from modelsmith.merge.request import MergeRequest

Models = tuple[Path, Path, Path]
U = "model.diffusion_model."
COLS = [[-1, 1 / 3, 2 / 3], [1, 1, 0], [0, -1, -1], [1, 0, 1]]  # mergers.py
COLSXL = [[0, 0, 1], [1, 0, 0], [-1, -1, 0], [-1, 1, 0]]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", (0,) * 8),
        ("1,2,3", (1, 2, 3, 0, 0, 0, 0, 0)),
        ("1,-2,3.5,4,5,6,7,8", (1, -2, 3.5, 4, 5, 6, 7, 8)),
        ("0,,2", (0, 0, 2, 0, 0, 0, 0, 0)),
        ("contrast=2, COL3=-1", (0, 0, 0, 2, 0, 0, 0, -1)),
        ("1, bri=0.5", (1, 0, 0, 0, 0.5, 0, 0, 0)),
        ("detail=3", (3, 0, 0, 0, 0, 0, 0, 0)),
    ],
)
def test_numbers_and_names(text: str, wanted: tuple[float, ...]) -> None:
    assert parse_finetune(text) == wanted


def test_slips_are_named() -> None:
    with pytest.raises(UsageError, match="'x' is no number"):
        parse_finetune("1,x")
    with pytest.raises(UsageError, match="9 adjustments"):
        parse_finetune("1,2,3,4,5,6,7,8,9")
    with pytest.raises(UsageError, match="'5' stands after 'contrast=0'") as caught:
        parse_finetune("contrast=0,5")
    assert "with a point" in caught.value.remedy
    with pytest.raises(UnknownNameError, match="CONTRAST"):
        parse_finetune("CONTRASTT=1")
    with pytest.raises(UsageError, match="flux") as caught:
        adjustments("1", "flux1", "flux.safetensors")
    assert "UNet" in caught.value.remedy and adjustments("0,0", "flux1", "x") == {} == adjustments("", None, "x")


@pytest.mark.parametrize(("family", "table"), [("sd1", COLS), ("sdxl", COLSXL)])
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_by_supermergers_formulas(tmp_path: Path, family: str, table: list[list[float]], alpha: float) -> None:
    paths = tuple(write_model(tmp_path / f"{seed}.safetensors", Model(family, seed=seed)) for seed in (1, 2))
    fine = [2.0, -1.0, 3.0, 1.5, 0.5, -2.0, 1.0, 0.25]
    out = tmp_path / "o.safetensors"
    request = MergeRequest(
        paths, "weighted_sum", out, {"alpha": alpha}, dtype="fp32", finetune=",".join(str(one) for one in fine)
    )
    plan = plan_merge(request)
    found = load_file(str(run_merge(plan).path))
    a, b = (load_file(str(path)) for path in paths)
    colours = [sum(fine[4 + row] * table[row][place] * 0.02 for row in range(4)) for place in range(3)]
    changes = {
        "input_blocks.0.0.weight": lambda x: x * (1 - fine[0] * 0.01),
        "input_blocks.0.0.bias": lambda x: x * (1 + fine[0] * 0.02),
        "out.0.weight": lambda x: x * (1 - fine[1] * 0.01),
        "out.0.bias": lambda x: x * (1 + fine[1] * 0.02),
        "out.2.weight": lambda x: x * (1 - fine[2] * 0.01),
        "out.2.bias": lambda x: x + torch.tensor([fine[3] * 0.02, *colours], dtype=torch.float64),
    }
    for name in a:
        if a[name].is_floating_point():
            wanted = a[name].double() + alpha * (b[name].double() - a[name].double())
            change = changes.pop(name.removeprefix(U), None)
            wanted = wanted if change is None else change(wanted)
            torch.testing.assert_close(found[name].double(), wanted, rtol=6e-8, atol=1e-12)
    assert not changes
    memory = merge_to_tensors(plan).tensors
    assert all(torch.equal(memory[name], tensor) for name, tensor in found.items())


def test_a_replay_has_the_same_bytes(abc: Models, tmp_path: Path) -> None:
    out, again = tmp_path / "o.safetensors", tmp_path / "again.safetensors"
    run_merge(plan_merge(MergeRequest(abc[:2], "weighted_sum", out, {"alpha": 0.5}, finetune="CONT=2, IN=-1")))
    recipe = read_recipe(out).recipe
    assert recipe["finetune"] == "CONT=2, IN=-1"
    replay(recipe, Finder((abc[0].parent,)), again)
    assert again.read_bytes() == out.read_bytes()
    plain = tmp_path / "plain.safetensors"
    run_merge(plan_merge(MergeRequest(abc[:2], "weighted_sum", plain, {"alpha": 0.5})))
    one, other = load_file(str(out)), load_file(str(plain))
    assert {name for name in one if not torch.equal(one[name], other[name])} == {
        f"{U}input_blocks.0.0.weight",
        f"{U}input_blocks.0.0.bias",
        f"{U}out.2.bias",
    }


def test_an_inpainting_model_is_adjusted_as_a_whole(tmp_path: Path) -> None:
    a = write_model(tmp_path / "a.safetensors", Model("sd1", seed=1, in_channels=9))
    b = write_model(tmp_path / "b.safetensors", Model("sd1", seed=2))
    request = MergeRequest((a, b), "weighted_sum", tmp_path / "o.safetensors", {"alpha": 0.5}, dtype="fp32")
    plain = load_file(str(run_merge(plan_merge(request)).path))
    tuned = MergeRequest((a, b), "weighted_sum", tmp_path / "p.safetensors", {"alpha": 0.5}, dtype="fp32", finetune="5")
    found = load_file(str(run_merge(plan_merge(tuned)).path))
    key = f"{U}input_blocks.0.0.weight"
    torch.testing.assert_close(found[key], plain[key] * 0.95)
