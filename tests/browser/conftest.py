"""The standalone app as a process of its own, and a real Chromium. Left out, with the reason, where one is missing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from browser.page_object import FLAGS, ModelsmithPage, find_chromium
from makers import write_header_only
from modelsmith import demo

ROOT = Path(__file__).resolve().parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = _what_is_missing()
    for item in items:
        if Path(__file__).parent in Path(item.path).parents:
            item.add_marker("browser")
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


def _what_is_missing() -> str | None:
    if find_chromium() is None:
        return "no Chromium found: the browser tests are left out (install chromium, or set MODELSMITH_CHROMIUM)"
    try:
        import gradio  # noqa: F401
        import playwright  # noqa: F401
    except ImportError as error:
        return f"{error.name} is not installed: the browser tests are left out"
    return None


@dataclass(frozen=True)
class App:
    """A running standalone app."""

    url: str
    models: Path


def write_large(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, part: int = 1) -> None:
    """A sparse checkpoint of the true size of Stable Diffusion 1.5 in fp16 (2.1 GB), of zeros: slow enough to watch.

    With ``part`` 2 all widths are halved, which leaves a quarter of the bytes.
    """
    for width, full in (("UNET_WIDTH", 320), ("CONTEXT_WIDTH", 768), ("TEXT_WIDTH", 768), ("VAE_WIDTH", 128)):
        monkeypatch.setattr(demo, width, full // part)
    write_header_only(folder / name, {key: ("F16", shape) for key, shape in demo.demo_shapes().items()})


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The app over a folder that was empty, as a newcomer starts it; two large models are added afterwards.

    One for each file of tests, so that what one writes does not stand in the lists of another.
    """
    models = tmp_path_factory.mktemp("models")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "extension_lib"), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "modelsmith_webui.standalone", "--models", str(models), "--no-browser"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+/", line)
            assert found, f"the app said {line!r}"
            with pytest.MonkeyPatch.context() as monkeypatch:
                write_large(models, "large-a.safetensors", monkeypatch)
                write_large(models, "large-b.safetensors", monkeypatch)
                write_large(models, "middle.safetensors", monkeypatch, 2)
            yield App(found.group(), models)
        finally:
            process.terminate()
            process.wait(timeout=20)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium: Any) -> Iterator[ModelsmithPage]:
    """A fresh page; afterwards its console must have shown no error."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    found = ModelsmithPage(context.new_page())
    yield found
    context.close()
    assert found.errors == []
