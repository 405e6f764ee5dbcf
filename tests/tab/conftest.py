"""A standalone host over two small checkpoints, and the tab built on it with the gradio that is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="gradio is not installed")

from modelsmith.demo import write_demos
from modelsmith_webui.hosts.standalone import StandaloneHost
from modelsmith_webui.tab.ui import build_tab


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two demo checkpoints, written once; no test may change them."""
    folder = tmp_path_factory.mktemp("demo")
    write_demos(folder)
    return folder


@pytest.fixture
def host(tmp_path: Path, demo_folder: Path) -> StandaloneHost:
    """A host over links to the demo checkpoints, so that outputs go to a folder of the test's own."""
    for path in demo_folder.glob("*.safetensors"):
        (tmp_path / path.name).hardlink_to(path)
    return StandaloneHost(tmp_path)


@pytest.fixture
def tab(host: StandaloneHost) -> Any:
    return build_tab(host)
