"""The route of the prediction probe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Body, HTTPException

from modelsmith.errors import ModelsmithError, UnknownNameError


def _answer(code: int, message: str, remedy: str) -> HTTPException:
    return HTTPException(code, {"error": message, "remedy": remedy})


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
                raise _answer(409, f"{name} is not the model in memory", "Choose it and make a picture first.")
            return prober.run().to_json()
        except UnknownNameError as error:
            raise _answer(404, error.message, error.remedy) from error
        except ModelsmithError as error:
            raise _answer(422, error.message, error.remedy) from error

    router.add_api_route("/probe", post_probe, methods=["POST"])
