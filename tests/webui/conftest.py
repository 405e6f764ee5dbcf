"""A standalone host over links to the demo checkpoints; a file of tests may have a host of its own instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelsmith_webui.hosts.standalone import StandaloneHost
from webui.demos import DEMOS


@pytest.fixture(scope="session")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoints, written once; no test may change them."""
    from modelsmith.demo import write_demos

    folder = tmp_path_factory.mktemp("demos")
    write_demos(folder)
    return folder


@pytest.fixture
def demo_folder(tmp_path: Path, demos: Path) -> Path:
    """A folder of the test's own that holds them."""
    for name in DEMOS:
        (tmp_path / name).hardlink_to(demos / name)
    return tmp_path


@pytest.fixture
def host(demo_folder: Path) -> StandaloneHost:
    return StandaloneHost(demo_folder)
