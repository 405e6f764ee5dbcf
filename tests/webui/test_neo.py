"""What the Neo adapter adds to Forge's, against stand-ins for the webui's modules."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from host.checkpoints import SD2, SDXL, Recipe, write
from modelsmith_webui.hosts import forge, neo
from modelsmith_webui.hosts.common import Resolver


def stand_ins(folder: Path) -> dict[str, Any]:
    """The webui's modules, by their names in its package."""
    shared, sd_models, paths = (ModuleType(f"modules.{name}") for name in ("shared", "sd_models", "paths_internal"))
    arguments = SimpleNamespace(lora_dirs=[], text_encoder_dirs=[])
    vars(shared).update(opts=SimpleNamespace(sd_noise_schedule="Default"), cmd_opts=arguments)
    data = SimpleNamespace(sd_model=None, forge_hash="", forge_loading_parameters={})
    vars(sd_models).update(model_data=data, checkpoints_list={}, list_models=lambda: None)
    vars(paths).update(models_path=str(folder / "models"), data_path=str(folder))
    patches = ModuleType("modules.patches")
    originals: dict[str, Any] = {}

    def patch(key: str, module: Any, name: str, replacement: Any) -> None:
        originals[key] = getattr(module, name)
        setattr(module, name, replacement)

    def undo(key: str, module: Any, name: str) -> None:
        setattr(module, name, originals.pop(key))

    vars(patches).update(patch=patch, undo=undo)
    return {"shared": shared, "sd_models": sd_models, "paths_internal": paths, "patches": patches}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The adapter in a webui that brings engines for what is listed in ``host.engines``."""
    modules, package = stand_ins(tmp_path), ModuleType("modules")
    monkeypatch.setitem(sys.modules, "modules", package)
    for name, module in modules.items():
        setattr(package, name, module)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    shared, sd_models = modules["shared"], modules["sd_models"]
    found: Any = neo.NeoHost()
    found.resolver = Resolver(lambda: True)
    found.arguments, found.opts = shared.cmd_opts, shared.opts
    found.data, found.sd_models = sd_models.model_data, sd_models
    yield found
    found.uninstall()


def loaded(host: Any, path: Path, predictor: str) -> None:
    made = type(predictor, (), {"prediction_type": "const", "sigmas": [0.001, 1.0]})()
    unet = SimpleNamespace(model=SimpleNamespace(predictor=made))
    info = SimpleNamespace(filename=str(path))
    host.data.sd_model = SimpleNamespace(forge_objects=SimpleNamespace(unet=unet), sd_checkpoint_info=info)


def test_folders_come_as_lists(host: Any, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two", "models/Lora", "texts")]
    for folder in folders:
        folder.mkdir(parents=True)
    host.arguments.lora_dirs = [str(folders[0]), str(folders[1])]
    host.arguments.text_encoder_dirs = [str(folders[3])]
    assert host._lora_folders() == folders[:3]
    assert host._text_encoder_folders() == [folders[3]]


def test_what_this_webui_cannot_load_is_told_by_its_engines(
    host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    two, xl = write(tmp_path, Recipe("two", SD2)), write(tmp_path, Recipe("xl", SDXL))
    for path in (two, xl):
        host.data.forge_loading_parameters = {"checkpoint_info": SimpleNamespace(filename=str(path))}
        host.before_load(None)
    assert [record.getMessage().split(" is ")[0] for record in caplog.records] == ["two.safetensors"]
    monkeypatch.setattr(neo.importlib.util, "find_spec", lambda _name: object())
    assert neo.not_loadable(host.resolver.report(two)) is None


def test_a_flow_predictor_is_left_alone_and_said(host: Any, tmp_path: Path) -> None:
    loaded(host, write(tmp_path, Recipe("xl-rectified", SDXL)), "PredictionDiscreteFlow")
    host.model_loaded(host.data.sd_model)
    status = host.status()
    assert not status.applied
    assert "contains 'rectified'" in status.notes[-1]
    assert not hasattr(host.data.sd_model, forge.STATE)


def test_a_fast_refiner_of_another_type_is_said(host: Any, tmp_path: Path) -> None:
    first, second = write(tmp_path, Recipe("xl", SDXL)), write(tmp_path, Recipe("v", SDXL, markers=("v_pred",)))
    loaded(host, first, "PredictionDiscreteFlow")
    said: list[str] = []
    for fast, refiner, expected in ((False, second, 0), (True, first, 0), (True, second, 1)):
        host.opts.refiner_fast_sd = fast
        info = SimpleNamespace(filename=str(refiner))
        job = SimpleNamespace(refiner_checkpoint_info=info, extra_generation_params={}, comment=said.append)
        host.before_process(job)
        assert len(said) == expected
    assert "v.safetensors wants others (v_prediction, ZTSNR off)" in said[0]


@pytest.mark.parametrize(("kind", "word"), [("edm", "gives noise"), ("epsilon", None)])
def test_what_it_makes_noise_of(host: Any, kind: str, word: str | None) -> None:
    report = SimpleNamespace(prediction=SimpleNamespace(type=kind), architecture="sdxl")
    decision = SimpleNamespace(prediction=None if word else "epsilon", source="evidence")
    problem = host.cannot_run(SimpleNamespace(report=report, decision=decision))
    assert (problem is None) if word is None else (word in problem)


def test_warnings_reach_its_quiet_console(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.vae, "install", lambda: None)
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        host.install()
        ours = [logging.getLogger(name) for name in neo.OUR_LOGGERS]
        assert all(logger.isEnabledFor(logging.WARNING) for logger in ours)
        host.uninstall()
        assert not any(logger.isEnabledFor(logging.WARNING) for logger in ours), "as it was"
    finally:
        root.setLevel(before)


def test_no_half_listed_checkpoints_are_seen(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neo empties its list and fills it again whenever a page is opened, while other threads ask for it."""
    monkeypatch.setattr(host.vae, "install", lambda: None)
    begun, go_on = threading.Event(), threading.Event()
    info = SimpleNamespace(title="a", filename="a.safetensors", sha256=None)

    def list_models() -> None:
        host.sd_models.checkpoints_list.clear()
        begun.set()
        go_on.wait(10)
        host.sd_models.checkpoints_list["a"] = info

    host.sd_models.list_models = list_models
    host.install()
    host.install()
    listing = threading.Thread(target=lambda: host.sd_models.list_models())
    listing.start()
    begun.wait(10)
    threading.Timer(0.1, go_on.set).start()
    assert [file.name for file in host.checkpoints()] == ["a"]
    listing.join()
    host.uninstall()
    assert host.sd_models.list_models is list_models
