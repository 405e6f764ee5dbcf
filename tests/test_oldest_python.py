"""The oldest Python that the webuis run on compiles every file and identifies a model with nothing installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from makers import write_header_only

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = "model.diffusion_model."
MODEL = {
    f"{WEIGHTS}input_blocks.0.0.weight": ("F16", (320, 4, 3, 3)),
    f"{WEIGHTS}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": ("F16", (320, 768)),
}


def oldest_python() -> str | None:
    """An interpreter of version 3.10: on the path, or among those that pyenv keeps."""
    found = [shutil.which("python3.10"), *map(str, sorted(Path.home().glob(".pyenv/versions/3.10.*/bin/python3.10")))]
    for candidate in filter(None, found):
        answer = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)
        if answer.returncode == 0 and " 3.10." in answer.stdout:
            return candidate
    return None


@pytest.fixture(scope="module")
def python() -> str:
    found = oldest_python()
    if found is None:
        pytest.skip("no Python 3.10 here")
    return found


def run(python: str, arguments: list[str], scratch: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "extension_lib"), "PYTHONPYCACHEPREFIX": str(scratch)}
    return subprocess.run([python, *arguments], env=environment, capture_output=True, text=True, check=False)


def test_every_file_compiles(python: str, tmp_path: Path) -> None:
    places = ["extension_lib", "scripts", "launch.py", "install.py"]
    done = run(python, ["-m", "compileall", "-q", *(str(ROOT / place) for place in places)], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.rglob("*.pyc"))) > 100


def test_identifies_without_any_package(python: str, tmp_path: Path) -> None:
    model = write_header_only(tmp_path / "model.safetensors", MODEL, {"modelspec.prediction_type": "v"})
    done = run(python, ["-I", "-S", "-c", _COMMAND, str(ROOT / "extension_lib"), str(model)], tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["architecture"] == "sd1"
    assert report["prediction"]["type"] == "v_prediction"


_COMMAND = """
import sys
sys.path.insert(0, sys.argv[1])
from modelsmith.cli import main
sys.exit(main(["identify", sys.argv[2], "--json"]))
"""
