"""The standalone app around the tab: page head, language, password, ports, demo files, jobs."""

from __future__ import annotations

import base64
import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from modelsmith import demo
from modelsmith.errors import UsageError
from modelsmith_webui import standalone
from modelsmith_webui.hosts.standalone import Jobs, StandaloneHost
from modelsmith_webui.library import library_of
from modelsmith_webui.standalone import answers, build_app, check_binding, free_port, is_local, run
from modelsmith_webui.standalone_page import ASSETS, with_head


@pytest.fixture
def client(host: StandaloneHost) -> Any:
    from fastapi.testclient import TestClient

    return TestClient(build_app(host))


def test_the_page_brings_its_scripts_and_asks_nobody_else(client: Any) -> None:
    page = client.get("/").text
    head = page[: page.index("</head>")]
    for name in ASSETS:
        assert f"modelsmith/assets/{name}" in head
        assert client.get(f"/modelsmith/assets/{name}").status_code == 200
    for foreign in ("fonts.googleapis", "fonts.gstatic", "cdnjs.cloudflare"):
        assert foreign not in head


def test_the_language_of_the_page(client: Any, host: StandaloneHost) -> None:
    assert "window.localization = {}" in client.get("/").text
    assert "マージ" in client.get("/?__lang=ja_JP").text
    assert host.language() == "ja_JP"
    assert "マージ" in client.get("/").text
    assert "window.localization = {}" in client.get("/?__lang=").text
    assert client.get("/?__lang=../../etc/passwd").status_code == 200
    assert host.language() == ""


def test_a_script_in_a_translation_cannot_end_the_script() -> None:
    assert with_head(b"<head></head>", "ja_JP").count(b"</script>") == 1 + sum(n.endswith(".js") for n in ASSETS)


def test_the_api_answers_by_name_only(client: Any) -> None:
    from modelsmith_webui.api import PAGE_TOKEN

    headers = {"X-Modelsmith-Token": PAGE_TOKEN}
    found = client.get("/modelsmith/v1/identify?name=modelsmith-demo-a.safetensors", headers=headers).json()
    assert found["architecture"] == "sd1" and found["badge"].startswith("SD1")
    assert client.get("/modelsmith/v1/identify?name=/etc/passwd", headers=headers).status_code == 404


def test_the_library_fills_up_in_the_background(client: Any, host: StandaloneHost) -> None:
    from modelsmith_webui.api import PAGE_TOKEN

    headers = {"X-Modelsmith-Token": PAGE_TOKEN}
    assert client.get("/modelsmith/v1/library", headers=headers).status_code == 200
    library_of(host).rows(wait=True)
    found = client.get("/modelsmith/v1/library", headers=headers).json()
    assert found["busy"] is False
    assert {file["name"]: file["report"]["architecture"] for file in found["files"]} == dict.fromkeys(demo.NAMES, "sd1")
    again = StandaloneHost(host.models)
    assert all(row.report for row in library_of(again).rows()), "the next start knows them from the cache file"


def test_without_the_password_nothing_is_answered(host: StandaloneHost) -> None:
    from fastapi.testclient import TestClient

    client = TestClient(build_app(host, "secret"))
    for path in ("/", "/config", "/modelsmith/v1/identify?name=x", "/modelsmith/assets/style.css"):
        assert client.get(path).status_code == 401
    for given in ("user:wrong", "secret", "nocolon"):
        wrong = {"Authorization": "Basic " + base64.b64encode(given.encode()).decode()}
        assert client.get("/", headers=wrong).status_code == 401
    assert client.get("/", headers={"Authorization": "Basic !!!"}).status_code == 401
    assert client.get("/", headers={"Cookie": "modelsmith_session=guess"}).status_code == 401
    right = {"Authorization": "Basic " + base64.b64encode(b"anyone:secret").decode()}
    assert client.get("/", headers=right).status_code == 200
    assert client.get("/config").status_code == 200  # by the cookie that came with the page


@pytest.mark.parametrize(
    ("address", "local"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("pc", False)]
)
def test_a_wider_binding_demands_a_password(address: str, local: bool) -> None:
    assert is_local(address) is local
    check_binding(address, "secret")
    if local:
        check_binding(address, None)
    else:
        with pytest.raises(UsageError, match="can be reached from other machines"):
            check_binding(address, None)


def test_the_command_line_refuses_a_wide_binding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MODELSMITH_PASSWORD", raising=False)
    assert run(["--models", str(tmp_path / "models"), "--host", "0.0.0.0", "--no-browser"]) == 2
    assert "MODELSMITH_PASSWORD" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_the_address_is_announced_when_somebody_answers_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        monkeypatch.setattr(standalone, "START_SECONDS", 0.3)
        assert not answers("127.0.0.1", port), "bound, but nobody listens yet"
        monkeypatch.setattr(standalone, "START_SECONDS", 30.0)
        opening = threading.Timer(0.4, server.listen)
        opening.start()
        assert answers("0.0.0.0", port)
        opening.join()


def test_the_next_free_port_is_taken() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        assert free_port("127.0.0.1", port) > port


def test_kinds_follow_the_folders(tmp_path: Path) -> None:
    for name in (
        "a.safetensors",
        "VAE/v.pt",
        "Lora/sub/l.safetensors",
        "Stable-diffusion/x/b.ckpt",
        ".hidden/h.pt",
        "t.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    host = StandaloneHost(tmp_path)
    assert {file.name: file.kind for file in host.model_files()} == {
        "a.safetensors": "checkpoint",
        "Stable-diffusion/x/b.ckpt": "checkpoint",
        "Lora/sub/l.safetensors": "lora",
        "VAE/v.pt": "vae",
    }
    assert host.checkpoint_folder() == tmp_path / "Stable-diffusion"


def test_demo_files_are_whole_and_kept(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    first, second = demo.write_demos(tmp_path / "models")
    assert 20e6 < first.stat().st_size < 80e6
    a, b = load_file(first), load_file(second)
    assert set(a) == set(b) == set(demo.demo_shapes())
    assert all(bool((abs(value) < 100).all()) for value in a.values())  # NaN and infinity fail this too
    key = "model.diffusion_model.out.2.weight"
    assert (a[key] != b[key]).any()
    stamp = first.stat().st_mtime_ns
    assert demo.write_demos(tmp_path / "models") == []
    assert first.stat().st_mtime_ns == stamp
    assert sorted(path.name for path in first.parent.iterdir()) == sorted(demo.NAMES)


def test_jobs_take_turns_and_can_be_stopped() -> None:
    jobs = Jobs()
    begun, go_on, order = threading.Event(), threading.Event(), []

    def first() -> str:
        jobs.report(0.25, "quarter")
        begun.set()
        go_on.wait(10)
        order.append("first")
        return "stopped" if jobs.cancelled() else "done"

    answers: list[str] = []
    one = threading.Thread(target=lambda: answers.append(jobs.run("task(1)", first)))
    one.start()
    assert begun.wait(10)
    two = threading.Thread(target=lambda: jobs.run("task(2)", lambda: order.append(f"second {jobs.cancelled()}")))
    two.start()
    state = jobs.describe("task(1)")
    assert (state["active"], state["progress"], state["textinfo"]) == (True, 0.25, "quarter")
    while not jobs.describe("task(2)")["queued"]:
        two.join(0.01)
    jobs.interrupt()
    go_on.set()
    one.join(10)
    two.join(10)
    assert answers == ["stopped"] and order == ["first", "second False"]
    assert jobs.describe("task(1)")["completed"] and jobs.describe("task(2)")["completed"]
    assert json.dumps(jobs.describe("task(3)"))
    jobs.interrupt()  # with nothing running this must not stop the next job
    assert jobs.run("task(4)", jobs.cancelled) is False


def test_a_job_that_waits_can_be_stopped_and_the_one_that_runs_goes_on(tmp_path: Path) -> None:
    host = StandaloneHost(tmp_path)
    jobs, go_on, done = host.jobs, threading.Event(), []

    def work(task: str) -> list[Any]:
        go_on.wait(10)
        done.append((task, jobs.cancelled()))
        return [task]

    answers: dict[str, list[Any]] = {}
    job = host.wrap_job(work, extra_outputs=["unchanged"])

    def start(task: str) -> threading.Thread:
        thread = threading.Thread(target=lambda: answers.update({task: job(task)}))
        thread.start()
        while not (jobs.describe(task)["active"] or jobs.describe(task)["queued"]):
            thread.join(0.01)
        return thread

    one, two, three = (start(f"task({number})") for number in (1, 2, 3))
    host.interrupt("task(2)")
    two.join(10)
    assert jobs.describe("task(2)")["completed"] and jobs.describe("task(1)")["active"]
    assert answers["task(2)"][0] == "unchanged" and "Nothing was written" in answers["task(2)"][1]
    host.interrupt("task(2)")  # too late: nobody else is stopped in its place
    host.interrupt("task(5)")  # before its start has come here
    go_on.set()
    one.join(10)
    three.join(10)
    assert done == [("task(1)", False), ("task(3)", False)] and "Nothing was written" in job("task(5)")[1]


def test_a_job_that_fails_gives_the_turn_back() -> None:
    jobs = Jobs()
    with pytest.raises(ZeroDivisionError):
        jobs.run("task(1)", lambda: 1 // 0)
    assert jobs.run("task(2)", lambda: "next") == "next"
