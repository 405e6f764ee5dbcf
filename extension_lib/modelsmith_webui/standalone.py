"""Modelsmith as an app of its own: the same tab over a folder of models, at 127.0.0.1.

python -m modelsmith_webui.standalone --models DIR [--port N]
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import ipaddress
import os
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelsmith.demo import write_demos
from modelsmith.errors import ModelsmithError, UsageError
from modelsmith_webui.hosts.standalone import StandaloneHost

DEFAULT_PORT = 7870
PORTS_TRIED = 20
JOBS_AT_ONCE = 16
START_SECONDS = 120.0
IMPORT_AFTER = 3.0  # seconds after the start: the page comes first
PASSWORD_VARIABLE = "MODELSMITH_PASSWORD"


def build_app(host: StandaloneHost, password: str | None = None) -> Any:
    """The whole app as an ASGI application."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio as gr
    from fastapi import Body, FastAPI
    from fastapi.responses import FileResponse

    from modelsmith_webui.api import add_routes
    from modelsmith_webui.standalone_page import ASSET_PREFIX, ASSETS, PageWithHead, PasswordWall
    from modelsmith_webui.tab.ui import build_tab

    app: Any = FastAPI(title="Modelsmith", docs_url=None, redoc_url=None)

    def asset(path: Path, kind: str) -> Callable[[], Any]:
        return lambda: FileResponse(path, media_type=kind, headers={"Cache-Control": "no-cache"})

    def progress(task: str = Body("", embed=True)) -> dict[str, Any]:
        return host.jobs.describe(task)

    for name, (path, kind) in ASSETS.items():
        app.add_api_route(ASSET_PREFIX + name, asset(path, kind), methods=["GET"], include_in_schema=False)
    app.add_api_route("/modelsmith/progress", progress, methods=["POST"], include_in_schema=False)
    add_routes(app, host)
    # Fonts of the system: a local app asks no other machine for anything.
    theme = gr.themes.Default(
        primary_hue="indigo",
        secondary_hue="indigo",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(slider_color="*primary_500", slider_color_dark="*primary_500")
    blocks = build_tab(host, title="Modelsmith", theme=theme)
    # The host's own lock lets one job run at a time; those that wait are known to it only if gradio holds none back.
    names = inspect.signature(blocks.queue).parameters
    limit = "default_concurrency_limit" if "default_concurrency_limit" in names else "concurrency_count"
    settings: dict[str, Any] = {limit: JOBS_AT_ONCE}
    blocks.queue(**settings)
    app = gr.mount_gradio_app(app, blocks, path="/")
    app.add_middleware(PageWithHead, host=host)
    if password:
        app.add_middleware(PasswordWall, password=password)
    return app


def is_local(address: str) -> bool:
    """Whether only this machine can reach the address."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def free_port(address: str, wanted: int) -> int:
    """``wanted``, or the next port that is free. Raises UsageError where none is."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for port in range(wanted, wanted + PORTS_TRIED):
        with socket.socket(family) as probe:
            # A port that a stopped server has just left counts as free, as it does for the server itself.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port
    raise UsageError(f"no port from {wanted} on is free at {address}", "Give another one with --port.")


def answers(address: str, port: int) -> bool:
    """Wait until a server accepts connections at the address; False where none has come up in time."""
    own = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # what listens everywhere is asked here
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        try:
            with socket.create_connection((own, port), timeout=1.0):
                return True
        except OSError:
            time.sleep(0.1)
    return False


def check_binding(address: str, password: str | None) -> None:
    """Raises UsageError for an address that others can reach when no password is set."""
    if not is_local(address) and not password:
        raise UsageError(
            f"{address} can be reached from other machines",
            f"Set a password in the environment variable {PASSWORD_VARIABLE}, or leave --host away.",
        )


def import_ahead() -> None:
    """What the first plan would otherwise wait for; above all torch, which a webui has loaded long before."""
    for name in ("modelsmith.merge.engine", "modelsmith.convert.jobs", "modelsmith_webui.tab.plan_page"):
        importlib.import_module(name)


def main(models_dir: str | Path, port: int = DEFAULT_PORT, host: str = "127.0.0.1", *, open_page: bool = False) -> None:
    """Serve the app until it is stopped. An empty folder gets two demo checkpoints.

    Raises UsageError for a binding that needs a password, or where no port is free.
    """
    import uvicorn

    password = os.environ.get(PASSWORD_VARIABLE) or None
    check_binding(host, password)
    folder = Path(models_dir).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    standalone = StandaloneHost(folder)
    if not standalone.model_files():
        write_demos(standalone.checkpoint_folder())
    app = build_app(standalone, password)
    chosen = free_port(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{chosen}/"

    def announce() -> None:
        # Not before the server answers: a page that is opened too early says only that nobody is there.
        if answers(host, chosen):
            sys.stdout.write(f"Modelsmith: {address}  (models: {standalone.models})\n")
            sys.stdout.flush()
            if open_page:
                webbrowser.open(address)

    threading.Thread(target=announce, name="modelsmith-announce", daemon=True).start()
    ahead = threading.Timer(IMPORT_AFTER, import_ahead)
    ahead.daemon = True
    ahead.start()
    uvicorn.run(app, host=host, port=chosen, log_level="warning")


def run(argv: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="modelsmith-app", description="The Modelsmith tab without a webui.")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of models (default: ./models)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    parser.add_argument("--host", default="127.0.0.1", help=f"a wider one demands a password in {PASSWORD_VARIABLE}")
    parser.add_argument("--no-browser", action="store_true", help="do not open the page")
    arguments = parser.parse_args(argv)
    try:
        main(arguments.models, arguments.port, arguments.host, open_page=not arguments.no_browser)
    except UsageError as error:
        sys.stderr.write(f"modelsmith: {error}\n")
        return 2
    except (ModelsmithError, OSError) as error:
        sys.stderr.write(f"modelsmith: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(run())
