"""Routes about the VAE of the loaded model: what is in use and whether it fits, and a person's word on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Body, HTTPException

from modelsmith.errors import ModelsmithError, UnknownNameError
from modelsmith.vae.families import FAMILIES
from modelsmith_webui.api_language import error_json, texts
from modelsmith_webui.hosts.vae_choice import VaeKeeper
from modelsmith_webui.hosts.vae_state import ListedVae, VaeState

if TYPE_CHECKING:
    from modelsmith_webui.tab.texts import Texts


def _sources(tr: Texts) -> dict[str, str]:
    return {
        "command_line": tr("from the command line"),
        "file": tr("set for this checkpoint"),
        "preference": tr("set for this checkpoint"),
        "beside": tr("found beside the checkpoint"),
        "setting": tr("chosen by you"),
        "nothing": tr("chosen by you"),
        "baked": tr("part of the checkpoint"),
        "family": tr("chosen because it fits"),
        "twin": tr("the same VAE, made for fp16"),
    }


def _fits(tr: Texts) -> dict[str, str]:
    return {
        "fits": tr("fits"),
        "does_not_fit": tr("does not fit"),
        "unsure": tr("not known whether it fits"),
    }


def sentences(state: VaeState, tr: Texts) -> list[str]:
    """What is in use, why, and what was refused: lines for a person."""
    lines = [
        tr(
            "{vae} is not used: it is a VAE of {family}, and this model needs one of {wanted}.",
            vae=refusal.path.name,
            family=refusal.family,
            wanted=refusal.wanted,
        )
        for refusal in state.refused
    ]
    name = state.using.name if state.using is not None else tr("The VAE in the checkpoint")
    if state.using is None and state.baked in ("missing", "damaged"):
        text = tr("The checkpoint has no VAE: choose one of {wanted}.", wanted=state.wanted)
        lines.append(
            tr("The VAE in the checkpoint is damaged: choose another one.") if state.baked == "damaged" else text
        )
        return lines
    lines.append(tr("{vae} is in use ({fit}).", vae=name, fit=_fits(tr)[state.fit]))
    why = _sources(tr).get(state.source)
    return [*lines, why] if why else lines


def _file_json(file: ListedVae, tr: Texts) -> dict[str, Any]:
    return {
        "name": file.name,
        "family": file.family,
        "fit": file.fit,
        "fit_text": _fits(tr)[file.fit],
        "said": file.said,
        "allowed": file.allowed,
        "problem": tr.said(file.problem),
        "evidence": [tr.said(line) for line in file.evidence],
    }


def state_json(state: VaeState, tr: Texts) -> dict[str, Any]:
    """The answer of GET /vae."""
    short = state.using.name if state.using is not None else tr("in the checkpoint")
    if state.using is None and state.baked == "missing":
        short = tr("none")
    return {
        "checkpoint": state.checkpoint.name,
        "wanted": state.wanted,
        "baked": state.baked,
        "using": state.using.name if state.using is not None else None,
        "short": short,
        "source": state.source,
        "fit": state.fit,
        "fit_text": _fits(tr)[state.fit],
        "refused": [
            {"name": one.path.name, "family": one.family, "wanted": one.wanted, "reason": one.detail}
            for one in state.refused
        ],
        "detail": state.detail,
        "pending": state.pending,
        "sentences": sentences(state, tr),
        "files": [_file_json(file, tr) for file in state.files],
        "families": {family.id: family.label for family in FAMILIES.values()},
    }


def add_vae_routes(router: APIRouter, host: Any) -> None:
    """Add GET and POST /vae where the host has VAEs to choose from."""
    keeper: VaeKeeper | None = getattr(host, "vae", None)
    if keeper is None:
        return

    def get_vae() -> dict[str, Any]:
        """Which VAE is in use, whether it fits, what was refused, and how every listed VAE fits."""
        state = keeper.state()
        return {"enabled": keeper.enabled(), "vae": state_json(state, texts()) if state is not None else None}

    def post_vae(body: dict[str, Any] = Body(...)) -> dict[str, Any]:  # noqa: B008
        """A person's word on one VAE: name, and family (an id, or auto) or allow (true or false) or both."""
        name, family, allow = str(body.get("name", "")), body.get("family"), body.get("allow")
        try:
            if family is not None:
                keeper.say(name, None if family == "auto" else str(family))
            if isinstance(allow, bool):
                keeper.allow(name, allow)
        except UnknownNameError as error:
            raise HTTPException(404, error_json(error)) from error
        except ModelsmithError as error:
            raise HTTPException(422, error_json(error)) from error
        return get_vae()

    router.add_api_route("/vae", get_vae, methods=["GET"])
    router.add_api_route("/vae", post_vae, methods=["POST"])
