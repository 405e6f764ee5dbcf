"""The hash of a file that was just written is put among the webui's own, which then reads the file once less."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelsmith_webui.hosts.webui import WebuiHost

SHA256 = "ab" * 32


class Checkpoint:
    """What a webui's list holds."""

    def __init__(self, path: Path, hashes: dict[str, Any]) -> None:
        self.filename, self.name, self.sha256 = str(path), path.name, None
        self._hashes = hashes

    def calculate_shorthash(self) -> None:
        self.sha256 = self._hashes[f"checkpoint/{self.name}"]["sha256"]


class Webui:
    """The lists and the hashes of a webui."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.hashes = folder, dict[str, Any]()
        self.listed: dict[str, Checkpoint] = {}
        self.options = SimpleNamespace(no_hashing=False)
        modules = {
            "hashes": SimpleNamespace(cache={"hashes": self.hashes}.__getitem__, dump_cache=lambda: None),
            "sd_models": SimpleNamespace(checkpoints_list=self.listed, list_models=self._list),
            "sd_vae": SimpleNamespace(refresh_vae_list=lambda: None),
            "shared": SimpleNamespace(cmd_opts=self.options, opts=None),
        }
        monkeypatch.setitem(sys.modules, "modules", SimpleNamespace(**modules))
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, f"modules.{name}", module)

    def _list(self) -> None:
        self.listed.clear()
        self.listed.update({path.name: Checkpoint(path, self.hashes) for path in sorted(self.folder.iterdir())})


@pytest.fixture
def webui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Webui:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("mix.safetensors", "other.safetensors"):
        (folder / name).write_bytes(b"weights")
    return Webui(folder, monkeypatch)


def test_the_webui_is_told_with_its_next_list(webui: Webui) -> None:
    host, mix = WebuiHost("A1111"), webui.folder / "mix.safetensors"
    host.keep_sha256(mix, SHA256)
    assert webui.hashes == {}
    host.refresh_checkpoints()
    assert webui.hashes == {"checkpoint/mix.safetensors": {"mtime": os.path.getmtime(mix), "sha256": SHA256}}
    assert {name: one.sha256 for name, one in webui.listed.items()} == {
        "mix.safetensors": SHA256,
        "other.safetensors": None,
    }
    webui.hashes.clear()
    host.refresh_checkpoints()
    assert webui.hashes == {}, "it is told once"


def test_nothing_is_told_of_another_file(webui: Webui) -> None:
    """One that was changed since, that is no checkpoint, or of which no hash is known."""
    host, mix = WebuiHost("A1111"), webui.folder / "mix.safetensors"
    host.keep_sha256(mix, SHA256)
    mix.write_bytes(b"other weights")
    host.keep_sha256(webui.folder.parent / "VAE" / "other.safetensors", SHA256)
    host.keep_sha256(webui.folder / "other.safetensors", None)
    host.refresh_checkpoints()
    assert webui.hashes == {}


def test_nor_where_the_user_wants_no_hashes(webui: Webui) -> None:
    host = WebuiHost("A1111")
    webui.options.no_hashing = True
    host.keep_sha256(webui.folder / "mix.safetensors", SHA256)
    host.refresh_checkpoints()
    assert webui.hashes == {}
