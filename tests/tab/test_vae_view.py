"""The VAE view: what a VAE is, the measurement, the cure with its proof, and moving it in and out of checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from modelsmith.files.header import read_header
from modelsmith.identify import identify
from modelsmith.vae.choice import Judge
from modelsmith.vae.families import SAID_AGAINST
from modelsmith.vae.layout import find_vae
from modelsmith.vae.memory import VaeMemory
from modelsmith_webui.hosts.standalone import StandaloneHost
from modelsmith_webui.tab.convert_words import VAE_ACTIONS
from modelsmith_webui.tab.layer_chart import Bar, chart_html
from modelsmith_webui.tab.report_links import ReportLinks, leads_of
from modelsmith_webui.tab.texts import Texts
from modelsmith_webui.tab.vae_form import VaeForm
from modelsmith_webui.tab.vae_view import VaeView
from vae.vae_makers import narrow_layout, random_weights, spelled

DEMO_A = "modelsmith-demo-a.safetensors"
FULL = "VAE / VAE/four-levels.safetensors"
HOT, COOL = "VAE / VAE/hot.safetensors", "VAE / VAE/cool.safetensors"
IDS = "cond_stage_model.transformer.text_model.embeddings.position_ids"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On tensors this small, several threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The VAE is run on the same kinds of input, of 8 latent pixels a side instead of 32."""
    full = VaeForm.calibration
    monkeypatch.setattr(VaeForm, "calibration", lambda form: replace(full(form), size=8, image_size=32))


@pytest.fixture
def view(host: StandaloneHost) -> VaeView:
    """Beside two checkpoints: a VAE that overflows in fp16, and one that does not."""
    folder = host.models / "VAE"
    folder.mkdir()
    full = narrow_layout(widths=(32, 32, 32, 32), blocks=2)
    save_file(spelled(full, random_weights(full), "ldm"), str(folder / "four-levels.safetensors"))
    layout = narrow_layout()
    for name, gain in (("hot", 3e5), ("cool", 1.0)):
        save_file(spelled(layout, random_weights(layout, gain=gain), "ldm"), str(folder / f"{name}.safetensors"))
    made = VaeView(host, Texts(host.language))
    with gr.Blocks():
        made.build()
    return made


def values(**changes: Any) -> list[Any]:
    form = replace(VaeForm(file=HOT), **changes)
    return [getattr(form, field.name) for field in fields(VaeForm)]


def start(view: VaeView, **changes: Any) -> str:
    *lists, html = view.panel._run(view.work, values(**changes), view.offers)
    assert len(lists) == len(view.lists)
    return html


def names(host: StandaloneHost) -> set[str]:
    return {path.relative_to(host.models).as_posix() for path in host.models.rglob("*.safetensors")}


def test_the_list_begins_with_vaes(view: VaeView) -> None:
    choices = view.offers()[0]["choices"]
    assert choices[:3] == [COOL, FULL, HOT] and DEMO_A in choices


def test_the_page_says_what_a_vae_is(view: VaeView) -> None:
    word, shown = view.look(FULL)
    assert word["value"] == "what the file says"
    assert "SD1 / SD2 or SDXL" in shown and "a file of its own" in shown and "fp32" in shown
    told = view.say(FULL, "SDXL")
    assert "SDXL" in told and "at risk in fp16" in told
    assert "inside a checkpoint, under first_stage_model." in view.look(DEMO_A)[1]


def test_a_persons_word_is_remembered_for_tab_and_choice(view: VaeView, host: StandaloneHost) -> None:
    """Said once in the view, the word holds for a copy under another name, for the API and the automatic choice."""
    view.say(FULL, "SDXL")
    path = host.models / "VAE" / "four-levels.safetensors"
    shutil.copy(path, path.with_name("copy.safetensors"))
    word, shown = view.look("VAE / VAE/copy.safetensors")
    assert word["value"] == "SDXL" and "you say so" in shown
    kept = VaeMemory(host.data_folder() / "vae.json")
    judge = Judge(kept, identify)
    assert judge.verdict(path).label == "SDXL"
    view.say(FULL, "what the file says")
    assert view.look("VAE / VAE/copy.safetensors")[0]["value"] == "what the file says"


def test_a_word_that_the_shape_contradicts_is_shown_and_not_followed(view: VaeView) -> None:
    """A VAE of no known shape: what a person says of it stands beside the shape, in their language too."""
    shown = view.say(COOL, "SDXL")
    assert SAID_AGAINST in shown and "unknown" in shown and view.look(COOL)[0]["value"] == "SDXL"
    view.tr = Texts(lambda: "ja_JP")
    assert "形が合わない" in view.look(COOL)[1]


def test_what_was_measured_is_remembered_and_shown(view: VaeView, host: StandaloneHost) -> None:
    assert "Measured here" not in view.look(HOT)[1]
    start(view)
    assert "Measured here" in view.look(HOT)[1] and "Measured here" not in view.look(COOL)[1]
    hot = host.models / "VAE" / "hot.safetensors"
    assert Judge(VaeMemory(host.data_folder() / "vae.json"), identify).measured(find_vae(read_header(hot))) is True


def picture(path: Path, size: tuple[int, int] = (40, 24)) -> Path:
    noise = torch.randint(0, 255, (size[1], size[0], 3), dtype=torch.uint8).numpy()
    Image.fromarray(noise).save(path)
    return path


def test_pictures_are_tried_too(view: VaeView, tmp_path: Path) -> None:
    pictures = [str(picture(tmp_path / "one.png")), SimpleNamespace(name=str(picture(tmp_path / "two.jpg")))]
    assert "one.png, two.jpg" in view.show_plan(values(pictures=pictures))
    shown = start(view, pictures=pictures)
    assert "one.png" in shown and "latent of two.jpg" in shown
    assert "one.png" in view.show_plan(values(pictures=pictures, action=VAE_ACTIONS["fix"]))
    assert "Cured and proved" in start(view, pictures=pictures, action=VAE_ACTIONS["fix"])
    (tmp_path / "bad.png").write_text("no picture")
    assert "no readable image" in start(view, pictures=[str(tmp_path / "bad.png")])
    assert 'role="alert"' in view.look("nothing-like-it")[1]


def test_only_the_controls_of_the_action_are_shown(view: VaeView) -> None:
    shown = {}
    for name, word in VAE_ACTIONS.items():
        _, button, *states = view.show_action(word)
        assert button["value"] == word
        shown[name] = [state["visible"] for state in states]
    assert shown == {
        "measure": [False, True, False, False, False, False],
        "fix": [True, True, False, False, False, False],
        "bake": [True, False, True, True, True, False],
        "extract": [True, False, False, False, True, True],
    }


def test_the_button_speaks_the_users_language(view: VaeView, host: StandaloneHost) -> None:
    host.chosen_language = "ja_JP"
    assert view.show_action("Measure")[1]["value"] == "測定"


def test_measuring_shows_the_layers_beside_the_limit(view: VaeView, host: StandaloneHost) -> None:
    before = names(host)
    hot, cool = start(view), start(view, file=COOL)
    assert "It overflows in fp16" in hot and "ms-chart-over" in hot and "65,504" in hot
    assert "It stays within fp16" in cool and "<rect x" in cool
    assert names(host) == before


def test_the_cure_writes_a_proved_copy_beside(view: VaeView, host: StandaloneHost) -> None:
    html = start(view, action="Cure for fp16")
    assert "hot-fp16-cured.safetensors" in html and "Cured and proved" in html
    assert "ms-chart-after" in html and "Difference of the fp32 output" in html
    assert "VAE/hot-fp16-cured.safetensors" in names(host)
    cured = "VAE / VAE/hot-fp16-cured.safetensors"
    assert "was cured for fp16 before" in view.look(cured)[1]
    assert "It stays within fp16" in start(view, file=cured)


def test_a_vae_that_needs_no_cure_is_left_alone(view: VaeView, host: StandaloneHost) -> None:
    before = names(host)
    html = start(view, file=COOL, action="Cure for fp16")
    assert "ms-info" in html and "nothing was written" in html.lower()
    assert names(host) == before


def test_a_vae_comes_out_and_goes_in(view: VaeView, host: StandaloneHost) -> None:
    html = start(view, file=DEMO_A, action="Write as a file of its own", naming="diffusers")
    assert "modelsmith-demo-a-vae.safetensors" in html
    out = load_file(str(host.models / "VAE" / "modelsmith-demo-a-vae.safetensors"))
    assert "decoder.mid_block.resnets.0.conv1.weight" in out
    baked = start(
        view,
        file="VAE / VAE/modelsmith-demo-a-vae.safetensors",
        action="Put into a checkpoint",
        checkpoint="modelsmith-demo-b.safetensors",
        precision="fp32",
        name="with-a",
    )
    assert "with-a.safetensors" in baked and "ms-done" in baked
    made, source = load_file(str(host.models / "with-a.safetensors")), load_file(str(host.models / DEMO_A))
    name = "first_stage_model.decoder.conv_in.weight"
    assert torch.equal(made[name], source[name].float())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"file": None}, "Choose a VAE"),
        ({"action": "Put into a checkpoint"}, "Choose the checkpoint"),
        ({"action": "Cure for fp16", "name": "a/b"}, "has a path in it"),
        ({"action": "Cure for fp16", "name": "cool"}, "exists already"),
        ({"file": "nothing"}, "unknown model file"),
    ],
)
def test_what_stands_in_the_way_is_said(view: VaeView, changes: dict[str, Any], told: str) -> None:
    assert told in view.show_plan(values(**changes))


def test_a_cancelled_cure_leaves_nothing(view: VaeView, host: StandaloneHost, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names(host)
    monkeypatch.setattr(host.jobs, "cancelled", lambda: True)
    for action in VAE_ACTIONS.values():
        checkpoint = DEMO_A if action == "Put into a checkpoint" else None
        assert "Cancelled" in start(view, file=FULL, action=action, checkpoint=checkpoint)
    assert names(host) == before


def test_the_chart_escapes_names_and_draws_every_layer() -> None:
    bars = [Bar("<b>", 70000.0, 100.0), Bar("plain", 0.0, 0.0)]
    html = chart_html(bars, Texts(lambda: ""))
    assert "<b>" not in html and html.count("<g>") == 2 and "ms-chart-over" in html


def test_links_lead_from_a_report_to_what_can_be_done(host: StandaloneHost, view: VaeView) -> None:
    tensors = load_file(str(host.models / DEMO_A))
    tensors[IDS] = torch.arange(77, dtype=torch.float32).reshape(1, 77)
    path: Path = host.models / "faulty.safetensors"
    save_file(tensors, str(path))
    assert leads_of(identify(path), checkpoint=True) == ["merge", "convert", "vae", "repair"]
    assert leads_of(identify(host.models / "VAE" / "hot.safetensors"), checkpoint=False) == ["convert", "vae"]
    (host.models / "broken.safetensors").write_bytes(path.read_bytes()[:5000])
    assert leads_of(identify(host.models / "broken.safetensors"), checkpoint=True) == []
    links = ReportLinks()
    views, action, file = links._convert("repair", path.name)
    assert (views["selected"], action["value"], file["value"]) == ("convert", "Repair", path.name)
    assert links._vae(HOT)[2]["value"] == HOT
    views, file = links._merge(path.name)
    assert (views["selected"], file["value"]) == ("merge", path.name)
