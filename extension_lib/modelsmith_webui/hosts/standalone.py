"""Modelsmith without a webui: a folder of models, jobs of its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any

from modelsmith.decision import Override
from modelsmith.errors import Cancelled
from modelsmith_webui.host import Capability, JobControl, LoadedStatus, ModelFile
from modelsmith_webui.overrides import read_override, write_override
from modelsmith_webui.tab.html import notice
from modelsmith_webui.tab.texts import Texts

MODEL_ENDINGS = frozenset({".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf"})

# Names that folders of models have in the webuis and in ComfyUI.
FOLDER_KINDS = {
    "stable-diffusion": "checkpoint",
    "checkpoints": "checkpoint",
    "unet": "checkpoint",
    "diffusion_models": "checkpoint",
    "vae": "vae",
    "vae-approx": "other",
    "lora": "lora",
    "loras": "lora",
    "lycoris": "lora",
    "text_encoder": "text_encoder",
    "text_encoders": "text_encoder",
    "clip": "text_encoder",
    "controlnet": "other",
    "embeddings": "other",
    "hypernetworks": "other",
    "esrgan": "other",
    "upscale_models": "other",
    "codeformer": "other",
    "gfpgan": "other",
    "clip_vision": "other",
}
FINISHED_KEPT = 64


class Jobs:
    """One job at a time, and what a page that asks about one is told; also the JobControl of the one that runs."""

    def __init__(self) -> None:
        self._state = threading.Condition()
        self._running: str | None = None
        self._waiting: list[str] = []
        self._withdrawn: deque[str] = deque(maxlen=FINISHED_KEPT)
        self._finished: deque[str] = deque(maxlen=FINISHED_KEPT)
        self._fraction, self._text, self._started = 0.0, "", 0.0
        self._stop = threading.Event()

    def run(self, task: str, function: Callable[[], Any]) -> Any:
        """Run a job when its turn comes and return what it returns. Raises Cancelled where it was stopped before."""
        with self._state:
            self._waiting.append(task)
            self._state.wait_for(lambda: task in self._withdrawn or self._next(task))
            self._waiting.remove(task)
            if task in self._withdrawn:
                self._finished.append(task)
                self._state.notify_all()
                raise Cancelled
            self._running, self._fraction, self._text = task, 0.0, ""
            self._started = time.monotonic()
            self._stop.clear()
        try:
            return function()
        finally:
            with self._state:
                self._running = None
                self._finished.append(task)
                self._state.notify_all()

    def _next(self, task: str) -> bool:
        return self._running is None and self._waiting[0] == task

    def report(self, fraction: float, text: str) -> None:
        with self._state:
            self._fraction, self._text = fraction, text

    def cancelled(self) -> bool:
        return self._stop.is_set()

    def interrupt(self, task: str = "") -> None:
        """Stop one job, whether it runs, waits or is on its way here; without a name the one that runs."""
        with self._state:
            if task and task != self._running:
                self._withdrawn.append(task)
                self._state.notify_all()
            elif self._running is not None:
                self._stop.set()

    def describe(self, task: str) -> dict[str, Any]:
        """The answer to a page that follows ``task``, in the form in which the webuis give it."""
        with self._state:
            active = task == self._running
            fraction = self._fraction if active else 0.0
            elapsed = time.monotonic() - self._started
            return {
                "active": active,
                "queued": task in self._waiting,
                "completed": task in self._finished,
                "progress": fraction,
                "eta": elapsed * (1 / fraction - 1) if active and fraction > 0.01 else None,
                "textinfo": self._text if active else None,
            }


def _walk(folder: Path) -> Iterable[Path]:
    for found in sorted(folder.rglob("*"), key=lambda path: path.as_posix().lower()):
        hidden = any(part.startswith(".") for part in found.relative_to(folder).parts)
        if found.suffix.lower() in MODEL_ENDINGS and not hidden and found.is_file():
            yield found


class StandaloneHost:
    """A folder of models in place of a webui. Nothing is ever loaded, so nothing has to be set."""

    name = "Standalone"
    capabilities: frozenset[Capability] = frozenset()
    progress_script: str | None = "modelsmithSubmit"

    def __init__(self, models: Path, data: Path | None = None) -> None:
        self.models = models.expanduser().resolve()
        self._data = data or self.models / ".modelsmith"
        self.jobs = Jobs()
        self.chosen_language = ""

    def language(self) -> str:
        return self.chosen_language

    def _kind(self, path: Path) -> Any:
        folders = path.relative_to(self.models).parts[:-1]
        found = (FOLDER_KINDS[name.lower()] for name in folders if name.lower() in FOLDER_KINDS)
        return next(found, "checkpoint")

    def model_files(self) -> list[ModelFile]:
        files = [
            ModelFile(path.relative_to(self.models).as_posix(), path, self._kind(path)) for path in _walk(self.models)
        ]
        return sorted(files, key=lambda file: file.kind != "checkpoint")

    def checkpoints(self) -> list[ModelFile]:
        return [file for file in self.model_files() if file.kind == "checkpoint"]

    def checkpoint_folder(self) -> Path:
        for found in sorted(self.models.iterdir()):
            if found.is_dir() and found.name.lower() in ("stable-diffusion", "checkpoints"):
                return found
        return self.models

    def part_folder(self, kind: str) -> Path:
        wanted = [name for name, known in FOLDER_KINDS.items() if known == kind]
        for found in sorted(self.models.iterdir()):
            if found.is_dir() and found.name.lower() in wanted:
                return found
        return self.models / {"vae": "VAE", "lora": "Lora"}.get(kind, kind)

    def data_folder(self) -> Path:
        self._data.mkdir(parents=True, exist_ok=True)
        return self._data

    def loaded_checkpoint(self) -> Path | None:
        return None

    def refresh_checkpoints(self) -> None:
        """The folder is read at each question, so there is nothing to refresh."""

    def cached_sha256(self, file: ModelFile) -> str | None:
        return file.sha256

    def keep_sha256(self, path: Path, sha256: str | None) -> None:
        """Nothing here loads a model, so nothing asks for its hash."""

    def wrap_job(self, function: Callable[..., Any], extra_outputs: list[Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(task: str, *values: Any) -> Any:
            try:
                return self.jobs.run(str(task), lambda: function(task, *values))
            except Cancelled:  # while it waited
                return [*extra_outputs, notice("info", Texts(self.language)("Cancelled. Nothing was written."))]

        return run

    def job_control(self) -> JobControl:
        return self.jobs

    def interrupt(self, task: str = "") -> None:
        self.jobs.interrupt(task)

    def override(self, path: Path) -> Override:
        return read_override(path)

    def set_override(self, path: Path, override: Override) -> None:
        write_override(path, override)

    def status(self) -> LoadedStatus | None:
        return None

    def install(self) -> None:
        """There is no host to take hold of."""

    def uninstall(self) -> None:
        """There is no host to let go of."""

    def reapply(self) -> None:
        """There is no model in memory."""

    def before_load(self, processing: Any) -> None:
        """No model is ever loaded."""

    def model_loaded(self, model: Any) -> None:
        """No model is ever loaded."""

    def before_process(self, processing: Any) -> None:
        """No picture is ever made."""

    def before_batch(self, processing: Any) -> None:
        """No picture is ever made."""
