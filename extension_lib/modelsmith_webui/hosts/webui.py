"""What AUTOMATIC1111 and the Forge family have in common: lists, jobs, overrides.

Used by itself it is the adapter of a webui that Modelsmith does not know: files are identified, nothing is set.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modelsmith.decision import Decision, Override
from modelsmith_webui import settings
from modelsmith_webui.host import Capability, JobControl, LoadedStatus, ModelFile
from modelsmith_webui.hosts.common import Resolution, Resolver, file_stamp, path_of
from modelsmith_webui.overrides import read_override, write_override

if TYPE_CHECKING:
    from modelsmith_webui.probing import Prober

logger = logging.getLogger(__name__)

PROGRESS_STEPS = 1000
MODEL_ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")


def chosen_checkpoint() -> str:
    """The name of the checkpoint that the user has chosen."""
    from modules import shared

    return str(getattr(shared.opts, "sd_model_checkpoint", None) or "")


def register_checkpoint(path: Path) -> str:
    """Make the webui know a checkpoint that lies elsewhere, until it reads its folders anew; its title."""
    from modules import sd_models

    info = sd_models.CheckpointInfo(str(path))
    info.register()
    return str(info.title)


class WebuiJob:
    """The running job of the webui: its progress bar and its Interrupt."""

    def __init__(self) -> None:
        from modules import shared

        self._state = shared.state
        self._state.job_count = 1
        self._state.sampling_steps = PROGRESS_STEPS

    def report(self, fraction: float, text: str) -> None:
        self._state.sampling_step = min(PROGRESS_STEPS, max(0, round(fraction * PROGRESS_STEPS)))
        self._state.textinfo = text

    def cancelled(self) -> bool:
        return bool(self._state.interrupted or self._state.skipped)


def _files_below(folder: Path, kind: Literal["lora", "text_encoder"]) -> list[ModelFile]:
    """Every model file below a folder, by its name from there. Links to folders are followed, as the webuis do, once.

    Of strings until the last: folders of LoRAs hold thousands, and are listed at the start and by many a request.
    """
    root = os.fspath(folder)
    names: list[str] = []
    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(root, followlinks=True):
        try:
            found = os.stat(place)
        except OSError:  # gone since
            continue
        if (found.st_dev, found.st_ino) in seen:
            folders.clear()
            continue
        seen.add((found.st_dev, found.st_ino))
        within = place[len(root) + 1 :]
        fitting = [name for name in files if name.lower().endswith(MODEL_ENDINGS)]
        names += [os.path.join(within, name) for name in fitting if os.path.isfile(os.path.join(place, name))]
    return [ModelFile(name.replace(os.sep, "/"), folder / name, kind) for name in sorted(names)]


class WebuiHost:
    """The shared part of all webui adapters; also the whole adapter of an unknown one."""

    capabilities: frozenset[Capability] = frozenset({"user_metadata", "loaded_model", "webui"})
    progress_script: str | None = "modelsmithSubmit"

    def __init__(self, name: str) -> None:
        self.name = name
        self.resolver = Resolver(lambda: bool(settings.get(settings.ENABLED)))
        # The files of :meth:`model_files` while they are listed once.
        self._listed: list[ModelFile] | None = None
        # Files that were written since the webui listed its own: their hash, and what tells that they are the same.
        self._new_hashes: dict[Path, tuple[str, object]] = {}

    @property
    def can_probe(self) -> bool:
        """Whether the adapter knows how to ask the network in memory what it predicts."""
        return hasattr(self, "raw_network")

    @cached_property
    def prober(self) -> Prober | None:
        """What asks it; None where the adapter cannot. Made when it is first wanted, which no start does."""
        from modelsmith_webui.probing import Prober

        return Prober(self) if self.can_probe else None

    def language(self) -> str:
        from modules import shared

        chosen = getattr(shared.opts, "localization", None)
        return "" if chosen in (None, "None") else str(chosen)

    # files

    def checkpoints(self) -> list[ModelFile]:
        from modules import sd_models

        return [
            ModelFile(info.title, Path(info.filename), "checkpoint", info.sha256)
            for info in list(sd_models.checkpoints_list.values())
        ]

    @contextmanager
    def listed_once(self) -> Iterator[None]:
        """Within this, folders are walked for the first :meth:`model_files` only. For the thread that starts the webui:
        each view of the tab lists all files, and folders of LoRAs are large."""
        self._listed = self.model_files()
        try:
            yield
        finally:
            self._listed = None

    def model_files(self) -> list[ModelFile]:
        if self._listed is not None:
            return list(self._listed)
        from modules import sd_vae

        files = self.checkpoints()
        files += [ModelFile(name, Path(path), "vae") for name, path in list(sd_vae.vae_dict.items())]
        for folder in self._lora_folders():
            files += _files_below(folder, "lora")
        for folder in self._text_encoder_folders():
            files += _files_below(folder, "text_encoder")
        return files

    def _models_folder(self) -> Path:
        from modules import paths_internal

        return Path(paths_internal.models_path)

    def _folders(self, *candidates: str | Path | None) -> list[Path]:
        """The existing ones, each once: on some systems Lora and lora are the same folder."""
        found: dict[Path, Path] = {}
        for candidate in candidates:
            if candidate and Path(candidate).is_dir():
                found.setdefault(Path(candidate).resolve(), Path(candidate))
        return list(found.values())

    def _lora_folders(self) -> list[Path]:
        from modules import shared

        return self._folders(getattr(shared.cmd_opts, "lora_dir", None), self._models_folder() / "Lora")

    def _text_encoder_folders(self) -> list[Path]:
        from modules import shared

        given = getattr(shared.cmd_opts, "text_encoder_dir", None)
        return self._folders(given, self._models_folder() / "text_encoder")

    def checkpoint_folder(self) -> Path:
        from modules import sd_models, shared

        return Path(getattr(shared.cmd_opts, "ckpt_dir", None) or sd_models.model_path)

    def part_folder(self, kind: str) -> Path:
        from modules import shared

        if kind == "lora":
            given = getattr(shared.cmd_opts, "lora_dir", None) or self._models_folder() / "Lora"
            return next(iter(self._lora_folders()), Path(given))
        option, usual = ("vae_dir", "VAE") if kind == "vae" else ("text_encoder_dir", "text_encoder")
        return Path(getattr(shared.cmd_opts, option, None) or self._models_folder() / usual)

    def data_folder(self) -> Path:
        from modules import paths_internal

        folder = Path(paths_internal.data_path) / "cache" / "modelsmith"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def refresh_checkpoints(self) -> None:
        from modules import sd_models, sd_vae

        sd_models.list_models()
        sd_vae.refresh_vae_list()
        self._tell_hashes()

    def keep_sha256(self, path: Path, sha256: str | None) -> None:
        if sha256:
            self._new_hashes[path] = (sha256, file_stamp(os.fspath(path)))

    def _tell_hashes(self) -> None:
        """Put the hashes of new checkpoints among the webui's own, under the name that its list has for them."""
        from modules import hashes, sd_models, shared

        told, self._new_hashes = self._new_hashes, {}
        if not told or shared.cmd_opts.no_hashing:
            return
        for info in list(sd_models.checkpoints_list.values()):
            path = Path(info.filename)
            sha256, stamp = told.get(path, ("", None))
            if stamp is None or file_stamp(info.filename) != stamp:
                continue
            hashes.cache("hashes")[f"checkpoint/{info.name}"] = {"mtime": path.stat().st_mtime, "sha256": sha256}
            info.calculate_shorthash()
        hashes.dump_cache()

    def cached_sha256(self, file: ModelFile) -> str | None:
        if file.sha256:
            return file.sha256
        from modules import hashes

        prefix = {"checkpoint": "checkpoint", "vae": "vae", "lora": "lora"}.get(file.kind)
        if prefix is None:
            return None
        title = f"{prefix}/{file.path.stem if file.kind == 'lora' else file.name}"
        return hashes.sha256_from_cache(str(file.path), title)

    # jobs

    def wrap_job(self, function: Callable[..., Any], extra_outputs: list[Any]) -> Callable[..., Any]:
        from modules import call_queue

        return call_queue.wrap_gradio_gpu_call(function, extra_outputs=extra_outputs)

    def job_control(self) -> JobControl:
        return WebuiJob()

    def interrupt(self, task: str = "") -> None:
        from modules import shared

        shared.state.interrupt()

    # the model in memory

    def loaded_model(self) -> Any:
        """The model in memory, without taking the lock that a load holds for its whole time."""
        from modules import sd_models

        return getattr(sd_models.model_data, "sd_model", None)

    def loaded_checkpoint(self) -> Path | None:
        info = getattr(self.loaded_model(), "sd_checkpoint_info", None)
        return path_of(info.filename) if info is not None else None

    def override(self, path: Path) -> Override:
        return read_override(path)

    def set_override(self, path: Path, override: Override) -> None:
        write_override(path, override)
        if self.loaded_checkpoint() == path:
            self.reapply()

    def applied_decision(self) -> Decision | None:
        """What the model in memory is set to; None where it is not set by us.

        Asked for every picture: unlike :meth:`status` it reads nothing from the device and looks for no VAE.
        """
        model, path = self.loaded_model(), self.loaded_checkpoint()
        if model is None or path is None:
            return None
        decision = self.resolver.resolve(path).decision
        return decision if self.has_set(model, path, decision) else None

    def has_set(self, model: Any, path: Path, decision: Decision) -> bool:
        """Whether this model, which came from this file, is what we set it to by this decision."""
        return False

    def status(self) -> LoadedStatus | None:
        path = self.loaded_checkpoint()
        if path is None:
            return None
        decision = self.resolver.resolve(path).decision
        note = f"{self.name}: Modelsmith does not know this webui, so nothing is set by itself"
        return LoadedStatus(path, decision, applied=False, config=None, sigma_max=None, notes=(note,))

    # taking hold; a webui that is not known is left alone

    def install(self) -> None:
        logger.warning("Modelsmith does not know this webui: it identifies files but sets nothing by itself")

    def uninstall(self) -> None:
        return

    def reapply(self) -> None:
        """Bring the model in memory in line with the settings and the overrides as they are now."""

    def model_loaded(self, model: Any) -> None:
        return

    def before_load(self, processing: Any) -> None:
        return

    def before_process(self, processing: Any) -> None:
        return

    def before_batch(self, processing: Any) -> None:
        return

    def before_sampling(self, processing: Any) -> None:
        """Called before each sampling of a job, also that of the hires pass."""

    def cannot_run(self, _resolution: Resolution) -> str | None:
        """Why this webui makes noise of a file, or does not load it at all; None where nothing speaks against it."""
        return None
