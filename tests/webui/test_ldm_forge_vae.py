"""reForge: the checkpoint's own VAE comes back, against a stand-in as its ``sd_vae`` and ``sd_models`` work."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from modelsmith_webui.hosts.ldm_forge_vae import keep_own_vae  # noqa: E402
from webui.test_ldm_forge import World  # noqa: E402

OWN, OTHER = "the checkpoint's", "other.safetensors"


class Vae:
    """The stand-in for ``modules.sd_vae``; a VAE's weights are a name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.module: Any = ModuleType("modules.sd_vae")
        store: Callable[[Any], None] = self._store
        vars(self.module).update(base_vae=None, loaded_vae_file=None, checkpoint_info=None, VaeResolution=object)
        vars(self.module).update(store_base_vae=store, resolve_vae=lambda _file: None)
        monkeypatch.setattr(sys.modules["modules"], "sd_vae", self.module, raising=False)
        self.model = SimpleNamespace(sd_checkpoint_info="info", weights=OWN, base_vae=None, loaded_vae_file=None)

    def _store(self, model: Any) -> None:
        if self.module.checkpoint_info != model.sd_checkpoint_info:
            assert not self.module.loaded_vae_file
            self.module.base_vae, self.module.checkpoint_info = model.weights, model.sd_checkpoint_info

    def picture(self) -> None:
        """``set_sd_model`` of a model that is in memory already, with which every job begins."""
        self.module.base_vae, self.module.loaded_vae_file = self.model.base_vae, self.model.loaded_vae_file
        self.module.checkpoint_info = self.model.sd_checkpoint_info

    def load(self, file: str | None) -> str:
        """``load_vae``; the weights that are in the model then."""
        if file is not None:
            self.module.store_base_vae(self.model)
            self.model.weights = file
        elif self.module.loaded_vae_file:
            if self.module.base_vae is not None and self.module.checkpoint_info == self.model.sd_checkpoint_info:
                self.model.weights = self.module.base_vae
            self.module.base_vae = self.module.checkpoint_info = None
        self.module.loaded_vae_file = file
        self.model.base_vae, self.model.loaded_vae_file = self.module.base_vae, file
        return self.model.weights


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(monkeypatch)
    made.host.uninstall()
    return made


@pytest.fixture
def vae(world: World, monkeypatch: pytest.MonkeyPatch) -> Vae:
    return Vae(monkeypatch)


def test_the_checkpoints_own_vae_comes_back_after_pictures(world: World, vae: Vae) -> None:
    world.host.install()
    for _ in range(2):
        vae.picture()
        assert vae.load(OTHER) == OTHER
        vae.picture()
        assert vae.load("third.safetensors") == "third.safetensors"
        assert vae.module.base_vae == OWN
        vae.picture()
        assert vae.load(None) == OWN


def test_without_modelsmith_it_is_left_to_the_webui(world: World, vae: Vae) -> None:
    original = vae.module.store_base_vae
    world.host.install()
    wrapped = vae.module.store_base_vae
    assert wrapped is not original
    world.host.uninstall()
    assert vae.module.store_base_vae is original
    vae.module.store_base_vae = wrapped  # as another extension may have kept it
    vae.picture()
    vae.load(OTHER)
    assert vae.load(None) == OTHER, "the webui's own fault"


def test_another_vae_is_never_kept_as_the_checkpoints_own(vae: Vae) -> None:
    vae.module.checkpoint_info, vae.module.loaded_vae_file = "info", OTHER
    keep_own_vae(vae.module.store_base_vae, vae.model)
    assert vae.module.base_vae is None
    assert vae.module.checkpoint_info == "info"
