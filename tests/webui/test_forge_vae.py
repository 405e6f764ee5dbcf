"""The VAE part of the Forge adapter against a stand-in for Forge's loading parameters and its lazy load."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from host.vae_files import write_vae_file
from makers import write_header_only
from modelsmith.decision import Override
from modelsmith.identify import identify
from modelsmith.vae import choice
from modelsmith_webui import settings
from modelsmith_webui.hosts import forge_vae
from modelsmith_webui.hosts.forge_vae import ForgeVae


class Forge:
    """The part of Forge that decides what is loaded: names and order of main_entry.py and sd_models.py."""

    def __init__(self, folder: Path) -> None:
        self.checkpoint = folder / "model.safetensors"
        self.opts = SimpleNamespace(forge_additional_modules=[])
        self.data = SimpleNamespace(forge_loading_parameters={}, forge_hash="")
        self.loads: list[list[str]] = []
        self.main_entry: Any = ModuleType("modules_forge.main_entry")
        self.main_entry.module_list = {path.name: str(path) for path in sorted(folder.glob("*.safetensors"))}
        self.main_entry.refresh_model_loading_parameters = self.refresh

    def refresh(self) -> None:
        info = SimpleNamespace(filename=str(self.checkpoint))
        self.data.forge_loading_parameters = {
            "checkpoint_info": info,
            "additional_modules": self.opts.forge_additional_modules,
        }

    def choose(self, *names: str) -> None:
        self.opts.forge_additional_modules = [self.main_entry.module_list[f"{name}.safetensors"] for name in names]
        self.main_entry.refresh_model_loading_parameters()

    def job(self) -> list[str]:
        """The beginning of a job: a load only where the parameters have changed; the names of the modules in use."""
        found = str(self.data.forge_loading_parameters)
        if found != self.data.forge_hash:
            self.data.forge_hash = found
            self.loads.append([Path(name).stem for name in self.data.forge_loading_parameters["additional_modules"]])
        return self.loads[-1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("modules")
    write_vae_file(made / "xl.safetensors", family="sdxl", seed=1)
    write_vae_file(made / "sd.safetensors", family="sd", seed=2)
    write_vae_file(made / "untold.safetensors", seed=3)
    layer = "text_model.encoder.layers.0"
    text = {
        "text_model.embeddings.token_embedding.weight": ("F16", (49408, 768)),
        "text_model.embeddings.position_embedding.weight": ("F16", (77, 768)),
        f"{layer}.self_attn.q_proj.weight": ("F16", (768, 768)),
        f"{layer}.mlp.fc1.weight": ("F16", (3072, 768)),
        "text_model.final_layer_norm.weight": ("F16", (768,)),
    }
    write_header_only(made / "clip_l.safetensors", text)
    return made


@pytest.fixture
def forge(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Forge:
    from webui.test_a1111 import Patches

    found = Forge(folder)
    package: Any = ModuleType("modules")
    parts = {
        "modules.sd_models": SimpleNamespace(model_data=found.data),
        "modules.shared": SimpleNamespace(opts=found.opts),
        "modules.patches": Patches(),
        "modules_forge": SimpleNamespace(main_entry=found.main_entry),
        "modules_forge.main_entry": found.main_entry,
    }
    for name, part in parts.items():
        if name.startswith("modules."):
            setattr(package, name.partition(".")[2], part)
        monkeypatch.setitem(sys.modules, name, part)
    monkeypatch.setitem(sys.modules, "modules", package)
    return found


@pytest.fixture
def vae(forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    host: Any = SimpleNamespace(
        name="Forge",
        resolver=SimpleNamespace(report=identify),
        data_folder=lambda: tmp_path,
        checkpoints=list,
        override=lambda _path: Override(),
        loaded_checkpoint=lambda: None,
    )
    found: Any = ForgeVae(host)
    found.baked = "healthy"
    wanted: Any = frozenset({"sd"})
    monkeypatch.setattr(choice.Judge, "model", lambda _self, path: choice.Model(path, "sd1", wanted, found.baked))
    found.install()
    yield found
    found.uninstall()


def test_the_users_modules_stand(forge: Forge, vae: Any) -> None:
    for names in ([], ["sd"], ["clip_l", "untold"], ["clip_l"]):
        forge.choose(*names)
        assert forge.job() == names


def test_a_fitting_one_is_added_where_one_is_needed(forge: Forge, vae: Any) -> None:
    vae.baked = "missing"
    forge.choose("clip_l")
    assert forge.job() == ["clip_l", "sd"]
    assert [Path(name).stem for name in forge.opts.forge_additional_modules] == ["clip_l"], "the option is the user's"
    forge.choose("clip_l", "untold")
    assert forge.job() == ["clip_l", "untold"]


def test_a_wrong_one_is_left_out_and_the_text_encoder_kept(forge: Forge, vae: Any) -> None:
    forge.choose("xl", "clip_l")
    assert forge.job() == ["clip_l"]
    state = vae.state()
    assert [one.path.stem for one in state.refused] == ["xl"]
    assert (state.using, state.source) == (None, "baked")
    vae.baked = "damaged"
    vae.reapply()
    assert forge.job() == ["clip_l", "sd"]
    assert len(forge.opts.forge_additional_modules) == 2


def test_no_load_is_repeated(forge: Forge, vae: Any) -> None:
    vae.baked = "missing"
    forge.choose("xl")
    for _ in range(3):
        vae.reapply()
        forge.job()
        forge.main_entry.refresh_model_loading_parameters()
        forge.job()
    assert forge.loads == [["sd"]]


def test_a_persons_word_reaches_the_next_job(forge: Forge, vae: Any) -> None:
    forge.choose("xl")
    assert forge.job() == []
    vae.allow("xl.safetensors", True)
    assert forge.job() == ["xl"]
    vae.allow("xl.safetensors", False)
    assert forge.job() == []


def test_switched_off_and_on(forge: Forge, vae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    forge.choose("xl")
    with monkeypatch.context() as patch:
        patch.setitem(settings.DEFAULTS, settings.VAE, False)
        vae.reapply()
        assert forge.job() == ["xl"]
    vae.reapply()
    assert forge.job() == []


def test_nothing_is_left(forge: Forge, vae: Any) -> None:
    vae.baked = "missing"
    forge.choose("xl")
    assert forge.job() == ["sd"]
    vae.uninstall()
    assert forge.main_entry.refresh_model_loading_parameters == forge.refresh
    assert forge.job() == ["xl"]
    vae.reapply()
    forge.choose("xl")
    assert forge.job() == ["xl"]
    vae.install()
    vae.reapply()
    assert forge.job() == ["sd"]


def test_under_another_extension(forge: Forge, vae: Any) -> None:
    ours = forge.main_entry.refresh_model_loading_parameters
    forge.main_entry.refresh_model_loading_parameters = lambda: ours()
    vae.uninstall()
    forge.choose("xl")
    assert forge.job() == ["xl"], "our wrapper below the other one does nothing any more"


def test_only_vaes_are_listed(forge: Forge, vae: Any) -> None:
    assert [name for name, _ in vae.listed()] == ["sd.safetensors", "untold.safetensors", "xl.safetensors"]


def test_the_picture_says_what_the_option_does_not(forge: Forge, vae: Any) -> None:
    job = SimpleNamespace(extra_generation_params={})
    forge.choose("sd")
    vae.note(job)
    assert job.extra_generation_params == {}
    forge.choose("xl")
    vae.note(job)
    assert job.extra_generation_params == {forge_vae.INFOTEXT: "baked"}
    vae.baked = "missing"
    forge.choose()
    vae.note(job)
    assert job.extra_generation_params == {forge_vae.INFOTEXT: "sd"}


def test_a_jobs_own_choice_is_for_that_job(forge: Forge, vae: Any) -> None:
    forge.choose("clip_l", "sd")
    assert forge.job() == ["clip_l", "sd"]
    for name, wanted in (
        ("untold.safetensors", ["clip_l", "untold"]),
        ("In the checkpoint", ["clip_l"]),
        ("Automatic", ["clip_l"]),
        (None, ["clip_l", "sd"]),
    ):
        vae.choose_for_job(None, name)
        vae.reapply()
        assert forge.job() == wanted
    chosen = [Path(name).stem for name in forge.opts.forge_additional_modules]
    assert chosen == ["clip_l", "sd"], "the user's option"


def test_webui_without_that_function(forge: Forge, vae: Any, caplog: pytest.LogCaptureFixture) -> None:
    vae.uninstall()
    del forge.main_entry.refresh_model_loading_parameters
    vae.install()
    assert "VAEs are left to this webui" in caplog.text
