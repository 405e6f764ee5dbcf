"""Fixtures of merge tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from merge.models import Model, write_model


@pytest.fixture(scope="session")
def abc(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Three epsilon SDXL models of fp16."""
    folder = tmp_path_factory.mktemp("models")
    a, b, c = (write_model(folder / f"{letter}.safetensors", Model(seed=seed)) for seed, letter in enumerate("abc", 1))
    return a, b, c
