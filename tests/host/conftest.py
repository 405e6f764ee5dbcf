"""Fixtures for tests inside a real webui.

MODELSMITH_WEBUI names the webui's folder, MODELSMITH_WEBUI_PYTHON its interpreter, MODELSMITH_WEBUI_ARGS more
arguments. Without the first one all of these tests are skipped. MODELSMITH_HOST_REPORT names a file for the table of
what was seen.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from browser.page_object import FLAGS, find_chromium
from host.checkpoints import SD1, SD2, SDXL, Recipe, write
from host.oracle import worked_out
from host.server import Webui, arguments_from_environment, flavour_of, kind_of

RECIPES = (
    Recipe("sd15", SD1),
    Recipe("sd15-b", SD1, seed=1),
    Recipe("sd2-base", SD2),
    Recipe("sd21-768v", SD2, v_prediction_bias=True, seed=1),
    Recipe("sdxl-eps", SDXL),
    Recipe("sdxl-v", SDXL, markers=("v_pred",), seed=1),
    Recipe("sdxl-v-ztsnr", SDXL, markers=("v_pred", "ztsnr"), seed=2),
)
FIRST = "sd15"
# The last text encoder layer but one is read, and reForge wants another one before it.
TEXT_LAYERS = {"ldm_forge": 3}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test here; leave out those of another kind of webui than the one at hand."""
    folder = Path(__file__).parent
    root = os.environ.get("MODELSMITH_WEBUI")
    for item in items:
        if folder not in Path(item.path).parents:
            continue
        item.add_marker("host")
        if not root:
            item.add_marker(pytest.mark.skip(reason="MODELSMITH_WEBUI does not name a webui"))
            continue
        wanted = getattr(getattr(item, "module", None), "WEBUI", None)
        if wanted is not None and flavour_of(Path(root)) not in (wanted if isinstance(wanted, tuple) else (wanted,)):
            item.add_marker(pytest.mark.skip(reason=f"for {wanted} only"))


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small checkpoints, written once."""
    folder = tmp_path_factory.mktemp("checkpoints")
    layers = TEXT_LAYERS.get(kind_of(Path(os.environ["MODELSMITH_WEBUI"])), 2)
    for recipe in RECIPES:
        write(folder, replace(recipe, text_layers=layers))
    return folder


@pytest.fixture(scope="session")
def make_webui(checkpoint_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Webui]]:
    """Make a webui with the probe and the checkpoints, not started; all are stopped at the end."""
    made: list[Webui] = []

    def make(name: str, checkpoints: list[str] | None = None) -> Webui:
        root = Path(os.environ["MODELSMITH_WEBUI"])
        python = os.environ.get("MODELSMITH_WEBUI_PYTHON", "python3")
        webui = Webui(root, python, tmp_path_factory.mktemp(name), arguments_from_environment())
        made.append(webui)
        webui.install_probe()
        for file in sorted(checkpoint_folder.iterdir()):
            if checkpoints is None or file.stem in checkpoints:
                os.link(file, webui.checkpoints / file.name)
        webui.configure(sd_model_checkpoint=f"{FIRST}.safetensors")
        return webui

    yield make
    for webui in made:
        webui.stop()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser for the tests of one file."""
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium found (install chromium, or set MODELSMITH_CHROMIUM)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def running(make_webui: Callable[..., Webui]) -> Iterator[Webui]:
    """A started webui with Modelsmith, for all tests that leave it as it was."""
    webui = make_webui("webui")
    webui.install_extension()
    webui.start()
    yield webui
    webui.stop()


@pytest.fixture
def webui(running: Webui) -> Iterator[Webui]:
    """The started webui; each test gets it with the options that matter here at their defaults."""
    defaults: dict[str, Any] = {"sd_noise_schedule": "Default", "modelsmith_enabled": True}
    if running.kind != "forge":
        defaults |= {"sd_checkpoints_limit": 1, "use_downcasted_alpha_bar": False, "sd_vae": "Automatic"}
    # Classic fails on an option that it does not know.
    known = running.get("/sdapi/v1/options")
    running.options(**{name: value for name, value in defaults.items() if name in known})
    running.clear()
    yield running


@pytest.fixture(scope="module")
def started_alone(make_webui: Callable[..., Webui]) -> Iterator[Webui]:
    """A started webui without Modelsmith."""
    started = make_webui("alone")
    started.start()
    yield started
    started.stop()


@pytest.fixture(scope="session")
def schedule() -> dict[str, dict[str, float]]:
    """An independent schedule: diffusers', from the environment of the webui."""
    return worked_out(os.environ.get("MODELSMITH_WEBUI_PYTHON", sys.executable))


@pytest.fixture(scope="session")
def report() -> Iterator[Callable[..., None]]:
    """Collects rows of what was seen and writes them as a table where MODELSMITH_HOST_REPORT says."""
    rows: list[tuple[str, ...]] = []

    def add(*cells: object) -> None:
        rows.append(tuple(str(cell) for cell in cells))

    yield add
    target = os.environ.get("MODELSMITH_HOST_REPORT")
    if target and rows:
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        Path(target).write_text("\n".join(lines) + "\n", encoding="utf-8")
