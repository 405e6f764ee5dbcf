"""The routes that start jobs: the standalone host, and a webui's queue, with real small models."""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="comes with gradio")

import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.torch import load_file, save_file

from modelsmith.demo import write_demos
from modelsmith.errors import UsageError
from modelsmith_webui import api, background
from modelsmith_webui.background import Background
from modelsmith_webui.host import JobControl
from modelsmith_webui.hosts.standalone import StandaloneHost
from modelsmith_webui.hosts.webui import WebuiHost
from vae.vae_makers import narrow_layout, random_weights, spelled

V1 = "/modelsmith/v1"
DEMO_A, DEMO_B = "modelsmith-demo-a.safetensors", "modelsmith-demo-b.safetensors"
IDS = "cond_stage_model.transformer.text_model.embeddings.position_ids"
UNET = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demos")
    write_demos(folder)
    layout = narrow_layout()
    save_file(spelled(layout, random_weights(layout, gain=3e5), "ldm"), str(folder / "hot.safetensors"))
    return folder


@pytest.fixture
def host(tmp_path: Path, demos: Path) -> StandaloneHost:
    (tmp_path / "VAE").mkdir()
    for path in demos.iterdir():
        folder = tmp_path / "VAE" if path.name == "hot.safetensors" else tmp_path
        (folder / path.name).hardlink_to(path)
    return StandaloneHost(tmp_path)


@pytest.fixture
def client(host: StandaloneHost) -> TestClient:
    app = FastAPI()
    api.add_routes(app, host)
    return TestClient(app)


def wait(client: TestClient, identifier: str) -> dict[str, Any]:
    for _ in range(1200):
        job = client.get(f"{V1}/jobs/{identifier}").json()
        if job["state"] in ("done", "failed", "cancelled"):
            return job
        time.sleep(0.05)
    raise AssertionError(f"the job did not end: {job}")


def run(client: TestClient, route: str, **body: Any) -> dict[str, Any]:
    answer = client.post(f"{V1}/{route}", json=body)
    assert answer.status_code == 200, answer.text
    job = wait(client, answer.json()["job"]["id"])
    assert job["state"] == "done", job
    assert job["progress"] == 1.0 and job["error"] is None
    return job["result"]


def names(host: StandaloneHost) -> set[str]:
    return {path.relative_to(host.models).as_posix() for path in host.models.rglob("*") if path.is_file()}


def test_convert(client: TestClient, host: StandaloneHost) -> None:
    plan = client.post(f"{V1}/convert", json={"name": DEMO_A, "precision": "bf16", "dry_run": True}).json()
    assert plan["job"] is None and plan["plan"]["tensors_in"] == 1130
    before = names(host)
    result = run(client, "convert", name=DEMO_A, precision="unet=bf16", output="new")
    assert result["output"] == "new.safetensors" and names(host) - before == {"new.safetensors"}
    made, source = load_file(str(host.models / "new.safetensors")), load_file(str(host.models / DEMO_A))
    assert torch.equal(made[UNET], source[UNET].bfloat16())
    assert len(result["sha256"]) == 64


def test_convert_takes_a_part_out_into_its_folder(client: TestClient, host: StandaloneHost) -> None:
    assert run(client, "convert", name=DEMO_A, only="vae")["output"] == "modelsmith-demo-a-vae.safetensors"
    assert "VAE/modelsmith-demo-a-vae.safetensors" in names(host)


def test_repair(client: TestClient, host: StandaloneHost) -> None:
    tensors = load_file(str(host.models / DEMO_A))
    tensors[IDS] = torch.arange(77, dtype=torch.float32).reshape(1, 77)
    save_file(tensors, str(host.models / "faulty.safetensors"))
    plan = client.post(f"{V1}/repair", json={"name": "faulty", "dry_run": True}).json()["plan"]
    assert [found["id"] for found in plan["findings"]] == ["position-ids"] and plan["findings"][0]["mendable"]
    result = run(client, "repair", name="faulty")
    assert result["written"]["output"] == "faulty-repaired.safetensors"
    assert load_file(str(host.models / "faulty-repaired.safetensors"))[IDS].dtype == torch.int64
    assert run(client, "repair", name=DEMO_A)["written"] is None


def test_publish(client: TestClient, host: StandaloneHost) -> None:
    result = run(client, "publish", name=DEMO_A, title="Ready", author="Ann", license="CC0-1.0")
    assert result["output"] == "Ready.safetensors" and result["cards"] == ["Ready.md", "Ready.ja.md"]
    assert result["hashes"]["autov2"] == result["sha256"][:10]
    assert {"Ready.safetensors", "Ready.md", "Ready.ja.md", "Ready.sha256"} <= names(host)
    picture = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"x" * 50).decode()
    body = {"name": DEMO_A, "title": "Shown", "thumbnail": picture, "resolution": "640x640", "dry_run": True}
    plan = client.post(f"{V1}/publish", json=body).json()["plan"]
    assert plan["metadata"]["modelspec.thumbnail"] == f"data:image/png;base64,{picture}"
    assert plan["metadata"]["modelspec.resolution"] == "640x640"


def test_compare_and_verify(client: TestClient, host: StandaloneHost) -> None:
    found = run(client, "compare", first=DEMO_A, second=DEMO_B)
    assert found["same"] is False and found["counts"]["different"] == len(found["tensors"]) > 0
    assert run(client, "compare", first=DEMO_A, second=DEMO_A)["same"] is True
    digest = hashlib.sha256(next(host.models.rglob(DEMO_A)).read_bytes()).hexdigest()
    lines = f"{digest}  {DEMO_A}\n{'0' * 10}  {DEMO_B}\n{digest}  gone.safetensors"
    found = run(client, "verify", hashes=lines)
    assert found["bad"] == 1 and found["not_found"] == ["gone.safetensors"]
    by_name = {Path(one["name"]).name: one for one in found["files"]}
    assert by_name[DEMO_A]["problems"] == [] and by_name[DEMO_A]["sha256"] == digest
    assert "not one of those expected" in by_name[DEMO_B]["problems"][0]
    (host.models / "sub").mkdir()
    (host.models / "sub" / DEMO_A).write_bytes((host.models / DEMO_B).read_bytes())
    found = run(client, "verify", hashes=f"{digest}  {DEMO_A}", names=[DEMO_A, f"sub/{DEMO_A}"])
    assert [one["hash_checked"] for one in found["files"]] == [True, False] and found["bad"] == 0
    found = run(client, "verify", names=[DEMO_A], read_values=False)
    assert found["bad"] == 0 and found["files"][0]["hash_checked"] is False


def test_merge(client: TestClient, host: StandaloneHost) -> None:
    body: dict[str, Any] = {"models": [DEMO_A, DEMO_B], "parameters": {"alpha": 0.25}, "output": "mixed"}
    assert run(client, "merge", **body)["output"] == "mixed.safetensors"
    made = load_file(str(host.models / "mixed.safetensors"))[UNET]
    a, b = (load_file(str(host.models / name))[UNET].double() for name in (DEMO_A, DEMO_B))
    torch.testing.assert_close(made, (0.75 * a + 0.25 * b).half(), rtol=0, atol=0)
    assert client.post(f"{V1}/merge", json=body).status_code == 422


def test_vaes_are_checked_cured_and_moved(client: TestClient, host: StandaloneHost) -> None:
    told = run(client, "vae/check", name=DEMO_A)
    assert (told["family"], told["fp16"], told["measured"]) == ("sd", "unknown", None)
    assert told["file"] == DEMO_A and told["prefix"] == "first_stage_model."
    assert str(host.models) not in str(told)
    assert run(client, "vae/check", name="hot", measure=True, size=8)["measured"]["overflows"] is True
    cured = run(client, "vae/fix", name="hot", family="sd", size=8)
    assert cured["output"] == "hot-fp16-cured.safetensors" and cured["fp32_difference"]["largest"] <= 1e-5
    assert run(client, "vae/check", name="hot-fp16-cured", measure=True, size=8)["measured"]["overflows"] is False
    data = io.BytesIO()
    Image.new("RGB", (40, 24), (200, 10, 60)).save(data, "PNG")
    sent = base64.b64encode(data.getvalue()).decode()
    tried = run(client, "vae/check", name="hot", measure=True, size=8, images=[sent, f"data:image/png;base64,{sent}"])
    assert {"picture 1", "latent of picture 2"} <= set(tried["measured"]["inputs"])
    taken = run(client, "vae/extract", name=DEMO_A, naming="diffusers")
    assert taken["output"] == "modelsmith-demo-a-vae.safetensors"
    baked = run(client, "vae/bake", name="modelsmith-demo-a-vae", checkpoint=DEMO_B, output="baked")
    assert baked["output"] == "baked.safetensors"
    name = "first_stage_model.decoder.conv_in.weight"
    made, source = load_file(str(host.models / "baked.safetensors")), load_file(str(host.models / DEMO_A))
    assert torch.equal(made[name], source[name])


@pytest.mark.parametrize(
    ("route", "body", "status", "told"),
    [
        ("convert", {"name": "modelsmith-demo-c"}, 404, "unknown model file"),
        ("convert", {"name": "../../etc/passwd"}, 404, "unknown model file"),
        ("convert", {"name": DEMO_A, "output": "../out"}, 422, "has a path in it"),
        ("convert", {"name": DEMO_A, "output": "modelsmith-demo-b"}, 422, "exists already"),
        ("convert", {"name": DEMO_A, "precision": "fp17"}, 404, "unknown precision"),
        ("convert", {"name": DEMO_A, "only": "head"}, 404, "unknown part"),
        ("convert", {"name": DEMO_A, "put": {"vae": "/etc/passwd"}}, 404, "unknown model file"),
        ("convert", {"name": DEMO_A, "precison": "fp16"}, 422, "precison"),
        ("compare", {"first": DEMO_A, "second": "nothing"}, 404, "unknown model file"),
        ("vae/check", {"name": "hot", "measure": True, "images": ["%"]}, 422, "picture 1 is no base64"),
        ("vae/check", {"name": "hot", "images": [""] * 17}, 422, "17 pictures"),
        ("verify", {"hashes": "hello"}, 422, "line 1 of hashes"),
        ("repair", {"name": DEMO_A, "complete_from": "/etc/passwd"}, 404, "unknown model file"),
        ("publish", {"name": DEMO_A, "output": "a/b"}, 422, "has a path in it"),
        ("publish", {"name": DEMO_A, "thumbnail": "%"}, 422, "no base64"),
        ("merge", {"models": [], "output": "x"}, 422, ""),
        ("merge", {"models": [DEMO_A, "/etc/passwd"], "output": "x"}, 404, "unknown model file"),
        ("merge", {"models": [DEMO_A, DEMO_B], "output": "/tmp/x"}, 422, "has a path in it"),
        ("merge", {"models": [DEMO_A, DEMO_B], "output": "x", "method": "wighted_sum"}, 404, "weighted_sum"),
        ("vae/check", {"name": "hot", "family": "sd9"}, 422, "family"),
        ("vae/fix", {"name": "hot", "output": "hot"}, 422, "exists already"),
        ("vae/bake", {"name": "hot", "checkpoint": "VAE/hot.safetensors"}, 404, "unknown model file"),
        ("vae/extract", {"name": "nothing"}, 404, "unknown model file"),
    ],
)
def test_bad_requests_are_refused_at_once(
    client: TestClient, host: StandaloneHost, route: str, body: dict[str, Any], status: int, told: str
) -> None:
    before = names(host)
    answer = client.post(f"{V1}/{route}", json=body)
    assert answer.status_code == status, answer.text
    assert told in answer.text
    assert client.get(f"{V1}/jobs").json() == [] and names(host) == before


def test_a_job_that_fails_says_why(client: TestClient, host: StandaloneHost) -> None:
    answer = client.post(f"{V1}/convert", json={"name": DEMO_A, "prune": True, "ema": "use"}).json()
    job = wait(client, answer["job"]["id"])
    assert job["state"] == "failed" and "no UNet with EMA" in job["error"] and job["remedy"]
    assert job["result"] is None
    assert client.get(f"{V1}/jobs/0123").status_code == 404


def test_a_job_is_cancelled_and_leaves_nothing(
    client: TestClient, host: StandaloneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = names(host)
    release = threading.Event()
    holder = threading.Thread(target=lambda: host.jobs.run("task(other)", lambda: release.wait(30)))
    holder.start()
    job = client.post(f"{V1}/convert", json={"name": DEMO_A, "precision": "fp32"}).json()["job"]
    assert client.get(f"{V1}/jobs/{job['id']}").json()["state"] == "queued"
    assert client.post(f"{V1}/jobs/{job['id']}/cancel").status_code == 200
    release.set()
    holder.join()
    assert wait(client, job["id"])["state"] == "cancelled"
    assert names(host) == before


def test_a_running_job_stops(host: StandaloneHost) -> None:
    jobs, running = Background(host), threading.Event()

    def work(control: JobControl) -> dict[str, Any]:
        running.set()
        while not control.cancelled():
            control.report(0.5, "half")
            time.sleep(0.01)
        raise background.Cancelled

    job = jobs.start("test", work)
    assert running.wait(10)
    time.sleep(0.05)
    assert (job.state, job.progress, job.text) == ("running", 0.5, "half")
    jobs.cancel(job.id)
    for _ in range(500):
        if job.over:
            break
        time.sleep(0.01)
    assert job.state == "cancelled"


def test_too_many_waiting_jobs_are_refused(host: StandaloneHost) -> None:
    jobs, release = Background(host), threading.Event()
    started = [jobs.start("test", lambda control: {"waited": release.wait(30)}) for _ in range(32)]
    with pytest.raises(UsageError, match="waiting already"):
        jobs.start("test", lambda control: {})
    release.set()
    for _ in range(1000):
        if all(job.over for job in started):
            break
        time.sleep(0.01)
    assert {job.state for job in started} == {"done"}


def test_the_routes_are_described(client: TestClient) -> None:
    found = client.get("/openapi.json").json()
    for route in (
        "convert",
        "repair",
        "publish",
        "compare",
        "verify",
        "merge",
        "vae/check",
        "vae/fix",
        "vae/bake",
        "vae/extract",
    ):
        post = found["paths"][f"{V1}/{route}"]["post"]
        assert len(post["description"]) > 20
        assert "$ref" in str(post["requestBody"]) and "StartedAnswer" in str(post["responses"]["200"])
    fields = found["components"]["schemas"]["ConvertBody"]["properties"]
    assert "never a path" in fields["name"]["description"]


class _Queue(ModuleType):
    """A webui's call_queue: one lock, and a wrapper that marks what it adds to the last output."""

    queue_lock: Any
    seen: list[str]

    def wrap_gradio_gpu_call(self, function: Callable[..., Any], extra_outputs: Any = None) -> Callable[..., Any]:
        def call(*values: Any) -> tuple[Any, ...]:
            with self.queue_lock:
                self.seen.append(values[0])
                result = list(function(*values))
            result[-1] += "<div class='performance'></div>"
            return tuple(result)

        return call


def test_in_a_webui_a_job_waits_for_the_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = _Queue("modules.call_queue")
    queue.queue_lock, queue.seen = threading.Lock(), []
    package, shared = ModuleType("modules"), ModuleType("modules.shared")
    state: Any = ModuleType("state")
    state.interrupted = state.skipped = False
    vars(shared).update(state=state)
    vars(package).update(call_queue=queue, shared=shared)
    for module in (package, queue, shared):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    host = WebuiHost("Fake")
    refreshed = threading.Event()
    monkeypatch.setattr(host, "refresh_checkpoints", refreshed.set)

    def work(control: JobControl) -> dict[str, Any]:
        assert queue.queue_lock.locked()
        control.report(0.25, "a quarter")
        return {"seen": state.sampling_step}

    with queue.queue_lock:
        job = Background(host).start("test", work)
        time.sleep(0.1)
        assert job.state == "queued"
    assert refreshed.wait(10)
    for _ in range(500):
        if job.over:
            break
        time.sleep(0.01)
    assert (job.state, job.result) == ("done", {"seen": 250})
    assert queue.seen == [f"task(modelsmith-{job.id})"]


def test_waiting_jobs_change_places_and_one_is_cancelled_at_once(host: StandaloneHost) -> None:
    jobs, release, order = Background(host), threading.Event(), list[str]()

    def work(name: str) -> Callable[[JobControl], dict[str, Any]]:
        def run_one(_control: JobControl) -> dict[str, Any]:
            release.wait(30)
            order.append(name)
            return {}

        return run_one

    started = {name: jobs.start("test", work(name), name) for name in ("first", "second", "third", "fourth")}
    for _ in range(500):
        if started["first"].state == "running":
            break
        time.sleep(0.01)
    assert [job.title for job in jobs.move(started["fourth"].id, 0)] == ["fourth", "second", "third"]
    assert [job.title for job in jobs.jobs()] == ["first", "fourth", "second", "third"]
    assert jobs.cancel(started["second"].id).state == "cancelled"
    with pytest.raises(UsageError, match="does not wait"):
        jobs.move(started["first"].id, 1)
    release.set()
    for _ in range(500):
        if all(job.over for job in started.values()):
            break
        time.sleep(0.01)
    assert order == ["first", "fourth", "third"]
