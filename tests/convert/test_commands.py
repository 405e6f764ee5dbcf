"""The five commands, folder runs that go on where they stopped, and plans that write nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import modelsmith
from convert.helpers import loaded, same_bits, saved, tiny_checkpoint
from modelsmith.cli import main
from modelsmith.convert.folder import JOURNAL, Journal, find_models, job_id, plan_folder
from modelsmith.convert.jobs import ConvertJob, convert, plan_convert
from modelsmith.convert.prune import PruneOptions
from modelsmith.convert.write import WriteOptions
from modelsmith.errors import Cancelled

UNET = "model.diffusion_model.time_embed.0.weight"


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_parsers_need_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['numpy'] = None\n"
        "from modelsmith.cli import build_parser; build_parser()\n"
        "assert 'modelsmith.convert.cli' in sys.modules and 'modelsmith.convert.nodes' not in sys.modules"
    )
    root = str(Path(modelsmith.__file__).parent.parent)
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": root})


def test_convert_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = tiny_checkpoint()
    tensors[UNET][0, 0] = 1e6
    source = saved(tmp_path / "a.safetensors", tensors)
    before = _tree(tmp_path)
    command = ["convert", str(source), "-o", str(tmp_path / "b.safetensors"), "-p", "fp16", "--prune", "--quiet"]
    assert main([*command, "--dry-run"]) == 0
    assert _tree(tmp_path) == before
    planned = capsys.readouterr().out
    assert "1 schedule" in planned
    assert main(command) == 0
    told = capsys.readouterr().out
    assert f"warning: {UNET}: 1 out of range" in told and "SHA-256" in told
    out = loaded(tmp_path / "b.safetensors")
    assert set(out) == set(tensors) - {"alphas_cumprod"}
    size = sum(value.nbytes for value in out.values())
    assert f"{size:,}" in planned
    assert main(command) == 2  # it exists
    assert main([*command, "--overwrite"]) == 0
    hashed = (tmp_path / "b.safetensors").read_bytes()
    capsys.readouterr()
    assert main([*command, "--overwrite", "--no-hash"]) == 0
    assert "SHA-256" not in capsys.readouterr().out
    assert (tmp_path / "b.safetensors").read_bytes() == hashed


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["convert", "none.safetensors", "-o", "x.safetensors"], 1),
        (["convert", "a.safetensors", "-o", "x.ckpt"], 2),
        (["convert", "a.safetensors", "-o", "x.safetensors", "-p", "fp7"], 1),
        (["convert", "a.safetensors", "-o", "x.safetensors", "--ema", "use"], 2),
        (["convert", "a.safetensors", "-o", "x.safetensors", "--put", "vae"], 2),
        (["convert", "a.safetensors", "-o", "x.safetensors", "--only", "clip_g"], 1),
        (["convert", "a.safetensors"], 2),
        (["repair", "none.safetensors"], 1),
        (["publish", "a.safetensors", "-o", "nowhere"], 2),
        (["compare", "a.safetensors", "none.safetensors"], 1),
        (["verify", "none.safetensors"], 1),
        (["verify", "a.safetensors", "--hashes", "none.txt"], 1),
    ],
)
def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], status: int) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "a.safetensors", tiny_checkpoint())
    assert main(arguments) == status
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_repair_compare_verify_publish(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = tiny_checkpoint()
    ids = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    source = saved(tmp_path / "a.safetensors", {**tensors, ids: torch.arange(77.0).reshape(1, 77)})
    target = tmp_path / "b.safetensors"
    assert main(["repair", str(source), "-o", str(target), "--dry-run"]) == 0
    assert "would be: set to 0 … 76" in capsys.readouterr().out and not target.exists()
    assert main(["repair", str(source), "-o", str(target), "--quiet"]) == 0
    assert same_bits(loaded(target)[ids], tensors[ids])
    assert main(["repair", str(target), "-o", str(tmp_path / "c.safetensors")]) == 0
    assert "nothing to repair" in capsys.readouterr().out and not (tmp_path / "c.safetensors").exists()
    assert main(["compare", str(source), str(target), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["counts"] == {"equal": len(tensors) - 1, "different": 1}
    assert main(["compare", str(target), str(target)]) == 0
    assert main(["verify", str(tmp_path), "--json"]) == 0
    capsys.readouterr()
    out = tmp_path / "out"
    out.mkdir()
    command = ["publish", str(target), "-o", str(out), "--title", "テスト 1", "--quiet"]
    assert main([*command, "--dry-run"]) == 0
    assert "tesuto-1.safetensors" in capsys.readouterr().out and not list(out.iterdir())
    assert main(command) == 0
    assert {path.suffix for path in out.iterdir()} == {".safetensors", ".md", ".sha256"}
    assert main(["verify", str(out), "--hashes", str(out / "tesuto-1.sha256")]) == 0


def test_a_folder_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = tmp_path / "models"
    (models / "deep").mkdir(parents=True)
    saved(models / "a.safetensors", tiny_checkpoint())
    torch.save(tiny_checkpoint(), models / "a.ckpt")
    saved(models / "deep" / "b.safetensors", tiny_checkpoint())
    (models / "broken.safetensors").write_bytes(b"nothing")
    before = _tree(models)
    command = ["convert", str(models), "-o", str(tmp_path / "out"), "-p", "fp16", "--quiet"]
    assert main([*command, "--dry-run"]) == 1
    assert not (tmp_path / "out").exists()
    capsys.readouterr()
    assert main(command) == 1
    told = capsys.readouterr()
    assert "3 done, 0 skipped, 1 failed" in told.out and "broken.safetensors" in told.err
    outputs = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.safetensors"))
    assert outputs == ["a-safetensors.safetensors", "a.safetensors", "deep/b.safetensors"]
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    assert main(command) == 1
    assert "0 done, 3 skipped, 1 failed" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    (tmp_path / "out" / "deep" / "b.safetensors").unlink()  # lost since: it is made again
    assert main(command) == 1
    assert "1 done, 2 skipped" in capsys.readouterr().out
    assert _tree(models) == before
    assert main([*command[:-3], "-p", "bf16", "--quiet", "--overwrite"]) == 1  # another job does all again
    assert "3 done" in capsys.readouterr().out
    assert main(["convert", str(models), "-o", str(models)]) == 2


def test_a_journal_cut_off_by_a_crash(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.safetensors", tiny_checkpoint())
    out = tmp_path / "out"
    out.mkdir()
    target = saved(out / "a.safetensors", tiny_checkpoint())
    job = job_id("x")
    Journal(out, job).note(source, target)
    with (out / JOURNAL).open("ab") as file:
        file.write(b'{"job": "x", "sour')
    again = Journal(out, job)
    assert again.is_done(source, target) and not Journal(out, job_id("y")).is_done(source, target)
    again.note(source, target)
    assert Journal(out, job).is_done(source, target)
    saved(source, {**tiny_checkpoint(), "new": torch.zeros(1)})
    assert not Journal(out, job).is_done(source, target)
    tasks = plan_folder(find_models(tmp_path, within=out), tmp_path, out, Journal(out, job))
    assert [(task.source, task.target) for task in tasks] == [(source, target)]


def test_cancelling_leaves_nothing(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.safetensors", tiny_checkpoint())
    before = _tree(tmp_path)
    with pytest.raises(Cancelled):
        convert(source, tmp_path / "b.safetensors", ConvertJob("fp16"), WriteOptions(cancelled=lambda: True))
    assert _tree(tmp_path) == before


def test_plans_are_what_is_written(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.safetensors", tiny_checkpoint())
    for job in (
        ConvertJob(),
        ConvertJob("unet=fp8_scaled,te=bf16", prune=PruneOptions()),
        ConvertJob("fp8_e5m2", drop=("vae",)),
    ):
        plan = plan_convert(source, job)
        result = convert(source, tmp_path / "b.safetensors", job, WriteOptions(overwrite=True))
        out = loaded(result.path)
        assert (plan.tensors_out, plan.bytes_out) == (len(out), sum(value.nbytes for value in out.values()))
