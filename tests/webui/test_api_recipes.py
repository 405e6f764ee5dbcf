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
    ],
)
def test_bad_requests_are_refused(
    client: TestClient, host: StandaloneHost, route: str, sent: dict[str, Any], status: int, told: str
) -> None:
    before = sorted(host.models.iterdir())
    answer = client.post(f"{V1}/{route}", json=sent)
    assert answer.status_code == status, answer.text
    assert told in answer.text
    assert sorted(host.models.iterdir()) == before


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
