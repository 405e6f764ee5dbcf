"""Presets of a user's own: kept in one file, checked when they are saved, found by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modelsmith.cli import main
from modelsmith.errors import BadFileError, UnknownNameError, UsageError
from modelsmith.merge.blocks import LAYOUTS
from modelsmith.merge.user_presets import UserPresets, default_path

Models = tuple[Path, Path, Path]
LAYOUT = LAYOUTS["sdxl"]


def test_they_are_kept_replaced_and_forgotten(tmp_path: Path) -> None:
    store = UserPresets(tmp_path / "deep" / "presets.json")
    assert store.all() == {}
    store.save("faces", "OUT03=0.5, OUT04=1", LAYOUT)
    store.save("顔", "GRAD_V", LAYOUT)
    assert UserPresets(store.path).all() == {"faces": "OUT03=0.5, OUT04=1", "顔": "GRAD_V"}
    store.save("faces", "OUT03=1", LAYOUT)
    assert store.weights("faces") == "OUT03=1"
    store.delete("顔")
    assert list(store.all()) == ["faces"] and [path.name for path in store.path.parent.iterdir()] == ["presets.json"]
    with pytest.raises(UnknownNameError, match="faces"):
        store.weights("face")
    with pytest.raises(UnknownNameError):
        store.delete("gone")


@pytest.mark.parametrize("name", ["", "a,b", "a=b", "GRAD_V", "grad_v", "OUT_FROM_B", "x" * 65, "two\nlines"])
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        UserPresets(tmp_path / "p.json").save(name, "IN00=1", LAYOUT)
    assert not (tmp_path / "p.json").exists()


def test_weights_are_checked_and_damage_is_named(tmp_path: Path) -> None:
    store = UserPresets(tmp_path / "p.json")
    with pytest.raises(UsageError, match="21"):
        store.save("short", "1,2,3", LAYOUT)
    with pytest.raises(UnknownNameError, match="IN0"):
        store.save("wrong", "IN13=1", LAYOUT)
    for text in ("{", "[]", '{"presets": 3}'):
        store.path.write_text(text)
        with pytest.raises(BadFileError, match=r"p\.json"):
            store.all()


def test_the_command_line_saves_and_uses_them(
    abc: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELSMITH_PRESETS", str(tmp_path / "mine.json"))
    assert default_path() == tmp_path / "mine.json"
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    given = ["merge", "-a", str(abc[0]), "-b", str(abc[1]), "--quiet", "--alpha", "0.25"]
    recipe = tmp_path / "r.json"
    rules = ["--rule", "alpha=M00:attn1:1", "--rule", "alpha=/attn1.to_q/:0", "--finetune", "CONT=1"]
    weights = ["--block-weights", "OUT03=0.5,M00=0.75", "--save-preset", "mine"]
    assert main([*given, *weights, *rules, "--save-recipe", str(recipe), "-o", str(first)]) == 0
    assert main([*given, "--preset", "mine", *rules, "-o", str(second)]) == 0
    one, other = load_file(str(first)), load_file(str(second))
    assert all(torch.equal(one[name], other[name]) for name in one)
    told = json.loads(recipe.read_text())
    assert told["rules"] == {"alpha": "M00:attn1:1\n/attn1.to_q/:0"} and told["finetune"] == "CONT=1"
    assert told["blocks"]["alpha"]["M00"] == 0.75
    assert main([*given, "--save-preset", "x", "-o", str(first), "--overwrite"]) == 2
    assert main([*given, "--preset", "mien", "-o", str(first), "--overwrite"]) != 0
    assert main([*given, "--rule", "alpha", "-o", str(first), "--overwrite"]) == 2
    capsys.readouterr()
    three = [*given[:5], "-c", str(abc[2]), "--quiet", "--method", "triple_sum", "-o", str(tmp_path / "3.safetensors")]
    assert main([*three, "--weights-of", "beta=ALL_B", "--weights-of", "alpha=ALL_A"]) == 0
    found, c = load_file(str(tmp_path / "3.safetensors")), load_file(str(abc[2]))
    key = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    torch.testing.assert_close(found[key], c[key])
