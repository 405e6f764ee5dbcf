"""Forge's own "Install from URL" with a local git repository, a start with it, and a start after it is removed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from host.gradio_page import press
from host.server import REPOSITORY, Webui

WEBUI = "forge"


def _git(*arguments: str, folder: Path) -> str:
    who = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository named modelsmith with the files as they are now in one commit."""
    folder = tmp_path_factory.mktemp("remote") / "modelsmith"
    listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard", folder=REPOSITORY)
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    _git("init", "-q", "-b", "main", folder=folder)
    _git("add", "-A", folder=folder)
    _git("commit", "-q", "-m", "as it is", folder=folder)
    return folder


def _seen(webui: Webui) -> dict[str, Any]:
    """All that an extension could leave in a running webui."""
    state = webui.state()
    routes = webui.get("/modelsmith-probe/v1/routes")
    config = webui.get("/config")
    ids = [c["props"].get("elem_id") or "" for c in config["components"]]
    return {
        "functions": state["functions"],
        "modules": state["python_modules"],
        "options": state["options"],
        "routes": [route for route in routes if route.startswith("/modelsmith/")],
        "components": sorted(name for name in ids if "modelsmith" in name),
        "labels": len(config["components"]),
    }


def test_installed_started_removed(make_webui: Callable[..., Webui], repository: Path) -> None:
    webui = make_webui("install", ["sd15", "sdxl-v-ztsnr", "sd21-768v"])
    webui.start()
    before = _seen(webui)
    assert (before["modules"], before["options"], before["routes"], before["components"]) == ([], [], [], [])
    answer = press(webui, "Install", ["", repository.as_uri(), ""])
    assert "Installed into" in answer, answer
    webui.stop()
    assert (webui.extension / "scripts" / "modelsmith.py").is_file()

    webui.start()
    assert "Error loading script" not in webui.output()
    assert "Error executing callback" not in webui.output()
    installed = _seen(webui)
    assert installed["routes"]
    assert installed["options"]
    assert "modelsmith" in installed["modules"]
    assert installed["components"], "the tab is there"
    webui.select("sd21-768v")
    assert webui.txt2img()[0]["prediction"] == "v_prediction"
    webui.select("sdxl-v-ztsnr")
    assert webui.txt2img()[0]["sigma"] == pytest.approx(4518.76, rel=1e-5)
    webui.options(modelsmith_enabled=True)  # saves config.json, as a user's visit to the settings would
    status = _git("status", "--porcelain", folder=webui.extension)
    assert status == "", "running it must not change what was installed"
    webui.stop()

    shutil.rmtree(webui.extension)
    webui.start()
    assert _seen(webui) == before
    webui.select("sd21-768v")
    assert webui.txt2img()[0]["prediction"] == "epsilon", "Forge as it is by itself"
    webui.stop()
