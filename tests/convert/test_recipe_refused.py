"""A recipe checkpoint holds no weights: every tool that works on weights says so, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from convert.helpers import saved, tiny_checkpoint
from modelsmith.cli import main
from modelsmith.identify.recipe_file import IDENTITY, RECIPE_CHECKPOINT, STOPPER

COMMANDS = [
    "convert R -o OUT -p fp16",
    "convert R -o OUT --dry-run",
    "convert C -o OUT --put vae=R",
    "repair R -o OUT",
    "repair R",
    "publish R -o DIR",
    "compare R C",
    "vae check R",
    "vae fix R OUT",
    "vae extract R OUT",
    "vae bake C R OUT",
    "vae bake R C OUT",
    "lora bake -m R -l L -o OUT",
    "lora extract -b R -t C -o OUT",
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("recipes")
    tensors = {STOPPER: torch.zeros(1), IDENTITY: torch.zeros(32, dtype=torch.uint8)}
    down = torch.zeros(4, 70)
    lora = {"lora_unet_time_embed_0.lora_down.weight": down, "lora_unet_time_embed_0.lora_up.weight": down[:, :40].T}
    return {
        "R": str(saved(folder / "recipe.safetensors", tensors, {RECIPE_CHECKPOINT: "{}"})),
        "C": str(saved(folder / "model.safetensors", tiny_checkpoint())),
        "L": str(saved(folder / "lora.safetensors", lora)),
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_named_with_the_remedy(
    tmp_path: Path, files: dict[str, str], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {**files, "OUT": str(tmp_path / "out.safetensors"), "DIR": str(tmp_path)}
    words = [places.get(word, word.replace("=R", "=" + files["R"])) for word in command.split()]
    assert main(words) != 0
    told = capsys.readouterr().err
    assert "recipe.safetensors: it is a recipe checkpoint" in told and "Save it as a file first" in told
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_verifying_finds_nothing_wrong_with_it(files: dict[str, str]) -> None:
    assert main(["verify", files["R"]]) == 0
