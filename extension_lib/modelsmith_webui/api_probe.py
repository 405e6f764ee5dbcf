"""The route of the prediction probe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Body, HTTPException

from modelsmith.errors import ModelsmithError, UnknownNameError
from modelsmith_webui.api_language import error_json, texts


def _not_in_memory(name: str) -> dict[str, str]:
    tr = texts()
    told = tr("{name} is not the model in memory", name=name)
    return {"code": "not_in_memory", "error": told, "remedy": tr("Choose it and make a picture first.")}


def add_probe_route(router: APIRouter, host: Any, find_file: Callable[..., Any]) -> None:
    """Add POST /probe where the host can ask the model in memory."""
    prober = getattr(host, "prober", None)
    if prober is None:
        return

    def post_probe(body: dict[str, Any] = Body(default={})) -> dict[str, Any]:  # noqa: B008
        """Ask the model in memory what it predicts. With a name, only where that checkpoint is the one in memory."""
        name = str(body.get("name") or "")
        try:
            if name and find_file(host.checkpoints(), name).path != host.loaded_checkpoint():
                raise HTTPException(409, _not_in_memory(name))
            found = prober.run()
            return {**found.to_json(), "text": found.text(texts())}
        except UnknownNameError as error:
            raise HTTPException(404, error_json(error)) from error
        except ModelsmithError as error:
            raise HTTPException(422, error_json(error)) from error

    router.add_api_route("/probe", post_probe, methods=["POST"])
