"""Starts a real webui with its own data folder, talks to it over HTTP, stops it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PROBE = Path(__file__).resolve().parent / "probe"
START_LIMIT = 300.0
STOP_LIMIT = 20.0

COMMON_ARGUMENTS = ("--api", "--api-server-stop", "--skip-torch-cuda-test", "--skip-prepare-environment")
_FORGE_ARGUMENTS = (
    "--no-download-sd-model",
    "--always-cpu",
    "--unet-in-fp16",
    "--clip-in-fp16",
    "--disable-console-progressbars",
)
# By flavour.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "a1111": ("--no-download-sd-model", "--use-cpu", "all", "--no-half", "--do-not-download-clip"),
    "forge": _FORGE_ARGUMENTS,
    "ldm_forge": _FORGE_ARGUMENTS,
    "neo": (
        "--skip-install",
        "--skip-python-version-check",
        "--skip-version-check",
        "--cpu",
        "--fp16-unet",
        "--fp16-text-enc",
        "--disable-console-progressbars",
    ),
}
# Without previews no preview decoder is downloaded. The emphasis is the one that does not divide by the mean of what
# the text encoder gives, which is next to nothing in these checkpoints.
CONFIG: dict[str, Any] = {"live_previews_enable": False, "emphasis": "No norm", "show_progress_every_n_steps": -1}
# By itself reForge takes every checkpoint for a text encoder of the same name too, and loads it twice.
# Neo asks at the console about a configuration without its mark. Its own CFG rescale is there only where it is shown.
FLAVOUR_CONFIG: dict[str, dict[str, Any]] = {
    "ldm_forge": {"sd_text_encoder": "None"},
    "neo": {"VERSION_UID": "PY313", "show_rescale_cfg": True},
}


class WebuiError(AssertionError):
    """An answer of the webui that is not a success, with its text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"HTTP {code}: {text[:2000]}")
        self.code = code
        self.text = text


def kind_of(root: Path) -> str:
    """The kind of webui, told by what the folder holds.

    "forge" for Forge and Neo, "ldm_forge" for reForge and Classic, else "a1111".
    """
    if not (root / "modules_forge").is_dir():
        return "a1111"
    return "forge" if (root / "backend").is_dir() else "ldm_forge"


def flavour_of(root: Path) -> str:
    """The kind, but "neo" for Neo, whose arguments and settings are others than Forge's."""
    return "neo" if (root / "modules_forge" / "presets.py").is_file() else kind_of(root)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def copy_extension(target: Path) -> None:
    """What a clone of the repository would hold: the files that git does not ignore, as they are now."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listing.stdout.split("\0")):
        source = REPOSITORY / name
        if source.is_file() and not name.startswith("tests/"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)


@dataclass
class Webui:
    """One webui with one data folder; it can be stopped and started again."""

    root: Path
    python: str
    data: Path
    extra: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    login: str = ""  # "user:password", sent with every request

    def __post_init__(self) -> None:
        self.kind = kind_of(self.root)
        self.flavour = flavour_of(self.root)
        for name in ("models/Stable-diffusion", "models/VAE", "models/Lora", "extensions"):
            (self.data / name).mkdir(parents=True, exist_ok=True)

    # folders

    @property
    def checkpoints(self) -> Path:
        return self.data / "models" / "Stable-diffusion"

    @property
    def extension(self) -> Path:
        return self.data / "extensions" / "modelsmith"

    def install_probe(self) -> None:
        shutil.copytree(PROBE, self.data / "extensions" / "zz-modelsmith-probe", dirs_exist_ok=True)

    def install_extension(self) -> None:
        copy_extension(self.extension)

    def configure(self, **options: Any) -> None:
        """Write options into config.json of a webui that is not running."""
        path = self.data / "config.json"
        known = json.loads(path.read_text()) if path.exists() else {**CONFIG, **FLAVOUR_CONFIG.get(self.flavour, {})}
        path.write_text(json.dumps({**known, **options}))

    # the process

    def start(self) -> None:
        """Start and wait until the API answers and, where there are checkpoints, the first one is chosen."""
        if not (self.data / "config.json").exists():
            self.configure()
        arguments = [*COMMON_ARGUMENTS, *ARGUMENTS[self.flavour], *self.extra]
        arguments += ["--port", str(self.port), "--data-dir", str(self.data)]
        if self.kind == "forge":
            # With a data folder elsewhere, gradio 4 would refuse the page the webui's own scripts.
            arguments += ["--gradio-allowed-path", str(self.root)]
        self.log = self.data / f"log-{time.strftime('%H%M%S')}.txt"
        environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
        # The webui's own python must not see the packages of the one that runs the tests.
        environment.pop("PYTHONPATH", None)
        environment.pop("VIRTUAL_ENV", None)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [self.python, "launch.py", *arguments],
                cwd=self.root,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        self._wait()

    def _wait(self, starts_before: int = 0) -> None:
        deadline = time.monotonic() + START_LIMIT
        wants_model = self.kind != "forge" and any(self.checkpoints.glob("*.safetensors"))
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                raise AssertionError(f"the webui ended:\n{self.output()[-4000:]}")
            time.sleep(0.5)
            # A request that comes before the API is added makes AUTOMATIC1111 end: too late for middleware, it says.
            if self.output().count("Startup time:") <= starts_before:
                continue
            with contextlib.suppress(OSError, WebuiError):
                self.get("/sdapi/v1/options")
                if not wants_model or self.state()["model"] is not None:
                    return
        raise AssertionError(f"the webui did not start in time:\n{self.output()[-4000:]}")

    def stop(self) -> None:
        if self.process is None:
            return
        with contextlib.suppress(OSError, WebuiError):
            self.post("/sdapi/v1/server-stop", {}, timeout=5)
        try:
            # Forge closes its server but does not end.
            self.process.wait(STOP_LIMIT if self.kind == "a1111" else 2.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_LIMIT)
        self.process = None

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    # HTTP

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def request(self, path: str, body: Any = None, timeout: float = 600.0, method: str = "") -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if self.login:
            headers["Authorization"] = "Basic " + base64.b64encode(self.login.encode()).decode()
        request = urllib.request.Request(self.url(path), data, headers, method=method or None)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise WebuiError(error.code, error.read().decode(errors="replace")) from error
        try:
            return json.loads(text)
        except ValueError:
            return text.decode(errors="replace")

    def get(self, path: str, timeout: float = 60.0) -> Any:
        return self.request(path, timeout=timeout)

    def post(self, path: str, body: Any, timeout: float = 600.0) -> Any:
        return self.request(path, body, timeout)

    # what a person would do

    def options(self, **options: Any) -> None:
        self.post("/sdapi/v1/options", options)

    def select(self, name: str) -> None:
        """Choose a checkpoint by its name without ending."""
        self.options(sd_model_checkpoint=f"{name}.safetensors")

    def refresh(self) -> None:
        self.post("/sdapi/v1/refresh-checkpoints", {})

    def txt2img(self, **fields: Any) -> list[dict[str, Any]]:
        """Generate one small picture; what the probe saw, step by step."""
        return self._generate("/sdapi/v1/txt2img", fields)

    def img2img(self, **fields: Any) -> list[dict[str, Any]]:
        return self._generate("/sdapi/v1/img2img", fields)

    def _generate(self, path: str, fields: dict[str, Any]) -> list[dict[str, Any]]:
        self.clear()
        defaults = {"prompt": "a cat", "negative_prompt": "a dog", "steps": 2, "width": 64, "height": 64, "seed": 1}
        self.answer = self.post(path, {**defaults, "sampler_name": "Euler", "scheduler": "Automatic", **fields})
        return [event for event in self.events() if event["event"] == "step"]

    # the probe

    def state(self) -> dict[str, Any]:
        return self.get("/modelsmith-probe/v1/state")

    def events(self) -> list[dict[str, Any]]:
        return self.get("/modelsmith-probe/v1/log")

    def clear(self) -> None:
        self.post("/modelsmith-probe/v1/clear", {})

    def fail_at(self, step: int) -> None:
        """Make the next job fail when it reaches this sampling step."""
        self.post(f"/modelsmith-probe/v1/fail?step={step}", {})

    # the page

    def press(self, *data: Any, value: str = "", elem_id: str = "", patience: float = 300.0) -> Any:
        """Press the page's button with this text or elem_id, its inputs holding ``data``; the answer of its handler.

        OSError where no answer came within about ``patience`` seconds.
        """
        config = self.get("/config")
        matching = {
            part["id"]
            for part in config["components"]
            if part["type"] == "button"
            and (
                (value and part["props"].get("value") == value) or (elem_id and part["props"].get("elem_id") == elem_id)
            )
        }
        # Forge has ten buttons "Install"; only one of them reads three inputs.
        fitting = [
            (handler.get("id", index), handler["queue"])
            for index, handler in enumerate(config["dependencies"])
            if matching & {target[0] if isinstance(target, list) else target for target in handler["targets"]}
            and len(handler["inputs"]) == len(data)
        ]
        assert len(fitting) == 1, f"{len(fitting)} handlers of {value or elem_id!r} with {len(data)} inputs"
        index, queue = fitting[0]
        queued = queue is not False and not config["version"].startswith("3.")
        return self._call(index, list(data), queued, patience)

    def _call(self, index: int, data: list[Any], queued: bool, patience: float) -> Any:
        body = {"fn_index": index, "data": data, "session_hash": secrets.token_hex(5)}
        if not queued:
            return self.post("/run/predict", body)["data"]
        self.post("/queue/join", body)
        deadline = time.monotonic() + patience
        stream = urllib.request.urlopen(self.url(f"/queue/data?session_hash={body['session_hash']}"), timeout=patience)
        with stream:
            for line in stream:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no answer within {patience} seconds")
                if not line.startswith(b"data: "):
                    continue
                message = json.loads(line[6:])
                if message["msg"] == "process_completed":
                    assert message["success"], message
                    return message["output"]["data"]
        raise AssertionError("the page's queue ended without an answer")

    def tabs(self) -> list[str]:
        """The labels of all tabs of the page."""
        parts = self.get("/config")["components"]
        return [str(part["props"].get("label")) for part in parts if part["type"] == "tabitem"]

    def reload_page(self) -> None:
        """Settings > Reload UI, and wait until the webui is back."""
        before = self.output().count("Startup time:")
        with contextlib.suppress(OSError, WebuiError):
            # The page that pressed the button gets no answer: its server is closed under it.
            self.press(elem_id="settings_restart_gradio", patience=10.0)
        self._wait(before)


def git_repository(folder: Path) -> str:
    """The extension as a git repository of one commit; its URL."""
    source = folder / "modelsmith.git"
    copy_extension(source)
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q", "-b", "main"], ["add", "--all"], [*identity, "commit", "-q", "-m", "as it is now"]):
        subprocess.run(["git", *command], cwd=source, check=True)
    return source.as_uri()


def arguments_from_environment() -> tuple[str, ...]:
    return tuple(shlex.split(os.environ.get("MODELSMITH_WEBUI_ARGS", "")))
