"""Starts a real Forge over an empty data folder, talks to it as a user of its API and of its page would, stops it.

``MODELSMITH_WEBUI`` is Forge's folder, ``MODELSMITH_WEBUI_PYTHON`` the interpreter of its environment and
``MODELSMITH_WEBUI_ARGS`` what its command line needs beyond that on the machine at hand.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PROBE = Path(__file__).resolve().parent / "probe"
FOLDERS = ("models/Stable-diffusion", "models/VAE", "models/text_encoder", "extensions")
# No previews (they ask for a download) and no emphasis (it divides by the mean of text encoders that put out zeros).
CONFIG = {"live_previews_enable": False, "emphasis": "No norm", "samples_save": False, "grid_save": False}
ARGUMENTS = (
    "--always-cpu --api --api-server-stop --skip-prepare-environment --skip-torch-cuda-test --unet-in-fp16 "
    "--clip-in-fp16 --no-download-sd-model --disable-console-progressbars"
)
START_SECONDS = 300
ANSWER_SECONDS = 600


def given() -> Path | None:
    """The Forge that the environment names, if it is one."""
    folder = Path(os.environ.get("MODELSMITH_WEBUI", ""))
    is_forge = (
        bool(folder.name) and (folder / "modules_forge").is_dir() and (folder / "backend" / "loader.py").is_file()
    )
    return folder if is_forge else None


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def tracked_files() -> list[Path]:
    """What git knows of this repository, without the tests: what a user would get."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [Path(name) for name in listed.splitlines() if not name.startswith("tests/") and (ROOT / name).is_file()]


def copy_extension(target: Path) -> None:
    for name in tracked_files():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target / name)


class ForgeWebui:
    """One running Forge. ``page`` starts its gradio page as well, which takes a little longer."""

    def __init__(self, data: Path, *, extension: bool = True, page: bool = False) -> None:
        folder = given()
        assert folder is not None
        self.data, self.page = data, page
        for name in FOLDERS:
            (data / name).mkdir(parents=True, exist_ok=True)
        if not (data / "config.json").exists():
            (data / "config.json").write_text(json.dumps(CONFIG))
        shutil.copytree(PROBE, data / "extensions" / "0-probe", dirs_exist_ok=True)
        if extension:
            copy_extension(data / "extensions" / "modelsmith")
        self._start(folder)

    def _start(self, folder: Path) -> None:
        self.port = _free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        arguments = shlex.split(os.environ.get("MODELSMITH_WEBUI_ARGS", ARGUMENTS))
        arguments += ["--port", str(self.port), "--data-dir", str(self.data)] + ([] if self.page else ["--nowebui"])
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
        python = os.environ.get("MODELSMITH_WEBUI_PYTHON", sys.executable)
        self.log = self.data / "webui.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [python, "launch.py", *arguments], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        began = time.monotonic()
        while not self._answers():
            alive = self.process.poll() is None and time.monotonic() - began < START_SECONDS
            if not alive:
                self.stop()
                raise RuntimeError("Forge did not start:\n" + self.log.read_text(errors="replace")[-4000:])
            time.sleep(0.3)

    def _answers(self) -> bool:
        try:
            return bool(self.get("/sdapi/v1/options"))
        except OSError:
            return False

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    # talking to it

    def request(self, path: str, body: Any = None, method: str = "GET") -> tuple[int, Any]:
        """Status and JSON answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")

    def get(self, path: str) -> Any:
        status, answer = self.request(path)
        assert status == 200, (path, status, answer)
        return answer

    def post(self, path: str, body: Any = None) -> Any:
        status, answer = self.request(path, body or {}, "POST")
        assert status == 200, (path, status, answer)
        return answer

    def options(self, **values: Any) -> None:
        self.post("/sdapi/v1/options", values)

    def choose(self, checkpoint: str) -> None:
        self.options(sd_model_checkpoint=f"{checkpoint}.safetensors")

    def fail_at(self, step: int) -> None:
        """Let the next sampling raise at this step."""
        self.post(f"/modelsmith-probe/v1/fail?step={step}")

    def state(self) -> dict[str, Any]:
        return self.get("/modelsmith-probe/v1/state")

    def model(self) -> dict[str, Any]:
        """What the model in memory is set to now."""
        return self.state()["model"]

    def generate(self, checkpoint: str | None = None, **wishes: Any) -> Run:
        """A two-step Euler run of 64 x 64 pixels, and what was seen in it."""
        if checkpoint is not None:
            self.choose(checkpoint)
        self.post("/modelsmith-probe/v1/clear")
        body = {"prompt": "a", "steps": 2, "width": 64, "height": 64, "cfg_scale": 5, "seed": 1, "send_images": False}
        body |= {"sampler_name": "Euler", "scheduler": "Automatic"}
        status, answer = self.request("/sdapi/v1/txt2img", body | wishes, "POST")
        return Run(status, answer, self.get("/modelsmith-probe/v1/log"))

    def press(self, button: str, values: list[Any]) -> str:
        """Press a button of the gradio 4 page with these input values; the answer as text."""
        config = self.get("/config")
        ids = [c["id"] for c in config["components"] if c["type"] == "button" and c["props"].get("value") == button]
        events = [d for d in config["dependencies"] if any(t[0] in ids and t[1] == "click" for t in d["targets"])]
        fitting = [d for d in events if len(d["inputs"]) == len(values)]
        assert len(fitting) == 1, f"{len(fitting)} buttons {button!r} with {len(values)} inputs"
        session = uuid.uuid4().hex
        body = {"data": values, "fn_index": fitting[0]["id"], "session_hash": session, "event_data": None}
        self.post("/queue/join", body)
        with urllib.request.urlopen(f"{self.base}/queue/data?session_hash={session}", timeout=ANSWER_SECONDS) as stream:
            for line in stream:
                message = json.loads(line[5:]) if line.startswith(b"data:") else {}
                if message.get("msg") == "process_completed":
                    return json.dumps(message["output"])
        raise RuntimeError(f"the page gave no answer to {button!r}")


class Run:
    """One generation: the API's answer and the probe's events."""

    def __init__(self, status: int, answer: Any, events: list[dict[str, Any]]) -> None:
        self.status, self.answer, self.events = status, answer, events

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    @property
    def first(self) -> dict[str, Any]:
        """What the sampler was given in its first step."""
        assert self.of("step"), (self.status, self.answer)
        return self.of("step")[0]

    @property
    def first_unet(self) -> dict[str, Any]:
        return self.of("unet")[0]
