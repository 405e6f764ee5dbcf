"""Adapters and stand-ins use only names that a real webui was seen to have, and call them as it lets them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("yaml")

import host_names  # noqa: E402
from modelsmith_webui.hosts import neo  # noqa: E402
from webui.test_a1111 import Webui as A1111  # noqa: E402
from webui.test_forge import Prediction, make_model  # noqa: E402
from webui.test_forge_vae import Forge  # noqa: E402
from webui.test_ldm_forge import Engine, World, make_sampling  # noqa: E402
from webui.test_neo import stand_ins as neo_stand_ins  # noqa: E402

# Only where the webui has it: the adapter asks first, or catches what comes of it.
OPTIONAL = {
    "modules.shared.opts.quicksettings_list",
    "modules.shared.opts.sd_model_checkpoint",
}


@pytest.mark.parametrize("flavour", host_names.SOURCES)
def test_every_name_that_an_adapter_uses_is_there(flavour: str) -> None:
    known = host_names.kept()[flavour]
    used = host_names.used_names(flavour) | set(host_names.LOADED[flavour])
    assert sorted(used - set(known)) == [], "run tests/host/test_stand_in.py with MODELSMITH_WRITE_NAMES=1"
    assert sorted(name for name in used - OPTIONAL if known[name] is None) == []


def test_the_scan_finds_what_is_used() -> None:
    assert "modules.sd_models.model_data" in host_names.used_names("a1111")
    assert "backend.modules.k_prediction.AbstractPrediction" in host_names.used_names("forge")
    assert "modules_forge.main_entry.module_list" in host_names.used_names("forge")


def _parameters(described: str) -> list[str]:
    return [part.split("=")[0].strip("* ") for part in re.findall(r"[^(),]+", described)]


def _stand_in_names(module: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in vars(module).items():
        if not name.startswith("__"):
            yield f"{prefix}.{name}", value


def _agree(names: Iterator[tuple[str, Any]], known: dict[str, str | None]) -> None:
    for name, value in names:
        assert known.get(name) is not None, f"the stand-in has {name}, which the webui has not"
        if inspect.isroutine(value):
            own = [one for one in inspect.signature(value).parameters if one not in ("args", "kwargs")]
            assert len(own) <= len(_parameters(str(known[name]))), name


def test_the_stand_in_for_a1111_has_its_names(tmp_path: Path) -> None:
    webui, known = A1111(tmp_path), host_names.kept()["a1111"]
    for name in ("sd_models", "sd_models_config"):
        module: ModuleType = getattr(webui, name)
        _agree(_stand_in_names(module, f"modules.{name}"), known)
    assert known["modules.sd_models.apply_alpha_schedule_override"] == "(sd_model, p=None)"
    model = webui.load("v.safetensors")
    for name in vars(model):
        if f"loaded.{name}" in known:
            assert known[f"loaded.{name}"] is not None


def test_the_stand_in_for_forge_has_its_names(tmp_path: Path) -> None:
    known = host_names.kept()["forge"]
    predictor = Prediction("epsilon")
    model = make_model(tmp_path / "x.safetensors", predictor)
    for name in ("prediction_type", "sigmas", "log_sigmas", "alphas_cumprod"):
        assert known[f"loaded.forge_objects.unet.model.predictor.{name}"] == "value"
        assert hasattr(predictor, name)
    wanted = _parameters(str(known["loaded.forge_objects.unet.model.predictor.set_sigmas"]))
    assert list(inspect.signature(predictor.set_sigmas).parameters) == wanted
    for name in vars(model.model_config):
        assert known[f"loaded.model_config.{name}"] == "value"
    forge = Forge(tmp_path)
    assert known["modules_forge.main_entry.module_list"] == "value"
    assert isinstance(forge.main_entry.module_list, dict)


def test_the_stand_in_for_neo_has_its_names(tmp_path: Path) -> None:
    modules, known = neo_stand_ins(tmp_path), host_names.kept()["neo"]
    for module in modules.values():
        _agree(_stand_in_names(module, module.__name__), known)
    shared, sd_models = modules["shared"], modules["sd_models"]
    held = {
        "shared.cmd_opts": shared.cmd_opts,
        "shared.opts": shared.opts,
        "sd_models.model_data": sd_models.model_data,
    }
    for holder, values in held.items():
        for name in vars(values):
            assert known[f"modules.{holder}.{name}"] == "value"
    assert known[f"backend.modules.k_prediction.{neo.FLOW_PREDICTOR}"] == "class"


def test_the_stand_in_for_reforge_has_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, known = World(monkeypatch), host_names.kept()["ldm_forge"]
    world.host.uninstall()
    for name in ("sd_models", "processing"):
        _agree(_stand_in_names(world.modules[name], f"modules.{name}"), known)
    _agree(_stand_in_names(world.loader, "modules_forge.forge_loader"), known)
    sampling = make_sampling()
    model = Engine(tmp_path / "x.safetensors", sampling)
    for name in ("alphas_cumprod", "ztsnr", "sd_checkpoint_info.filename"):
        assert known[f"loaded.{name}"] == "value"
    prefix = "loaded.forge_objects.unet.model.model_sampling"
    assert known[f"{prefix}.sigmas"] == known[f"{prefix}.log_sigmas"] == "value"
    wanted = _parameters(str(known[f"{prefix}.set_sigmas"]))
    assert list(inspect.signature(model.sampling.set_sigmas).parameters) == wanted
    for base in ("EPS", "V_PREDICTION", "EDM", "StableCascadeSampling"):
        assert known[f"ldm_patched.modules.model_sampling.{base}"] == "class"
