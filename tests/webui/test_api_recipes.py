"""The routes on recipes, history, queue and differences, with the standalone host and real small models."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="comes with gradio")

from fastapi import FastAPI
from fastapi.testclient import TestClient

from modelsmith_webui import api
from modelsmith_webui.background import queue_of
from modelsmith_webui.hosts.standalone import StandaloneHost
from pretend_gpu import NAME, computes_on, no_gpu, pretend_gpus

V1 = "/modelsmith/v1"
A, B = "modelsmith-demo-a.safetensors", "modelsmith-demo-b.safetensors"


@pytest.fixture
def client(host: StandaloneHost) -> TestClient:
    app = FastAPI()
    api.add_routes(app, host)
    return TestClient(app)


def done(client: TestClient, answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    identifier = answer.json()["job"]["id"]
    for _ in range(600):
        job = client.get(f"{V1}/jobs/{identifier}").json()
        if job["state"] in ("done", "failed", "cancelled"):
            assert job["state"] == "done", job
            return job["result"]
        time.sleep(0.05)
    raise AssertionError("the job did not end")


def body(**more: Any) -> dict[str, Any]:
    return {"models": [A, B], "parameters": {"alpha": 0.25}, "output": "mixed", **more}


def test_a_recipe_is_made_read_and_saved(client: TestClient, host: StandaloneHost) -> None:
    made = client.post(f"{V1}/recipe", json=body()).json()
    assert made["output"] == "mixed.recipe.safetensors"
    assert made["bytes"] < 20_000
    assert client.get(f"{V1}/identify", params={"name": made["output"]}).json()["recipe"] is True
    found = client.get(f"{V1}/recipe", params={"name": made["output"]}).json()["recipe"]
    assert found["parameters"]["alpha"] == 0.25
    saved = done(client, client.post(f"{V1}/recipe/replay", json={"name": made["output"], "output": "saved"}))
    assert saved["output"] == "saved.safetensors"
    direct = done(client, client.post(f"{V1}/merge", json=body()))
    assert direct["output"] == "mixed.safetensors"
    assert (host.models / "saved.safetensors").read_bytes() == (host.models / "mixed.safetensors").read_bytes()
    again = done(client, client.post(f"{V1}/recipe/replay", json={"recipe": found, "output": "third"}))
    assert (host.models / again["output"]).read_bytes() == (host.models / "mixed.safetensors").read_bytes()


def test_history_over_the_api(client: TestClient, host: StandaloneHost) -> None:
    done(client, client.post(f"{V1}/merge", json=body()))
    done(client, client.post(f"{V1}/merge", json=body(output="other", parameters={"alpha": 0.5})))
    second, first = client.get(f"{V1}/history").json()
    assert (first["file"], second["file"], first["models"]) == ("mixed.safetensors", "other.safetensors", [A, B])
    whole = client.get(f"{V1}/history/{first['id']}").json()
    assert whole["recipe"]["method"] == "weighted_sum"
    differences = client.get(f"{V1}/history/compare", params={"first": first["id"], "second": second["id"]}).json()
    assert differences == [{"place": "parameters.alpha", "first": 0.25, "second": 0.5}]
    made = client.post(f"{V1}/recipe", json={"history": first["id"], "output": "from-history"})
    assert made.json()["output"] == "from-history.recipe.safetensors"
    recipe = client.get(f"{V1}/history").json()[0]
    traced = client.get(f"{V1}/history", params={"infotext": f"Model hash: {recipe['sha256'][:10]}"}).json()
    assert [one["id"] for one in traced] == [recipe["id"]]
    assert client.delete(f"{V1}/history/{first['id']}").json() == {"deleted": first["id"]}
    assert client.get(f"{V1}/history/{first['id']}").status_code == 404
    assert (host.models / "mixed.safetensors").exists()


def test_the_queue_is_seen_and_reordered(client: TestClient, host: StandaloneHost) -> None:
    release = threading.Event()
    queue_of(host).start("wait", lambda _control: {"waited": release.wait(30)})
    jobs = [client.post(f"{V1}/merge", json=body(output=name)).json()["job"] for name in ("one", "two")]
    assert [job["title"] for job in client.get(f"{V1}/queue").json()][1:] == ["one.safetensors", "two.safetensors"]
    moved = client.post(f"{V1}/queue/{jobs[1]['id']}/move", json={"place": 0})
    assert [job["title"] for job in moved.json()] == ["two.safetensors", "one.safetensors"]
    assert client.post(f"{V1}/jobs/{jobs[0]['id']}/cancel").json()["state"] == "cancelled"
    assert client.post(f"{V1}/queue/{jobs[0]['id']}/move", json={"place": 0}).status_code == 422
    release.set()
    for _ in range(600):
        if not client.get(f"{V1}/queue").json():
            break
        time.sleep(0.05)
    assert (host.models / "two.safetensors").exists()
    assert not (host.models / "one.safetensors").exists()


def test_a_plan_and_a_difference(client: TestClient, host: StandaloneHost) -> None:
    before = sorted(host.models.iterdir())
    plan = client.post(f"{V1}/merge", json=body(dry_run=True)).json()["plan"]
    assert plan["output"] == "mixed.safetensors"
    assert plan["prediction"]["type"] == "epsilon"
    assert sorted(host.models.iterdir()) == before
    found = done(client, client.post(f"{V1}/difference", json={"a": A, "b": B}))
    assert found["layout"] == "sd1"
    assert found["blocks"]["OUT03"]["relative_l2"] > 0


@pytest.mark.parametrize(
    ("route", "sent", "status", "told"),
    [
        ("recipe", body(output="../x"), 422, "has a path in it"),
        ("recipe", body(models=[A, "/etc/passwd"]), 404, "unknown model file"),
        ("recipe", {"output": "x"}, 422, "one recipe is needed"),
        ("recipe", {"name": A, "output": "x"}, 422, "recipe"),
        ("recipe/replay", {"history": "0123"}, 404, "unknown history entry"),
        ("recipe/replay", {"name": A, "history": "0123"}, 422, "one recipe is needed"),
        ("recipe/replay", {"recipe": {"version": 1}, "output": "x"}, 422, "method"),
        ("recipe/replay", {"recipe": {"version": 99, "method": "weighted_sum"}, "output": "x"}, 422, "99"),
        ("difference", {"a": A, "b": "../../etc/passwd"}, 404, "unknown model file"),
        ("merge", body(loras=[{"name": "/etc/passwd"}]), 404, "unknown model file"),
        ("merge", body(device="gpu"), 422, "Choose cpu, cuda, cuda:0 or auto"),
        ("merge", body(device="cuda", dry_run=True), 422, "there is no GPU 'cuda'"),
        ("recipe", body(device="cuda:3"), 422, "there is no GPU 'cuda:3'"),
    ],
)
def test_bad_requests_are_refused(
    client: TestClient,
    host: StandaloneHost,
    monkeypatch: pytest.MonkeyPatch,
    route: str,
    sent: dict[str, Any],
    status: int,
    told: str,
) -> None:
    no_gpu(monkeypatch)
    before = sorted(host.models.iterdir())
    answer = client.post(f"{V1}/{route}", json=sent)
    assert answer.status_code == status, answer.text
    assert told in answer.text
    assert sorted(host.models.iterdir()) == before


def test_a_device_is_asked_for_and_told(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan_of(**more: Any) -> dict[str, Any]:
        return client.post(f"{V1}/merge", json=body(dry_run=True, **more)).json()["plan"]

    no_gpu(monkeypatch)
    assert plan_of()["gpu"] is None and plan_of(device="auto", method="slerp")["gpu"] is None
    answer = client.post(f"{V1}/merge", json=body(device="cuda"), headers={"Accept-Language": "ja"})
    assert answer.status_code == 422 and "GPU 'cuda' は" in answer.json()["detail"]["error"]
    pretend_gpus(monkeypatch, "First", "Second")
    assert plan_of()["gpu"] is None and plan_of(device="auto")["gpu"] is None
    assert plan_of(device="auto", method="slerp")["gpu"] == "First" and plan_of(device="cuda:1")["gpu"] == "Second"
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["MergeBody"]["properties"]["device"]["default"] == "cpu"
    for name in ("ReplayBody", "RecipeBody"):
        assert "as the recipe says" in schemas[name]["properties"]["device"]["description"]


def test_recipes_go_by_what_they_say_unless_a_device_is_named(
    client: TestClient, host: StandaloneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    computes_on(monkeypatch, torch.device("cpu"))
    asked = body(method="slerp", device="auto")
    made = client.post(f"{V1}/recipe", json=asked).json()
    plain = client.post(f"{V1}/recipe", json=body(method="slerp", output="plain")).json()
    assert made["digest"] != plain["digest"]
    recipe = client.get(f"{V1}/recipe", params={"name": made["output"]}).json()["recipe"]
    assert recipe["device"] == NAME
    direct = done(client, client.post(f"{V1}/merge", json=asked))
    again = {"name": made["output"], "output": "again", "overwrite": True}
    done(client, client.post(f"{V1}/recipe/replay", json=again))
    assert (host.models / "again.safetensors").read_bytes() == (host.models / direct["output"]).read_bytes()
    told = done(client, client.post(f"{V1}/recipe/replay", json={**again, "device": "cpu"}))["notices"]
    assert [one["id"] for one in told] == ["recipe-device"] and NAME in told[0]["text"]
    no_gpu(monkeypatch)
    plan = client.post(f"{V1}/recipe/replay", json={**again, "dry_run": True}).json()["plan"]
    assert [one["id"] for one in plan["notices"]] == ["recipe-device"] and plan["gpu"] is None


def test_every_route_is_described(client: TestClient) -> None:
    found = client.get("/openapi.json").json()["paths"]
    for route, method in (
        ("recipe", "get"),
        ("recipe", "post"),
        ("recipe/replay", "post"),
        ("history", "get"),
        ("history/compare", "get"),
        ("history/{entry_id}", "get"),
        ("history/{entry_id}", "delete"),
        ("queue", "get"),
        ("queue/{job_id}/move", "post"),
        ("difference", "post"),
        ("merge", "post"),
    ):
        assert len(found[f"{V1}/{route}"][method]["description"]) > 20, route
