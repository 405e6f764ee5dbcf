"""In Forge: installed through its own "Install from URL", reloaded with its page, and removed again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from host.server import Webui, git_repository

WEBUI = "forge"

PLAIN, ZTSNR = 14.6146, 4518.76


def traces(webui: Webui) -> dict[str, Any]:
    """All that an extension could have changed in a started webui, and what two v-prediction files get in it."""
    state = webui.state()
    found: dict[str, Any] = {name: state[name] for name in ("functions", "python_modules", "options")}
    routes = webui.get("/modelsmith-probe/v1/routes")
    found["routes"] = [route for route in routes if "modelsmith" in route and "probe" not in route]
    found["tabs"] = webui.tabs()
    for name in ("sd21-768v", "sdxl-v-ztsnr"):
        webui.select(name)
        found[name] = webui.txt2img()
    found["model"] = {key: value for key, value in webui.state()["model"].items() if key != "object"}
    found["infotext"] = json.loads(webui.answer["info"])["infotexts"]
    return found


def check_installed(webui: Webui) -> None:
    state = webui.state()
    assert "modelsmith_enabled" in state["options"]
    assert "Modelsmith" in webui.tabs()
    for complaint in ("Error loading script", "Error executing callback", "Error calling"):
        assert complaint not in webui.output()
    webui.select("sd21-768v")
    assert webui.txt2img()[0]["prediction"] == "v_prediction"
    webui.select("sdxl-v-ztsnr")
    assert webui.txt2img()[0]["sigma"] == pytest.approx(ZTSNR, rel=1e-5)
    assert webui.get("/modelsmith/v1/status")["loaded"]["applied"]


@pytest.mark.slow
def test_install_from_url_and_remove(
    make_webui: Callable[..., Webui], tmp_path: Path, report: Callable[..., None]
) -> None:
    webui = make_webui("install", ["sd15", "sd21-768v", "sdxl-v-ztsnr"])
    webui.start()
    before = traces(webui)
    assert before["python_modules"] == before["options"] == before["routes"] == []
    answer = webui.press("", git_repository(tmp_path), "", value="Install")
    assert "Installed into" in answer[-1], answer[-1]
    webui.stop()

    webui.start()
    check_installed(webui)
    webui.options(modelsmith_enabled=True)
    webui.stop()

    shutil.rmtree(webui.extension)
    webui.start()
    assert "odelsmith" not in webui.output().replace("modelsmith-probe", "").replace("modelsmith_probe", "")
    after = traces(webui)
    assert after == before
    assert after["sd21-768v"][0]["prediction"] == "epsilon", "Forge as it is by itself"
    report("removed", "sd21-768v", "-", after["sd21-768v"][0]["prediction"], "14.61", "")


@pytest.mark.slow
def test_reload_of_the_page(webui: Webui) -> None:
    """The page's scripts are executed anew and the model is kept, without being announced."""
    webui.select("sdxl-v-ztsnr")
    webui.txt2img()
    before = {name: webui.state()[name] for name in ("functions", "model")}
    assert before["model"]["sigma_max"] == pytest.approx(ZTSNR, rel=1e-5)
    for _ in range(2):
        webui.reload_page()
        assert {name: webui.state()[name] for name in ("functions", "model")} == before
        assert webui.txt2img()[0]["sigma_998"] == pytest.approx(2254.24, rel=1e-5)
    webui.select("sdxl-v")
    assert webui.txt2img()[0]["sigma"] == pytest.approx(PLAIN, rel=1e-5)


@pytest.mark.slow
def test_without_page(make_webui: Callable[..., Webui]) -> None:
    """--nowebui: settings, routes and model handling are there, in the order of that mode."""
    webui = make_webui("api-only", ["sd21-768v", "sdxl-v-ztsnr"])
    webui.extra = (*webui.extra, "--nowebui")
    webui.install_extension()
    webui.configure(sd_model_checkpoint="sd21-768v.safetensors")
    webui.start()
    assert webui.txt2img()[0]["prediction"] == "v_prediction"
    assert webui.get("/modelsmith/v1/status")["loaded"]["file"] == "sd21-768v.safetensors"
