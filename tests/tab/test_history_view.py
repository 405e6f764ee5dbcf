"""The History view's answers: an entry in full, hashes that are still unknown, look-ups, and what is refused."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("gradio", reason="gradio is not installed")

from modelsmith.merge.request import MergeRequest
from modelsmith_webui import merging, result_hashes
from modelsmith_webui.background import queue_of
from modelsmith_webui.history import Entry, history_of
from modelsmith_webui.hosts.standalone import StandaloneHost
from modelsmith_webui.result_hashes import result_hashes_of
from modelsmith_webui.tab.history_page import entry_html
from modelsmith_webui.tab.history_view import HistoryView
from modelsmith_webui.tab.texts import Texts

DEMOS = ("modelsmith-demo-a.safetensors", "modelsmith-demo-b.safetensors")


class Control:
    def report(self, fraction: float, text: str) -> None:
        del fraction, text

    def cancelled(self) -> bool:
        return False


@pytest.fixture
def view(host: StandaloneHost) -> HistoryView:
    return HistoryView(host, Texts(host.language))


def merge(host: StandaloneHost, name: str = "mixed") -> Entry:
    models = tuple(host.models / one for one in DEMOS)
    weights = {"alpha": "OUT03=1,IN01=0.25"}
    request = MergeRequest(
        models, "weighted_sum", host.models / f"{name}.safetensors", {"alpha": 0.5}, block_weights=weights
    )
    merging.run_request(host, request, Control())
    return history_of(host).entries()[0]


def wait(host: StandaloneHost) -> None:
    for _ in range(600):
        if not result_hashes_of(host).waiting and all(job.over for job in queue_of(host).jobs()):
            return
        time.sleep(0.05)
    raise AssertionError("what runs in the background did not end")


def act(view: HistoryView, name: str, entry: Entry) -> list[Any]:
    return view.act(json.dumps({"act": name, "id": entry.id}))


def test_an_entry_says_which_gpu_computed_it(host: StandaloneHost, view: HistoryView) -> None:
    plain = merge(host)
    assert "Computed on" not in act(view, "show", plain)[2]
    there = replace(plain, recipe={**plain.recipe, "device": "GeForce <RTX>"})
    shown = entry_html(there, Texts(host.language))
    assert "Computed on" in shown and "GeForce &lt;RTX&gt;" in shown


def test_an_entry_in_full(host: StandaloneHost, view: HistoryView) -> None:
    made = merge(host)
    wait(host)
    shown = act(view, "show", made)[2]
    digest = history_of(host).entry(made.id).sha256
    for wanted in (
        "Weighted sum",
        "A = modelsmith-demo-a",
        "Block weights: Alpha",
        "OUT03=1",
        'class="ms-spark"',
        digest,
    ):
        assert str(wanted) in shown
    assert 'title="IN01 0.25" style="height:25%"' in shown
    assert "data-waits" not in shown


def test_a_hash_that_is_being_read_is_marked(
    host: StandaloneHost, view: HistoryView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_hashes, "REST", 20.0)  # slow enough to be looked at
    made = merge(host)
    _, table = view.show()
    assert f'data-waits="{made.id}"' in table
    told = view.trace("0123456789abcdef")[1]
    assert "Hashes that are still being read: 1" in told
    wait(host)
    _, table = view.show()
    assert "data-waits" not in table and str(history_of(host).entry(made.id).sha256)[:10] in table


def test_a_text_without_a_hash_is_told_apart_from_one_that_is_not_known(
    host: StandaloneHost, view: HistoryView
) -> None:
    merge(host)
    wait(host)
    assert "That holds no model hash." in view.trace("a cat on a wall")[1]
    assert "No merge in the history made that model." in view.trace("0123456789abcdef")[1]
    assert "still being read" not in view.trace("0123456789abcdef")[1]


def test_what_cannot_be_made_again_keeps_its_entry_in_view(host: StandaloneHost, view: HistoryView) -> None:
    made = merge(host)
    wait(host)
    (host.models / DEMOS[1]).unlink()
    shown = act(view, "again", made)[2]
    assert "ms-error" in shown and DEMOS[1] in shown
    assert f'data-id="{made.id}"' in shown


def test_a_failed_job_is_told_in_the_language_of_the_page(host: StandaloneHost) -> None:
    from modelsmith.errors import UsageError

    def fail(_control: Any) -> dict[str, Any]:
        raise UsageError("mixed.safetensors exists already", "Choose another name, or allow it to be replaced")

    queue_of(host).start("merge", fail, "mixed.safetensors")
    wait(host)
    html = HistoryView(host, Texts(lambda: "ja_JP")).show()[0]
    assert "失敗" in html
    assert "exists already" not in html
