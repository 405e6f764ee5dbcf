"""The command line: one answer a file in order, exit status, and no need of torch, numpy or yaml."""

from __future__ import annotations

import json
import os
import string
import subprocess
import sys
from pathlib import Path

import pytest
from headers import load, write

import modelsmith
from modelsmith import speech_cli
from modelsmith.identify import identify
from modelsmith.identify.cli import lines_of
from modelsmith.identify.messages import TABLE

ROOT = Path(modelsmith.__file__).parents[1]
BLOCKED = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('torch', 'numpy', 'yaml', 'safetensors', 'tqdm', 'gradio', 'modules'):
            raise ImportError(name + ' is blocked')
sys.meta_path.insert(0, Refuse())
from modelsmith.identify import cli
import argparse
parser = argparse.ArgumentParser()
cli.add_parser(parser.add_subparsers(dest='command', required=True))
arguments = parser.parse_args(sys.argv[1:])
sys.exit(arguments.run(arguments))
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments], capture_output=True, text=True, encoding="utf-8", env=environment
    )


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    good = write(tmp_path / "a.safetensors", load("sdxl_base_fp16"))
    (tmp_path / "b.safetensors").write_bytes(b"broken")
    other = write(tmp_path / "c.safetensors", load("te_clip_l_fp16"))
    return [str(good), str(tmp_path / "b.safetensors"), str(tmp_path / "gone.ckpt"), str(other)]


def test_json_has_one_line_a_file_in_order(files: list[str]) -> None:
    done = run("identify", "--json", *files)
    assert done.returncode == 1, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["file"] for row in found] == files
    assert [row["kind"] for row in found] == ["checkpoint", "unknown", "unknown", "text_encoder"]
    assert [bool(row["error"]) for row in found] == [False, True, True, False]
    assert set(found[0]) >= {
        "file", "kind", "architecture", "candidates", "variant", "prediction", "components", "precision",
        "quantization", "ema", "in_channels", "layout", "warnings", "advice",
    }  # fmt: skip
    assert set(found[0]["prediction"]) == {"type", "zero_terminal_snr", "conflict", "evidence"}
    assert set(found[0]["components"][0]) >= {"name", "precision", "quantization", "complete"}
    assert set(found[0]["prediction"]["evidence"][0]) == {"source", "detail", "grade", "says"}


def test_status_and_words_for_a_person(files: list[str]) -> None:
    done = run("identify", files[0], files[3])
    assert done.returncode == 0
    assert "SDXL · eps · fp16" in done.stdout
    assert run("identify").returncode == 2
    bad = run("identify", files[1])
    assert bad.returncode == 1
    assert "cannot be read" in bad.stdout


def test_output_survives_names_that_cannot_be_printed(tmp_path: Path) -> None:
    try:
        path = write(tmp_path / os.fsdecode(b"bad\xffname.safetensors"), load("te_clip_l_fp16"))
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    done = run("identify", "--json", str(path))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["architecture"] == "clip-l"


def test_every_message_is_there_in_both_languages() -> None:
    for name, (english, japanese) in TABLE.items():
        clue = name.startswith(("source-", "why-"))  # words and values, no sentences
        assert clue or english.endswith(".")
        assert clue or any(ord(sign) > 0x3000 for sign in japanese)
        fields = {field for _, field, _, _ in string.Formatter().parse(english) if field}
        assert fields == {field for _, field, _, _ in string.Formatter().parse(japanese) if field}


def test_evidence_speaks_japanese_and_keeps_its_ids(tmp_path: Path) -> None:
    report = identify(write(tmp_path / "x.safetensors", load("sdxl_refiner_fp16")))
    english, japanese = (report.to_json(lang)["prediction"]["evidence"][0] for lang in ("en", "ja"))  # type: ignore[index]
    assert english["detail"] == "SDXL refiner refiner models are so"
    assert japanese["detail"] == "SDXL refiner refiner のモデルは通常こうです"
    assert japanese["source"] == english["source"] == "family"
    assert report.prediction.evidence[0].source_text("ja") == "モデルの系統"


def test_japanese_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = identify(write(tmp_path / "x.safetensors", load("sdxl_refiner_fp16")))
    assert any("refiner" in line for line in lines_of(report))
    monkeypatch.setattr(speech_cli, "_current", "ja")
    assert any("リファイナー" in line for line in lines_of(report))
    assert report.to_json("ja")["advice"] != report.to_json("en")["advice"]
