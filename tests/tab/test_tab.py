"""The built page: ids, labels, saved settings, and what its events answer."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from safetensors import safe_open

from makers import write_header_only
from modelsmith.decision import Override
from modelsmith_webui.hosts.standalone import StandaloneHost
from modelsmith_webui.library import library_of
from modelsmith_webui.tab.compat import file_path, js_keyword
from modelsmith_webui.tab.inspect_view import InspectView
from modelsmith_webui.tab.library_view import LibraryView
from modelsmith_webui.tab.merge_form import MergeForm, all_parameters, block_parameters
from modelsmith_webui.tab.merge_view import MergeView
from modelsmith_webui.tab.texts import Texts

LAYOUTS = {"column", "row", "form", "group", "box"}
DEMO_A, DEMO_B = "modelsmith-demo-a.safetensors", "modelsmith-demo-b.safetensors"


def components(tab: Any) -> list[dict[str, Any]]:
    return tab.get_config_file()["components"]


def test_every_component_has_an_id_of_its_own(tab: Any) -> None:
    shown = [component for component in components(tab) if component["type"] not in LAYOUTS]
    ids = [component["props"].get("elem_id") for component in shown]
    assert len(shown) > 20
    assert [c["type"] for c, found in zip(shown, ids, strict=True) if not str(found).startswith("modelsmith_")] == []
    assert [name for name, count in Counter(ids).items() if count > 1] == []


def test_labels_are_unique_within_the_tab(tab: Any) -> None:
    """The webuis keep saved values under label paths: two equal labels would share one."""
    named = [
        component["props"].get("label") or component["props"].get("value")
        for component in components(tab)
        if component["type"] not in LAYOUTS | {"html", "tabs", "tabitem", "accordion"}
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
    wanted |= {f"modelsmith_model_{slot}" for slot in "abc"} | {"modelsmith_inspect_file", "modelsmith_library_open"}
    assert wanted <= unsaved


def test_the_js_keyword_is_the_one_of_this_gradio() -> None:
    with gr.Blocks():
        button = gr.Button("x")
        assert js_keyword(button.click) == ("_js" if gr.__version__.startswith("3.") else "js")
    # Forge wraps the events of gradio 4 and hides their parameters.
    assert js_keyword(lambda *args, **kwargs: None) == "js"


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
    fields: dict[str, Any] = {
        "a": DEMO_A, "b": DEMO_B, "c": None, "method": "Weighted sum", "name": "", "precision": "as model A",
        "overwrite": False, "mix": "stop and say so",
    }  # fmt: skip
    fields |= {name: spec.default for name, spec in all_parameters().items()}
    fields |= {f"blocks_{name}": "" for name in block_parameters()}
    assert set(changes) <= set(fields)
    return list((fields | changes).values())


def test_the_form_reads_the_fields_in_the_order_of_the_view(host: StandaloneHost) -> None:
    view = merge_view(host)
    assert len(view.inputs) == len(values())
    form = MergeForm.from_values(values(alpha=0.25, blocks_alpha="GRAD_V", name="out"))
    request = form.request(host)
    assert request.parameters == {"alpha": 0.25}
    assert request.block_weights == {"alpha": "GRAD_V"}
    assert request.output == host.models / "out.safetensors"
    assert [path.name for path in request.models] == [DEMO_A, DEMO_B]


def test_the_plan_says_what_will_be_made(host: StandaloneHost) -> None:
    plan, mix = merge_view(host).show_plan("", *values(alpha=0.25))
    assert "What will be made" in plan and "Alpha 0.25" in plan
    assert "modelsmith-demo-a_0.25_modelsmith-demo-b.safetensors" in plan
    assert mix["visible"] is False


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"b": None}, "Choose the models"),
        ({"name": "../out"}, "has a path in it"),
        ({"name": "modelsmith-demo-a"}, "exists already"),
        ({"blocks_alpha": "1,2,3"}, "3 block weights were given"),
        ({"blocks_alpha": "GRAD_X"}, "Did you mean"),
        ({"b": "nothing-like-it"}, "unknown model file"),
        ({"method": "Add difference"}, "Choose the models"),
    ],
)
def test_what_stands_in_the_way_is_said_before_the_start(
    host: StandaloneHost, changes: dict[str, Any], told: str
) -> None:
    plan, _ = merge_view(host).show_plan("", *values(**changes))
    assert told in plan


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
    assert 'role="alert"' in plan and "lora.safetensors" in plan


def test_a_merge_writes_the_file_and_offers_it(host: StandaloneHost) -> None:
    view = merge_view(host)
    before = {path.name for path in host.models.iterdir()}
    *lists, html = view.merge("task(x)", *values(name="mixed", alpha=0.5))
    assert "ms-done" in html and "mixed.safetensors" in html
    assert all("mixed.safetensors" in update["choices"] for update in lists)
    assert {path.name for path in host.models.iterdir()} - before == {"mixed.safetensors"}
    with safe_open(host.models / "mixed.safetensors", "pt") as file:
        assert len(list(file.keys())) == 1130


def test_a_cancelled_merge_leaves_nothing(host: StandaloneHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.jobs, "cancelled", lambda: True)
    before = sorted(path.name for path in host.models.iterdir())
    *_, html = merge_view(host).merge("task(x)", *values(name="mixed"))
    assert "Cancelled" in html
    assert sorted(path.name for path in host.models.iterdir()) == before


def test_a_failed_merge_says_so(host: StandaloneHost) -> None:
    *_, html = merge_view(host).merge("task(x)", *values(name=DEMO_A))
    assert 'role="alert"' in html and "exists already" in html


def test_choosing_a_method_shows_its_controls(host: StandaloneHost) -> None:
    view = merge_view(host)
    formula, third, alpha, *_ = view.method_chosen("Add difference")
    assert "B − C" in formula and third["visible"] is True
    assert (alpha["maximum"], alpha["value"]) == (2.0, 1.0)
    _, third, alpha, *_ = view.method_chosen("Weighted sum")
    assert third["visible"] is False and alpha["maximum"] == 1.0


def test_only_the_blocks_of_the_first_method_are_shown_at_first(host: StandaloneHost) -> None:
    view = merge_view(host)
    shown = {name for name, text in view.texts.items() if text.visible}
    assert shown == {"alpha"} == {name for name, editor in view.editors.items() if editor.visible}


def test_a_method_of_any_number_takes_two_or_three(host: StandaloneHost) -> None:
    view = merge_view(host)
    assert view.method_chosen("Average")[1]["visible"] is True
    for third, count in ((None, 2), (DEMO_A, 3)):
        form = MergeForm.from_values(values(method="Average", c=third))
        assert len(form.request(host).models) == count


def test_model_a_decides_the_blocks(host: StandaloneHost) -> None:
    badge, editor, *_ = merge_view(host).first_chosen(DEMO_A)
    assert "SD1" in badge
    assert "&quot;OUT11&quot;" in editor and "GRAD_V" in editor
    assert "ms-blocks-empty" in merge_view(host).first_chosen(None)[1]


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
