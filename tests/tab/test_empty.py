"""What the views say while there is nothing to work on."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="gradio is not installed")

from modelsmith_webui.hosts.standalone import StandaloneHost
from modelsmith_webui.tab.empty import EmptyNotice
from modelsmith_webui.tab.library_view import LibraryView
from modelsmith_webui.tab.texts import Texts
from modelsmith_webui.tab.ui import build_tab


def test_a_folder_without_checkpoints_says_where_they_belong(tmp_path: Path, demo_folder: Path) -> None:
    host = StandaloneHost(tmp_path)
    notice = EmptyNotice(host, Texts(host.language))
    shown = notice.update()
    assert shown["visible"] and f"There are no checkpoints in {tmp_path} yet." in shown["value"]
    (tmp_path / "Lora").mkdir()
    name = "modelsmith-demo-a.safetensors"
    (tmp_path / "Lora" / name).hardlink_to(demo_folder / name)
    assert notice.update()["visible"], "a LoRA is no checkpoint"
    (tmp_path / name).hardlink_to(demo_folder / name)
    assert not notice.update()["visible"]


def test_the_tab_is_built_without_any_model(tmp_path: Path) -> None:
    shown = [
        block for block in build_tab(StandaloneHost(tmp_path)).blocks.values() if block.elem_id == "modelsmith_empty"
    ]
    assert len(shown) == 1 and shown[0].visible


def test_the_library_says_what_it_would_list(tmp_path: Path) -> None:
    host = StandaloneHost(tmp_path)
    view = LibraryView(host, Texts(lambda: "ja_JP"), None)  # type: ignore[arg-type]
    assert "モデルファイルが見つかりません" in view.show()
