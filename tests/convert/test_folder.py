"""Folder runs: what is one model, where each goes, going on after a kill, and publishing many."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import modelsmith
from convert.helpers import loaded, saved, tiny_checkpoint
from modelsmith.cli import main
from modelsmith.convert.folder import (
    JOURNAL,
    Journal,
    Task,
    find_models,
    is_model_folder,
    job_id,
    plan_folder,
    run_folder,
)
from modelsmith.convert.hashes import hash_file
from modelsmith.convert.jobs import ConvertJob, convert
from modelsmith.convert.write import WriteOptions
from modelsmith.files.names import check_output_name

LIBRARY = str(Path(modelsmith.__file__).parent.parent)


def _diffusers(folder: Path) -> Path:
    for part in ("unet", "vae"):
        (folder / part).mkdir(parents=True)
        saved(folder / part / "diffusion_pytorch_model.safetensors", {"conv_in.weight": torch.zeros(1)})
    return folder


def _sharded(folder: Path) -> Path:
    folder.mkdir()
    names = {}
    for number in (1, 2):
        file = f"model-0000{number}-of-00002.safetensors"
        saved(folder / file, {f"transformer_blocks.{number}.weight": torch.full((2,), float(number))})
        names[f"transformer_blocks.{number}.weight"] = file
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}), encoding="utf-8")
    return folder


def test_a_folder_that_is_one_model_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither shards nor the parts of diffusers are models of their own."""
    models = tmp_path / "m"
    (models / "sub" / ".hidden").mkdir(parents=True)
    one = saved(models / "sub" / "a.safetensors", tiny_checkpoint())
    saved(models / "sub" / ".hidden" / "b.safetensors", tiny_checkpoint())
    parts, shards = _diffusers(models / "my model v1.5"), _sharded(models / "sub" / "shards")
    assert is_model_folder(parts) and is_model_folder(shards) and not is_model_folder(models)
    assert find_models(models) == [parts, one, shards]
    tasks = plan_folder(find_models(models), models, tmp_path / "out", Journal(tmp_path / "out", "x"))
    assert [str(task.target.relative_to(tmp_path / "out")) for task in tasks] == [
        "my model v1.5.safetensors",
        "sub/a.safetensors",
        "sub/shards.safetensors",
    ]
    assert main(["convert", str(models / "sub"), "-o", str(tmp_path / "out"), "--quiet"]) == 0
    assert "2 done" in capsys.readouterr().out
    assert len(loaded(tmp_path / "out" / "shards.safetensors")) == 2
    assert main(["verify", str(models / "sub")]) == 0
    assert "2 checked, 0 bad" in capsys.readouterr().out


def test_what_was_done_keeps_its_place(tmp_path: Path) -> None:
    """A file that came to the folder since does not push the others to other names."""
    models, out = tmp_path / "m", tmp_path / "out"
    models.mkdir()
    saved(models / "a.safetensors", tiny_checkpoint())
    command = ["convert", str(models), "-o", str(out), "-p", "fp16", "--quiet"]
    assert main(command) == 0
    before = (out / "a.safetensors").stat().st_mtime_ns
    torch.save(tiny_checkpoint(), models / "a.ckpt")  # sorted before the other
    assert main(command) == 0
    assert (out / "a.safetensors").stat().st_mtime_ns == before
    assert sorted(path.name for path in out.glob("*.safetensors")) == ["a-ckpt.safetensors", "a.safetensors"]
    journal = Journal(out, job_id(f"convert {ConvertJob('fp16')!r}"))
    assert all(task.done for task in plan_folder(find_models(models), models, out, journal))


def test_no_moment_at_which_a_file_is_there_and_not_written_down(tmp_path: Path) -> None:
    """A process that dies right after the file got its name: the next run takes it for done."""
    source, out = saved(tmp_path / "a.safetensors", tiny_checkpoint()), tmp_path / "out"
    out.mkdir()
    job = job_id("x")
    task = Task(source, out / "a.safetensors", done=False)
    noted = Journal(out, job)
    convert(source, task.target, ConvertJob(), WriteOptions(finished=noted.noting(task)))
    assert Journal(out, job).is_done(source, task.target)

    def dies(temporary: Path) -> None:
        Journal(out, job_id("y")).noting(task)(temporary)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # before it got its name: not done, and nothing is left
        convert(source, task.target, ConvertJob("bf16"), WriteOptions(overwrite=True, finished=dies))
    assert not Journal(out, job_id("y")).is_done(source, task.target)
    assert sorted(path.name for path in out.iterdir()) == [JOURNAL, "a.safetensors"]


def test_a_file_without_faults_is_looked_at_once(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.safetensors", tiny_checkpoint())
    journal, task = Journal(tmp_path, "x"), Task(source, tmp_path / "out" / "a.safetensors", done=False)
    assert run_folder([task], journal, lambda task: False)[0].skipped
    assert Journal(tmp_path, "x").is_done(source, task.target)
    saved(source, {**tiny_checkpoint(), "new": torch.zeros(1)})
    assert not Journal(tmp_path, "x").is_done(source, task.target)


@pytest.mark.parametrize("wanted", [1, 3])
def test_killed_and_started_again(tmp_path: Path, wanted: int) -> None:
    models, out = tmp_path / "m", tmp_path / "out"
    models.mkdir()
    for number in range(6):
        tensors = {**tiny_checkpoint(), "model.diffusion_model.big.weight": torch.randn(512, 1024 * (number + 1))}
        saved(models / f"{number}.safetensors", tensors)
    command = [sys.executable, "-m", "modelsmith", "convert", str(models), "-o", str(out), "-p", "bf16", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": LIBRARY}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while len(list(out.glob("*.safetensors"))) < wanted and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    assert len(before) >= wanted
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    assert set(after) == {f"{number}.safetensors" for number in range(6)}
    assert {name: after[name] for name in before} == before  # none was done twice
    assert {path.name for path in out.iterdir()} == {*after, JOURNAL}
    for number in range(6):
        assert loaded(out / f"{number}.safetensors")["model.diffusion_model.big.weight"].dtype == torch.bfloat16


def test_publishing_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models, out = tmp_path / "m", tmp_path / "out"
    (models / "in").mkdir(parents=True)
    saved(models / "さくら.safetensors", tiny_checkpoint(), {"ss_tag": "x", "epoch": "3"})
    torch.save(tiny_checkpoint(), models / "さくら.ckpt")
    saved(models / "in" / "b c.safetensors", tiny_checkpoint())
    (models / "bad.safetensors").write_bytes(b"nothing")
    command = ["publish", str(models), "-o", str(out), "--remove-private", "--author", "A", "--quiet"]
    assert main([*command, "--dry-run"]) == 1
    planned = capsys.readouterr()
    assert "sakura-safetensors.safetensors" in planned.out and "would fail" in planned.err and not out.exists()
    assert "left out: 1 schedule buffers" in planned.out and "removed: ss_tag" in planned.out
    assert main(command) == 1
    assert "3 done, 0 skipped, 1 failed" in capsys.readouterr().out
    made = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} - {JOURNAL}
    names = ("sakura", "sakura-safetensors", "in/b-c")
    assert made == {name + ending for name in names for ending in (".safetensors", ".md", ".ja.md", ".sha256")}
    assert main(command) == 1
    assert "0 done, 3 skipped" in capsys.readouterr().out
    (out / "sakura.ja.md").unlink()  # killed between the model and its cards: only this one is done again
    assert main(command) == 1
    assert "1 done, 2 skipped" in capsys.readouterr().out and (out / "sakura.ja.md").exists()
    assert main([*command, "--title", "x"]) == 2


def test_one_of_the_list_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "a.safetensors", tiny_checkpoint())
    (tmp_path / "list.txt").write_text(f"{'0' * 64}  gone.safetensors\n", encoding="utf-8")
    assert main(["verify", str(tmp_path), "--hashes", str(tmp_path / "list.txt")]) == 1
    assert "gone.safetensors: in the list, but not there" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "a.safetensors"), "--hashes", str(tmp_path / "list.txt")]) == 0


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, folder in enumerate(("anime", "photo")):
        (tmp_path / folder).mkdir()
        saved(tmp_path / folder / "model.safetensors", {"weight": torch.full((2,), float(number))})
    digests = [hash_file(tmp_path / folder / "model.safetensors").sha256 for folder in ("photo", "anime")]
    swapped = f"{digests[0]}  anime/model.safetensors\n{digests[1]}  photo/model.safetensors\n"
    (tmp_path / "list.txt").write_text(swapped, encoding="utf-8")
    assert main(["verify", str(tmp_path), "--hashes", str(tmp_path / "list.txt")]) == 1
    assert "2 checked, 2 bad" in capsys.readouterr().out
    (tmp_path / "list.txt").write_text(f"{digests[1]}  anime/model.safetensors\n", encoding="utf-8")
    assert main(["verify", str(tmp_path), "--hashes", str(tmp_path / "list.txt")]) == 0
    assert "photo/model.safetensors: sound, but not in the list" in capsys.readouterr().out


def test_names_that_no_new_file_may_have_are_made_acceptable(tmp_path: Path) -> None:
    models, out = tmp_path / "models", tmp_path / "out"
    models.mkdir()
    names = ['a "b"', "a _b_", "c<d", "e\\f", "long" * 60, "plain"]
    for name in names:
        saved(models / f"{name}.safetensors", {"weight": torch.zeros(2)})
    tasks = plan_folder(find_models(models), models, out, Journal(out, "x"))
    assert all(check_output_name(task.target.name) for task in tasks)
    assert len({task.target for task in tasks}) == len(names)
    by_source = {task.source.stem: task.target.stem for task in tasks}
    assert (by_source["plain"], by_source["c<d"], by_source["e\\f"]) == ("plain", "c_d", "e_f")
