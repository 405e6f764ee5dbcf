"""The extension as the webui sees it: one host adapter, installed with the script and undone with it."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from modelsmith_webui import callbacks, settings, xyz, xyz_merge
from modelsmith_webui.generation import Generation
from modelsmith_webui.generation_script import script_class
from modelsmith_webui.host import detect_host
from modelsmith_webui.hosts import a1111_rescale
from modelsmith_webui.lazy_routes import add_routes_when_asked
from modelsmith_webui.recipe_loading import RecipeLoading

logger = logging.getLogger(__name__)


def register(script_callbacks: Any, scripts: Any) -> type:
    """Install the host's adapter, register all callbacks and return the script class.

    Called when the webui executes the script, before it loads its first model; again after each reload of the UI.
    """
    on = partial(_on, script_callbacks)
    host: Any = detect_host()
    host.install()
    recipes = RecipeLoading(host)
    recipes.install()
    on("model_loaded", host.model_loaded)
    vae, can_probe = getattr(host, "vae", None), bool(getattr(host, "can_probe", False))
    on("ui_settings", lambda: settings.register(host.reapply, vae, can_probe))
    on("script_unloaded", host.uninstall)
    on("script_unloaded", recipes.uninstall)

    def app_started(_demo: Any, app: Any) -> None:
        # A reload of the UI keeps the model in memory and announces nothing.
        host.reapply()
        add_routes_when_asked(app, lambda: _add_routes(app, host))

    def tab() -> list[tuple[Any, str, str]]:
        from modelsmith_webui.tab.ui import build_part

        with host.listed_once():
            return [(build_part(host), "Modelsmith", "modelsmith")]

    on("app_started", app_started)
    on("ui_tabs", tab)
    return _script(host, script_callbacks, scripts)


def _on(script_callbacks: Any, kind: str, function: Any) -> None:
    callbacks.register(script_callbacks, kind, function, __file__)


def _add_routes(app: Any, host: Any) -> None:
    from modelsmith_webui import api

    api.add_routes(app, host)


def _script(host: Any, script_callbacks: Any, scripts: Any) -> type:
    """The script class, and the callbacks that go with generating pictures."""
    on = partial(_on, script_callbacks)
    generation = Generation(host)

    def before_ui() -> None:
        xyz.add_axes(scripts.scripts_data, getattr(host, "vae", None))
        xyz_merge.add_axes(scripts.scripts_data, host)

    on("before_ui", before_ui)
    on("infotext_pasted", lambda text, params: generation.pasted(params, text))
    on("cfg_denoiser", a1111_rescale.note_input)
    return script_class(generation, scripts)
