"""Rules for single tensors: what they hold, what they say to a slip, and what they do to a merge and to the guard."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from merge.models import Model, write_model
from modelsmith.errors import UsageError
from modelsmith.merge.blocks import LAYOUTS
from modelsmith.merge.engine import run_merge
from modelsmith.merge.guard import PredictionMixError
from modelsmith.merge.methods import get_method
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.replay import Finder, read_recipe, replay
from modelsmith.merge.request import MergeRequest
from modelsmith.merge.rules import apply_rules, parse_rules

Models = tuple[Path, Path, Path]
LAYOUT = LAYOUTS["sdxl"]
U = "model.diffusion_model."
KEYS = (
    f"{U}input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight",
    f"{U}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight",
    f"{U}output_blocks.3.1.transformer_blocks.0.attn2.to_k.weight",
    f"{U}output_blocks.4.1.transformer_blocks.0.attn1.to_out.0.weight",
    f"{U}output_blocks.5.0.in_layers.2.weight",
    f"{U}middle_block.1.proj_in.weight",
)


def held(text: str) -> list[int]:
    """Which of the keys the rules hold."""
    found = apply_rules({"alpha": text}, get_method("weighted_sum"), LAYOUT, KEYS)
    return [index for index, key in enumerate(KEYS) if found.of(key)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("OUT03:attn2:0.5", [2]),
        ("OUT03 OUT04:attn2 attn1.to_out:0.5", [2, 3]),
        ("OUT03-OUT05::0.5", [2, 3, 4]),
        ("out03-out05::0.5", [2, 3, 4]),
        ("IN04-OUT03::1", [0, 1, 2, 5]),
        (":attn2:0.5", [1, 2]),
        ("NOT OUT03-OUT05:attn:1", [0, 1]),
        ("NOT OUT04 M00::1", [0, 1, 2, 4]),
        ("OUT03-OUT05:NOT attn proj:0.2", [4]),
        (":NOT attn:0.2", [4, 5]),
        ("::0.3", [0, 1, 2, 3, 4, 5]),
        (r"/attn2\.to_[kv]/:0.5", [1, 2]),
        (r"OUT03:/attn2\.to_[kv]/:0.5", [2]),
        (r"NOT OUT03:/to_[kq],?/:0.5", [0, 1]),
        (r"/attn[12]\.(to_q|to_out),*/:0.5, M00::1", [0, 3, 5]),
        ("/a{1,2}ttn2/:0.5\nM00::1", [1, 2, 5]),
    ],
)
def test_what_rules_hold(text: str, wanted: list[int]) -> None:
    assert held(text) == wanted


def test_the_last_rule_counts_and_idle_rules_are_told() -> None:
    text = "OUT03:attn:0.5, OUT03:attn2.to_k:0.2\n\nIN00:nothing here:1"
    found = apply_rules({"alpha": text, "beta": ":attn1:0.9"}, get_method("sum_twice"), LAYOUT, KEYS)
    assert found.of(KEYS[2]) == {"alpha": 0.2} and found.of(KEYS[3]) == {"beta": 0.9} and found.of(KEYS[4]) == {}
    assert [told.level for told in found.notices] == ["warning"]
    assert "'IN00:nothing here:1'" in found.notices[0].text and "IN00" in found.notices[0].said("ja")


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("OUT03:attn", "'OUT03:attn' is not", "OUT03-OUT05"),
        ("OUT03:attn:half", "'half'", "number"),
        ("OUT03:attn:R", "'R'", "random"),
        ("OUT03:attn:inf", "'inf'", "number"),
        ("OUT13:attn:1", "'OUT13'", "OUT0"),
        ("OUT05-OUT03::1", "'OUT05-OUT03'", "OUT03-OUT05"),
        ("NOT::1", "'NOT::1'", "NOT OUT04"),
        (":NOT:1", "':NOT:1'", "NOT OUT04"),
        ("/attn[/:1", "regular expression", "Correct"),
        ("OUT03:attn:1, OUT04", "'OUT04' is not", "OUT03-OUT05"),
    ],
)
def test_slips_are_named_with_their_remedy(text: str, message: str, remedy: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_rules(text, LAYOUT)
    assert message in caught.value.message and remedy in caught.value.remedy
    assert caught.value.in_language("ja")[0] != caught.value.message


def test_rules_are_for_parameters_that_differ_between_tensors() -> None:
    with pytest.raises(UsageError, match="density") as caught:
        apply_rules({"density": "::1"}, get_method("ties"), LAYOUT, KEYS)
    assert "alpha" in caught.value.remedy
    assert apply_rules({"density": " "}, get_method("ties"), LAYOUT, KEYS).values == {"density": {}}


def test_a_merge_with_rules_replays_to_the_same_bytes(abc: Models, tmp_path: Path) -> None:
    out = tmp_path / "o.safetensors"
    rules = {"alpha": r"OUT00-OUT02:attn2:0.75, /middle_block.*norm/:0, M00:proj_in:1"}
    plan = plan_merge(MergeRequest(abc[:2], "weighted_sum", out, {"alpha": 0.25}, rules=rules))
    found = load_file(str(run_merge(plan).path))
    a, b = (load_file(str(path)) for path in abc[:2])
    for name in a:
        if not a[name].is_floating_point():
            continue
        weight = 0.25
        if "output_blocks.0." in name or "output_blocks.1." in name or "output_blocks.2." in name:
            weight = 0.75 if "attn2" in name else 0.25
        elif "middle_block" in name:
            weight = 0.0 if "norm" in name.split("middle_block")[1] else 1.0 if "proj_in" in name else 0.25
        assert torch.equal(found[name], torch.lerp(a[name], b[name], weight)), name
    assert json.loads(plan.metadata(plan.hashes())["modelsmith_recipe"])["rules"] == rules
    again = tmp_path / "again.safetensors"
    replay(read_recipe(out).recipe, Finder((abc[0].parent,)), again)
    assert again.read_bytes() == out.read_bytes()


def test_the_guard_sees_rules(tmp_path: Path) -> None:
    eps = write_model(tmp_path / "eps.safetensors", Model(seed=1))
    v = write_model(tmp_path / "v.safetensors", Model(seed=2, markers=("v_pred", "ztsnr")))
    network = {"alpha": "PARTS_ONLY"}

    def verdict(rules: str) -> str:
        request = MergeRequest(
            (eps, v), "weighted_sum", tmp_path / "o.safetensors", {"alpha": 0.5}, network, rules={"alpha": rules}
        )
        return plan_merge(request).verdict.type

    assert verdict("") == "epsilon"
    assert verdict("BASE CLIP_L::1") == "epsilon"
    assert verdict("OUT00-OUT08 TIME FINAL::1") == "v_prediction"
    for rules in ("OUT03:attn2:0.5", "OUT00-OUT08 TIME FINAL:attn2:1", "OUT00-OUT08::1"):
        with pytest.raises(PredictionMixError):
            verdict(rules)
