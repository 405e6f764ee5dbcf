"""What the webui adapters share about VAEs: judging, remembering a person's word, and telling what is in use."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modelsmith.errors import BadFileError, UnknownNameError
from modelsmith_webui import settings
from modelsmith_webui.xyz import AUTOMATIC_VAE, BAKED_VAE

if TYPE_CHECKING:
    from modelsmith.vae.choice import Judge, Pick, Refusal
    from modelsmith.vae.families import Fit
    from modelsmith_webui.hosts.vae_state import ListedVae, VaeState
    from modelsmith_webui.hosts.webui import WebuiHost

logger = logging.getLogger(__name__)

MEMORY_FILE = "vae.json"

Source = Literal[
    "command_line", "file", "beside", "setting", "preference", "baked", "family", "twin", "nothing", "nothing_fits",
    "unknown_model", "other",
]  # fmt: skip
"""Why a VAE is in use. file: the webui's metadata of the checkpoint. preference: Modelsmith's. nothing: the user chose
none. other: another extension, or a webui that does not say."""


@dataclass(frozen=True)
class Answer:
    """Which VAE a checkpoint gets. path None: the one in the checkpoint."""

    path: Path | None
    source: Source
    refused: tuple[Refusal, ...] = ()
    detail: str = ""


class VaeKeeper:
    """The part that does not depend on the webui. ``reapply`` and ``state`` are the webui's."""

    # Whether the webui's own VAE selector has to be put beside the checkpoint selector.
    quicksetting = False

    def __init__(self, host: WebuiHost) -> None:
        self.host = host
        self._judge: Judge | None = None
        self._lock = threading.Lock()
        self._answers: dict[Path, Answer] = {}

    @property
    def judge(self) -> Judge:
        from modelsmith.vae.choice import Judge
        from modelsmith.vae.memory import VaeMemory

        with self._lock:
            if self._judge is None:
                memory = VaeMemory(self.host.data_folder() / MEMORY_FILE)
                self._judge = Judge(
                    memory, self.host.resolver.report, lambda: [file.path for file in self.host.checkpoints()]
                )
            return self._judge

    def enabled(self) -> bool:
        return bool(settings.get(settings.VAE))

    def listed(self) -> list[tuple[str, Path]]:
        """The host's VAEs by name."""
        return []

    def in_half_precision(self) -> bool:
        """Whether the webui runs VAEs in fp16."""
        return False

    def refusal(self, path: Path, checkpoint: Path) -> Refusal | None:
        """Why a VAE is not to be used with a checkpoint; None where nothing speaks against it."""
        judge = self.judge
        return judge.refuse(path, judge.model(checkpoint))

    def automatic(self, checkpoint: Path, refused: tuple[Refusal, ...] = ()) -> Answer:
        """The automatic choice for a checkpoint."""
        from modelsmith.vae.choice import automatic

        judge = self.judge
        preference = self.host.override(checkpoint).vae
        model = judge.model(checkpoint)
        pick: Pick = automatic(judge, model, self.listed(), preference, self.in_half_precision())
        return Answer(pick.path, pick.reason, refused, pick.detail)

    def keep(self, checkpoint: Path, answer: Answer) -> Answer:
        """Remember an answer, and say it in the log where it is a new one."""
        if self._answers.get(checkpoint) == answer:
            return answer
        self._answers[checkpoint] = answer
        for refusal in answer.refused:
            logger.warning("%s: %s", checkpoint.name, refusal)
        using = answer.path.name if answer.path is not None else "the VAE in the checkpoint"
        if answer.source == "nothing_fits":
            logger.warning("%s: it has no usable VAE, and %s; choose one", checkpoint.name, answer.detail)
        elif answer.refused or answer.source in ("preference", "family", "twin"):
            logger.info("%s: VAE %s (%s)", checkpoint.name, using, answer.detail or answer.source)
        return answer

    def answer_for(self, checkpoint: Path) -> Answer | None:
        """The last answer for a checkpoint; None where none was asked for."""
        return self._answers.get(checkpoint)

    def choose_for_job(self, processing: Any, name: str | None) -> None:
        """Use the VAE of this name for one job, as an axis of the X/Y/Z plot says it; None: what is chosen anyway.

        Called before the webui reads what the job overrides.
        """
        if name is None:
            return
        known = {AUTOMATIC_VAE: "Automatic", BAKED_VAE: "None"}
        # A new dict: the cells of a plot share theirs.
        processing.override_settings = {**processing.override_settings, "sd_vae": known.get(name, name)}

    # a person's word

    def say(self, name: str, family: str | None) -> None:
        """Remember the family of a VAE, or forget what was said with None, and act on it.

        Raises UnknownNameError for an unknown VAE or family, BadFileError for a VAE that cannot be judged.
        """
        identity = self._identity(name)
        self.judge.memory.say(identity.fingerprints, family)
        self.reapply()

    def allow(self, name: str, wanted: bool) -> None:
        """Use a VAE with models of the loaded one's family although it does not fit, or no longer; and act on it.

        Raises as ``say`` does, and BadFileError where no model is loaded whose family is known.
        """
        identity = self._identity(name)
        checkpoint = self.current_checkpoint()
        model = self.judge.model(checkpoint) if checkpoint is not None else None
        if model is None or not model.wanted:
            raise BadFileError(name, "there is no model for which it could be allowed", "Choose a checkpoint first")
        self.judge.memory.allow(identity.fingerprints, model.wanted, wanted)
        self.reapply()

    def _identity(self, name: str) -> Any:
        for listed, path in self.listed():
            if name in (listed, path.name):
                verdict = self.judge.verdict(path)
                if verdict.identity is None:
                    raise BadFileError(path, verdict.problem, "Choose a VAE of SD1, SD2, SDXL, SD3, FLUX.1 or FLUX.2")
                return verdict.identity
        raise UnknownNameError("VAE", name, [listed for listed, _ in self.listed()])

    # what is shown

    def current_checkpoint(self) -> Path | None:
        """The checkpoint that the answers are about."""
        return self.host.loaded_checkpoint()

    def using(self, checkpoint: Path) -> Path | None:
        """The VAE file that is in use, None for the baked one."""
        return None

    def pending(self) -> bool:
        """Whether the webui has still to load what is chosen."""
        return False

    def reapply(self) -> None:
        """Bring the VAE in memory in line with the settings and with what is remembered."""

    def state(self) -> VaeState | None:
        """What is in use; None where no model is chosen."""
        from modelsmith_webui.hosts.vae_state import VaeState

        checkpoint = self.current_checkpoint()
        if checkpoint is None:
            return None
        judge, using = self.judge, self.using(checkpoint)
        model = judge.model(checkpoint)
        answer = self.answer_for(checkpoint)
        if not self.enabled() or answer is None or answer.path != using:
            answer = Answer(using, "other")
        fit: Fit = "fits"
        if using is not None:
            fit = judge.fit(judge.verdict(using), model)
        elif model.baked in ("damaged", "missing"):
            fit = "does_not_fit"
        elif not model.wanted:
            fit = "unsure"
        files = tuple(self._marked(name, path, checkpoint) for name, path in self.listed())
        return VaeState(
            checkpoint=checkpoint,
            wanted=model.label,
            baked=model.baked,
            using=using,
            source=answer.source,
            fit=fit,
            refused=answer.refused,
            detail=answer.detail,
            pending=self.pending(),
            files=files,
        )

    def _marked(self, name: str, path: Path, checkpoint: Path) -> ListedVae:
        from modelsmith_webui.hosts.vae_state import ListedVae

        judge = self.judge
        model, verdict = judge.model(checkpoint), judge.verdict(path)
        identity = verdict.identity
        return ListedVae(
            name=name,
            family=verdict.label,
            fit=judge.fit(verdict, model),
            said=judge.memory.said(identity.fingerprints) if identity is not None else None,
            allowed=identity is not None and judge.memory.allowed(identity.fingerprints, model.wanted),
            problem=verdict.problem,
            evidence=verdict.evidence,
        )

    def notes(self) -> tuple[str, ...]:
        """Lines for the status of the loaded model."""
        checkpoint = self.current_checkpoint()
        answer = self.answer_for(checkpoint) if checkpoint is not None and self.enabled() else None
        return tuple(str(refusal) for refusal in answer.refused) if answer is not None else ()
