"""The LoRA view: baked in, extracted, merged, resized and checked, with what is said before and afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch
from safetensors.torch import load_file

from lora.lora_files import write_lora
from lora.lora_modules import Made, lora
from modelsmith.devices import find_gpu
from modelsmith.identify import identify
from modelsmith_webui.hosts.standalone import StandaloneHost
from modelsmith_webui.tab import lora_view
from modelsmith_webui.tab.lora_form import LoraForm
from modelsmith_webui.tab.lora_view import LoraView
from modelsmith_webui.tab.lora_words import LORA_ACTIONS, SHOWN
from modelsmith_webui.tab.report_links import ReportLinks, leads_of
from modelsmith_webui.tab.texts import Texts

DEMO_A, DEMO_B = "modelsmith-demo-a.safetensors", "modelsmith-demo-b.safetensors"
MID = "lora_unet_mid_block_attentions_0_proj_in"
KEY = "model.diffusion_model.middle_block.1.proj_in.weight"
ONE, TWO = "Lora/one.safetensors", "Lora/two.safetensors"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On tensors this small, several threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def made() -> dict[str, Made]:
    """Changes of the size of the demo's weights."""
    return {"one": lora((128, 128, 1, 1), 3), "two": lora((128, 128, 1, 1), 5)}


@pytest.fixture
def view(host: StandaloneHost, made: dict[str, Made]) -> LoraView:
    """Beside two checkpoints: two LoRAs for them, the second of which has a module that nothing answers to."""
    (host.models / "Lora").mkdir()
    write_lora(host.models / ONE, {MID: made["one"]})
    write_lora(host.models / TWO, {MID: made["two"], "lora_unet_nowhere": lora((4, 4))})
    found = LoraView(host, Texts(host.language))
    with gr.Blocks():
        found.build()
    return found


def rows(*pairs: tuple[str, float]) -> str:
    return json.dumps([{"name": name, "strength": strength, "blocks": ""} for name, strength in pairs])


def values(**changes: Any) -> list[Any]:
    form = replace(LoraForm(), **changes)
    return [getattr(form, field.name) for field in fields(LoraForm)]


def start(view: LoraView, **changes: Any) -> str:
    *lists, html = view.panel._run(view.work, values(**changes), view.offers)
    assert len(lists) == len(view.lists)
    return html


def test_each_action_has_its_controls_and_no_others(view: LoraView) -> None:
    for action, label in LORA_ACTIONS.items():
        about, button, *updates = view.show_action(label, False)
        shown = {name for name, update in zip(view._switched, updates, strict=True) if update["visible"]}
        assert shown == set(SHOWN[action]) - {"gpu"}  # there is none here
        assert about != view.about.value or action == "bake"
        assert button["visible"] == (action != "check")
    _, _, *updates = view.show_action(LORA_ACTIONS["merge"], True)
    kept = {name for name, update in zip(view._switched, updates, strict=True) if update["visible"]}
    assert kept == {"rows", "exact", "half", "target"}


def test_a_gpu_is_offered_where_there_is_one(view: LoraView, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_gpu("auto") is None and not view.offer_gpu(LORA_ACTIONS["extract"])["visible"]
    monkeypatch.setattr(lora_view, "sees_gpu", lambda: True)
    assert view.offer_gpu(LORA_ACTIONS["extract"])["visible"]
    assert not view.offer_gpu(LORA_ACTIONS["bake"])["visible"]
    form = LoraForm(action=LORA_ACTIONS["extract"], base=DEMO_A, tuned=DEMO_B, gpu=True)
    assert form.extract(view.host).device == "auto"


def test_what_is_missing_is_said_one_after_the_other(view: LoraView) -> None:
    for changes, told in (
        ({}, "Choose the checkpoint."),
        ({"checkpoint": DEMO_A}, "Add the LoRAs."),
        ({"action": LORA_ACTIONS["extract"]}, "Choose the tuned model."),
        ({"action": LORA_ACTIONS["extract"], "tuned": DEMO_B}, "Choose the model that it came from."),
        ({"action": LORA_ACTIONS["resize"]}, "Choose the LoRA."),
        ({"action": LORA_ACTIONS["merge"]}, "Add the LoRAs."),
    ):
        assert told in view.show_plan(values(**changes)) and told in start(view, **changes)


def test_bake(view: LoraView, made: dict[str, Made], host: StandaloneHost) -> None:
    changes = {"checkpoint": DEMO_A, "rows": rows((ONE, 0.5), (TWO, -1.0))}
    plan = view.show_plan(values(**changes))
    assert "modelsmith-demo-a-one-two.safetensors" in plan and "one × 0.5; two × -1" in plan
    assert "lora_unet_nowhere" in plan and "the checkpoint has no such module" in plan
    before = load_file(str(host.models / DEMO_A))[KEY].double()
    html = start(view, **changes)
    assert "modelsmith-demo-a-one-two.safetensors" in html and "ms-done" in html
    after = load_file(str(host.models / "modelsmith-demo-a-one-two.safetensors"))[KEY].double()
    wanted = made["two"].apply(made["one"].apply(before, 0.5), -1.0)
    torch.testing.assert_close(after, wanted, rtol=1e-3, atol=1e-3)
    assert "exists already" in view.show_plan(values(**changes))
    strict = {**changes, "strict": True, "name": "other"}
    assert "match nothing" in view.show_plan(values(**strict)) and "match nothing" in start(view, **strict)
    assert not (host.models / "other.safetensors").exists()


def test_extract_and_put_back(view: LoraView, host: StandaloneHost) -> None:
    extract = {"action": LORA_ACTIONS["extract"], "base": DEMO_A, "tuned": DEMO_B, "rank": 8, "name": "diff"}
    plan = view.show_plan(values(**extract))
    assert "diff.safetensors" in plan and "at most" in plan and "SD1" in plan
    told: list[float] = []
    control = type("Control", (), {"report": lambda _, share, __: told.append(share), "cancelled": lambda _: False})()
    html = view.work(values(**extract), control)
    assert "&lt;lora:diff:1&gt;" in html and told == sorted(told) and told[-1] == 1.0
    found = load_file(str(host.models / "Lora" / "diff.safetensors"))
    assert found[f"{MID}.lora_up.weight"].shape[1] == 8
    assert any(value.dim() == 4 and value.shape[2] == 3 for value in found.values())
    linear = {**extract, "conv_rank": "0", "parts": "diffusion model", "overwrite": True}
    start(view, **linear)
    found = load_file(str(host.models / "Lora" / "diff.safetensors"))
    assert not any(value.dim() == 4 and value.shape[2] == 3 for value in found.values())
    assert all(name.startswith("lora_unet_") for name in found)
    assert "no rank" in view.show_plan(values(**extract, conv_rank="many"))
    assert "does not differ" in start(view, **{**extract, "tuned": DEMO_A, "name": "none"})


def test_merge_and_resize(view: LoraView, made: dict[str, Made], host: StandaloneHost) -> None:
    lone = {"action": LORA_ACTIONS["merge"], "rows": rows((ONE, 1.0))}
    assert "at least two" in view.show_plan(values(**lone))
    merge = {"action": LORA_ACTIONS["merge"], "rows": rows((ONE, 1.0), (TWO, 0.5)), "half": "fp32", "name": "both"}
    assert "at most 8" in view.show_plan(values(**merge))
    assert "both.safetensors" in start(view, **merge)
    found = load_file(str(host.models / "Lora" / "both.safetensors"))
    up, down = found[f"{MID}.lora_up.weight"].flatten(1), found[f"{MID}.lora_down.weight"].flatten(1)
    assert up.shape[1] == 8
    nothing = torch.zeros(128, 128, dtype=torch.float64)
    wanted = made["two"].apply(made["one"].apply(nothing, 1.0), 0.5)
    torch.testing.assert_close((up @ down).double(), wanted, rtol=1e-4, atol=1e-5)
    resize = {"action": LORA_ACTIONS["resize"], "lora": "Lora/both.safetensors", "rank": 2}
    assert "both-rank2.safetensors" in view.show_plan(values(**resize))
    assert "Kept of the change" in start(view, **resize)
    assert load_file(str(host.models / "Lora" / "both-rank2.safetensors"))[f"{MID}.lora_up.weight"].shape[1] == 2
    energy = {**resize, "rank": 64, "energy": 0.9}
    assert "both-energy0.9.safetensors" in view.show_plan(values(**energy))


def test_check(view: LoraView) -> None:
    check = {"action": LORA_ACTIONS["check"], "lora": TWO}
    alone = view.show_plan(values(**check))
    assert "two.safetensors" in alone and "find their place" not in alone
    put = view.show_plan(values(**check, checkpoint=DEMO_A))
    assert "1 modules find their place" in put and "the checkpoint has no such module" in put
    view.tr = Texts(lambda: "ja_JP")
    assert "1 個のモジュールが対応しました" in view.show_plan(values(**check, checkpoint=DEMO_A))
    assert "チェックポイントにこのモジュールがありません" in view.show_plan(values(**check, checkpoint=DEMO_A))


def test_a_report_of_a_lora_leads_here(view: LoraView, host: StandaloneHost) -> None:
    path: Path = host.models / ONE
    assert leads_of(identify(path), checkpoint=False) == ["lora"]
    views, action, chosen = ReportLinks._lora(f"LoRA / {ONE}")
    assert (views["selected"], action["value"], chosen["value"]) == ("lora", "Check", ONE)
