"""The files that a webui's folders hold: what is listed, by which name, and how often folders are walked for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelsmith_webui.hosts import webui
from modelsmith_webui.hosts.webui import WebuiHost


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WebuiHost:
    modules = {
        "sd_models": SimpleNamespace(checkpoints_list={}),
        "sd_vae": SimpleNamespace(vae_dict={"a.vae": str(tmp_path / "VAE" / "a.vae.pt")}),
        "paths_internal": SimpleNamespace(models_path=str(tmp_path)),
        "shared": SimpleNamespace(cmd_opts=SimpleNamespace(lora_dir=None, text_encoder_dir=None), opts=None),
    }
    monkeypatch.setitem(sys.modules, "modules", SimpleNamespace(**modules))
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, f"modules.{name}", module)
    for folder in ("Lora", "text_encoder"):
        (tmp_path / folder).mkdir()
    return WebuiHost("A1111")


def names(host: WebuiHost, kind: str) -> list[str]:
    return [file.name for file in host.model_files() if file.kind == kind]


def test_files_below_a_folder_by_their_names_from_there(host: WebuiHost, tmp_path: Path) -> None:
    for name in ("b.safetensors", "style/a.SafeTensors", "style/deep/c.gguf", "style/picture.png", "text.txt"):
        (tmp_path / "Lora" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "Lora" / name).touch()
    (tmp_path / "Lora" / "folder.safetensors").mkdir()
    (tmp_path / "text_encoder" / "t5.safetensors").touch()
    assert names(host, "lora") == ["b.safetensors", "style/a.SafeTensors", "style/deep/c.gguf"]
    assert names(host, "text_encoder") == ["t5.safetensors"]
    assert names(host, "vae") == ["a.vae"]
    assert [file.path for file in host.model_files() if file.kind == "lora"][1] == tmp_path / "Lora/style/a.SafeTensors"


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_linked_folders_are_followed_once_and_dead_links_left_out(host: WebuiHost, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.safetensors").touch()
    lora = tmp_path / "Lora"
    (lora / "linked").symlink_to(elsewhere)
    (lora / "again").symlink_to(lora)
    (lora / "gone.safetensors").symlink_to(tmp_path / "nothing")
    assert names(host, "lora") == ["linked/a.safetensors"]


def test_folders_are_walked_once_while_that_is_asked_for(
    host: WebuiHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked: list[Path] = []
    real = webui._files_below

    def files_below(folder: Path, kind: Any) -> Any:
        walked.append(folder)
        return real(folder, kind)

    monkeypatch.setattr(webui, "_files_below", files_below)
    with host.listed_once():
        first = host.model_files()
        (tmp_path / "Lora" / "new.safetensors").touch()
        first.clear()
        assert [file.name for file in host.model_files()] == ["a.vae"]
    assert len(walked) == 2
    assert names(host, "lora") == ["new.safetensors"]
    with pytest.raises(ZeroDivisionError), host.listed_once():
        raise ZeroDivisionError
    (tmp_path / "Lora" / "newer.safetensors").touch()
    assert len(names(host, "lora")) == 2
