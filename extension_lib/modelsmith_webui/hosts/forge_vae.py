"""Forge: the VAE. What is loaded with a checkpoint is decided in Forge's loading parameters, not in the user's option.

Forge loads late: it compares the parameters with those of the model in memory when a job begins. All of its ways
there (selectors, API, hires and refiner passes) go through ``refresh_model_loading_parameters``, so the list of modules
is completed just after that: the same choice gives the same list, and nothing is loaded twice.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelsmith.errors import ModelsmithError
from modelsmith_webui.hosts.vae_choice import Answer, VaeKeeper
from modelsmith_webui.xyz import BAKED_VAE

if TYPE_CHECKING:
    from modelsmith.vae.choice import Refusal
    from modelsmith_webui.hosts.webui import WebuiHost

logger = logging.getLogger(__name__)

FUNCTION = "refresh_model_loading_parameters"
MODULES = "additional_modules"
INFOTEXT = "Modelsmith VAE"

_installs = itertools.count()


class ForgeVae(VaeKeeper):
    """The VAE part of the Forge adapter."""

    def __init__(self, host: WebuiHost) -> None:
        super().__init__(host)
        self._key: str | None = None
        self._replacement: Callable[..., Any] | None = None
        # The parameters that we completed, and the list that Forge had in them.
        self._completed: tuple[dict[str, Any], list[str]] | None = None
        # The VAE that the running job wants, by name.
        self._for_job: str | None = None

    # taking hold

    def install(self) -> None:
        if self._key is not None:
            return
        try:
            from modules import patches
            from modules_forge import main_entry

            original = getattr(main_entry, FUNCTION)
        except (ImportError, AttributeError) as error:
            logger.warning("VAEs are left to this webui: it has no %s (%s)", FUNCTION, error)
            return
        self._key = key = f"modelsmith-vae-{next(_installs)}"

        def refresh_model_loading_parameters(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if self._key == key:
                self.reapply()
            return result

        patches.patch(key, main_entry, FUNCTION, refresh_model_loading_parameters)
        self._replacement = refresh_model_loading_parameters

    def uninstall(self) -> None:
        """Undo the patch, and let the next job load what Forge itself would have."""
        if self._key is None:
            return
        from modules import patches
        from modules_forge import main_entry

        key, self._key = self._key, None
        if getattr(main_entry, FUNCTION) is self._replacement:
            patches.undo(key, main_entry, FUNCTION)
        if self._completed is not None and self._completed[0] is _parameters():
            self._completed[0][MODULES] = self._completed[1]
        self._completed = None
        self._answers.clear()

    # the choice

    def reapply(self) -> None:
        """Complete the list of modules of what Forge will load next. Doing it again changes nothing."""
        parameters, checkpoint = _parameters(), self.current_checkpoint()
        if self._key is None or checkpoint is None:
            return
        if self._completed is not None and self._completed[0] is parameters:
            own = self._completed[1]
        else:
            own = list(parameters.get(MODULES) or [])
        wanted = own
        if self.enabled():
            try:
                wanted = self._modules(checkpoint, own)
            except (ModelsmithError, OSError) as error:
                # Whatever is wrong with a file here, it must not keep Forge from loading.
                logger.warning("%s: the VAE is left to Forge (%s)", checkpoint.name, error)
        self._completed = (parameters, own)
        # A list of our own: the one that Forge put there is the user's option itself.
        parameters[MODULES] = wanted

    def _modules(self, checkpoint: Path, own: list[str]) -> list[str]:
        """The user's modules without a VAE of another family, and with a fitting one where none is left and needed."""
        refused: list[Refusal] = []
        chosen: Path | None = None
        kept: list[str] = []
        for name in self._with_choice(own):
            path = Path(name)
            if self.host.resolver.report(path).kind != "vae":
                kept.append(name)
                continue
            refusal = self.refusal(path, checkpoint)
            if refusal is not None:
                refused.append(refusal)
                continue
            kept.append(name)
            chosen = path
        if self._for_job == BAKED_VAE:
            self.keep(checkpoint, Answer(None, "setting"))
            return kept
        if chosen is not None:
            self.keep(checkpoint, Answer(chosen, "setting", tuple(refused)))
            return kept
        answer = self.keep(checkpoint, self.automatic(checkpoint, tuple(refused)))
        return kept if answer.path is None else [*kept, str(answer.path)]

    def choose_for_job(self, processing: Any, name: str | None) -> None:
        # Forge's way to override its modules for one job is not put back where config.json has none. What is noted here
        # holds until the next job begins; the host completes the list of modules just after this.
        self._for_job = name

    def _with_choice(self, own: list[str]) -> list[str]:
        """The user's modules with the job's VAE in the place of theirs."""
        if self._for_job is None:
            return own
        others = [name for name in own if self.host.resolver.report(Path(name)).kind != "vae"]
        path = dict(self.listed()).get(self._for_job)
        return others if path is None else [*others, str(path)]

    def listed(self) -> list[tuple[str, Path]]:
        """The files of the VAE / Text Encoder selector that are VAEs."""
        from modules_forge import main_entry

        files = [(str(name), Path(path)) for name, path in list(main_entry.module_list.items())]
        return [(name, path) for name, path in files if self.host.resolver.report(path).kind == "vae"]

    def in_half_precision(self) -> bool:
        try:
            import torch
            from backend import memory_management

            return memory_management.vae_dtype() is torch.float16
        except (ImportError, AttributeError):
            return False

    # what is shown

    def current_checkpoint(self) -> Path | None:
        """What Forge will load next, or has loaded."""
        found = _parameters().get("checkpoint_info")
        return Path(found.filename) if found is not None else self.host.loaded_checkpoint()

    def using(self, checkpoint: Path) -> Path | None:
        for name in reversed(_parameters().get(MODULES) or []):
            if self.host.resolver.report(Path(name)).kind == "vae":
                return Path(name)
        return None

    def note(self, processing: Any) -> None:
        """Forge writes the user's own modules into the picture; where another VAE was used, that is added."""
        checkpoint = self.current_checkpoint()
        answer = self.answer_for(checkpoint) if checkpoint is not None and self.enabled() else None
        if self._key is None or answer is None:
            return
        said_by_forge = answer.source == "setting" or answer.path is None
        if self._for_job is None and said_by_forge and not answer.refused:
            return
        processing.extra_generation_params[INFOTEXT] = answer.path.stem if answer.path is not None else "baked"


def _parameters() -> dict[str, Any]:
    from modules import sd_models

    return getattr(sd_models.model_data, "forge_loading_parameters", None) or {}
