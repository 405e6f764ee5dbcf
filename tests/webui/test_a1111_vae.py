"""The VAE part of the AUTOMATIC1111 adapter against a stand-in for the webui's ``sd_vae``, in the webui's own order."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from host.vae_files import write_vae_file
from modelsmith.decision import Override
from modelsmith.errors import BadFileError, UnknownNameError
from modelsmith.identify import identify
from modelsmith.vae import choice
from modelsmith_webui import settings
from modelsmith_webui.hosts.a1111_vae import A1111Vae, resolving_module


@dataclass
class VaeResolution:
    vae: str | None = None
    source: str | None = None
    resolved: bool = True


class Lock:
    """Not re-entrant, as the webui's: taking it twice in one thread would wait for ever."""

    def __init__(self) -> None:
        self.held = False

    def __enter__(self) -> None:
        assert not self.held
        self.held = True

    def __exit__(self, *_: object) -> None:
        self.held = False


class Webui:
    """What of the webui the VAE part touches."""

    def __init__(self, folder: Path) -> None:
        self.opts = SimpleNamespace(
            sd_vae="Automatic",
            sd_vae_overrides_per_model_preferences=True,
            quicksettings_list=["sd_model_checkpoint"],
            data={},
            sd_model_checkpoint="sd15",
        )
        self.metadata: str | None = None
        self.near: str | None = None
        self.reloads: list[str | None] = []
        self.lock = Lock()
        self.checkpoint = folder / "sd15.safetensors"
        self.model: Any = SimpleNamespace(loaded_vae_file=None, first_stage_model=object())
        self.sd_vae: Any = ModuleType("modules.sd_vae")
        self.sd_vae.VaeResolution = VaeResolution
        self.sd_vae.vae_dict = {path.name: str(path) for path in sorted(folder.glob("*.safetensors"))}
        for name in ("is_automatic", "resolve_vae", "reload_vae_weights", "resolve_vae_from_setting"):
            setattr(self.sd_vae, name, getattr(self, name))
        self.sd_vae.resolve_vae_from_user_metadata = lambda _file: self.from_metadata()
        self.sd_vae.find_vae_near_checkpoint = lambda _file: self.near

    def is_automatic(self) -> bool:
        return self.opts.sd_vae == "Automatic"

    def resolve_vae_from_setting(self) -> VaeResolution:
        if self.opts.sd_vae == "None":
            return VaeResolution()
        found = self.sd_vae.vae_dict.get(self.opts.sd_vae)
        return VaeResolution(found, "specified in settings") if found else VaeResolution(resolved=False)

    def from_metadata(self) -> VaeResolution:
        found = self.sd_vae.vae_dict.get(self.metadata)
        return VaeResolution(found, "from user metadata") if found else VaeResolution(resolved=False)

    def resolve_vae(self, _file: str) -> VaeResolution:
        if self.opts.sd_vae_overrides_per_model_preferences and not self.is_automatic():
            return self.resolve_vae_from_setting()
        if self.from_metadata().resolved:
            return self.from_metadata()
        if self.near:
            return VaeResolution(self.near, "found near the checkpoint")
        return self.resolve_vae_from_setting()

    def reload_vae_weights(self, model: Any) -> None:
        assert self.lock.held
        self.reloads.append(self.sd_vae.resolve_vae(str(self.checkpoint)).vae)
        model.loaded_vae_file = self.reloads[-1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("vaes")
    write_vae_file(made / "xl.safetensors", family="sdxl", seed=1)
    write_vae_file(made / "sd.safetensors", family="sd", seed=2)
    write_vae_file(made / "untold.safetensors", seed=3)
    return made


@pytest.fixture
def webui(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Webui:
    found = Webui(folder)
    package: Any = ModuleType("modules")
    devices: Any = ModuleType("modules.devices")
    devices.dtype_vae = None
    parts = {
        "sd_vae": found.sd_vae,
        "devices": devices,
        "shared": SimpleNamespace(opts=found.opts, cmd_opts=SimpleNamespace(nowebui=False, freeze_settings=False)),
        "call_queue": SimpleNamespace(queue_lock=found.lock),
        "sd_models": SimpleNamespace(checkpoint_aliases={"sd15": SimpleNamespace(filename=str(found.checkpoint))}),
    }
    for name, part in parts.items():
        setattr(package, name, part)
        monkeypatch.setitem(sys.modules, f"modules.{name}", part)
    monkeypatch.setitem(sys.modules, "modules", package)
    return found


class Host:
    """The adapter around the VAE part."""

    name = "A1111"

    def __init__(self, webui: Webui, data: Path) -> None:
        self.webui, self.data = webui, data
        self.resolver = SimpleNamespace(report=identify)
        self.preference: str | None = None

    def data_folder(self) -> Path:
        return self.data

    def checkpoints(self) -> list[Any]:
        return []

    def override(self, _path: Path) -> Override:
        return Override(vae=self.preference)

    def loaded_model(self) -> Any:
        return self.webui.model

    def loaded_checkpoint(self) -> Path:
        return self.webui.checkpoint


@pytest.fixture
def vae(webui: Webui, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[A1111Vae]:
    host: Any = Host(webui, tmp_path)
    found = A1111Vae(host, lambda: True)
    found.baked = "healthy"  # type: ignore[attr-defined]
    wanted: Any = frozenset({"sd"})
    monkeypatch.setattr(
        choice.Judge,
        "model",
        lambda _self, path: choice.Model(path, "sd1", wanted, found.baked),  # type: ignore[attr-defined]
    )
    original = webui.sd_vae.resolve_vae
    webui.sd_vae.resolve_vae = lambda file: found.resolve(original, file)
    yield found


def resolved(webui: Webui) -> str | None:
    answer = webui.sd_vae.resolve_vae(str(webui.checkpoint)).vae
    return Path(answer).stem if answer else None


def test_what_the_webui_says_stands(webui: Webui, vae: A1111Vae) -> None:
    assert resolved(webui) is None
    for name in ("sd", "untold"):
        webui.opts.sd_vae = f"{name}.safetensors"
        assert resolved(webui) == name
    webui.opts.sd_vae, vae.baked = "None", "damaged"  # type: ignore[attr-defined]
    assert resolved(webui) is None
    webui.opts.sd_vae = "no longer there"
    assert resolved(webui) is None, "a name that is gone is no order to choose"


def test_order_where_nothing_is_chosen(webui: Webui, vae: Any) -> None:
    vae.baked = "damaged"
    assert resolved(webui) == "sd"
    vae.host.preference = "untold"
    assert resolved(webui) == "untold"
    webui.near = webui.sd_vae.vae_dict["sd.safetensors"]
    assert resolved(webui) == "sd"
    webui.metadata = "xl.safetensors"
    assert resolved(webui) == "xl", "the user's word for this very checkpoint"


def test_wrong_ones_are_refused_and_the_next_answer_taken(webui: Webui, vae: Any) -> None:
    webui.opts.sd_vae = "xl.safetensors"
    assert resolved(webui) is None
    assert [one.path.stem for one in vae.answer_for(webui.checkpoint).refused] == ["xl"]
    webui.near = webui.sd_vae.vae_dict["untold.safetensors"]
    assert resolved(webui) == "untold"
    webui.metadata = "sd.safetensors"
    assert resolved(webui) == "sd"
    webui.metadata, webui.near = None, webui.sd_vae.vae_dict["xl.safetensors"]
    assert resolved(webui) is None, "a name that begins alike is no choice"
    vae.baked = "missing"
    assert resolved(webui) == "sd"
    assert webui.opts.sd_vae == "xl.safetensors"


def test_setting_that_comes_last(webui: Webui, vae: Any) -> None:
    webui.opts.sd_vae_overrides_per_model_preferences = False
    webui.near, webui.opts.sd_vae = webui.sd_vae.vae_dict["xl.safetensors"], "untold.safetensors"
    assert resolved(webui) == "untold"
    assert vae.answer_for(webui.checkpoint).source == "setting"


def test_refusal_is_logged_once(webui: Webui, vae: Any, caplog: pytest.LogCaptureFixture) -> None:
    webui.opts.sd_vae = "xl.safetensors"
    for _ in range(3):
        resolved(webui)
    assert caplog.text.count("xl.safetensors is not used: it is a VAE of SDXL") == 1


def test_switched_off(webui: Webui, vae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settings.DEFAULTS, settings.VAE, False)
    webui.opts.sd_vae, vae.baked = "xl.safetensors", "missing"
    assert resolved(webui) == "xl"
    webui.opts.sd_vae = "Automatic"
    assert resolved(webui) is None


def test_a_fault_of_ours_never_keeps_the_webui_from_loading(webui: Webui, vae: Any) -> None:
    vae.host.data = Path("/proc/no/such/folder")

    def data_folder() -> Path:
        raise PermissionError(13, "read-only")

    vae.host.data_folder = data_folder
    webui.opts.sd_vae = "xl.safetensors"
    assert resolved(webui) == "xl"


def test_a_persons_word_is_acted_on_under_the_queue_lock(webui: Webui, vae: Any) -> None:
    webui.opts.sd_vae = "xl.safetensors"
    resolved(webui)
    vae.reapply()
    assert webui.reloads == [], "what is in memory is what is due"
    vae.allow("xl.safetensors", True)
    vae.say("xl.safetensors", "sd")
    vae.allow("xl.safetensors", False)
    assert [Path(file).stem if file else None for file in webui.reloads] == ["xl"]
    vae.say("xl.safetensors", None)
    assert webui.reloads[1:] == [None]
    with pytest.raises(UnknownNameError, match="xl"):
        vae.say("xk.safetensors", "sd")
    with pytest.raises(UnknownNameError, match="sdxl"):
        vae.say("xl.safetensors", "sdxk")


def test_no_word_on_what_cannot_be_judged(webui: Webui, vae: Any, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"no model")
    webui.sd_vae.vae_dict["bad.safetensors"] = str(bad)
    with pytest.raises(BadFileError, match="bad"):
        vae.say("bad.safetensors", "sd")


def test_uninstall_loads_what_the_webui_would_have(webui: Webui, vae: Any) -> None:
    webui.opts.sd_vae = "xl.safetensors"
    resolved(webui)
    webui.sd_vae.resolve_vae = webui.resolve_vae
    vae.put_back()
    assert webui.reloads == [webui.sd_vae.vae_dict["xl.safetensors"]]
    vae.put_back()
    assert len(webui.reloads) == 1


def test_state_tells_what_is_in_use_and_marks_the_list(webui: Webui, vae: Any) -> None:
    webui.opts.sd_vae = "xl.safetensors"
    resolved(webui)
    state = vae.state()
    assert (state.using, state.source, state.fit, state.pending) == (None, "baked", "fits", False)
    assert [one.path.stem for one in state.refused] == ["xl"]
    assert {file.name: file.fit for file in state.files} == {
        "sd.safetensors": "fits",
        "untold.safetensors": "unsure",
        "xl.safetensors": "does_not_fit",
    }
    assert "is not used" in vae.notes()[0]
    webui.model.loaded_vae_file = webui.sd_vae.vae_dict["sd.safetensors"]
    assert vae.state().source == "other", "somebody else has loaded another one"


def test_a_jobs_own_choice_is_an_override_of_that_job(vae: A1111Vae) -> None:
    shared = {"CLIP_stop_at_last_layers": 2}
    for name, wanted in (("Automatic", "Automatic"), ("In the checkpoint", "None"), ("a.safetensors", "a.safetensors")):
        p = SimpleNamespace(override_settings=shared)
        vae.choose_for_job(p, name)
        assert p.override_settings == {"CLIP_stop_at_last_layers": 2, "sd_vae": wanted}
    p = SimpleNamespace(override_settings=shared)
    vae.choose_for_job(p, None)
    assert p.override_settings is shared
    assert "sd_vae" not in shared


def test_quicksetting_joins_once(webui: Webui, vae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    default = webui.opts.quicksettings_list
    vae.join_quicksettings()
    assert webui.opts.data["quicksettings_list"] == ["sd_model_checkpoint", "sd_vae"]
    assert default == ["sd_model_checkpoint"], "the webui's default is not changed in place"
    webui.opts.data["quicksettings_list"] = ["sd_model_checkpoint"]
    vae.join_quicksettings()
    assert webui.opts.data["quicksettings_list"] == ["sd_model_checkpoint"]
    webui.opts.quicksettings_list = ["sd_vae", "x"]
    monkeypatch.setitem(settings.DEFAULTS, settings.VAE_QUICKSETTING, False)
    vae.quicksetting_changed()
    assert webui.opts.data["quicksettings_list"] == ["x"]


def test_quicksetting_needs_a_page(webui: Webui, vae: Any) -> None:
    sys.modules["modules.shared"].cmd_opts.nowebui = True  # type: ignore[attr-defined]
    vae.join_quicksettings()
    assert webui.opts.data == {}


def test_webui_that_answers_in_another_way(webui: Webui) -> None:
    assert resolving_module() is webui.sd_vae
    del webui.sd_vae.VaeResolution
    assert resolving_module() is None
