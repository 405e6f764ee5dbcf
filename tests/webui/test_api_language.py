"""The API answers in the language that is asked for; codes and ids are the same in each."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="comes with gradio")

from fastapi import FastAPI
from fastapi.testclient import TestClient
from safetensors.torch import load_file, save_file

from modelsmith import errors
from modelsmith.demo import write_demos
from modelsmith_webui import api
from modelsmith_webui.api_language import preferred
from modelsmith_webui.background import code_of, queue_of
from modelsmith_webui.hosts.standalone import StandaloneHost

V1 = "/modelsmith/v1"
A, B, V = "modelsmith-demo-a.safetensors", "modelsmith-demo-b.safetensors", "lantern-v.safetensors"
JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
JA = {"Accept-Language": "ja,en-US;q=0.8,en;q=0.6"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("models")
    write_demos(found)
    save_file(load_file(found / B), found / V, {"modelspec.prediction_type": "v"})
    return found


@pytest.fixture(scope="module")
def host(folder: Path) -> StandaloneHost:
    return StandaloneHost(folder)


@pytest.fixture(scope="module")
def client(host: StandaloneHost) -> TestClient:
    app = FastAPI()
    api.add_routes(app, host)
    return TestClient(app)


def body(**more: Any) -> dict[str, Any]:
    return {"models": [A, V], "parameters": {"alpha": 0.5}, "output": "mixed", **more}


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("", "en"),
        ("ja", "ja"),
        ("ja-JP,ja;q=0.9,en;q=0.8", "ja"),
        ("en-GB,en;q=0.9,ja;q=0.8", "en"),
        ("fr;q=1, ja;q=0.5", "ja"),
        ("de, *;q=0.5", "en"),
        ("ja;q=nonsense, en;q=0.1", "en"),
    ],
)
def test_the_header_is_understood(header: str, wanted: str) -> None:
    assert preferred(header) == wanted


def test_errors_come_in_both_languages_with_the_same_code(client: TestClient) -> None:
    for path, wanted, status in (("merge", "prediction_mix", 422), ("difference", "unknown_name", 404)):
        sent = body() if path == "merge" else {"a": A, "b": "nothing-like-it"}
        english = client.post(f"{V1}/{path}", json=sent)
        by_header = client.post(f"{V1}/{path}", json=sent, headers=JA)
        by_name = client.post(f"{V1}/{path}?lang=ja_JP", json=sent)
        assert [one.status_code for one in (english, by_header, by_name)] == [status] * 3
        told = [one.json()["detail"] for one in (english, by_header, by_name)]
        assert {one["code"] for one in told} == {wanted}
        assert told[1] == told[2]
        for part in ("error", "remedy"):
            assert not JAPANESE.search(told[0][part])
            assert JAPANESE.search(told[1][part])


def test_lang_wins_over_the_header(client: TestClient) -> None:
    told = client.post(f"{V1}/merge?lang=en", json=body(), headers=JA).json()["detail"]
    assert not JAPANESE.search(told["error"])


def test_a_plan_speaks_and_its_notices_have_ids(client: TestClient) -> None:
    sent = body(allow_prediction_mix="epsilon", dry_run=True)
    english = client.post(f"{V1}/merge", json=sent).json()["plan"]
    japanese = client.post(f"{V1}/merge", json=sent, headers=JA).json()["plan"]
    assert [one["id"] for one in english["notices"]] == [one["id"] for one in japanese["notices"]]
    assert "by-choice" in [one["id"] for one in english["notices"]]
    for one, two in zip(english["notices"], japanese["notices"], strict=True):
        assert not JAPANESE.search(one["text"])
        assert JAPANESE.search(two["text"])
    assert english["bytes_out"] == japanese["bytes_out"]


def ended(client: TestClient, identifier: str, **headers: Any) -> dict[str, Any]:
    for _ in range(600):
        job = client.get(f"{V1}/jobs/{identifier}", **headers).json()
        if job["state"] in ("done", "failed", "cancelled"):
            return job
        time.sleep(0.05)
    raise AssertionError("the job did not end")


def test_who_asks_about_a_job_may_want_another_language_than_who_started_it(client: TestClient, folder: Path) -> None:
    broken = folder / "broken.safetensors"
    broken.write_bytes((folder / A).read_bytes()[:-1000])
    try:
        answer = client.post(f"{V1}/verify", json={"names": ["broken.safetensors"]}).json()
        english = ended(client, answer["job"]["id"])["result"]["files"][0]["problems"]
        japanese = ended(client, answer["job"]["id"], headers=JA)["result"]["files"][0]["problems"]
        assert len(english) == len(japanese) == 1
        assert not JAPANESE.search(english[0])
        assert JAPANESE.search(japanese[0])
    finally:
        broken.unlink()


def test_a_job_that_failed_says_why_in_both_languages(client: TestClient, host: StandaloneHost) -> None:
    def fail(_control: Any) -> dict[str, Any]:
        raise errors.NoSpaceError("/models/x: there is not enough room on the disk", "Make room")

    job = queue_of(host).start("merge", fail)
    english, japanese = ended(client, job.id), ended(client, job.id, headers=JA)
    assert (english["state"], english["code"], japanese["code"]) == ("failed", "no_space", "no_space")
    assert english["error"].startswith("/models/x")

    def stopped(_control: Any) -> dict[str, Any]:
        raise errors.Cancelled

    job = queue_of(host).start("merge", stopped)
    english, japanese = ended(client, job.id), ended(client, job.id, headers=JA)
    assert english["error"] == "cancelled; nothing was written"
    assert JAPANESE.search(japanese["error"])


def test_reports_follow_the_request(client: TestClient) -> None:
    english = client.get(f"{V1}/identify", params={"name": A}).json()
    japanese = client.get(f"{V1}/identify", params={"name": A, "lang": "ja"}).json()
    assert english["architecture"] == japanese["architecture"] == "sd1"
    assert not JAPANESE.search(json.dumps(english, ensure_ascii=False))
    assert JAPANESE.search(json.dumps(japanese["prediction"]["evidence"], ensure_ascii=False))
    assert [one["grade"] for one in english["prediction"]["evidence"]] == [
        one["grade"] for one in japanese["prediction"]["evidence"]
    ]


def test_every_route_offers_the_choice(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    offered = [
        any(one["name"] == "lang" for one in operation.get("parameters", []))
        for path, operations in paths.items()
        if path.startswith(V1)
        for operation in operations.values()
    ]
    assert offered and all(offered)


def test_codes_are_made_of_the_kinds_of_errors() -> None:
    assert code_of(errors.UsageError("x")) == "usage"
    assert code_of(errors.BadFileError("x", "y")) == "bad_file"
    assert code_of(errors.UnsafeFileError("x", ["os.system"])) == "unsafe_file"
    assert code_of(errors.Cancelled()) == "cancelled"
