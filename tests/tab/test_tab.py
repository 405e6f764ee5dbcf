"""The built page: ids, labels, saved settings, and what its events answer."""

from __future__ import annotations

import html
import json
import re
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio.context import Context
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from makers import write_header_only
from modelsmith import devices
from modelsmith.decision import Override
from modelsmith.merge.blocks import LAYOUTS
from modelsmith.merge.engine import run_merge
from modelsmith.merge.guard import CHOICES, notice
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.request import MergeResult
from modelsmith_webui.background import queue_of
from modelsmith_webui.history import history_of
from modelsmith_webui.hosts.standalone import StandaloneHost
from modelsmith_webui.library import library_of
from modelsmith_webui.merging import open_recipe, request_again
from modelsmith_webui.tab import speed
from modelsmith_webui.tab.block_editor import Layer, editor_data
from modelsmith_webui.tab.compat import file_path, hear, js_keyword, part_of_a_page
from modelsmith_webui.tab.files import short_name
from modelsmith_webui.tab.inspect_view import InspectView
from modelsmith_webui.tab.library_view import LibraryView
from modelsmith_webui.tab.merge_form import MergeForm, all_parameters, block_parameters, field_names
from modelsmith_webui.tab.merge_view import MergeView
from modelsmith_webui.tab.plan_page import notice_html, plainly
from modelsmith_webui.tab.texts import Texts
from modelsmith_webui.tab.ui import build_part, build_tab
from pretend_gpu import NAME, no_gpu, pretend_gpus

CONTAINERS = {"column", "row", "form", "group", "box"}
DEMO_A, DEMO_B = "modelsmith-demo-a.safetensors", "modelsmith-demo-b.safetensors"


def components(tab: Any) -> list[dict[str, Any]]:
    return tab.get_config_file()["components"]


def test_every_component_has_an_id_of_its_own(tab: Any) -> None:
    shown = [component for component in components(tab) if component["type"] not in CONTAINERS]
    ids = [component["props"].get("elem_id") for component in shown]
    assert len(shown) > 20
    assert [c["type"] for c, found in zip(shown, ids, strict=True) if not str(found).startswith("modelsmith_")] == []
    assert [name for name, count in Counter(ids).items() if count > 1] == []


def test_labels_are_unique_within_the_tab(tab: Any) -> None:
    """The webuis keep saved values under label paths: two equal labels would share one."""
    named = [
        component["props"].get("label") or component["props"].get("value")
        for component in components(tab)
        if component["type"] not in CONTAINERS | {"html", "tabs", "tabitem", "accordion"}
    ]
    assert [label for label, count in Counter(named).items() if count > 1] == []


def test_generated_controls_stay_out_of_the_saved_settings(tab: Any) -> None:
    unsaved = {
        block.elem_id
        for block in tab.blocks.values()
        if getattr(block, "do_not_save_to_config", False) and getattr(block, "elem_id", None)
    }
    wanted = {f"modelsmith_parameter_{name}" for name in all_parameters()}
    wanted |= {f"modelsmith_blocks_{name}" for name in block_parameters()}
    wanted |= {f"modelsmith_model_{slot}" for slot in ("a", "b", "c", "more")} | {
        "modelsmith_inspect_file",
        "modelsmith_library_open",
    }
    assert wanted <= unsaved


def test_the_js_keyword_is_the_one_of_this_gradio() -> None:
    assert js_keyword() == ("_js" if gr.__version__.startswith("3.") else "js")


class Field:
    """A component that hands back what is connected to it."""

    @staticmethod
    def input(**event: Any) -> dict[str, Any]:
        return event


def test_what_the_script_says_again_is_done_once() -> None:
    done: list[tuple[str, int]] = []

    def act(message: str, number: int) -> list[Any]:
        done.append((message, number))
        if message == "bad":
            raise ValueError(message)
        return [message.upper()]

    take = hear(Field, act, [None], [None])["fn"]
    assert take("a.1 one two", 5) == ["a.1", "ONE TWO"]
    assert take("a.1 one two ", 5) == ["a.1", gr.update()]
    with pytest.raises(ValueError, match="bad"):
        take("a.2 bad", 6)
    # It counts as heard at the second asking, so that the next message can come.
    assert take("a.2 bad ", 6) == ["a.2", gr.update()]
    assert take("a.3 one two", 7) == ["a.3", "ONE TWO"]
    assert take("", 7) == take(None, 7) == ["", gr.update()]
    assert done == [("one two", 5), ("bad", 6), ("one two", 7)]


def test_the_webuis_page_gets_the_same_tab_without_a_server_of_its_own(
    host: StandaloneHost, tab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers: list[Any] = []
    make = gr.routes.App.create_app
    monkeypatch.setattr(gr.routes.App, "create_app", lambda blocks: servers.append(blocks) or make(blocks))
    build_tab(host)
    made = len(servers)
    part = build_part(host)
    # gradio 4 makes one more when a page begins.
    assert len(servers) == 2 * made - 1
    assert Context.root_block is None
    with gr.Blocks() as page:
        part.render()
    found, alone = page.get_config_file(), tab.get_config_file()
    ids = [[one["props"].get("elem_id") for one in config["components"]] for config in (found, alone)]
    assert ids[0] == ids[1]
    assert len(found["dependencies"]) == len(alone["dependencies"])


def test_a_part_that_fails_leaves_no_page_open() -> None:
    with pytest.raises(ZeroDivisionError), part_of_a_page(gr.Blocks()):
        raise ZeroDivisionError
    assert Context.root_block is None


def test_a_dropped_file_is_a_path_or_an_object_with_a_name() -> None:
    class Dropped:
        name = "/tmp/x.safetensors"

    assert file_path("/tmp/x.safetensors") == file_path(Dropped()) == "/tmp/x.safetensors"
    assert file_path(None) is None


class OverrideHost(StandaloneHost):
    """A standalone host that can keep overrides, as a webui can."""

    capabilities = frozenset({"user_metadata"})


def inspect_view(host: StandaloneHost) -> InspectView:
    view = InspectView(host, Texts(host.language))
    with gr.Blocks():
        view.build()
    return view


def test_inspect_shows_the_report_of_a_file(host: StandaloneHost) -> None:
    page, raw, panel, *_ = inspect_view(host).choose(DEMO_A)
    assert "modelsmith-demo-a" in page and ">SD1<" in page and str(host.models) in page
    assert raw["architecture"] == "sd1" and raw["kind"] == "checkpoint"
    assert json.dumps(raw)
    assert panel["visible"] is False


def test_inspect_says_what_is_wrong_with_a_bad_file(host: StandaloneHost, tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    page, raw, *_ = inspect_view(host).choose("broken.safetensors")
    assert 'role="alert"' in page and "broken.safetensors" in page
    assert raw["error"]


def test_inspect_escapes_what_a_file_says(host: StandaloneHost, tmp_path: Path) -> None:
    metadata = {"modelspec.title": "<script>alert(1)</script>"}
    write_header_only(tmp_path / "evil.safetensors", {"x": ("F16", (1,))}, metadata)
    page, *_ = inspect_view(host).choose("evil.safetensors")
    assert "<script>" not in page


def test_a_strange_name_gets_the_nearest_one(host: StandaloneHost) -> None:
    page, *_ = inspect_view(host).choose("modelsmith-demo-c.safetensors")
    assert "Did you mean" in page


def test_an_override_is_kept_and_shown_again(tmp_path: Path, host: StandaloneHost) -> None:
    view = inspect_view(OverrideHost(host.models))
    assert view.choose(DEMO_A)[2]["visible"] is True
    view.save_override(DEMO_A, "v-prediction", "on")
    assert view.host.override(tmp_path / DEMO_A) == Override("v_prediction", "on")
    assert [update["value"] for update in view.choose(DEMO_A)[3:5]] == ["v-prediction", "on"]
    view.save_override(DEMO_A, "automatic", "automatic")
    assert view.host.override(tmp_path / DEMO_A).is_auto


def merge_view(host: StandaloneHost) -> MergeView:
    view = MergeView(host, Texts(host.language))
    with gr.Blocks():
        view.build()
    return view


def values(**changes: Any) -> list[Any]:
    """The merge view's fields in their order, with ``changes`` by field."""
    fields = dict(
        zip(field_names(), MergeForm(models=(DEMO_A, DEMO_B, None), method="Weighted sum").values(), strict=True)
    )
    assert set(changes) <= set(fields)
    return list((fields | changes).values())


def test_the_form_reads_the_fields_in_the_order_of_the_view(host: StandaloneHost) -> None:
    view = merge_view(host)
    assert len(view.inputs) == len(values())
    ids = [component.elem_id for component in view.inputs]
    assert ids[:5] == [f"modelsmith_model_{name}" for name in ("a", "b", "c", "more")] + ["modelsmith_method"]
    form = MergeForm.from_values(values(parameter_alpha=0.25, blocks_alpha="GRAD_V", name="out"))
    request = form.request(host)
    assert request.parameters == {"alpha": 0.25}
    assert request.block_weights == {"alpha": "GRAD_V"}
    assert request.output == host.models / "out.safetensors"
    assert [path.name for path in request.models] == [DEMO_A, DEMO_B]
    assert MergeForm.from_values(form.values()) == form


def test_the_plan_says_what_will_be_made(host: StandaloneHost) -> None:
    plan, mix = merge_view(host).show_plan("", *values(parameter_alpha=0.25))
    assert "What will be made" in plan and "Alpha 0.25" in plan
    assert "modelsmith-demo-a_0.25_modelsmith-demo-b.safetensors" in plan
    assert "known after the first merge here" in plan
    assert mix["visible"] is False


def test_a_gpu_is_offered_where_torch_sees_one(host: StandaloneHost, monkeypatch: pytest.MonkeyPatch) -> None:
    no_gpu(monkeypatch)
    box = merge_view(host).own["use_gpu"]
    assert box.elem_id == "modelsmith_use_gpu" and box.visible is False and box.value is False
    assert MergeView.offer_gpu()["visible"] is False
    pretend_gpus(monkeypatch)
    assert MergeView.offer_gpu()["visible"] is True
    # Where torch is not there yet, a driver is looked for first: importing it would take seconds.
    monkeypatch.setattr(devices, "_has_driver", lambda: False)
    monkeypatch.delitem(sys.modules, "torch")
    assert MergeView.offer_gpu()["visible"] is False


def test_the_gpu_is_asked_for_named_and_kept_in_remedies_and_recipes(
    host: StandaloneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpus(monkeypatch)
    view, fields = merge_view(host), values(use_gpu=True, method="Slerp", name="modelsmith-demo-a")
    form = MergeForm.from_values(fields)
    assert form.request(host).device == "auto" and MergeForm.from_values(form.values()) == form
    assert MergeForm.from_values(values()).request(host).device == "cpu"
    filled = dict(zip(field_names(), view.take_remedy('{"remedy": "another"}', *fields), strict=False))
    assert filled["use_gpu"]["value"] is True
    plan, _ = view.show_plan("", *values(use_gpu=True, method="Slerp"))
    assert "Computed on" in plan and NAME in plan
    for others in ({"method": "Slerp"}, {"use_gpu": True}):
        assert NAME not in view.show_plan("", *values(**others))[0]
    made = view.write_recipe("", *values(use_gpu=True, method="Slerp", name="kept"))
    assert "kept.recipe.safetensors" in made[-1]
    (entry,) = history_of(host).entries()
    assert entry.recipe["device"] == NAME
    request = request_again(host, open_recipe(host.models / "kept.recipe.safetensors"), "")
    assert MergeForm.from_request(request, host).use_gpu and request.device == "cuda:0"
    no_gpu(monkeypatch)
    request = request_again(host, open_recipe(host.models / "kept.recipe.safetensors"), "")
    assert not MergeForm.from_request(request, host).use_gpu


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"a": None, "b": None}, "Choose the models to see"),
        ({"b": None}, "Choose model B to see"),
        ({"name": "../out"}, "has a path in it"),
        ({"name": "modelsmith-demo-a"}, "exists already"),
        ({"blocks_alpha": "1,2,3"}, "3 block weights were given"),
        ({"blocks_alpha": "GRAD_X"}, "Did you mean"),
        ({"b": "nothing-like-it"}, "unknown model file"),
        ({"method": "Add difference"}, "Choose model C to see"),
        ({"loras": '[{"name": "x", "strength": "much"}]'}, "the strength of x"),
        ({"loras": "not json"}, "the list of LoRAs cannot be read"),
        ({"loras": '[{"name": "x"}]'}, "has no LoRA files"),
    ],
)
def test_what_stands_in_the_way_is_said_before_the_start(
    host: StandaloneHost, changes: dict[str, Any], told: str
) -> None:
    plan, _ = merge_view(host).show_plan("", *values(**changes))
    assert told in plan


def test_a_name_that_is_taken_has_two_ways_out(host: StandaloneHost) -> None:
    view, fields = merge_view(host), values(name="modelsmith-demo-a")
    plan, _ = view.show_plan("", *fields)
    assert 'data-remedy="another"' in plan and 'data-remedy="replace"' in plan
    filled = view.take_remedy('{"remedy": "another"}', *fields)
    assert len(filled) == len(view.filled)
    by_name = dict(zip(field_names(), filled, strict=False))
    assert by_name["name"]["value"] == "modelsmith-demo-a-2"
    assert view.take_remedy("nonsense", *fields) == [gr.update() for _ in view.filled]


def test_weights_of_another_architecture_can_be_cleared(host: StandaloneHost) -> None:
    view, fields = merge_view(host), values(blocks_alpha="1,2,3")
    assert 'data-remedy="clear"' in view.show_plan("", *fields)[0]
    filled = dict(zip(field_names(), view.take_remedy('{"remedy": "clear"}', *fields), strict=False))
    assert filled["blocks_alpha"]["value"] == ""


def write_v_model(host: StandaloneHost, name: str) -> None:
    """Demo B as a v-prediction model: with the metadata that say so."""
    save_file(load_file(str(host.models / DEMO_B)), str(host.models / name), {"modelspec.prediction_type": "v"})


def test_the_guard_refuses_and_each_remedy_that_it_offers_works(host: StandaloneHost) -> None:
    write_v_model(host, "v.safetensors")
    view, fields = merge_view(host), values(b="v.safetensors")
    plan, mix = view.show_plan("", *fields)
    assert "ms-warning" in plan and mix["visible"] is True
    offered = re.findall(r'data-remedy="([^"]+)"', plan)
    assert "difference" in offered and len(offered) >= 2
    for remedy in offered:
        filled = dict(zip(field_names(), view.take_remedy(f'{{"remedy": "{remedy}"}}', *fields), strict=False))
        form = MergeForm.from_values([filled[name].get("value") for name in field_names()])
        if remedy == "difference":
            assert form.method == "Add difference" and form.models[:2] == (DEMO_A, "v.safetensors")
            assert form.parameters["alpha"] == 1.0
        else:
            assert "What will be made" in view.plan_of(form)[0]


def test_the_expected_time_is_the_measured_one(host: StandaloneHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "LEAST_SECONDS", 0.0)
    view = merge_view(host)
    view.merge("task(x)", *values(name="one"))
    known = json.loads((host.data_folder() / speed.FILE_NAME).read_text())
    assert set(known) == {"weighted_sum"} and known["weighted_sum"] > 0
    assert "Ready in about" in view.show_plan("", *values(name="two"))[0]
    pretend_gpus(monkeypatch)
    here, there = (
        plan_merge(MergeForm.from_values(values(method="Slerp", use_gpu=used)).request(host)) for used in (False, True)
    )
    view.speed.learn(there, MergeResult(here.request.output, None, 2.0, 2 * there.output_bytes, (), ""))
    assert view.speed.expected_seconds(there) == pytest.approx(1.0) and view.speed.expected_seconds(here) is None


def test_presets_of_ones_own_are_kept(host: StandaloneHost) -> None:
    panel = merge_view(host).weights
    asked = {"name": "mine", "text": "GRAD_V,CLIP=1", "layout": "sd1", "ticket": "t7"}
    assert panel.preset_answer(json.dumps(asked)) == '<span hidden="hidden" data-ticket="t7"></span>'
    assert panel.own_presets() == {"mine": "GRAD_V,CLIP=1"}
    assert "mine" in panel.show_blocks(DEMO_A, "Weighted sum")
    for name in ("a,b", "mine=1", "SMOOTHSTEP"):
        refused = panel.preset_answer(json.dumps({**asked, "name": name}))
        assert "ms-error" in refused and refused.endswith('data-ticket="t7"></span>')
    assert "2 block weights were given" in panel.preset_answer('{"name": "few", "text": "1,2", "layout": "sd1"}')
    assert "could not be saved" in panel.preset_answer('{"name": "few"}')
    assert "could not be saved" in panel.preset_answer("[]")
    panel.preset_answer(json.dumps({**asked, "text": ""}))
    assert panel.own_presets() == {}
    panel.presets.path.write_text("{broken")
    assert panel.own_presets() == {}


def test_the_map_shows_where_the_models_differ(host: StandaloneHost) -> None:
    view = merge_view(host)
    (told,) = view.weights.compare("task(x)", DEMO_A, DEMO_B, None, "Weighted sum")
    assert "ms-difference-data" in told and "&quot;OUT11&quot;" in told
    (same,) = view.weights.compare("task(x)", DEMO_A, DEMO_A, None, "Weighted sum")
    assert "0 %" in same
    assert 'role="alert"' in view.weights.compare("task(x)", DEMO_A, None, None, "Weighted sum")[0]


def test_an_answer_that_was_overtaken_is_not_shown(host: StandaloneHost) -> None:
    view = merge_view(host)
    assert "What will be made" in view.show_plan("page:2", *values())[0]
    assert view.show_plan("page:1", *values()) == [gr.update(), gr.update()]
    assert "What will be made" in view.show_plan("other:1", *values())[0]
    assert "What will be made" in view.show_plan("page:3", *values())[0]


def test_models_that_do_not_fit_are_refused(host: StandaloneHost, tmp_path: Path) -> None:
    lora = {f"lora_unet_x_{n}.lora_{side}.weight": ("F16", (4, 4)) for n in range(3) for side in ("up", "down")}
    write_header_only(tmp_path / "lora.safetensors", lora)
    plan, _ = merge_view(host).show_plan("", *values(b="lora.safetensors"))
    assert 'role="alert"' in plan and "lora: model B is a LoRA" in plan


def test_a_merge_writes_the_file_and_offers_it(host: StandaloneHost) -> None:
    view = merge_view(host)
    before = {path.name for path in host.models.iterdir()}
    *lists, said = view.merge("task(x)", *values(name="mixed", parameter_alpha=0.5))
    assert "ms-done" in said and "mixed.safetensors" in said
    assert all("mixed.safetensors" in update["choices"] for update in lists)
    assert {path.name for path in host.models.iterdir()} - before == {"mixed.safetensors"}
    with safe_open(host.models / "mixed.safetensors", "pt") as file:
        assert len(list(file.keys())) == 1130


def test_a_cancelled_merge_leaves_nothing(host: StandaloneHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.jobs, "cancelled", lambda: True)
    view = merge_view(host)
    before = sorted(path.name for path in host.models.iterdir())
    *_, said = view.merge("task(x)", *values(name="mixed"))
    assert "Cancelled" in said
    assert sorted(path.name for path in host.models.iterdir()) == before


def test_a_failed_merge_says_so(host: StandaloneHost) -> None:
    *_, said = merge_view(host).merge("task(x)", *values(name=DEMO_A))
    assert 'role="alert"' in said and "exists already" in said


def chosen(view: MergeView, label: str) -> dict[str, Any]:
    """What choosing a method updates, by element id."""
    shown = view.method_chosen(label)
    return {component.elem_id: update for component, update in zip(view.shown_by_method, shown, strict=True)}


def test_choosing_a_method_shows_its_controls(host: StandaloneHost) -> None:
    view = merge_view(host)
    shown = chosen(view, "Add difference")
    assert "B − C" in shown["modelsmith_method_formula"] and shown["modelsmith_slot_c"]["visible"] is True
    alpha = shown["modelsmith_parameter_alpha"]
    assert (alpha["maximum"], alpha["value"]) == (2.0, 1.0)
    shown = chosen(view, "Weighted sum")
    assert shown["modelsmith_slot_c"]["visible"] is False and shown["modelsmith_parameter_alpha"]["maximum"] == 1.0


def test_only_the_blocks_of_the_first_method_are_shown_at_first(host: StandaloneHost) -> None:
    view = merge_view(host)
    assert {name for name in block_parameters() if view.fields[f"blocks_{name}"].visible} == {"alpha"}


def test_an_error_is_of_one_language_whatever_the_files_are_called(host: StandaloneHost) -> None:
    (host.models / DEMO_B).rename(host.models / "日本語のモデル.safetensors")
    form = MergeForm(models=("日本語のモデル.safetensors", DEMO_A, None), method="Weighted sum", name="日本語のモデル")
    view = merge_view(host)
    said, remedy = re.findall(r"<span class=[^>]*>([^<]*)</span>", view.plan_of(form)[0])[:2]
    assert said == "日本語のモデル exists already."
    assert remedy == "Choose another name or allow it to be replaced."
    host.chosen_language = "ja_JP"
    assert "は既に存在します。" in view.plan_of(form)[0]
    for changes, told in (
        ({"models": ("nowhere", DEMO_A, None)}, "モデルファイル &#x27;nowhere&#x27; は見つかりません"),
        ({"loras": '[{"name": "x", "strength": 500}]'}, "x の強さが 500 になっています。"),
    ):
        assert told in view.plan_of(replace(form, name="new", **changes))[0]


def test_a_name_is_made_of_whatever_the_models_are_called(host: StandaloneHost) -> None:
    names = ["とても長い名前の日本語のモデル" * 4 + ".safetensors", 'with "quotes" <v2>.safetensors']
    for old, new in zip((DEMO_A, DEMO_B), names, strict=True):
        (host.models / old).rename(host.models / new)
    form = MergeForm(models=(*names, None), method="Weighted sum")
    assert form.request(host).output.name.startswith("とても長い名前の日本語のモデル")
    turned = MergeForm(models=(*reversed(names), None), method="Weighted sum").request(host).output
    assert turned.name.startswith("with _quotes_ _v2__weighted_sum_とても")
    view = merge_view(host)
    view.merge("task(x)", *form.values())
    assert len(list(host.models.glob("*.safetensors"))) == 3


def test_a_method_of_any_number_takes_two_or_more(host: StandaloneHost) -> None:
    view = merge_view(host)
    shown = chosen(view, "Average")
    assert shown["modelsmith_slot_c"]["visible"] is True and shown["modelsmith_slot_more"]["visible"] is True
    for third, more, count in ((None, [], 2), (DEMO_A, [], 3), (DEMO_A, [DEMO_B, DEMO_A], 5)):
        form = MergeForm.from_values(values(method="Average", c=third, more=more))
        assert len(form.request(host).models) == count
    assert view.slots.more_badges([DEMO_A, DEMO_B]).count("SD1") == 2


def test_model_a_decides_the_blocks_and_the_method_the_layers(host: StandaloneHost) -> None:
    view = merge_view(host)
    assert "SD1" in view.slots.badge(DEMO_A)
    editor = view.weights.show_blocks(DEMO_A, "Triple sum")
    data = json.loads(html.unescape(re.search(r'data-editor="([^"]*)"', editor).group(1)))  # type: ignore[union-attr]
    assert [layer["id"] for layer in data["layers"]] == ["alpha", "beta"]
    assert len(data["main"]) == 26 and {block["id"] for block in data["side"]} == {"CLIP", "VAE", "TIME", "FINAL"}
    assert "self-attention" in data["main"][2]["holds"] and "tensors" in data["main"][2]["holds"]
    assert "ms-blocks-empty" in view.weights.show_blocks(None, "Triple sum")
    assert "no weights for single blocks" in view.weights.show_blocks(DEMO_A, "Average")


@pytest.mark.parametrize(
    ("layout", "count"), [("sd1", 26), ("sdxl", 21), ("flux1", 57), ("sd3-24", 24), ("z-image", 34)]
)
def test_every_architecture_has_its_bars(layout: str, count: int) -> None:
    data = editor_data(LAYOUTS[layout], Texts(lambda: ""), [Layer("alpha", "Alpha")], {})
    assert len(data["main"]) == count
    shown = [block["id"] for block in (*data["main"], *data["side"])]
    assert len(set(shown)) == len(shown) and set(data["order"]) <= set(shown)


def test_a_merged_model_shows_its_recipe(host: StandaloneHost) -> None:
    view = merge_view(host)
    view.merge("task(x)", *values(name="mixed", parameter_alpha=0.3))
    shown = view.slots.badge("mixed.safetensors")
    assert "Made by a merge" in shown and "alpha 0.3" in shown and f"A = {DEMO_A}" in shown
    assert "Made by a merge" not in view.slots.badge(DEMO_A)


def test_a_recipe_fills_the_fields_again(host: StandaloneHost) -> None:
    view = merge_view(host)
    made = values(name="mixed", parameter_alpha=0.3, blocks_alpha="GRAD_V,CLIP=0.9", precision="bf16", dtype_vae="fp32")
    view.merge("task(x)", *made)
    filled = view.take_remedy('{"remedy": "recipe of mixed.safetensors"}', *values())
    assert len(filled) == len(view.filled)
    updates = dict(zip(field_names(), filled, strict=False))
    again = MergeForm.from_values([updates[name].get("value") for name in field_names()])
    assert again.models[:2] == (DEMO_A, DEMO_B) and again.precision == "bf16" and again.dtypes["vae"] == "fp32"
    assert again.block_texts["alpha"].startswith("0,1,0.91666") and again.block_texts["alpha"].endswith("CLIP=0.9")
    view.merge("task(x)", *values(**(dict(zip(field_names(), again.values(), strict=True)) | {"name": "again"})))
    one, two = (load_file(str(host.models / f"{name}.safetensors")) for name in ("mixed", "again"))
    assert all(one[key].equal(two[key]) for key in one)
    (host.models / DEMO_B).unlink()
    *_, said = view.take_remedy('{"remedy": "recipe of mixed.safetensors"}', *values())
    assert "not in the host" in said


def test_a_merge_is_remembered(host: StandaloneHost) -> None:
    merge_view(host).merge("task(x)", *values(name="mixed"))
    assert [entry.file for entry in history_of(host).entries()] == ["mixed.safetensors"]


def test_a_merge_without_saving_is_a_small_file(host: StandaloneHost) -> None:
    """One rule for its name, in tab, history and API; it needs no room for the merge, only for itself."""
    view = merge_view(host)
    *_, said = view.write_recipe("", *values(name="later"))
    assert "ms-done" in said and (host.models / "later.recipe.safetensors").stat().st_size < 100_000
    *_, said = view.write_recipe("", *values(name="later"))
    assert "exists already" in said
    for _ in range(2):
        *_, said = view.write_recipe("", *values())
        assert "ms-done" in said
    assert len(list(host.models.glob("*.recipe.safetensors"))) == 3


def test_a_recipe_saved_as_a_file_has_the_bytes_of_the_merge(host: StandaloneHost) -> None:
    view = merge_view(host)
    view.merge("task(x)", *values(name="whole"))
    view.write_recipe("", *values(name="whole"))
    request = request_again(host, open_recipe(host.models / "whole.recipe.safetensors"), "saved")
    assert run_merge(plan_merge(request)).path.read_bytes() == (host.models / "whole.safetensors").read_bytes()


def test_a_queued_merge_is_done_in_its_turn(host: StandaloneHost) -> None:
    view = merge_view(host)
    assert "is in the queue" in view.enqueue("", *values(name="queued"))
    assert 'role="alert"' in view.enqueue("", *values(b=None))
    end = time.monotonic() + 60
    while not all(job.over for job in queue_of(host).jobs()) and time.monotonic() < end:
        time.sleep(0.05)
    assert [job.state for job in queue_of(host).jobs()] == ["done"]
    assert (host.models / "queued.safetensors").is_file()


def test_one_name_waits_once_in_the_queue(host: StandaloneHost) -> None:
    view, gate = merge_view(host), threading.Event()
    queue_of(host).start("other", lambda _control: {"waited": gate.wait(60)})
    try:
        assert "twice.safetensors is in the queue" in view.enqueue("", *values(name="twice"))
        assert "in the queue already" in view.enqueue("", *values(name="twice"))
    finally:
        gate.set()
    end = time.monotonic() + 60
    while not all(job.over for job in queue_of(host).jobs()) and time.monotonic() < end:
        time.sleep(0.05)
    assert [job.title for job in queue_of(host).jobs()] == ["", "twice.safetensors"]


def test_the_library_lists_every_file_and_opens_a_row(host: StandaloneHost, tmp_path: Path) -> None:
    (tmp_path / "VAE").mkdir()
    (tmp_path / "VAE" / "broken.pt").write_bytes(b"nothing")
    inspect = inspect_view(host)
    library = LibraryView(host, inspect.tr, inspect)
    with gr.Blocks():
        library.build()
    library_of(host).rows(wait=True)
    table = library.show()
    assert table.count("<tr data-name") == 3
    assert 'data-name="VAE / VAE/broken.pt"' in table
    answer = library.open_row(json.dumps({"name": DEMO_B, "at": 1}))
    assert answer[0]["value"] == DEMO_B and answer[1]["selected"] == "inspect" and "demo-b" in answer[2]
    assert library.open_row("not json")[0] == gr.update()


def test_a_recipe_among_the_models_is_made_into_a_file_first(host: StandaloneHost) -> None:
    view = merge_view(host)
    *_, said = view.write_recipe("", *values(name="kept"))
    assert "kept.recipe.safetensors" in said
    fields = values(b="kept.recipe.safetensors")
    plan, _ = view.show_plan("", *fields)
    assert "holds no weights" in plan and 'data-remedy="save kept.recipe.safetensors"' in plan
    told = view.take_remedy('{"remedy": "save kept.recipe.safetensors"}', *fields)[-1]
    assert "kept.safetensors is in the queue" in told
    for _ in range(600):
        if all(job.over for job in queue_of(host).jobs()):
            break
        time.sleep(0.05)
    assert (host.models / "kept.safetensors").stat().st_size > 1_000_000


def test_only_the_types_of_the_models_are_offered_for_a_mix(host: StandaloneHost) -> None:
    tensors = load_file(host.models / "modelsmith-demo-b.safetensors")
    save_file(tensors, host.models / "lantern-v.safetensors", {"modelspec.prediction_type": "v"})
    _, mix = merge_view(host).show_plan("", *values(b="lantern-v.safetensors"))
    assert mix["choices"] == ["stop and say so", CHOICES["epsilon"], CHOICES["v_prediction"]]
    assert mix["value"] == "stop and say so" and mix["visible"]
    _, mix = merge_view(host).show_plan("", *values(b="lantern-v.safetensors", mix=CHOICES["flow"]))
    assert mix["visible"]


def test_messages_call_models_by_their_short_names() -> None:
    names = ["Stable-diffusion/one.safetensors", "two.safetensors [0123456789]"]
    told = "Stable-diffusion/one.safetensors and two.safetensors [0123456789]; /m/Stable-diffusion/one.safetensors"
    assert plainly(told, names) == "one and two; /m/Stable-diffusion/one.safetensors"
    assert short_name("a\\b\\kept.recipe.safetensors") == "kept"
    assert short_name(".safetensors") == ".safetensors"


def test_a_long_list_of_tensors_is_folded_away() -> None:
    listed = ", ".join(f"block.{number}.weight" for number in range(5)) + " and 95 more"
    found = notice("warning", "surplus", count=100, model="two.safetensors", names=listed)
    html = notice_html(found, Texts(lambda: ""), ["two.safetensors"])
    assert "100 tensors of two are not in A and are not used.</span>" in html
    assert "<details" in html and "block.4.weight and 95 more" in html
    assert "ほか95個" in notice_html(found, Texts(lambda: "ja_JP"), ["two.safetensors"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "Weighted sum, Alpha 0.5<"),
        ({"blocks_alpha": "GRAD_V"}, "Weighted sum, Alpha 0 to 1 by block<"),
        ({"blocks_alpha": "ALL_B"}, "Weighted sum, Alpha 1<"),
        ({"blocks_alpha": "OUT03=0.75"}, "Weighted sum, Alpha 0.5 to 0.75 by block<"),
    ],
)
def test_the_summary_names_what_counts(host: StandaloneHost, changes: dict[str, Any], told: str) -> None:
    plan, _ = merge_view(host).show_plan("", *values(**changes))
    assert told in plan
