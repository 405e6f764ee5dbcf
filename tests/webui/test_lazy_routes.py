"""The routes are made when one is first asked for, once, and answer that very request."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="comes with gradio")

from fastapi import FastAPI
from fastapi.testclient import TestClient

from modelsmith_webui.lazy_routes import add_routes_when_asked


@pytest.mark.parametrize("first", ["/modelsmith/v1/thing", "/openapi.json", "/docs"])
def test_made_at_the_first_request_that_needs_them(first: str) -> None:
    app, made = FastAPI(), []

    @app.get("/other")
    def other() -> str:
        return "other"

    def add() -> None:
        made.append(1)
        app.add_api_route("/modelsmith/v1/thing", lambda: "thing", methods=["GET"])

    add_routes_when_asked(app, add)
    client = TestClient(app)
    assert client.get("/other").json() == "other"
    assert client.get("/nothing").status_code == 404
    assert made == []
    assert client.get(first).status_code == 200
    assert client.get("/modelsmith/v1/thing").json() == "thing"
    assert "/modelsmith/v1/thing" in client.get("/openapi.json").json()["paths"]
    assert client.get("/modelsmith/v1/nothing").status_code == 404
    assert made == [1]
    assert client.get("/other").json() == "other"
    assert app.url_path_for("other") == "/other"
