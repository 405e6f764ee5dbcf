"""reForge's list of text encoders: without recipe checkpoints, for as long as the adapter is in force."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from modelsmith.identify.recipe_file import RECIPE_CHECKPOINT
from modelsmith_webui.hosts.ldm_forge_text import leave_recipes_out, wrap_list


def write(path: Path, metadata: dict[str, str]) -> Path:
    header = json.dumps({"__metadata__": metadata, "x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(4))
    return path


@pytest.fixture
def module(tmp_path: Path) -> Any:
    """The names of modules/sd_text_encoder.py."""
    files = [write(tmp_path / "a.safetensors", {}), write(tmp_path / "mix.safetensors", {RECIPE_CHECKPOINT: "{}"})]
    # An extension of the webui may add what is no file.
    options = [SimpleNamespace(label=file.stem, te_info=SimpleNamespace(filename=str(file))) for file in files]
    options.append(SimpleNamespace(label="an extension's"))
    made: Any = ModuleType("sd_text_encoder")
    made.text_encoder_options = []

    def list_text_encoders() -> None:
        made.text_encoder_options.clear()
        made.text_encoder_options.extend(options)

    made.list_text_encoders = list_text_encoders
    made.list_text_encoders()
    return made


def labels(module: Any) -> list[str]:
    return [option.label for option in module.text_encoder_options]


def test_recipes_leave_the_list_that_others_hold(module: Any) -> None:
    held = module.text_encoder_options
    leave_recipes_out(module)
    assert labels(module) == ["a", "an extension's"]
    assert module.text_encoder_options is held


def test_listed_anew_while_the_adapter_is_in_force_and_after(module: Any) -> None:
    in_force = [True]
    module.list_text_encoders = wrap_list(module, module.list_text_encoders, lambda: in_force[0])
    module.list_text_encoders()
    assert labels(module) == ["a", "an extension's"]
    in_force[0] = False
    module.list_text_encoders()
    assert labels(module) == ["a", "mix", "an extension's"]
