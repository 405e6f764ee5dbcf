"""Routes for recipe checkpoints, the history of merges and the order of the queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter, HTTPException

from modelsmith.errors import ModelsmithError, UnknownNameError
from modelsmith_webui.api_language import error_json, in_asked_language
from modelsmith_webui.api_models import JobAnswer, MoveBody, RecipeBody
from modelsmith_webui.background import queue_of
from modelsmith_webui.history import Entry, history_of
from modelsmith_webui.host import Host, ModelFile

Find = Callable[[list[ModelFile], str], ModelFile]


def refused(error: ModelsmithError) -> HTTPException:
    """The answer to a request that cannot be done: 404 for an unknown name, else 422, with the remedy."""
    status = 404 if isinstance(error, UnknownNameError) else 422
    return HTTPException(status, error_json(error))


def add_recipe_routes(router: APIRouter, host: Host, find: Find) -> None:
    """Add the routes. ``find`` gives the file of a list that has a name, or raises UnknownNameError."""

    def get_recipe(name: str) -> Any:
        """The recipe that a checkpoint holds: a recipe checkpoint, or a file that was merged."""
        from modelsmith_webui.merging import open_recipe

        try:
            file = find(host.checkpoints(), name)
            return {"name": file.name, "recipe": dict(open_recipe(file.path).recipe)}
        except ModelsmithError as error:
            raise refused(error) from error

    def post_recipe(body: RecipeBody) -> Any:
        """Keep a merge as a recipe checkpoint: a small file that the webui merges when it is chosen."""
        from modelsmith_webui.api_merge import plan_json, recipe_request
        from modelsmith_webui.merging import plan_merge, save_recipe

        try:
            request = recipe_request(host, find, body)
            if body.dry_run:
                return {"plan": in_asked_language(plan_json(plan_merge(request, writes=False)))}
            made = save_recipe(host, request)
        except ModelsmithError as error:
            raise refused(error) from error
        return {"output": made.path.name, "bytes": made.path.stat().st_size, "digest": made.digest}

    router.add_api_route("/recipe", get_recipe, methods=["GET"])
    router.add_api_route("/recipe", post_recipe, methods=["POST"])
    _add_history(router, host)
    _add_queue(router, host)


def _told(host: Host, entries: Sequence[Entry], *, whole: bool = False) -> list[dict[str, Any]]:
    """Entries for JSON; hashes that are missing are found out in the background."""
    from modelsmith_webui.result_hashes import result_hashes_of

    known, waiting = result_hashes_of(host).told(entries)
    return [
        {
            **entry.to_json(whole=whole),
            "hash_state": "known" if entry.sha256 else "being_read" if entry.id in waiting else "unknown",
        }
        for entry in known
    ]


def _add_history(router: APIRouter, host: Host) -> None:
    history = history_of(host)

    def get_history(hash: str = "", infotext: str = "") -> Any:
        """Every merge, the latest first; with a model hash or an image's infotext only those that made its model.

        hash_state: `known`, `being_read` (ask again in a moment) or `unknown` (the file is not there any more).
        """
        found = history.trace(hash or infotext) if hash or infotext else history.entries()
        return _told(host, found)

    def get_compare(first: str, second: str) -> Any:
        """What the recipes of two entries differ in: place, first and second value."""
        try:
            found = history.compare(first, second)
        except ModelsmithError as error:
            raise refused(error) from error
        return [{"place": place, "first": left, "second": right} for place, left, right in found]

    def get_entry(entry_id: str) -> Any:
        """One merge with its recipe."""
        try:
            return _told(host, [history.entry(entry_id)], whole=True)[0]
        except ModelsmithError as error:
            raise refused(error) from error

    def delete_entry(entry_id: str) -> Any:
        """Forget one merge; the file that it made stays."""
        try:
            history.delete(entry_id)
        except ModelsmithError as error:
            raise refused(error) from error
        return {"deleted": entry_id}

    router.add_api_route("/history", get_history, methods=["GET"])
    router.add_api_route("/history/compare", get_compare, methods=["GET"])
    router.add_api_route("/history/{entry_id}", get_entry, methods=["GET"])
    router.add_api_route("/history/{entry_id}", delete_entry, methods=["DELETE"])


def _add_queue(router: APIRouter, host: Host) -> None:
    queue = queue_of(host)

    def get_queue() -> Any:
        """What runs and what waits, in order; from the tab and the API alike."""
        return in_asked_language([job.to_json() for job in queue.jobs() if not job.over])

    def post_move(job_id: str, body: MoveBody) -> Any:
        """Put a job that waits at another place. The answer is what waits, in its new order."""
        try:
            return in_asked_language([job.to_json() for job in queue.move(job_id, body.place)])
        except ModelsmithError as error:
            raise refused(error) from error

    router.add_api_route("/queue", get_queue, methods=["GET"], response_model=list[JobAnswer])
    router.add_api_route("/queue/{job_id}/move", post_move, methods=["POST"], response_model=list[JobAnswer])
