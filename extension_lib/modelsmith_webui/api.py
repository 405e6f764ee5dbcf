"""Routes under /modelsmith/v1/. They take names from the host's own lists, never a path."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter, Body, Depends, HTTPException, Request
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from modelsmith.decision import Override
from modelsmith.errors import ModelsmithError, UnknownNameError
from modelsmith.identify import identify
from modelsmith.sampling_advice import TEXTS, Advice
from modelsmith_webui.api_jobs import add_job_routes
from modelsmith_webui.api_language import error_json, in_asked_language, language, spoken, take_language, texts
from modelsmith_webui.api_probe import add_probe_route
from modelsmith_webui.api_vae import add_vae_routes
from modelsmith_webui.host import Host, LoadedStatus, ModelFile, find_file
from modelsmith_webui.library import library_of
from modelsmith_webui.page_token import PAGE_TOKEN
from modelsmith_webui.tab.texts import Texts

PREFIX = "/modelsmith/v1"
TOKEN_HEADER = "x-modelsmith-token"
# A webui empties its list of checkpoints while it reads it anew, as Forge does when its page is opened; and then the
# page asks about the one that is chosen. Seconds between the looks.
PAGE_PATIENCE = (0.2, 0.4, 0.8, 1.6)

__all__ = ["PAGE_TOKEN", "PREFIX", "TOKEN_HEADER", "add_routes"]


def _credentials() -> dict[str, str]:
    """User names and passwords of the webui's --api-auth and --gradio-auth; empty where neither is used."""
    try:
        from modules import shared
    except ImportError:
        return {}
    pairs: list[str] = []
    for option in ("api_auth", "gradio_auth"):
        pairs += (getattr(shared.cmd_opts, option, None) or "").split(",")
    split = (pair.strip().partition(":") for pair in pairs if ":" in pair)
    return {user: password for user, _, password in split}


_basic = HTTPBasic(auto_error=False)


def _guard(known: dict[str, str]) -> Callable[..., None]:
    def check(request: Request, given: HTTPBasicCredentials | None = Depends(_basic)) -> None:  # noqa: B008
        if not known or secrets.compare_digest(request.headers.get(TOKEN_HEADER, ""), PAGE_TOKEN):
            return
        if given is not None and given.username in known:
            right = secrets.compare_digest(given.password.encode(), known[given.username].encode())
            if right:
                return
        raise HTTPException(401, "Modelsmith: user name and password needed", {"WWW-Authenticate": "Basic"})

    return check


def _override(body: dict[str, Any]) -> Override:
    found = Override.from_json(body)
    for name, value, known in (
        ("prediction", found.prediction, ["auto", "epsilon", "v_prediction"]),
        ("ztsnr", found.ztsnr, ["auto", "on", "off"]),
    ):
        if body.get(name, "auto") != value:
            raise UnknownNameError(f"{name} override", str(body[name]), known)
    if found.cfg_rescale is None and body.get("cfg_rescale", "auto") != "auto":
        raise UnknownNameError("CFG rescale (a number from 0 to 1)", str(body["cfg_rescale"]), ["auto"])
    return found


def _listed(host: Host, name: str, patience: Sequence[float]) -> ModelFile:
    """The host's file of a name; looked for again after each of the waits. Raises UnknownNameError."""
    for seconds in patience:
        with contextlib.suppress(UnknownNameError):
            return find_file(host.model_files(), name)
        time.sleep(seconds)
    return find_file(host.model_files(), name)


def _advice_text(advice: Advice, tr: Texts) -> str:
    return " ".join(tr(TEXTS[key], **values) for key, values in advice.messages)


def _status_json(status: LoadedStatus) -> dict[str, Any]:
    found = status.to_json()
    sentences = {name: [spoken(line) for line in found[name]] for name in ("reasons", "notes")}
    return in_asked_language({**found, **sentences})


def _status(host: Host) -> dict[str, Any]:
    status = host.status()
    found: Advice | None = getattr(host, "advice", None)
    tr = texts()
    advice = {"level": found.level, "text": _advice_text(found, tr)} if found is not None else None
    prober = getattr(host, "prober", None)
    probed = prober.known(status.path) if prober is not None and status is not None else None
    return {
        "host": host.name,
        "loaded": _status_json(status) if status else None,
        "advice": advice,
        "probe": {**probed.to_json(), "text": probed.text(tr)} if probed is not None else None,
    }


def add_routes(app: Any, host: Host) -> None:
    """Add the routes to the webui's (or the standalone app's) FastAPI application."""
    dependencies = [Depends(_guard(_credentials())), Depends(take_language)]
    router = APIRouter(prefix=PREFIX, dependencies=dependencies, tags=["modelsmith"])

    def get_identify(name: str, request: Request) -> dict[str, Any]:
        """What a model file of the host is, with evidence: one report."""
        of_page = secrets.compare_digest(request.headers.get(TOKEN_HEADER, ""), PAGE_TOKEN)
        try:
            return identify(_listed(host, name, PAGE_PATIENCE if of_page else ()).path).to_json(language())
        except UnknownNameError as error:
            raise HTTPException(404, error_json(error)) from error

    def get_library() -> dict[str, Any]:
        """Every model file of the host with its report, null while it is being read; busy says whether any is."""
        library = library_of(host)
        rows = [
            {"name": row.file.name, "list": row.file.kind, "sha256": row.sha256, "report": row.report}
            for row in library.rows(language())
        ]
        return {"busy": library.busy, "files": rows}

    def get_status() -> dict[str, Any]:
        """What the model in memory was set to, and why; the advice on what the last pictures were sampled with."""
        return _status(host)

    def post_override(body: dict[str, Any] = Body(...)) -> dict[str, Any]:  # noqa: B008
        """Set one checkpoint's override: name, prediction (auto, epsilon, v_prediction), ztsnr (auto, on, off),
        cfg_rescale (auto, or a number from 0 to 1)."""
        try:
            wanted = _override(body)
            file = find_file(host.checkpoints(), str(body.get("name", "")))
            host.set_override(file.path, wanted)
        except UnknownNameError as error:
            raise HTTPException(404, error_json(error)) from error
        except ModelsmithError as error:
            raise HTTPException(422, error_json(error)) from error
        return {"name": file.name, "override": host.override(file.path).to_json()}

    router.add_api_route("/identify", get_identify, methods=["GET"])
    router.add_api_route("/library", get_library, methods=["GET"])
    router.add_api_route("/status", get_status, methods=["GET"])
    router.add_api_route("/override", post_override, methods=["POST"])
    add_vae_routes(router, host)
    add_probe_route(router, host, find_file)
    add_job_routes(router, host, find_file)
    app.include_router(router)
