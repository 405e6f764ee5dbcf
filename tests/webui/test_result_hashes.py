"""Every merged file gets its hash in the end: from the merge, from the host, or by being read in the background."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="comes with gradio")

from fastapi import FastAPI
from fastapi.testclient import TestClient

from modelsmith.merge.request import MergeRequest
from modelsmith_webui import api, merging, result_hashes
from modelsmith_webui.history import Entry, history_of
from modelsmith_webui.host import ModelFile
from modelsmith_webui.hosts.standalone import StandaloneHost
from modelsmith_webui.result_hashes import result_file, result_hashes_of
from webui.demos import DEMOS, Control


def merge(host: StandaloneHost, name: str = "mixed") -> Entry:
    models = tuple(host.models / one for one in DEMOS)
    request = MergeRequest(models, "weighted_sum", host.models / f"{name}.safetensors", {"alpha": 0.25})
    merging.run_request(host, request, Control())
    return history_of(host).entries()[0]


def wait(host: StandaloneHost) -> None:
    for _ in range(600):
        if not result_hashes_of(host).waiting:
            return
        time.sleep(0.05)
    raise AssertionError("the hashes were not read")


def digest_of(host: StandaloneHost, name: str) -> str:
    return hashlib.sha256((host.models / name).read_bytes()).hexdigest()


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """No reader starts by itself."""
    monkeypatch.setattr(result_hashes.ResultHashes, "made", lambda *_: None)


def test_a_merge_gets_its_hash_after_it_was_made(host: StandaloneHost) -> None:
    made = merge(host)
    assert made.sha256 is None, "the models' hashes were not known, so the merge could not hash its result"
    wait(host)
    digest = digest_of(host, made.file)
    assert history_of(host).entry(made.id).sha256 == digest
    assert [one.id for one in history_of(host).trace(f"a cat\nSteps: 2, Model hash: {digest[:10]}")] == [made.id]


@pytest.mark.usefixtures("still")
def test_a_file_under_another_name_is_found_by_its_recipe(host: StandaloneHost) -> None:
    made, other = merge(host), merge(host, "other")
    (host.models / "mixed.safetensors").rename(host.models / "renamed.safetensors")
    (host.models / "other.safetensors").rename(host.models / "mixed.safetensors")
    found = result_file(host, made)
    assert found is not None and found.name == "renamed.safetensors"
    result_hashes_of(host).want([made, other])
    wait(host)
    digests = {one.file: one.sha256 for one in history_of(host).entries()}
    assert digests == {
        "mixed.safetensors": digest_of(host, "renamed.safetensors"),
        "other.safetensors": digest_of(host, "mixed.safetensors"),
    }


@pytest.mark.usefixtures("still")
def test_a_file_that_is_gone_leaves_the_hash_open(host: StandaloneHost) -> None:
    made = merge(host)
    (host.models / made.file).unlink()
    result_hashes_of(host).want([made])
    wait(host)
    assert history_of(host).entry(made.id).sha256 is None


@pytest.mark.usefixtures("still")
def test_what_the_host_has_hashed_is_taken_over(host: StandaloneHost, monkeypatch: pytest.MonkeyPatch) -> None:
    made = merge(host)
    known = "c0ffee" + "0" * 58

    def hashed(file: ModelFile) -> str | None:
        return known if file.path.name == made.file else None

    monkeypatch.setattr(host, "cached_sha256", hashed)
    assert [one.id for one in history_of(host).trace(known[:10])] == [made.id]
    assert history_of(host).entry(made.id).sha256 == known


@pytest.mark.usefixtures("still")
def test_a_file_that_only_has_the_name_of_a_merge_is_not_taken_for_it(
    host: StandaloneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = merge(host)
    (host.models / made.file).unlink()
    (host.models / made.file).hardlink_to(host.models / DEMOS[0])
    monkeypatch.setattr(host, "cached_sha256", lambda _file: "ab" * 32)
    assert history_of(host).trace("ab" * 5) == []
    assert history_of(host).entry(made.id).sha256 is None


@pytest.mark.usefixtures("still")
def test_a_file_that_changes_while_it_is_read_gets_no_hash(
    host: StandaloneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = merge(host)
    stamps = iter([(1, 1), (2, 1)])
    monkeypatch.setattr(result_hashes, "_stamp", lambda _path: next(stamps))
    result_hashes_of(host).want([made])
    wait(host)
    assert history_of(host).entry(made.id).sha256 is None


@pytest.mark.usefixtures("still")
def test_the_api_says_how_far_the_hash_is(host: StandaloneHost) -> None:
    app = FastAPI()
    api.add_routes(app, host)
    client = TestClient(app)
    made = merge(host)
    assert client.get("/modelsmith/v1/history").json()[0]["hash_state"] == "being_read"
    wait(host)
    told: dict[str, Any] = client.get(f"/modelsmith/v1/history/{made.id}").json()
    assert (told["hash_state"], told["sha256"]) == ("known", digest_of(host, made.file))
    gone = history_of(host).add(replace(made, id="gone", size=1))
    client.get(f"/modelsmith/v1/history/{gone.id}")
    wait(host)
    client.get(f"/modelsmith/v1/history/{gone.id}")
    assert history_of(host).entry("gone").sha256 is None
