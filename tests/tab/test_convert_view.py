"""The Convert view: what it plans, what it writes, and what it refuses."""

from __future__ import annotations

import hashlib
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from modelsmith import demo
from modelsmith_webui.hosts.standalone import StandaloneHost
from modelsmith_webui.tab.convert_files import FOLDER_PREFIX, file_choices
from modelsmith_webui.tab.convert_form import ConvertForm
from modelsmith_webui.tab.convert_view import ConvertView
from modelsmith_webui.tab.convert_words import ACTIONS
from modelsmith_webui.tab.texts import Texts

DEMO_A, DEMO_B = "modelsmith-demo-a.safetensors", "modelsmith-demo-b.safetensors"
IDS = "cond_stage_model.transformer.text_model.embeddings.position_ids"
UNET = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.fixture
def view(host: StandaloneHost) -> ConvertView:
    made = ConvertView(host, Texts(host.language))
    with gr.Blocks():
        made.build()
    return made


def values(**changes: Any) -> list[Any]:
    form = replace(ConvertForm(file=DEMO_A), **changes)
    return [getattr(form, field.name) for field in fields(ConvertForm)]


def start(view: ConvertView, **changes: Any) -> str:
    """Press the button: the handler that the event has, with the job around it."""
    *lists, html = view.panel._run(view.work, values(**changes), view.offers)
    assert len(lists) == len(view.lists)
    return html


def plan(view: ConvertView, **changes: Any) -> str:
    return re.sub(r"\s+", " ", view.show_plan(values(**changes)))


def names(host: StandaloneHost) -> set[str]:
    return {path.relative_to(host.models).as_posix() for path in host.models.rglob("*") if path.is_file()}


@pytest.fixture
def faulty(host: StandaloneHost) -> Path:
    """A checkpoint with position ids as an old merge left them, and a value beyond fp16."""
    tensors = load_file(str(host.models / DEMO_A))
    tensors[IDS] = torch.arange(77, dtype=torch.float32).reshape(1, 77)
    tensors[UNET] = tensors[UNET].float()
    tensors[UNET].view(-1)[0] = 1e6
    path = host.models / "faulty.safetensors"
    save_file(tensors, str(path))
    return path


def test_the_fields_are_those_of_the_form(view: ConvertView) -> None:
    assert len(view.inputs) == len(values())
    assert ConvertForm.from_values([None] * len(values())) == ConvertForm()


def test_only_the_controls_of_the_action_are_shown(view: ConvertView) -> None:
    for action in ACTIONS.values():
        about, button, target, *groups = view.show_group(action)
        assert len(about) > 20 and button["value"]
        shown = [name for name, update in zip(view.groups, groups, strict=True) if update["visible"]]
        assert shown == [ConvertForm(action=action).what]
        assert target["visible"] is (action not in ("Compare", "Verify"))


def folder_of(host: StandaloneHost) -> str:
    (folder,) = [label for label in file_choices(host) if label.startswith(FOLDER_PREFIX)]
    return folder


def test_a_folder_stands_for_its_files(view: ConvertView, host: StandaloneHost) -> None:
    folder = folder_of(host)
    assert [file.name for file in ConvertForm(file=folder).chosen(host)] == [DEMO_A, DEMO_B]
    assert [file.name for file in ConvertForm(file=folder, only="DEMO b").chosen(host)] == [DEMO_B]
    assert "no such model file" in plan(view, file=folder, only="nothing")
    assert "one file at a time" in plan(view, file=folder, action="Parts")
    assert view.show_only(folder)["visible"] is True and view.show_only(DEMO_A)["visible"] is False


def test_the_plan_of_a_conversion_names_sizes_and_place(view: ConvertView, host: StandaloneHost) -> None:
    shown = plan(view, unet="fp8 e4m3", vae="fp32")
    assert "MB → " in shown and "%)" in shown
    assert f"{host.models}/modelsmith-demo-a-converted.safetensors" in shown
    assert "Nothing would change but the name" in plan(view)


def test_a_conversion_writes_each_part_in_its_precision(view: ConvertView, host: StandaloneHost) -> None:
    html = start(view, unet="bf16", vae="fp32", name="mixed")
    assert "ms-done" in html and "mixed.safetensors" in html
    made = load_file(str(host.models / "mixed.safetensors"))
    source = load_file(str(host.models / DEMO_A))
    assert torch.equal(made[UNET], source[UNET].bfloat16())
    vae = "first_stage_model.decoder.conv_in.weight"
    assert torch.equal(made[vae], source[vae].float())
    text = "cond_stage_model.transformer.text_model.final_layer_norm.weight"
    assert torch.equal(made[text], source[text])


def test_what_overflows_is_named(view: ConvertView, faulty: Path) -> None:
    html = start(view, file=faulty.name, unet="fp16", name="small")
    assert UNET in html and "1 out of range" in html and "ms-warning" in html
    clipped = start(view, file=faulty.name, unet="fp16", clip=True, name="clipped")
    assert UNET in clipped
    assert float(load_file(str(faulty.with_name("clipped.safetensors")))[UNET].float().max()) == 65504.0


def test_repair_shows_the_evidence_and_then_mends(view: ConvertView, faulty: Path, host: StandaloneHost) -> None:
    before = names(host)
    shown = plan(view, file=faulty.name, action="Repair")
    assert "Damaged position_ids" in shown and "before January 2023" in shown
    assert names(host) == before
    html = start(view, file=faulty.name, action="Repair")
    assert "faulty-repaired.safetensors" in html
    ids = load_file(str(host.models / "faulty-repaired.safetensors"))[IDS]
    assert ids.dtype == torch.int64 and torch.equal(ids, torch.arange(77).reshape(1, 77))


def test_faults_are_told_in_the_users_language(view: ConvertView, faulty: Path, host: StandaloneHost) -> None:
    host.chosen_language = "ja_JP"
    shown = plan(view, file=faulty.name, action="Repair")
    assert "2023 年 1 月より前" in shown and "int64 の 0 … 76 にします" in shown and "before January" not in shown
    old = {**load_file(str(faulty)), "alphas_cumprod": torch.linspace(0.999, 0.005, 1000)}
    save_file(old, str(host.models / "old.safetensors"))
    assert "取り除いた alphas_cumprod" in plan(view, file="old.safetensors", action="Prune")
    assert "2023 年 1 月より前" in plan(view, file=faulty.name, action="Share")
    (host.models / "bad.safetensors").write_bytes(b"nothing")
    told = start(view, file="bad.safetensors", action="Verify")
    assert "ms-incomplete" in told and re.search(r"<div>ファイルが 7 バイト", told)


def test_the_result_is_told_in_the_users_language(view: ConvertView, host: StandaloneHost) -> None:
    host.chosen_language = "ja_JP"
    told = start(view, action="Prune", name="pruned.safetensors", overwrite=True)
    assert re.search(r"時間</?[^>]*>.*?[\d.]+秒", told, re.S)


def test_a_sound_file_is_not_written_again(view: ConvertView, host: StandaloneHost) -> None:
    before = names(host)
    html = start(view, action="Repair")
    assert "Nothing was written" in html and names(host) == before


def test_a_part_goes_to_the_folder_of_its_kind(view: ConvertView, host: StandaloneHost) -> None:
    assert "VAE/modelsmith-demo-a-vae.safetensors" in plan(view, action="Parts")
    assert not (host.models / "VAE").exists()
    start(view, action="Parts")
    assert "decoder.conv_in.weight" in load_file(str(host.models / "VAE" / "modelsmith-demo-a-vae.safetensors"))
    assert "VAE / VAE/modelsmith-demo-a-vae.safetensors" in view.offers()[1]["choices"]


def write_sd1(path: Path, monkeypatch: pytest.MonkeyPatch, value: float) -> Path:
    """Narrow, but with the cross attention of SD1, by which its family is known."""
    monkeypatch.setattr(demo, "CONTEXT_WIDTH", 768)
    save_file({name: torch.full(shape, value).half() for name, shape in demo.demo_shapes().items()}, str(path))
    return path


def test_a_part_of_another_file_is_put_in(
    view: ConvertView, host: StandaloneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Choose the other file" in plan(view, action="Parts", part_action="put one in")
    for name, value in (("one", 1.0), ("two", 2.0)):
        write_sd1(host.models / f"{name}.safetensors", monkeypatch, value)
    changes: dict[str, Any] = {"file": "one.safetensors", "action": "Parts", "part_action": "put one in"}
    changes["part_donor"] = "two.safetensors"
    assert "one-with-vae.safetensors" in plan(view, **changes)
    start(view, **changes)
    made = load_file(str(host.models / "one-with-vae.safetensors"))
    assert made["first_stage_model.decoder.conv_in.weight"].unique().tolist() == [2.0]
    assert made[UNET].unique().tolist() == [1.0]


def test_sharing_shows_name_and_cards_first(view: ConvertView, host: StandaloneHost) -> None:
    shown = plan(view, action="Share", title="はるか 夢", author="Ann <b>", license="CC0-1.0")
    assert "haruka" in shown.lower() and "Recommended settings" in shown and "推奨設定" in shown
    assert "Ann &lt;b&gt;" in shown and "Ann <b>" not in shown
    html = start(view, action="Share", title="Ready", author="Ann", license="CC0-1.0")
    assert {"Ready.safetensors", "Ready.md", "Ready.ja.md", "Ready.sha256"} <= names(host)
    assert "AutoV2" in html


def test_comparing_says_how_models_relate(view: ConvertView, host: StandaloneHost) -> None:
    save_file(load_file(str(host.models / DEMO_A)), str(host.models / "copy.safetensors"))
    assert "The two models are the same" in start(view, action="Compare", other="copy.safetensors")
    differ = start(view, action="Compare", other=DEMO_B)
    assert "The two models differ" in differ and "different" in differ
    assert "is not chosen" in start(view, action="Compare")
    assert "the same file" in plan(view, action="Compare", other=DEMO_A)


def test_verifying_names_the_damage(view: ConvertView, host: StandaloneHost) -> None:
    tensors = load_file(str(host.models / DEMO_A))
    tensors[UNET].view(-1)[3] = float("nan")
    save_file(tensors, str(host.models / "nan.safetensors"))
    html = start(view, action="Verify", file=folder_of(host))
    assert "3 files checked, 1 with faults" in html and UNET in html and "1 NaN" in html


def test_verifying_against_a_list_of_hashes(view: ConvertView, host: StandaloneHost) -> None:
    digest = hashlib.sha256((host.models / DEMO_A).read_bytes()).hexdigest()
    lines = f"{digest}  {DEMO_A}\n{'0' * 64} *{DEMO_B}\n{digest[:10]}  gone.safetensors\n"
    both = {"action": "Verify", "file": folder_of(host), "hash_list": lines}
    assert "2 of 3 hashes belong to these files" in plan(view, **both)
    html = start(view, **both)
    assert "2 files checked, 1 with faults" in html and "not one of those expected" in html
    assert "not among the files: gone.safetensors" in html
    html = start(view, action="Verify", hash_list=f"{'0' * 64}  {DEMO_B}")
    assert "no hash of it is known" in html and "0 with faults" in html
    assert "line 1 of the list holds no hash" in plan(view, action="Verify", hash_list="hello")


@pytest.fixture
def namesakes(host: StandaloneHost) -> dict[str, str]:
    """Two checkpoints of one name in two folders beside the demos, with their hashes."""
    made: dict[str, str] = {}
    for folder, name in (("anime", DEMO_A), ("リアル系", DEMO_B)):
        (host.models / folder).mkdir()
        data = (host.models / name).read_bytes()
        (host.models / folder / "model.safetensors").write_bytes(data)
        made[f"{folder}/model.safetensors"] = hashlib.sha256(data).hexdigest()
    return made


def test_a_list_of_hashes_tells_folders_apart(
    view: ConvertView, host: StandaloneHost, namesakes: dict[str, str]
) -> None:
    first, second = namesakes
    swapped = f"{namesakes[second]}  {first}\n{namesakes[first]}  {second}\n"
    both = {"action": "Verify", "file": folder_of(host), "only": "model.safetensors"}
    assert "2 of 2 hashes" in plan(view, **both, hash_list=swapped)
    html = start(view, **both, hash_list=swapped)
    assert "2 files checked, 2 with faults" in html and first in html and second in html
    html = start(view, **both, hash_list=f"{namesakes[first]}  {first}")
    assert "0 with faults" in html and "sound; no hash of it is known" in html
    assert "1 of 1 hashes" in plan(view, **both, hash_list=f"{namesakes[first]}  {first}")


def test_files_are_told_apart_by_their_folders(
    view: ConvertView, host: StandaloneHost, namesakes: dict[str, str]
) -> None:
    both = {"file": folder_of(host), "only": "model.safetensors", "unet": "bf16", "name": "new"}
    shown = plan(view, **both)
    assert all(name in shown for name in namesakes)
    html = start(view, **both)
    assert "2 written" in html and all(name in html for name in namesakes)


def test_the_plan_refuses_what_the_job_would(view: ConvertView, host: StandaloneHost) -> None:
    same = DEMO_A.removesuffix(".safetensors")
    for action in ({"unet": "bf16"}, {"action": "Prune"}, {"action": "Share"}):
        assert "is the input itself" in plan(view, **action, name=same, overwrite=True)
    torch.save({"state_dict": {}, "note": "empty"}, host.models / "nothing.ckpt")
    for action in ({}, {"action": "Prune"}, {"action": "Repair"}, {"action": "Share"}):
        shown = plan(view, file="nothing.ckpt", **action)
        assert "no tensor in it that can be read" in shown and "Written to" not in shown
    for name in ('a "b"', 'c "b"'):
        (host.models / f"{name}.safetensors").write_bytes((host.models / DEMO_A).read_bytes())
    assert "2 written, 0 skipped, 0 failed" in start(view, file=folder_of(host), unet="bf16", name="new", only='"b"')


def test_several_files_are_done_once(view: ConvertView, host: StandaloneHost) -> None:
    file = folder_of(host)
    shown = plan(view, file=file, unet="bf16", name="new")
    assert shown.count("to be written") == 2
    assert not (host.models / "new").exists()
    assert "2 written, 0 skipped, 0 failed" in start(view, file=file, unet="bf16", name="new")
    assert {f"new/{DEMO_A}", f"new/{DEMO_B}"} <= names(host)
    assert "0 written, 2 skipped, 0 failed" in start(view, file=file, unet="bf16", name="new")
    assert plan(view, file=file, unet="bf16", name="new").count("done before") == 2


def test_several_files_are_shared_under_names_of_their_own(view: ConvertView, host: StandaloneHost) -> None:
    (host.models / DEMO_B).rename(host.models / "さくら 1.safetensors")
    both: dict[str, Any] = {"file": folder_of(host), "action": "Share", "author": "Ann", "name": "ready"}
    assert plan(view, **both).count("to be written") == 2 and not (host.models / "ready").exists()
    assert "2 written, 0 skipped, 0 failed" in start(view, **both)
    shared = {f"ready/{stem}{ending}" for stem in (DEMO_A[:-12], "sakura-1")
              for ending in (".safetensors", ".md", ".ja.md", ".sha256")}  # fmt: skip
    assert shared <= names(host)
    assert "0 written, 2 skipped" in start(view, **both) and plan(view, **both).count("done before") == 2
    (host.models / "ready" / "sakura-1.md").unlink()
    assert "1 written, 1 skipped, 0 failed" in start(view, **both) and shared <= names(host)
    assert "for one file" in plan(view, **both | {"title": "x"})


def test_a_picture_and_a_resolution_go_into_the_metadata(
    view: ConvertView, host: StandaloneHost, tmp_path: Path
) -> None:
    picture = tmp_path / "t.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 50)
    start(view, action="Share", title="Ready", resolution="640x768", thumbnail=str(picture))
    with safe_open(str(host.models / "Ready.safetensors"), "pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.resolution"] == "640x768"
    assert metadata["modelspec.thumbnail"].startswith("data:image/png;base64,")
    assert "Write it as 1024x1024" in plan(view, action="Share", resolution="big")


def test_a_folder_that_was_interrupted_goes_on_where_it_stopped(
    view: ConvertView, host: StandaloneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled while the second file is written: the first is whole and is not done again."""
    file = folder_of(host)
    output = host.models / "new"
    monkeypatch.setattr(host.jobs, "cancelled", lambda: (output / DEMO_A).exists())
    assert "Cancelled" in start(view, file=file, unet="bf16", name="new")
    made = (output / DEMO_A).stat()
    assert not (output / DEMO_B).exists() and not list(output.glob("*.tmp"))
    monkeypatch.undo()
    assert plan(view, file=file, unet="bf16", name="new").count("done before") == 1
    assert "1 written, 1 skipped, 0 failed" in start(view, file=file, unet="bf16", name="new")
    assert (output / DEMO_A).stat().st_mtime_ns == made.st_mtime_ns and (output / DEMO_B).exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "../out"}, "has a path in it"),
        ({"name": "modelsmith-demo-b"}, "exists already"),
        ({"file": "nothing-like-it"}, "unknown model file"),
        ({"action": "Parts", "part_action": "change the names"}, "no spelling is chosen"),
        ({"file": None}, "Choose a file"),
        ({"action": "Prune", "ema": "use them as the weights"}, "no UNet with EMA"),
    ],
)
def test_what_stands_in_the_way_is_said(view: ConvertView, changes: dict[str, Any], told: str) -> None:
    assert told in plan(view, **changes)


def test_a_cancelled_job_leaves_nothing(
    view: ConvertView, host: StandaloneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = names(host)
    monkeypatch.setattr(host.jobs, "cancelled", lambda: True)
    for changes in ({"unet": "fp32"}, {"action": "Compare", "other": DEMO_B}, {"action": "Verify"}):
        assert "Cancelled" in start(view, **changes)
    assert names(host) == before
