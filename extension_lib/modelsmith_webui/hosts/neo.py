"""Neo: Forge's backend carried on. The predictor is Forge's, so is nearly all of the adapter.

What differs: model folders come as lists of command line arguments, whole families are gone (SD2 and all that sampled
EDM schedules), any checkpoint of the SDXL family under a path with "rectified" in it is sampled as a flow, and the
refiner may swap weights inside the model object without a word to extensions.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelsmith_webui.host import LoadedStatus, ModelFile
from modelsmith_webui.hosts.common import Resolution
from modelsmith_webui.hosts.forge import ForgeHost

if TYPE_CHECKING:
    from modelsmith.identify import Report

logger = logging.getLogger(__name__)

# Neo lets only errors through to its console.
OUR_LOGGERS = ("modelsmith", "modelsmith_webui")
FLOW_PREDICTOR = "PredictionDiscreteFlow"
_installs = itertools.count()
# Families that Forge has an engine module for and that are known by an own architecture.
ENGINES = {"sd2": "backend.diffusion_engine.sd20", "sd3": "backend.diffusion_engine.sd35"}


def _arguments(name: str) -> list[str]:
    """A command line argument that may be given several times."""
    from modules import shared

    return list(getattr(shared.cmd_opts, name, None) or [])


def not_loadable(report: Report) -> str | None:
    """The module that a checkpoint would need and that this webui has not, else None."""
    family = next((name for name in ENGINES if (report.architecture or "").startswith(name)), None)
    if family is None:
        return None
    try:
        found = importlib.util.find_spec(ENGINES[family])
    except (ImportError, ValueError):
        found = None
    return ENGINES[family] if found is None else None


class NeoHost(ForgeHost):
    """Forge Neo."""

    def __init__(self, name: str = "Neo") -> None:
        super().__init__(name)
        self._raised: list[logging.Logger] = []
        # Held while Neo lists its checkpoints anew, which it does for every page that is opened: from an empty list.
        self._listing = threading.RLock()
        self._listing_key: str | None = None
        self._list_models: Any = None

    # taking hold

    def install(self) -> None:
        super().install()
        self._watch_listing()
        for name in OUR_LOGGERS:
            found = logging.getLogger(name)
            if found.level == logging.NOTSET and found.getEffectiveLevel() > logging.WARNING:
                found.setLevel(logging.WARNING)
                self._raised.append(found)

    def uninstall(self) -> None:
        while self._raised:
            self._raised.pop().setLevel(logging.NOTSET)
        self._leave_listing()
        super().uninstall()

    def _watch_listing(self) -> None:
        from modules import patches, sd_models

        if self._listing_key is not None:
            return
        original = sd_models.list_models

        def list_models(*args: Any, **kwargs: Any) -> Any:
            with self._listing:
                return original(*args, **kwargs)

        self._listing_key, self._list_models = f"modelsmith-listing-{next(_installs)}", list_models
        patches.patch(self._listing_key, sd_models, "list_models", list_models)

    def _leave_listing(self) -> None:
        from modules import patches, sd_models

        key, self._listing_key = self._listing_key, None
        if key is not None and sd_models.list_models is self._list_models:
            patches.undo(key, sd_models, "list_models")

    # files

    def checkpoints(self) -> list[ModelFile]:
        with self._listing:
            return super().checkpoints()

    def _lora_folders(self) -> list[Path]:
        return self._folders(*_arguments("lora_dirs"), self._models_folder() / "Lora")

    def _text_encoder_folders(self) -> list[Path]:
        return self._folders(*_arguments("text_encoder_dirs"), self._models_folder() / "text_encoder")

    # what is said

    def before_load(self, processing: Any) -> None:
        super().before_load(processing)
        path = self.vae.current_checkpoint()
        if path is None or path == self.loaded_checkpoint():
            return
        report = self.resolver.report(path)
        if not_loadable(report) is not None:
            logger.warning("%s is %s, which this webui cannot load; use Forge", path.name, report.badge())

    def before_process(self, processing: Any) -> None:
        super().before_process(processing)
        problem = self._fast_refiner(processing)
        if problem is None:
            return
        logger.warning("%s", problem)
        if hasattr(processing, "comment"):
            processing.comment(f"Modelsmith: {problem}")

    def _fast_refiner(self, processing: Any) -> str | None:
        """Why the second model of a job would be sampled as the first: Neo can swap the weights and tell nobody."""
        from modules import shared

        path, info = self.loaded_checkpoint(), getattr(processing, "refiner_checkpoint_info", None)
        if path is None or info is None or not getattr(shared.opts, "refiner_fast_sd", False):
            return None
        first, second = (self.resolver.resolve(one).decision for one in (path, Path(info.filename)))
        if (first.prediction, first.ztsnr) == (second.prediction, second.ztsnr):
            return None
        return (
            f"the fast refiner keeps prediction type and schedule of {path.name}, but {Path(info.filename).name} wants "
            f"others ({second.prediction}, ZTSNR {'on' if second.ztsnr else 'off'}); switch the fast refiner off"
        )

    def status(self) -> LoadedStatus | None:
        status = super().status()
        if status is None or status.applied or status.decision.prediction is None:
            return status
        if not self._samples_a_flow():
            return status
        note = (
            f"{self.name} samples this file as a rectified flow because its path contains 'rectified', but it is known "
            f"as {status.decision.prediction}; rename the file or its folder"
        )
        return replace(status, notes=(*status.notes, note))

    def cannot_run(self, resolution: Resolution) -> str | None:
        if resolution.decision.source != "off" and resolution.report.prediction.type == "edm":
            return f"the file is an EDM model (Playground v2.5), which {self.name} samples as epsilon; that gives noise"
        problem = super().cannot_run(resolution)
        if problem and resolution.report.prediction.type == "flow":
            return f"{problem}; rename the file so that its name contains 'rectified', and load it again"
        return problem

    def _samples_a_flow(self) -> bool:
        unet = getattr(getattr(self.loaded_model(), "forge_objects", None), "unet", None)
        return type(getattr(getattr(unet, "model", None), "predictor", None)).__name__ == FLOW_PREDICTOR
