"""The Inspect page: the picture beside a model, ways out of a warning, a dropped header, two files side by side."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import gradio as gr
import pytest

from makers import write_header_only
from modelsmith.errors import UsageError
from modelsmith.files.header import read_header
from modelsmith.identify.messages import say
from modelsmith.identify.report import Report
from modelsmith_webui.hosts.standalone import StandaloneHost
from modelsmith_webui.tab.dropped import dropped_report
from modelsmith_webui.tab.inspect_view import InspectView
from modelsmith_webui.tab.preview import picture_of, preview_uri
from modelsmith_webui.tab.report_links import ways_of
from modelsmith_webui.tab.texts import Texts


@pytest.fixture
def view(tmp_path: Path) -> InspectView:
    shapes = {"text_model.encoder.layers.0.layer_norm1.weight": ("F16", (768,)), "b": ("F16", (4, 4))}
    write_header_only(tmp_path / "one.safetensors", shapes)
    write_header_only(tmp_path / "two.safetensors", {**shapes, "b": ("F32", (4, 8)), "<c>": ("F16", (2,))})
    write_header_only(tmp_path / "three.safetensors", {**shapes, "b": ("F32", (4, 4))})
    made = InspectView(StandaloneHost(tmp_path), Texts(lambda: "en"))
    with gr.Blocks():
        made.build()
    return made


def sent(path: Path, **changes: object) -> str:
    """What the page's script sends of a file."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    text = data[8 : 8 + length].decode("utf-8", "replace")
    return json.dumps({"name": path.name, "size": len(data), "length": length, "header": text, **changes})


def test_a_dropped_header_gives_the_report_of_its_file(view: InspectView, tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    report = dropped_report(sent(path))
    assert report is not None
    assert (report.kind, report.candidates) == ("text_encoder", ("clip-l",))
    assert (report.size, report.tensors) == (read_header(path).size, 2)
    assert dropped_report("") is None
    assert "one.safetensors" in view.drop(sent(path))[0]


def test_a_dropped_file_that_is_damaged_has_a_page_that_says_so(tmp_path: Path) -> None:
    path = write_header_only(tmp_path / "x.safetensors", {"a": ("F16", (4,))})
    for changes in ({"size": 40}, {"length": 1 << 40, "header": ""}, {"header": "{" * 30}, {"header": ""}):
        report = dropped_report(sent(path, **changes))
        assert report is not None and report.error is not None and "x.safetensors" in report.error


@pytest.mark.parametrize("message", ["{", "[]", '{"name": "x"}', '{"name":"x","size":1,"length":-1,"header":""}'])
def test_nonsense_is_refused(message: str) -> None:
    with pytest.raises(UsageError):
        dropped_report(message)


def test_a_file_of_another_format_is_not_read(view: InspectView) -> None:
    page = view.drop('{"name":"x.ckpt","size":9,"length":3,"header":null}')[0]
    assert "Only the header of a .safetensors file" in page


def test_two_files_side_by_side(view: InspectView) -> None:
    page = view.compare("one.safetensors", "two.safetensors")
    assert "Only in two.safetensors: 1 tensors" in page and "&lt;c&gt;" in page
    assert "Of another shape: 1 tensors" in page and "b  [4, 4] ↔ [4, 8]" in page
    same = view.compare("one.safetensors", "three.safetensors")
    assert "Both have the same tensors in the same shapes. 1 of them are of another precision." in same
    assert view.compare("one.safetensors", None) == ""
    assert "ms-error" in view.compare("one.safetensors", "four.safetensors")


def test_the_picture_beside_a_model(view: InspectView, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    model = tmp_path / "one.safetensors"
    assert preview_uri(model) is None
    (tmp_path / "one.png").write_bytes(b"no picture")
    assert picture_of(model) == tmp_path / "one.png" and preview_uri(model) is None
    image.new("RGB", (1200, 800), "teal").save(tmp_path / "one.preview.png")
    uri = preview_uri(model)
    assert uri is not None and uri.startswith("data:image/jpeg;base64,") and len(uri) < 20_000
    assert uri in view.choose("one.safetensors")[0]
    assert "ms-preview" not in view.drop(sent(model))[0]  # of a file that is not the host's nothing is read beside


def test_warnings_lead_to_what_helps() -> None:
    warnings = (say("stray-ztsnr"), say("ema-both", size="1 GB"), say("fp16-sdxl-vae"), say("reduced"))
    report = Report("x", warnings=warnings, advice=(say("undetermined-sd2"),))
    ways = {"stray-ztsnr": "repair", "ema-both": "prune", "fp16-sdxl-vae": "vae"}
    assert ways_of(report, override=False) == ways
    assert ways_of(report, override=True) == {**ways, "undetermined-sd2": "override"}
