"""What the tab, the API and the callbacks ask of a host, and which host this is.

A host is told by what can be imported from it, never by a version string.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from modelsmith.decision import Decision, Override
from modelsmith.errors import UnknownNameError

Capability = Literal["prediction", "config", "user_metadata", "loaded_model", "webui"]


@dataclass(frozen=True)
class ModelFile:
    """A model file that the host lists. ``name`` is unique within its kind and is what a user sees."""

    name: str
    path: Path
    kind: Literal["checkpoint", "vae", "lora", "text_encoder", "other"]
    sha256: str | None = None


def listed_path(file: ModelFile) -> str:
    """The file with its folder, as the host lists it; the short hash of a title is left out."""
    return (file.name.rsplit(" [", 1)[0] if file.name.endswith("]") else file.name).replace("\\", "/")


def listed_paths(files: Sequence[ModelFile]) -> dict[Path, str]:
    """The files by their places, each as :func:`listed_path` calls it."""
    return {file.path: listed_path(file) for file in files}


def find_file(files: list[ModelFile], name: str) -> ModelFile:
    """The file with this name, title, file name or stem. Raises UnknownNameError with the nearest one."""
    wanted = name.strip()
    for file in files:
        if wanted in (file.name, file.path.name):
            return file
    for file in files:
        # A title carries a short hash that comes and goes: "model.safetensors [0123456789]".
        if wanted == file.path.stem or wanted.rsplit(" [", 1)[0] == file.name.rsplit(" [", 1)[0]:
            return file
    raise UnknownNameError("model file", name, [file.name for file in files])


@dataclass(frozen=True)
class LoadedStatus:
    """What the model in memory was set to, and why."""

    path: Path
    decision: Decision
    applied: bool
    config: str | None
    sigma_max: float | None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.path.name,
            "prediction": self.decision.prediction,
            "zero_terminal_snr": self.decision.ztsnr,
            "source": self.decision.source,
            "reasons": list(self.decision.reasons),
            "applied": self.applied,
            "config": self.config,
            "sigma_max": self.sigma_max,
            "notes": list(self.notes),
        }


class JobControl(Protocol):
    """A running job's side of the host's progress display."""

    def report(self, fraction: float, text: str) -> None:
        """Show ``fraction`` (0 to 1) and a short text."""
        ...

    def cancelled(self) -> bool:
        """Whether the user asked to stop."""
        ...


class Host(Protocol):
    """One webui, or the standalone app. Every method may be called from any thread unless it says otherwise."""

    name: str
    capabilities: frozenset[Capability]
    # Name of the JavaScript function that starts the host's progress bar for an event, or None.
    progress_script: str | None

    def language(self) -> str:
        """The name of the localisation that the user chose (``ja_JP``); empty for English."""
        ...

    def checkpoints(self) -> list[ModelFile]:
        """The host's checkpoints, in its order."""
        ...

    def model_files(self) -> list[ModelFile]:
        """Every model file of the host's folders, checkpoints first."""
        ...

    def checkpoint_folder(self) -> Path:
        """Where a new checkpoint is written."""
        ...

    def part_folder(self, kind: str) -> Path:
        """Where a new VAE (``vae``), text encoder (``text_encoder``) or LoRA (``lora``) is written; it may not exist
        yet."""
        ...

    def data_folder(self) -> Path:
        """Where Modelsmith keeps its own index; made when it does not exist."""
        ...

    def loaded_checkpoint(self) -> Path | None:
        """The checkpoint in memory, never waiting for one that is being loaded."""
        ...

    def refresh_checkpoints(self) -> None:
        """Make the host look for new checkpoint files."""
        ...

    def cached_sha256(self, file: ModelFile) -> str | None:
        """A hash that the host already knows; none is computed."""
        ...

    def keep_sha256(self, path: Path, sha256: str | None) -> None:
        """Let the host have the hash of a file that was just written, so that it need not read it for that; None where
        it is not known. The host has it after the next :meth:`refresh_checkpoints`."""
        ...

    def wrap_job(self, function: Callable[..., Any], extra_outputs: list[Any]) -> Callable[..., Any]:
        """Wrap an event handler so that it runs as a job of the host: one at a time, progress shown.

        In a webui the wrapped handler takes the task id as its first argument, which ``progress_script`` fills in.
        """
        ...

    def job_control(self) -> JobControl:
        """For the job that runs now; call it inside a handler wrapped by :meth:`wrap_job`."""
        ...

    def interrupt(self, task: str = "") -> None:
        """Ask the running job to stop; where the host tells jobs apart by ``task``, that one, also if it waits."""
        ...

    def override(self, path: Path) -> Override:
        """The user's override for one file."""
        ...

    def set_override(self, path: Path, override: Override) -> None:
        """Keep the override and apply it at once where the file is the model in memory.

        Raises BadFileError where the metadata beside the file cannot be read or written.
        """
        ...

    def status(self) -> LoadedStatus | None:
        """What the model in memory was set to; None where nothing is loaded or the host cannot tell."""
        ...

    def install(self) -> None:
        """Take hold of the host. Calling it twice changes nothing."""
        ...

    def uninstall(self) -> None:
        """Undo :meth:`install` and put every model in memory back as the host had it."""
        ...

    def reapply(self) -> None:
        """Bring the model in memory in line with the settings and the overrides as they are now."""
        ...

    def model_loaded(self, model: Any) -> None:
        """The host's on_model_loaded callback."""
        ...

    def before_load(self, processing: Any) -> None:
        """Called at the very start of a generation job, before the host loads the model that the job asks for."""
        ...

    def before_process(self, processing: Any) -> None:
        """Called at the start of a generation job, before samplers are built."""
        ...

    def before_batch(self, processing: Any) -> None:
        """Called before each batch of a generation job."""
        ...


def _has(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def detect_host() -> Host:
    """The adapter for the webui in whose process this runs. Call it only inside a webui.

    A webui that lacks a name on which its adapter stands gets the one that sets nothing and says why.
    """
    kind, name = _kind()
    from modelsmith_webui.hosts.unknown import UnknownHost, missing

    gone = missing(kind) if kind else ()
    if gone or not kind:
        return UnknownHost(name, gone)
    if kind == "ldm_forge":
        from modelsmith_webui.hosts.ldm_forge import LdmForgeHost

        return LdmForgeHost(name)
    if name == "Neo":
        from modelsmith_webui.hosts.neo import NeoHost

        return NeoHost(name)
    if kind == "forge":
        from modelsmith_webui.hosts.forge import ForgeHost

        return ForgeHost(name)
    from modelsmith_webui.hosts.a1111 import A1111Host

    return A1111Host()


def _kind() -> tuple[str, str]:
    """The adapter that this webui's modules ask for, empty where there is none, and the webui's name."""
    if _has("modules_forge") and _has("backend.loader"):
        return "forge", "Forge" if _has("modules.sd_models_config") else "Neo"
    if _has("modules_forge.forge_loader"):
        return "ldm_forge", "reForge" if _has("modules.hypernetworks") else "Classic"
    if _has("modules_forge"):
        return "", "unknown, of the Forge family"
    return "a1111", "A1111"
