"""AUTOMATIC1111: the VAE. Its own order stands; what is added is what comes after it, and a word against wrong ones.

The webui asks ``sd_vae.resolve_vae`` at each load and at each change of the setting, so answering there is enough.
Setting the option, or loading from a model callback, would call for the next load: it is never done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelsmith.errors import ModelsmithError
from modelsmith_webui import settings
from modelsmith_webui.hosts.vae_choice import Answer, Source, VaeKeeper

if TYPE_CHECKING:
    from modelsmith.vae.choice import Refusal
    from modelsmith_webui.hosts.webui import WebuiHost

logger = logging.getLogger(__name__)

OPTION = "sd_vae"
# The webui's own words for where its answer comes from.
BESIDE = "found near the checkpoint"
SOURCES: dict[str, Source] = {
    "from commandline argument": "command_line",
    "specified in settings": "setting",
    "from user metadata": "file",
    BESIDE: "beside",
}
# Chosen without a person having had this very pair in mind, so a wrong one is refused.
REFUSABLE = ("setting", "beside")
OURS = "chosen by Modelsmith"


def resolving_module() -> Any | None:
    """The webui's module whose ``resolve_vae`` can be wrapped; None where it answers in another way (before 1.6)."""
    try:
        from modules import sd_vae
    except ImportError:
        return None
    return sd_vae if hasattr(sd_vae, "VaeResolution") else None


class A1111Vae(VaeKeeper):
    """The VAE part of the AUTOMATIC1111 adapter, which patches ``resolve_vae`` in and out."""

    quicksetting = True

    def __init__(self, host: WebuiHost, installed: Callable[[], bool]) -> None:
        super().__init__(host)
        self._installed = installed

    # the choice

    def resolve(self, original: Callable[[Any], Any], checkpoint_file: Any) -> Any:
        """What ``resolve_vae`` answers: the webui's own answer, or ours where it has none or a wrong one."""
        found = original(checkpoint_file)
        if not self.enabled():
            return found
        checkpoint = Path(checkpoint_file)
        try:
            answer = self.keep(checkpoint, self._answer(found, checkpoint))
        except (ModelsmithError, OSError) as error:
            # Whatever is wrong with a file here, it must not keep the webui from loading.
            logger.warning("%s: the VAE is left to the webui (%s)", checkpoint.name, error)
            return found
        if answer.source in SOURCES.values() and not answer.refused:
            return found
        if answer.source in ("nothing", "unknown_model") and not answer.refused:
            return found
        if answer.path is None:
            return type(found)()
        return type(found)(str(answer.path), OURS)

    def _answer(self, found: Any, checkpoint: Path) -> Answer:
        from modules import sd_vae

        source = SOURCES.get(found.source or "", "other")
        if found.vae is None:
            # Resolved without a file: the user wants the one in the checkpoint. A name that is gone is no order for us.
            if found.resolved or not sd_vae.is_automatic():
                return Answer(None, "nothing")
            return self.automatic(checkpoint)
        refusal = self.refusal(Path(found.vae), checkpoint) if source in REFUSABLE else None
        if refusal is None:
            return Answer(Path(found.vae), source)
        return self._instead(checkpoint, refusal)

    def _instead(self, checkpoint: Path, refusal: Refusal) -> Answer:
        """What the webui would have found without the refused one, then the automatic choice."""
        refused = [refusal]
        for other in _others(str(checkpoint)):
            source = SOURCES.get(other.source or "", "nothing")
            if other.vae is None:
                return Answer(None, source, tuple(refused))
            path = Path(other.vae)
            if any(path == known.path for known in refused):
                continue
            wrong = self.refusal(path, checkpoint) if source in REFUSABLE else None
            if wrong is None:
                return Answer(path, source, tuple(refused))
            refused.append(wrong)
        return self.automatic(checkpoint, tuple(refused))

    def listed(self) -> list[tuple[str, Path]]:
        from modules import sd_vae

        return [(name, Path(path)) for name, path in list(sd_vae.vae_dict.items())]

    def in_half_precision(self) -> bool:
        import torch
        from modules import devices

        return devices.dtype_vae is torch.float16

    # the model in memory

    def current_checkpoint(self) -> Path | None:
        return self.host.loaded_checkpoint()

    def using(self, checkpoint: Path) -> Path | None:
        found = getattr(self.host.loaded_model(), "loaded_vae_file", None)
        return Path(found) if found else None

    def pending(self) -> bool:
        from modules import sd_models, shared

        chosen = sd_models.checkpoint_aliases.get(getattr(shared.opts, "sd_model_checkpoint", None))
        return chosen is not None and Path(chosen.filename) != self.host.loaded_checkpoint()

    def reapply(self) -> None:
        """Load the VAE that is due into the model in memory; waits for a running job, as the webui's own setting does.

        Must not be called with the webui's queue lock held, so never from a model callback.
        """
        if not self._installed():
            return
        self._bring_in_line()

    def put_back(self) -> None:
        """After the patch is undone: the VAE that the webui itself would have, where ours is in memory."""
        checkpoint = self.host.loaded_checkpoint()
        answer = self.answer_for(checkpoint) if checkpoint is not None else None
        self._answers.clear()
        if answer is not None and (answer.refused or answer.source in ("preference", "family", "twin", "baked")):
            self._bring_in_line()

    def _bring_in_line(self) -> None:
        model, checkpoint = self.host.loaded_model(), self.host.loaded_checkpoint()
        if model is None or checkpoint is None or getattr(model, "first_stage_model", None) is None:
            return
        from modules import call_queue, sd_vae

        due = sd_vae.resolve_vae(str(checkpoint)).vae
        # "baked" is the usual answer: nothing is locked where nothing changes.
        if (due or None) == (getattr(model, "loaded_vae_file", None) or None):
            return
        with call_queue.queue_lock:
            self.reload(model)

    def reload(self, model: Any) -> None:
        """Load the VAE that is due into the model in memory."""
        from modules import sd_vae

        sd_vae.reload_vae_weights(model)

    # the quicksetting

    def join_quicksettings(self) -> None:
        """Put the webui's VAE selector beside its checkpoint selector, once: a user who removes it is not overruled."""
        from modules import shared

        opts, arguments = shared.opts, shared.cmd_opts
        if getattr(arguments, "nowebui", False) or getattr(arguments, "freeze_settings", False):
            return
        if not settings.get(settings.VAE_QUICKSETTING) or opts.data.get(settings.VAE_QUICKSETTING_DONE):
            return
        opts.data[settings.VAE_QUICKSETTING_DONE] = True
        chosen = list(opts.quicksettings_list)
        if OPTION not in chosen:
            opts.data["quicksettings_list"] = [*chosen, OPTION]

    def quicksetting_changed(self) -> None:
        """The setting was switched: put the selector there, or take it away; a reload of the UI shows it."""
        from modules import shared

        shared.opts.data.pop(settings.VAE_QUICKSETTING_DONE, None)
        if settings.get(settings.VAE_QUICKSETTING):
            self.join_quicksettings()
            return
        shared.opts.data["quicksettings_list"] = [name for name in shared.opts.quicksettings_list if name != OPTION]


def _others(checkpoint_file: str) -> Iterator[Any]:
    """The webui's answers in its order, as if no setting had been there; only those that answer."""
    from modules import sd_vae

    found = sd_vae.resolve_vae_from_user_metadata(checkpoint_file)
    if found.resolved:
        yield found
    near = sd_vae.find_vae_near_checkpoint(checkpoint_file)
    if near is not None:
        yield sd_vae.VaeResolution(near, BESIDE)
    if not sd_vae.is_automatic():
        chosen = sd_vae.resolve_vae_from_setting()
        if chosen.resolved:
            yield chosen
