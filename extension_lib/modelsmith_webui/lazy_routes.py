"""Adds Modelsmith's routes to the webui's application when one of them is first asked for.

Making forty routes and importing what stands behind them takes a tenth of a second and more, which every start of the
webui would pay for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from starlette.routing import BaseRoute, Match

PREFIX = "/modelsmith/v1"
# These list every route there is.
DESCRIPTIONS = ("/openapi.json", "/docs", "/redoc")


class LazyRoutes(BaseRoute):
    """Stands first among the application's routes, matches nothing, and has the others added when it is time."""

    def __init__(self, add: Callable[[], None]) -> None:
        self._add, self._added = add, False
        self._lock = threading.Lock()

    def matches(self, scope: Any) -> tuple[Match, dict[str, Any]]:
        path = str(scope.get("path", ""))
        if not self._added and (PREFIX in path or path.endswith(DESCRIPTIONS)):
            with self._lock:
                if not self._added:
                    self._add()
                    self._added = True
        # The routes that were added stand behind, where the search goes on.
        return Match.NONE, {}

    def url_path_for(self, name: str, /, **path_params: Any) -> Any:
        from starlette.routing import NoMatchFound

        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        """Never called, as nothing matches."""


def add_routes_when_asked(app: Any, add: Callable[[], None]) -> None:
    """Have ``add()`` called before the application answers the first request under ``/modelsmith/v1``."""
    app.router.routes.insert(0, LazyRoutes(add))
