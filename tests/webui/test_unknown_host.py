"""Which adapter a webui gets, and what one gets that lacks a name: told from stand-ins made of files."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelsmith_webui.host import detect_host
from modelsmith_webui.hosts.unknown import OFF_MISSING, UnknownHost

SHARED = {
    "modules/patches.py": "def patch(): ...",
    "modules/shared.py": "from types import SimpleNamespace\nopts = SimpleNamespace()",
    "modules/sd_models.py": (
        "class Data:\n    sd_model = None\nmodel_data = Data()\ndef apply_alpha_schedule_override(): ..."
    ),
    "modules/sd_models_config.py": "def find_checkpoint_config(): ...\ndef find_checkpoint_config_near_filename(): ...",
}
PREDICTOR = "class Prediction:\n    def set_sigmas(self): ...\n    def calculate_denoised(self): ...\n"
SAMPLING = "class EPS: ...\nclass V_PREDICTION(EPS): ...\nclass ModelSamplingDiscrete:\n    def set_sigmas(self): ...\n"
FORGE = {
    **SHARED,
    "modules_forge/__init__.py": "",
    "backend/loader.py": "",
    "backend/modules/k_prediction.py": PREDICTOR,
}
NEO = {path: text for path, text in FORGE.items() if path != "modules/sd_models_config.py"}
CLASSIC = {**SHARED, "modules_forge/forge_loader.py": "", "ldm_patched/modules/model_sampling.py": SAMPLING}
REFORGE = {**CLASSIC, "modules/hypernetworks/__init__.py": ""}


@pytest.fixture
def webui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the process look like a webui that has these files."""
    for name in list(sys.modules):
        if name.split(".")[0] in ("modules", "modules_forge", "backend", "ldm_patched"):
            monkeypatch.delitem(sys.modules, name)

    def make(files: dict[str, str]) -> None:
        for path, text in files.items():
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        monkeypatch.syspath_prepend(tmp_path)

    yield make
    for name in list(sys.modules):
        if name.split(".")[0] in ("modules", "modules_forge", "backend", "ldm_patched"):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("files", "adapter", "name"),
    [
        (SHARED, "A1111Host", "A1111"),
        (FORGE, "ForgeHost", "Forge"),
        (NEO, "NeoHost", "Neo"),
        (REFORGE, "LdmForgeHost", "reForge"),
        (CLASSIC, "LdmForgeHost", "Classic"),
        ({**SHARED, "modules_forge/__init__.py": ""}, "UnknownHost", "unknown, of the Forge family"),
    ],
)
def test_the_adapter_follows_what_is_there(webui: Any, files: dict[str, str], adapter: str, name: str) -> None:
    webui(files)
    host = detect_host()
    assert (type(host).__name__, host.name) == (adapter, name)


@pytest.mark.parametrize(
    ("files", "path", "text", "gone"),
    [
        (
            FORGE,
            "backend/modules/k_prediction.py",
            PREDICTOR.replace("Prediction", "Predictor"),
            "Prediction.set_sigmas",
        ),
        (NEO, "backend/modules/k_prediction.py", PREDICTOR.replace("set_sigmas", "put"), "Prediction.set_sigmas"),
        (FORGE, "modules/sd_models.py", "", "model_data"),
        (REFORGE, "ldm_patched/modules/model_sampling.py", SAMPLING.replace("V_PREDICTION", "V"), "V_PREDICTION"),
        (CLASSIC, "modules/patches.py", "", "patch"),
        (SHARED, "modules/sd_models_config.py", "", "find_checkpoint_config"),
    ],
)
def test_a_webui_that_has_changed_is_left_alone_and_says_so(
    webui: Any, caplog: pytest.LogCaptureFixture, files: dict[str, str], path: str, text: str, gone: str
) -> None:
    webui({**files, path: text})
    host: Any = detect_host()
    assert isinstance(host, UnknownHost)
    assert any(name.endswith(gone) for name in host.gone)
    assert "prediction" not in host.capabilities
    host.install()
    assert "Automatic setting is off in this webui" in caplog.text, "clearly said"
    assert gone in caplog.text


def test_a_file_is_identified_but_nothing_is_set(webui: Any, tmp_path: Path) -> None:
    webui({**SHARED, "modules_forge/__init__.py": ""})
    host: Any = detect_host()
    model = SimpleNamespace(sd_checkpoint_info=SimpleNamespace(filename=str(tmp_path / "model.safetensors")))
    before = dict(vars(model))
    sys.modules["modules.sd_models"] = module = __import__("modules.sd_models", fromlist=["model_data"])
    module.model_data.sd_model = model
    for call in (host.model_loaded, host.before_load, host.before_process, host.before_batch):
        call(model)
    host.reapply()
    host.uninstall()
    status = host.status()
    assert status is not None
    assert not status.applied
    assert status.notes == (host.notice(),)
    assert vars(model) == before


def test_the_notice_speaks_the_users_language(webui: Any) -> None:
    webui({**SHARED, "modules/patches.py": ""})
    host: Any = detect_host()
    said: list[str] = []

    def tr(text: str, **values: str) -> str:
        said.append(text)
        return f"<{text.format(**values)}>"

    assert host.notice(tr).startswith(
        "<Automatic setting is off in this webui (A1111): it has no modules.patches.patch"
    )
    assert said == [OFF_MISSING]
