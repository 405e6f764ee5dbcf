"""The history of merges: kept, found again from a picture, compared, repeated byte for byte."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="comes with gradio")

from safetensors.torch import load_file

from modelsmith.errors import BadFileError, UnknownNameError
from modelsmith.merge.request import MergeRequest
from modelsmith_webui import history, merging
from modelsmith_webui.background import queue_of
from modelsmith_webui.history import Entry, History, history_of
from modelsmith_webui.hosts.standalone import StandaloneHost
from webui.demos import DEMOS, Control


def request(host: StandaloneHost, name: str = "mixed", alpha: float = 0.25, **more: Any) -> MergeRequest:
    models = tuple(host.models / one for one in DEMOS)
    return MergeRequest(models, "weighted_sum", host.models / f"{name}.safetensors", {"alpha": alpha}, **more)


def merge(host: StandaloneHost, *args: Any, **more: Any) -> Entry:
    merging.run_request(host, request(host, *args, **more), Control())
    return history_of(host).entries()[0]


def wait(host: StandaloneHost) -> None:
    for _ in range(600):
        if all(job.over for job in queue_of(host).jobs()):
            return
        time.sleep(0.05)
    raise AssertionError("the queue did not end")


def test_a_merge_is_recorded_and_survives_a_restart(host: StandaloneHost) -> None:
    made = merge(host)
    again = History(host).entries()
    assert [one.id for one in again] == [made.id]
    assert (made.kind, made.file, made.size) == ("merge", "mixed.safetensors", (host.models / made.file).stat().st_size)
    assert made.recipe["parameters"]["alpha"] == 0.25
    assert made.models == list(DEMOS)
    assert [mark["file"] for mark in made.inputs] == list(DEMOS)


def test_made_again_with_the_same_bytes(host: StandaloneHost) -> None:
    made = merge(host, block_weights={"alpha": "OUT03=1,IN01=0.5"})
    before = (host.models / made.file).read_bytes()
    (host.models / made.file).unlink()
    job = merging.queue_merge(host, merging.request_again(host, merging.checkpoint_of(made), ""))
    wait(host)
    assert (job.state, job.title) == ("done", "mixed.safetensors")
    assert (host.models / made.file).read_bytes() == before
    assert len(history_of(host).entries()) == 2


def test_a_recipe_becomes_a_file_with_the_bytes_of_the_merge(host: StandaloneHost) -> None:
    hashes = {
        host.models / name: history.hashlib.sha256((host.models / name).read_bytes()).hexdigest() for name in DEMOS
    }
    recipe = merging.save_recipe(host, request(host, known_hashes=hashes))
    assert recipe.path.name == "mixed.recipe.safetensors"
    entry = history_of(host).entries()[0]
    assert (entry.kind, entry.sha256) == ("recipe", history.hashlib.sha256(recipe.path.read_bytes()).hexdigest())
    merge(host, known_hashes=hashes)
    wanted = (host.models / "mixed.safetensors").read_bytes()
    (host.models / "mixed.safetensors").unlink()
    merging.run_request(host, merging.request_again(host, merging.open_recipe(recipe.path), ""), Control())
    assert (host.models / "mixed.safetensors").read_bytes() == wanted


def test_a_picture_leads_to_its_merge(host: StandaloneHost) -> None:
    merge(host, "other", 0.5)
    hashes = {host.models / name: "ab" * 32 for name in DEMOS}
    made = merge(host, known_hashes=hashes)
    assert made.sha256 is not None
    infotext = f"a cat\nNegative prompt: dog\nSteps: 2, Model hash: {made.sha256[:10]}, Model: mixed, Seed: 1"
    assert [one.id for one in history_of(host).trace(infotext)] == [made.id]
    assert [one.id for one in history_of(host).trace(made.sha256[:10].upper())] == [made.id]
    assert history_of(host).trace("Steps: 2, Model hash: 0123456789") == []
    assert history_of(host).trace("no hash at all") == []


def test_two_recipes_are_compared(host: StandaloneHost) -> None:
    first, second = merge(host, "x", 0.25), merge(host, "y", 0.5, block_weights={"alpha": "OUT03=1"})
    found = {place: (left, right) for place, left, right in history_of(host).compare(first.id, second.id)}
    assert found["parameters.alpha"] == (0.25, 0.5)
    assert found["blocks.alpha.OUT03"] == (None, 1.0)
    assert "output" not in found
    assert history_of(host).compare(first.id, first.id) == []


def test_deleting_forgets_the_entry_and_keeps_the_file(host: StandaloneHost) -> None:
    first, second = merge(host, "x"), merge(host, "y")
    history_of(host).delete(first.id)
    assert [one.id for one in history_of(host).entries()] == [second.id]
    assert (host.models / "x.safetensors").exists()
    with pytest.raises(UnknownNameError):
        history_of(host).delete(first.id)


def test_a_recipe_that_is_used_again_has_one_entry(host: StandaloneHost) -> None:
    plan = merging.plan_merge(request(host), writes=False)
    path = merging.save_recipe(host, request(host)).path
    for _ in range(3):
        history_of(host).loaded(plan, path, 1.5)
    entries = history_of(host).entries()
    assert [(one.kind, one.uses, one.seconds) for one in entries] == [("recipe", 3, 1.5)]


def test_damaged_lines_are_passed_over(host: StandaloneHost) -> None:
    made = merge(host)
    path = host.data_folder() / history.FILE
    path.write_bytes(b"nonsense\n[1]\n{}\n" + path.read_bytes() + b'{"id": "unfinish')
    assert [one.id for one in history_of(host).entries()] == [made.id]
    later = merge(host, "later")
    assert [one.id for one in history_of(host).entries()] == [later.id, made.id]


def test_the_oldest_are_forgotten(host: StandaloneHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST", 3)
    for number in range(5):
        history_of(host).add(Entry(str(number), "merge", history.now(), f"{number}.safetensors"))
    assert [one.id for one in history_of(host).entries()] == ["4", "3", "2"]


def test_a_model_that_is_gone_is_named(host: StandaloneHost) -> None:
    made = merge(host)
    (host.models / DEMOS[1]).unlink()
    with pytest.raises(BadFileError, match=f"{DEMOS[1]} .*is missing"):
        merging.request_again(host, merging.checkpoint_of(made), "new")


def test_the_same_name_is_not_queued_twice(host: StandaloneHost) -> None:
    release = merging.queue_of(host)
    blocker = history.threading.Event()
    release.start("wait", lambda _control: {"waited": blocker.wait(30)})
    merging.queue_merge(host, request(host))
    with pytest.raises(merging.UsageError, match="in the queue already"):
        merging.queue_merge(host, request(host))
    blocker.set()
    wait(host)
    assert load_file(str(host.models / "mixed.safetensors")).keys() == load_file(str(host.models / DEMOS[0])).keys()


def test_lines_are_json(host: StandaloneHost) -> None:
    merge(host)
    lines = (host.data_folder() / history.FILE).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["file"] for line in lines] == ["mixed.safetensors"]


def test_the_order_is_that_of_the_dates(host: StandaloneHost) -> None:
    history_of(host).add(Entry("one", "recipe", "2025-01-01T00:00:00+00:00", "one.recipe.safetensors", sha256="aa"))
    history_of(host).add(Entry("two", "merge", "2025-01-02T00:00:00+00:00", "two.safetensors"))
    history_of(host).add(Entry("again", "recipe", history.now(), "one.recipe.safetensors", sha256="aa", uses=1))
    assert [(one.id, one.uses) for one in history_of(host).entries()] == [("two", 0), ("one", 1)]
