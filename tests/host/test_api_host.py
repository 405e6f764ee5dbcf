"""The API in a webui that was started with --api-auth: who may ask, what it does, and that it stays in its folders."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="merges need it")
pytest.importorskip("fastapi", reason="comes with gradio")

from fastapi import FastAPI

from browser.conftest import write_large
from host.server import Webui, WebuiError
from modelsmith_webui.api import add_routes
from modelsmith_webui.hosts.standalone import StandaloneHost

V1 = "/modelsmith/v1"
LOGIN = "maker:a long secret"
# The host's checkpoints, as bodies name them.
A, B = "sd15.safetensors", "sd15-b.safetensors"
MERGE = {"models": [A, B], "parameters": {"alpha": 0.3}, "output": "api-mix"}
CHANGING = {
    "merge": MERGE,
    "recipe": {**MERGE, "output": "api-recipe"},
    "recipe/replay": {"name": "api-mix.safetensors", "output": "api-again"},
    "convert": {"name": A, "precision": "bf16", "output": "api-converted"},
    "publish": {"name": A, "title": "Api", "output": "api-published"},
    "vae/extract": {"name": A, "output": "api-vae"},
    "lora/extract": {"base": A, "tuned": B, "rank": 4, "output": "api-lora"},
}
OUTSIDE = ("../escaped", "..\\escaped", "sub/escaped", "/tmp/escaped", "..", "C:escaped")


def answer(webui: Webui, path: str, body: Any = None, login: str = LOGIN, method: str = "") -> tuple[int, Any]:
    """Status and body of one request under these credentials; none where ``login`` is empty."""
    webui.login = login
    try:
        return 200, webui.request(f"{V1}/{path}", body, method=method)
    except WebuiError as error:
        return error.code, error.text
    finally:
        webui.login = LOGIN


def ended(webui: Webui, job: dict[str, Any], patience: float = 120.0) -> dict[str, Any]:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        job = webui.get(f"{V1}/jobs/{job['id']}")
        if job["state"] in ("done", "failed", "cancelled"):
            return job
        time.sleep(0.1)
    raise AssertionError(f"the job did not end: {job}")


def done(webui: Webui, path: str, body: Any) -> dict[str, Any]:
    job = ended(webui, webui.post(f"{V1}/{path}", body)["job"])
    assert job["state"] == "done", job
    return job["result"]


def everything(webui: Webui) -> set[str]:
    """All files of the models, and those that lie where an output that escaped would be."""
    folder = webui.data / "models"
    found = {str(path.relative_to(webui.data)) for path in folder.rglob("*")}
    return found | {path.name for path in [*webui.data.iterdir(), *Path("/tmp").glob("escaped*")]}


@pytest.fixture(scope="module")
def guarded(make_webui: Callable[..., Webui]) -> Iterator[Webui]:
    webui = make_webui("api-auth", ["sd15", "sd15-b", "sdxl-eps"])
    webui.install_extension()
    webui.extra = (*webui.extra, "--api-auth", LOGIN)
    webui.login = LOGIN
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in ("large-a", "large-b"):
            write_large(webui.checkpoints, f"{name}.safetensors", monkeypatch)
    webui.start()
    yield webui
    webui.stop()


def test_the_description_lists_every_route(guarded: Webui, tmp_path: Path, report: Callable[..., None]) -> None:
    known = FastAPI()
    add_routes(known, StandaloneHost(tmp_path))
    wanted = {
        (route.path, method.lower())
        for route in known.routes
        if getattr(route, "path", "").startswith(V1)
        for method in route.methods  # type: ignore[attr-defined]
    }
    described = guarded.get("/openapi.json")["paths"]
    found = {(path, method): said for path, methods in described.items() for method, said in methods.items()}
    ours = {place: said for place, said in found.items() if place[0].startswith(V1)}
    # What the standalone app, which makes no pictures, does not have.
    pictures = {(f"{V1}/vae", "get"), (f"{V1}/vae", "post"), (f"{V1}/probe", "post")}
    assert wanted | pictures == set(ours)
    assert [place for place, said in ours.items() if len(said.get("description", "")) < 20] == []
    report("API", guarded.flavour, "openapi.json", f"{len(ours)} routes, each with its description")


def test_nobody_without_the_password(guarded: Webui, report: Callable[..., None]) -> None:
    """Every route that is described, asked without, with a wrong and with the right name and password."""
    described = guarded.get("/openapi.json")["paths"]
    routes = [(path, method) for path, methods in described.items() if path.startswith(V1) for method in methods]
    before = everything(guarded)
    for path, method in routes:
        place = re.sub(r"{\w+}", "none", path.removeprefix(f"{V1}/"))
        body = {} if method == "post" else None
        for login in ("", "maker:wrong", "other:a long secret"):
            assert answer(guarded, place, body, login, method.upper())[0] == 401, (path, method, login)
        assert answer(guarded, place, body, LOGIN, method.upper())[0] != 401, (path, method)
    assert everything(guarded) == before
    report("API", guarded.flavour, "--api-auth", f"{len(routes)} routes: 401 without and with a wrong password")


def test_everything_that_the_api_does(guarded: Webui, report: Callable[..., None]) -> None:
    seen: list[str] = []

    def told(path: str, body: Any = None, method: str = "") -> Any:
        status, found = answer(guarded, path, body, method=method)
        assert status == 200, (path, found)
        seen.append(path.split("?")[0])
        return found

    # Forge loads a model with the first picture.
    guarded.txt2img(steps=1)
    assert told("status")["loaded"]["file"] == A
    assert told(f"identify?name={A}")["architecture"] == "sd1"
    assert told("merge", {**MERGE, "dry_run": True})["plan"]["bytes_out"] > 1_000_000
    mixed = done(guarded, "merge", MERGE)
    assert mixed["output"] == "api-mix.safetensors"
    made = told("recipe", MERGE)
    assert made["output"] == "api-mix.recipe.safetensors"
    assert told("recipe?name=api-mix.recipe")["recipe"]["parameters"]["alpha"] == 0.3
    again = done(guarded, "recipe/replay", {"name": made["output"], "output": "api-again"})
    one, two = ((guarded.checkpoints / f"{name}.safetensors").read_bytes() for name in ("api-mix", "api-again"))
    assert one == two
    assert again["bytes_out"] == mixed["bytes_out"] == len(one)
    converted = done(guarded, "convert", {"name": A, "precision": "bf16", "output": "api-converted"})
    digest = hashlib.sha256((guarded.checkpoints / converted["output"]).read_bytes()).hexdigest()
    listed = {Path(one["filename"]).name: one["sha256"] for one in guarded.get("/sdapi/v1/sd-models")}
    assert converted["sha256"] == digest == listed[converted["output"]], "the webui need not hash it"
    entries = told("history")
    assert {"api-mix.safetensors", "api-again.safetensors", made["output"]} <= {entry["file"] for entry in entries}
    digest = hashlib.sha256((guarded.checkpoints / made["output"]).read_bytes()).hexdigest()
    assert [entry["file"] for entry in told(f"history?hash={digest[:10]}")] == [made["output"]]
    assert told(f"history/{entries[0]['id']}", method="DELETE") == {"deleted": entries[0]["id"]}
    assert len(told("history")) == len(entries) - 1
    # Models are loaded by the webui's own options; the override reaches the one in memory.
    assert told("override", {"name": A, "prediction": "v_prediction"})["override"]["prediction"] == "v_prediction"
    assert told("status")["loaded"]["prediction"] == "v_prediction"
    assert told("override", {"name": A})["override"].get("prediction", "auto") == "auto"
    assert told("status")["loaded"]["prediction"] == "epsilon"
    assert any(row["name"].startswith("sd15") for row in told("library")["files"])
    report("API", guarded.flavour, "200 with the password", ", ".join(dict.fromkeys(seen)))


def test_progress_and_cancel(guarded: Webui, report: Callable[..., None]) -> None:
    """A merge of two gigabytes is stopped while it runs, and one that waits at once; neither leaves a file."""
    end = time.monotonic() + 60
    while guarded.get(f"{V1}/queue") and time.monotonic() < end:  # what the tests before have started
        time.sleep(0.2)
    before = everything(guarded)
    body = {"models": ["large-a", "large-b"], "parameters": {"alpha": 0.3}}
    first = guarded.post(f"{V1}/merge", {**body, "output": "never-a"})["job"]
    waits = guarded.post(f"{V1}/merge", {**body, "output": "never-b"})["job"]
    assert [job["id"] for job in guarded.get(f"{V1}/queue")] == [first["id"], waits["id"]]
    status, said = answer(guarded, "merge", {**body, "output": "never-b"})
    assert (status, "in the queue already" in said) == (422, True)
    assert guarded.post(f"{V1}/jobs/{waits['id']}/cancel", {})["state"] == "cancelled"
    end = time.monotonic() + 120
    while (now := guarded.get(f"{V1}/jobs/{first['id']}"))["progress"] == 0 and time.monotonic() < end:
        time.sleep(0.02)
    assert now["state"] == "running", now
    assert " of " in now["text"] and now["seconds"] > 0
    asked = time.monotonic()
    guarded.post(f"{V1}/jobs/{first['id']}/cancel", {})
    assert ended(guarded, first)["state"] == "cancelled"
    seconds = time.monotonic() - asked
    assert seconds < 5.0
    assert everything(guarded) == before
    report("API", guarded.flavour, "cancel", f"at {now['progress']:.1%} of 2.1 GB, over {seconds:.2f} s later")


def test_names_stay_within_the_folders(guarded: Webui, tmp_path: Path, report: Callable[..., None]) -> None:
    done(guarded, "merge", {**MERGE, "overwrite": True})
    foreign = tmp_path / "foreign.safetensors"
    os.link(guarded.checkpoints / A, foreign)
    before, refused = everything(guarded), 0
    for path, body in CHANGING.items():
        for output in OUTSIDE:
            status, said = answer(guarded, path, {**body, "output": output})
            assert status == 422, (path, output, said)
            refused += 1
    up = os.path.relpath(foreign, guarded.checkpoints)
    for name in (str(foreign), up, "/etc/passwd", "../../config.json", f"../Stable-diffusion/{A}"):
        named: list[tuple[str, Any]] = [
            ("identify?name=" + name, None),
            ("recipe?name=" + name, None),
            ("merge", {**MERGE, "models": [A, name]}),
            ("merge", {**MERGE, "loras": [{"name": name}]}),
            ("convert", {"name": name, "output": "never"}),
            ("verify", {"names": [name]}),
            ("vae/bake", {"name": name, "checkpoint": A, "output": "never"}),
            ("recipe/replay", {"name": name, "output": "never"}),
            ("override", {"name": name, "prediction": "epsilon"}),
        ]
        for path, body in named:
            status, said = answer(guarded, path, body)
            assert status == 404, (path, name, said)
            refused += 1
    recipe = dict(guarded.get(f"{V1}/recipe?name=api-mix.safetensors")["recipe"])
    for name in (str(foreign), up):
        models = [{"file": name, "name": name}, *recipe["models"][1:]]
        status, said = answer(guarded, "recipe/replay", {"recipe": {**recipe, "models": models}, "output": "never"})
        assert status == 422, (name, said)
        refused += 1
    assert everything(guarded) == before
    report("API", guarded.flavour, "names", f"{refused} requests with a path refused, nothing written")
