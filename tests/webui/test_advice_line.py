"""The panel's advice follows the checkpoint, and choices made for one checkpoint end with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("gradio")

from modelsmith.sampling_advice import Advice
from modelsmith_webui import generation_script
from modelsmith_webui.generation_script import AdviceLine

A, B, TEXT = Path("a.safetensors"), Path("b.safetensors"), Path("text.safetensors")
WATCHED = ("Euler", "Karras", 20, 7.0, 0.7)
AUTO = ("Automatic", "Automatic", "Automatic")
CHOICE = ("v_prediction", "On", "Automatic")


class Generation:
    """Advises on one checkpoint and remembers for which it was asked."""

    host = SimpleNamespace(language=lambda: "")
    resolver = object()
    pasted_for: Path | None = None

    def __init__(self) -> None:
        self.asked: list[Path] = []

    def rescale(self, *_args: Any) -> float:
        return 0.0

    def sigma_max(self) -> float:
        return 0.0

    def advice(self, path: Path, _sampling: Any, image: Any) -> Advice | None:
        self.asked.append(path)
        ztsnr = path == A or image.ztsnr == "on"
        return Advice("bad", (("fine", {"scheduler": "Karras"}),)) if ztsnr else None


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Any:
    sd_models: Any = ModuleType("modules.sd_models")
    sd_models.checkpoint_aliases = {path.name: SimpleNamespace(filename=str(path)) for path in (A, B, TEXT)}
    modules: Any = ModuleType("modules")
    modules.sd_models = sd_models
    monkeypatch.setitem(sys.modules, "modules", modules)
    monkeypatch.setitem(sys.modules, "modules.sd_models", sd_models)
    monkeypatch.setattr(generation_script, "resolve_scheduler", lambda _sampler, scheduler: scheduler)
    chosen = [A]
    monkeypatch.setattr(generation_script, "_chosen_checkpoint", lambda: chosen[0])
    found: Any = AdviceLine(Generation(), False)  # type: ignore[arg-type]
    found.chosen = chosen
    return found


def choose(line: Any, path: Path, own: tuple[str, ...], **more: Any) -> tuple[list[str | None], str]:
    """The values that the controls are set to, None where one is left, and the line."""
    line.chosen[0] = path
    *controls, shown = line.checkpoint_chosen(json.dumps({"name": path.name, **more}), *WATCHED, *own)
    return [control.get("value") for control in controls], shown


def test_the_line_is_about_the_checkpoint_that_is_chosen_now(line: Any) -> None:
    assert "fits" in line.show("", *WATCHED, *AUTO)
    assert choose(line, B, AUTO) == (list(AUTO), "")
    left, shown = choose(line, A, AUTO)
    assert left == list(AUTO)
    assert "fits" in shown
    # What the page tells counts, as the webui may not know of it yet.
    line.chosen[0] = A
    assert line.checkpoint_chosen(json.dumps({"name": B.name}), *WATCHED, *AUTO)[-1] == ""


def test_a_change_of_a_control_is_about_what_the_page_shows(line: Any) -> None:
    told = json.dumps({"name": B.name})
    assert line.show(told, *WATCHED, *AUTO) == ""
    assert "fits" in line.show("", *WATCHED, *AUTO)
    scheduler, cfg, shown = line.fit(told, *WATCHED, *AUTO)
    assert (scheduler["value"], cfg["value"], shown) == ("Karras", 7.0, "")


def test_choices_end_with_the_checkpoint_that_they_were_made_for(line: Any) -> None:
    line.show("", *WATCHED, *CHOICE)
    assert choose(line, A, CHOICE)[0] == [None] * 3
    assert choose(line, B, CHOICE) == (list(AUTO), "")
    line.show("", *WATCHED, *AUTO)
    line.show("", *WATCHED, *CHOICE)
    assert choose(line, B, CHOICE)[0] == [None] * 3
    assert choose(line, A, CHOICE)[0] == list(AUTO)


def test_a_pasted_choice_goes_with_its_checkpoint(line: Any) -> None:
    line._generation.pasted_for = TEXT
    line.show("", *WATCHED, *CHOICE)
    left, shown = choose(line, TEXT, CHOICE)
    assert left == [None] * 3
    assert "fits" in shown
    line._generation.pasted_for = None
    assert choose(line, B, CHOICE)[0] == list(AUTO)


def test_a_page_that_begins_and_an_unknown_name_change_nothing(line: Any) -> None:
    assert choose(line, B, CHOICE, begins=True)[0] == [None] * 3
    assert choose(line, Path("nothing.safetensors"), CHOICE) == ([None] * 3, "")
    for told in ("", "{", "[]", "{}"):
        assert line.checkpoint_chosen(told, *WATCHED, *CHOICE)[-1] == ""
