"""In AUTOMATIC1111: installed through its own "Install from URL", reloaded with its page, and removed again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from host.a1111_expectations import EXPECTED, Expected, check, generate
from host.server import Webui, git_repository

WEBUI = "a1111"

VANILLA = Expected("sd_xl_base.yaml", "epsilon", EXPECTED["sdxl-eps"].sigma)
OURS = "modelsmith_webui.hosts.a1111"


def traces(webui: Webui) -> dict[str, Any]:
    """All that an extension could have changed in a started webui, and what a v-prediction file gets in it."""
    state = webui.state()
    found: dict[str, Any] = {name: state[name] for name in ("functions", "python_modules", "options")}
    routes = webui.get("/modelsmith-probe/v1/routes")
    found["routes"] = [route for route in routes if "modelsmith" in route and "probe" not in route]
    found["tabs"] = webui.tabs()
    webui.select("sdxl-v-ztsnr")
    found["step"] = {name: value for name, value in webui.txt2img()[0].items() if name != "object"}
    found["infotext"] = json.loads(webui.answer["info"])["infotexts"]
    return found


@pytest.mark.slow
def test_install_from_url_and_remove(
    make_webui: Callable[..., Webui], tmp_path: Path, report: Callable[..., None]
) -> None:
    webui = make_webui("install", ["sd15", "sdxl-eps", "sdxl-v-ztsnr"])
    webui.start()
    before = traces(webui)
    assert before["python_modules"] == before["options"] == before["routes"] == []
    url = git_repository(tmp_path)
    answer = webui.press("", url, "", value="Install")
    assert "Installed into" in answer[-1], answer[-1]
    webui.stop()

    webui.start()
    check_installed(webui)
    generate(webui, "sdxl-eps")
    generate(webui, "sdxl-v-ztsnr")
    webui.stop()

    shutil.rmtree(webui.extension)
    webui.start()
    assert "odelsmith" not in webui.output().replace("modelsmith-probe", "").replace("modelsmith_probe", "")
    after = traces(webui)
    assert after == before
    check([before["step"]], "sdxl-v-ztsnr", VANILLA)
    report("removed", "sdxl-v-ztsnr", Path(after["step"]["config"]).name, after["step"]["prediction"], "14.61", "")


def check_installed(webui: Webui) -> None:
    state = webui.state()
    assert state["functions"]["find_checkpoint_config"][0] == OURS
    assert "modelsmith_enabled" in state["options"]
    assert "Modelsmith" in webui.tabs()
    # The model that was chosen when the webui was stopped is the first to be loaded, before any page is built.
    assert state["model"]["file"] == "sdxl-v-ztsnr.safetensors"
    assert state["model"]["sigma_max"] == pytest.approx(EXPECTED["sdxl-v-ztsnr"].sigma, rel=1e-5)
    check(webui.txt2img(), "sdxl-v-ztsnr")


@pytest.mark.slow
def test_reload_of_the_page(webui: Webui) -> None:
    """The page's scripts are executed anew and the model is kept, without being announced."""
    generate(webui, "sdxl-v-ztsnr")
    loaded = webui.state()["model"]["object"]
    chain = webui.state()["functions"]["find_checkpoint_config"]
    assert chain.count(OURS) == 1
    for _ in range(2):
        webui.reload_page()
        state = webui.state()
        assert state["functions"]["find_checkpoint_config"] == chain
        assert state["model"]["object"] == loaded
        check(webui.txt2img(), "sdxl-v-ztsnr")
    generate(webui, "sdxl-eps")
    generate(webui, "sdxl-v-ztsnr")


@pytest.mark.slow
def test_without_page(make_webui: Callable[..., Webui]) -> None:
    """--nowebui: settings, routes and model handling are there, in the order of that mode."""
    webui = make_webui("api-only", ["sdxl-eps", "sdxl-v-ztsnr"])
    webui.extra = (*webui.extra, "--nowebui")
    webui.install_extension()
    webui.configure(sd_model_checkpoint="sdxl-v-ztsnr.safetensors")
    webui.start()
    check(webui.txt2img(), "sdxl-v-ztsnr")
    generate(webui, "sdxl-eps")
    assert webui.get("/modelsmith/v1/status")["loaded"]["file"] == "sdxl-eps.safetensors"
