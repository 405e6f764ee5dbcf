"""The extension as the webui sees it: one host adapter, installed with the script and undone with it."""

from __future__ import annotations

import logging
from typing import Any

from modelsmith_webui import api, settings
from modelsmith_webui.host import detect_host

logger = logging.getLogger(__name__)


def register(script_callbacks: Any, scripts: Any) -> type:
    """Install the host's adapter, register all callbacks and return the script class.

    Called when the webui executes the script, before it loads its first model; again after each reload of the UI.
    """
    host: Any = detect_host()
    host.install()
    script_callbacks.on_model_loaded(host.model_loaded)
    script_callbacks.on_ui_settings(lambda: settings.register(host.reapply, getattr(host, "vae", None)))
    script_callbacks.on_script_unloaded(host.uninstall)

    def app_started(_demo: Any, app: Any) -> None:
        # A reload of the UI keeps the model in memory and announces nothing.
        host.reapply()
        api.add_routes(app, host)

    def tab() -> list[tuple[Any, str, str]]:
        from modelsmith_webui.tab import build_tab

        return [(build_tab(host), "Modelsmith", "modelsmith")]

    script_callbacks.on_app_started(app_started)
    script_callbacks.on_ui_tabs(tab)
    return _script_class(host, scripts)


def _script_class(host: Any, scripts: Any) -> type:
    class ModelsmithScript(scripts.Script):
        """Always on, without controls: brings the schedule in line before a job builds its samplers."""

        def title(self) -> str:
            return "Modelsmith"

        def show(self, is_img2img: bool) -> Any:
            return scripts.AlwaysVisible

        def before_process(self, p: Any, *_args: Any) -> None:
            host.before_load(p)

        def process(self, p: Any, *_args: Any) -> None:
            host.before_process(p)

        def before_process_batch(self, p: Any, *_args: Any, **_kwargs: Any) -> None:
            host.before_batch(p)

    return ModelsmithScript
