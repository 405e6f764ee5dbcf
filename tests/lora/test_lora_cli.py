"""The lora command from argument to file, and how its arguments are read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lora.lora_files import load, write_lora, write_model
from lora.lora_modules import loha, lora
from lora.templates import sd1_shapes
from modelsmith.cli import main
from modelsmith.errors import UsageError
from modelsmith.lora.spec import parse_spec
from modelsmith.lora.stack import LoraSpec

MID = "lora_unet_mid_block_attentions_0_proj_in"


@pytest.mark.parametrize(
    ("text", "path", "strength", "blocks"),
    [
        ("a.safetensors", "a.safetensors", 1.0, None),
        ("a.safetensors:0.8", "a.safetensors", 0.8, None),
        ("a.safetensors:-1", "a.safetensors", -1.0, None),
        ("dir/a:b.safetensors:.5", "dir/a:b.safetensors", 0.5, None),
        ("a.safetensors:1e-1:GRAD_V", "a.safetensors", 0.1, "GRAD_V"),
        ("a.safetensors:1:BASE=0.5,IN04=0", "a.safetensors", 1.0, "BASE=0.5,IN04=0"),
        (r"C:\loras\a.safetensors:0.7", r"C:\loras\a.safetensors", 0.7, None),
        (r"C:\loras\a.safetensors", r"C:\loras\a.safetensors", 1.0, None),
        ("a.safetensors:0.5:", "a.safetensors", 0.5, None),
    ],
)
def test_specs(text: str, path: str, strength: float, blocks: str | None) -> None:
    assert parse_spec(text) == LoraSpec(Path(path), strength, blocks)


def test_specs_that_make_no_sense() -> None:
    for text in ("", "  ", "a:1e999"):
        with pytest.raises(UsageError):
            parse_spec(text)


def test_bake_extract_merge_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "m.safetensors", sd1_shapes(), torch.float32)
    one = write_lora(tmp_path / "a.safetensors", {MID: lora((32, 32, 1, 1)), "lora_unet_nowhere": lora((4, 4))})
    two = write_lora(tmp_path / "b.safetensors", {MID: lora((32, 32, 1, 1))})
    out, back, both = tmp_path / "out.safetensors", tmp_path / "back.safetensors", tmp_path / "both.safetensors"
    arguments = ["lora", "bake", "-m", str(tmp_path / "m.safetensors"), "-l", f"{one}:0.5:M00=0.5", "-l", str(two)]
    assert main([*arguments, "-o", str(out)]) == 0
    text = capsys.readouterr().out
    assert "a.safetensors: 1 modules matched, 1 not" in text
    assert "not applied: lora_unet_nowhere (the checkpoint has no such module)" in text
    assert main([*arguments, "-o", str(out)]) == 2
    assert "out.safetensors" in capsys.readouterr().err
    assert main([*arguments, "-o", str(out), "--overwrite", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["changed"] == 1 and result["loras"][0]["unmatched"]
    base = str(tmp_path / "m.safetensors")
    extract = ["lora", "extract", "-b", base, "-t", str(out), "-o", str(back), "--rank", "8", "--dtype", "fp32"]
    assert main(extract) == 0
    assert "1 modules, rank 8" in capsys.readouterr().out
    again = tmp_path / "again.safetensors"
    assert main(["lora", "bake", "-m", base, "-l", str(back), "-o", str(again)]) == 0
    found = load(again)
    for name, value in load(out).items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=2e-6)
    assert len(model) == len(found)
    assert main(["lora", "merge", "-l", str(two), "-l", f"{back}:-1", "-o", str(both)]) == 0
    assert main(["lora", "merge", "-l", str(both), "-o", str(both), "--overwrite", "--rank", "2"]) == 0
    capsys.readouterr()
    assert main(["lora", "info", str(one), str(both), "-m", base, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[0]["kinds"] == {"LoRA": 2} and rows[0]["match"]["modules"] == 1
    assert rows[1]["ranks"] == {"2": 1}
    assert main(["lora", "info", str(one), "-m", base]) == 0
    assert "1 not: the checkpoint has no such module" in capsys.readouterr().out


def test_extract_and_merge_tell_what_they_did_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = write_model(tmp_path / "m.safetensors", sd1_shapes(), torch.float32)
    name = "model.diffusion_model.middle_block.1.proj_in.weight"
    save_file(base | {name: base[name] + torch.randn(base[name].shape)}, tmp_path / "t.safetensors")
    made = str(tmp_path / "made.safetensors")
    models = ["-b", str(tmp_path / "m.safetensors"), "-t", str(tmp_path / "t.safetensors")]
    assert main(["lora", "extract", *models, "-o", made, "--rank", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["modules"], found["ranks"], found["left_out"], found["path"]) == (1, [4], [], made)
    assert 0 < found["energy"] < 1 and len(found["sha256"]) == 64
    two = str(tmp_path / "two.safetensors")
    assert main(["lora", "merge", "-l", made, "-l", f"{made}:0.5", "-o", two, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ranks"], found["energy"]) == ([8], 1.0)
    assert main(["lora", "merge", "-l", made, "-o", two, "--overwrite", "--rank", "2", "--device", "gpu"]) == 2
    assert "'gpu'" in capsys.readouterr().err


def test_errors_are_said_with_a_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tmp_path / "m.safetensors"
    write_model(base, sd1_shapes())
    wrong = write_lora(tmp_path / "a.safetensors", {MID: lora((32, 31))})
    assert main(["lora", "bake", "-m", str(base), "-l", str(wrong), "-o", str(tmp_path / "o.safetensors")]) == 1
    assert MID in capsys.readouterr().err
    absent = str(tmp_path / "absent.safetensors")
    assert main(["lora", "bake", "-m", str(base), "-l", absent, "-o", str(tmp_path / "o.safetensors")]) == 1
    assert "absent.safetensors" in capsys.readouterr().err
    pair = [write_lora(tmp_path / f"{n}.safetensors", {MID: loha((32, 32))}) for n in "xy"]
    merge = ["lora", "merge", "-l", str(pair[0]), "-l", str(pair[1]), "-o", str(tmp_path / "o.safetensors")]
    assert main(merge) == 1
    assert "LoHa" in capsys.readouterr().err
    save_file({"x": torch.ones(1)}, tmp_path / "z.safetensors")
    assert main(["lora", "info", str(tmp_path / "z.safetensors")]) == 1


def test_the_parser_needs_no_torch() -> None:
    code = (
        "import sys; sys.path.insert(0, 'extension_lib'); from modelsmith.cli import build_parser; "
        "build_parser().parse_args(['lora', 'info', 'x']); print('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
