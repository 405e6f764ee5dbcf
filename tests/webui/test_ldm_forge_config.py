"""The config that reForge and Classic build a checkpoint's outer model from, with the webuis' names."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from host.checkpoints import SD1, SD2, SDXL, Recipe, write
from modelsmith_webui.hosts.common import Resolver
from modelsmith_webui.hosts.ldm_forge_config import find_config

REFORGE = {
    "config_default": "v1-inference.yaml",
    "config_inpainting": "v1-inpainting-inference.yaml",
    "config_sd2": "v2-inference.yaml",
    "config_sd2v": "v2-inference-v.yaml",
    "config_sdxl": "sd_xl_base.yaml",
    "config_sdxl_inpainting": "sd_xl_inpaint.yaml",
}
CLASSIC = {
    "config_sd1": "v1-inference.yaml",
    "config_sdxl": "sd_xl_base.yaml",
    "config_sdxlv": "sd_xl_v.yaml",
}


class Webui:
    """``sd_models_config`` of a webui, and what its own guess answers."""

    def __init__(self, folder: Path, names: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.asked = folder, 0
        self.resolver = Resolver(lambda: True)
        self.guess = ""
        module = ModuleType("modules.sd_models_config")
        for name, file in names.items():
            (folder / file).write_text("model: {}")
            setattr(module, name, str(folder / file))

        def near(info: Any) -> str | None:
            beside = Path(info.filename).with_suffix(".yaml")
            return str(beside) if beside.exists() else None

        vars(module)["find_checkpoint_config_near_filename"] = near
        package = ModuleType("modules")
        vars(package)["sd_models_config"] = module
        monkeypatch.setitem(sys.modules, "modules", package)
        monkeypatch.setitem(sys.modules, "modules.sd_models_config", module)

    def find(self, path: Path) -> str:
        def original(_state_dict: Any, _info: Any) -> str:
            self.asked += 1
            return str(self.folder / self.guess)

        return Path(find_config(original, self.resolver, {}, SimpleNamespace(filename=str(path)))).name


@pytest.fixture
def reforge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Webui:
    return Webui(tmp_path, REFORGE, monkeypatch)


@pytest.fixture
def classic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Webui:
    return Webui(tmp_path, CLASSIC, monkeypatch)


@pytest.mark.parametrize(("bias", "wanted"), [(True, "v2-inference-v.yaml"), (False, "v2-inference.yaml")])
def test_sd2_is_told_without_running_the_unet(reforge: Webui, tmp_path: Path, bias: bool, wanted: str) -> None:
    assert reforge.find(write(tmp_path, Recipe("model", SD2, v_prediction_bias=bias))) == wanted
    assert reforge.asked == 0


def test_the_webuis_answer_stands_where_it_fits(classic: Webui, tmp_path: Path) -> None:
    path = write(tmp_path, Recipe("v", SDXL, markers=("v_pred",)))
    for guess in ("sd_xl_v.yaml", "sd_xl_base.yaml"):
        classic.guess = guess
        assert classic.find(path) == guess


def test_a_guess_of_another_family_is_mended(reforge: Webui, tmp_path: Path) -> None:
    """As a file without its text encoders gets it, or one with nine input channels."""
    reforge.guess = "v1-inference.yaml"
    assert reforge.find(write(tmp_path, Recipe("xl", SDXL))) == "sd_xl_base.yaml"
    assert reforge.find(write(tmp_path, Recipe("fill", SD1, in_channels=9))) == "v1-inpainting-inference.yaml"
    assert reforge.find(write(tmp_path, Recipe("xl-fill", SDXL, in_channels=9))) == "sd_xl_inpaint.yaml"


def test_a_webui_without_the_family_keeps_its_answer(classic: Webui, tmp_path: Path) -> None:
    classic.guess = "v1-inference.yaml"
    assert classic.find(write(tmp_path, Recipe("model", SD2, v_prediction_bias=True))) == "v1-inference.yaml"
    assert classic.asked == 1


def test_a_yaml_beside_the_file_wins(reforge: Webui, tmp_path: Path) -> None:
    path = write(tmp_path, Recipe("model", SD2))
    path.with_suffix(".yaml").write_text("model: {}")
    assert reforge.find(path) == "model.yaml"


def test_switched_off(reforge: Webui, tmp_path: Path) -> None:
    reforge.resolver = Resolver(lambda: False)
    reforge.guess = "v1-inference.yaml"
    assert reforge.find(write(tmp_path, Recipe("model", SD2))) == "v1-inference.yaml"
