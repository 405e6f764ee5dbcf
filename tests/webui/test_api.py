"""The routes: names from the host's lists only, clear errors, passwords where the webui has them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="comes with gradio")

from fastapi import FastAPI
from fastapi.testclient import TestClient

from makers import write_header_only
from modelsmith.decision import Override
from modelsmith.errors import UnknownNameError
from modelsmith_webui import api
from modelsmith_webui.host import ModelFile
from modelsmith_webui.overrides import read_override, write_override


class FakeHost:
    """The part of a host that the routes use, over one folder."""

    name = "Fake"

    def __init__(self, folder: Path) -> None:
        path = write_header_only(folder / "tiny.safetensors", {"x": ("F16", (2, 2))})
        self.files = [ModelFile("sub/tiny.safetensors [0123456789]", path, "checkpoint")]

    def checkpoints(self) -> list[ModelFile]:
        return self.files

    model_files = checkpoints

    def override(self, path: Path) -> Override:
        return read_override(path)

    def set_override(self, path: Path, override: Override) -> None:
        write_override(path, override)

    def status(self) -> None:
        return None

    def data_folder(self) -> Path:
        return self.files[0].path.parent / "data"


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    app = FastAPI()
    api.add_routes(app, FakeHost(tmp_path))  # type: ignore[arg-type]
    return TestClient(app)


@pytest.mark.parametrize(
    "name", ["sub/tiny.safetensors [0123456789]", "tiny.safetensors", "tiny", "sub/tiny.safetensors"]
)
def test_identify_takes_every_name_that_a_webui_uses(client: TestClient, name: str) -> None:
    answer = client.get("/modelsmith/v1/identify", params={"name": name})
    assert answer.status_code == 200
    assert answer.json()["kind"] == "unknown"
    assert answer.json()["file"].endswith("tiny.safetensors")


def test_a_path_is_not_a_name(client: TestClient, tmp_path: Path) -> None:
    outside = write_header_only(tmp_path / "outside.safetensors", {"x": ("F16", (1,))})
    answer = client.get("/modelsmith/v1/identify", params={"name": str(outside)})
    assert answer.status_code == 404
    assert "outside.safetensors" in answer.json()["detail"]["error"]


def test_the_nearest_name_is_offered(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean"):
        api.find_file(FakeHost(tmp_path).checkpoints(), "sub/tinny.safetensors [0123456789]")


def test_override_is_kept_and_told(client: TestClient, tmp_path: Path) -> None:
    body = {"name": "tiny", "prediction": "v_prediction", "ztsnr": "on"}
    answer = client.post("/modelsmith/v1/override", json=body)
    assert answer.status_code == 200
    assert answer.json()["override"] == {"prediction": "v_prediction", "ztsnr": "on"}
    assert read_override(tmp_path / "tiny.safetensors") == Override("v_prediction", "on")


def test_a_wrong_override_is_refused_and_nothing_is_written(client: TestClient, tmp_path: Path) -> None:
    answer = client.post("/modelsmith/v1/override", json={"name": "tiny", "prediction": "v_predict"})
    assert answer.status_code == 404
    assert "v_prediction" in answer.json()["detail"]["remedy"]
    assert not (tmp_path / "tiny.json").exists()


def test_damaged_metadata_is_said(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "tiny.json").write_text("{", encoding="utf-8")
    answer = client.post("/modelsmith/v1/override", json={"name": "tiny", "ztsnr": "on"})
    assert answer.status_code == 422
    assert "tiny.json" in answer.json()["detail"]["error"]


def test_status_without_a_model(client: TestClient) -> None:
    assert client.get("/modelsmith/v1/status").json() == {"host": "Fake", "loaded": None, "advice": None, "probe": None}


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    host_package: Any = ModuleType("modules")
    host_package.shared = SimpleNamespace(
        cmd_opts=SimpleNamespace(api_auth="ann:secret,bob:pass:word", gradio_auth=None)
    )
    monkeypatch.setitem(sys.modules, "modules", host_package)
    app = FastAPI()
    api.add_routes(app, FakeHost(tmp_path))  # type: ignore[arg-type]
    return TestClient(app)


@pytest.mark.parametrize(
    ("login", "expected"),
    [
        (None, 401),
        (("ann", "secret"), 200),
        (("bob", "pass:word"), 200),
        (("ann", "pass:word"), 401),
        (("eve", ""), 401),
    ],
)
def test_the_webuis_api_password_is_asked_for(
    guarded: TestClient, login: tuple[str, str] | None, expected: int
) -> None:
    assert guarded.get("/modelsmith/v1/status", auth=login).status_code == expected


def test_the_page_passes_with_its_token(guarded: TestClient) -> None:
    right = guarded.get("/modelsmith/v1/status", headers={api.TOKEN_HEADER: api.PAGE_TOKEN})
    wrong = guarded.get("/modelsmith/v1/status", headers={api.TOKEN_HEADER: "guess"})
    assert (right.status_code, wrong.status_code) == (200, 401)


def test_the_page_waits_for_a_list_that_is_being_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, app = FakeHost(tmp_path), FastAPI()
    api.add_routes(app, host)  # type: ignore[arg-type]
    client, looks = TestClient(app), list[int]()

    def model_files() -> list[ModelFile]:
        looks.append(len(looks))
        return host.files if len(looks) > 2 else []

    monkeypatch.setattr(host, "model_files", model_files)
    monkeypatch.setattr(api, "PAGE_PATIENCE", (0.0, 0.0, 0.0))
    assert client.get("/modelsmith/v1/identify", params={"name": "tiny"}).status_code == 404
    assert len(looks) == 1, "a program is answered at once"
    looks.clear()
    page = {api.TOKEN_HEADER: api.PAGE_TOKEN}
    assert client.get("/modelsmith/v1/identify", params={"name": "tiny"}, headers=page).status_code == 200
    assert client.get("/modelsmith/v1/identify", params={"name": "nothing"}, headers=page).status_code == 404
