"""Asks the model in memory what it predicts, remembers the answer for its file, and says whether that fits.

An answer is a hint for a person. Nothing is ever set by it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelsmith.errors import ModelsmithError
from modelsmith_webui import settings

if TYPE_CHECKING:
    from modelsmith.decision import Decision
    from modelsmith.identify import Report
    from modelsmith.prediction_probe import ProbeResult

logger = logging.getLogger(__name__)

LATENT = (4, 64, 64)
MEMORY_FILE = "probe.json"
# Metadata that a merge made here has; the key of modelsmith.merge.recipe, which would bring the whole engine with it.
MERGED = "modelsmith_recipe"
REMEMBERED = 500
NAMES = {"epsilon": "epsilon", "v_prediction": "v-prediction"}

TEXTS = {
    "agrees": "It behaves as {label}, as it is set.",
    "differs": "It is set to {label} but behaves as {found}. This is a hint only: if its pictures are noise or burnt, "
    "set {found} for this file.",
    "mixed": "It behaves as a mix of epsilon and v-prediction, as a weighted sum of both kinds does. No setting makes "
    "such a model right.",
    "unclear": "Its answers do not say what it predicts.",
    "ztsnr_missing": "It answers as a model with zero terminal SNR does, which is off for it; try it on.",
    "ztsnr_unexpected": "It answers as a model without zero terminal SNR does, which is on for it; try it off.",
}


@dataclass(frozen=True)
class RawNetwork:
    """The raw network (latents with unit variance, timestep) and the device that it wants its latents on."""

    ask: Callable[[Any, int], Any]
    device: Any


@dataclass(frozen=True)
class Finding:
    """What the probe suggests of one file, against what it is set to. ``agrees`` None: it does not say."""

    path: Path
    result: ProbeResult
    label: str
    agrees: bool | None
    messages: tuple[tuple[str, dict[str, str]], ...]

    def text(self, tr: Callable[..., str] | None = None) -> str:
        say = tr or (lambda text, **values: text.format(**values))
        return " ".join(say(TEXTS[key], **values) for key, values in self.messages)

    def to_json(self) -> dict[str, Any]:
        numbers = {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in self.result.to_json().items()
        }
        return {"file": self.path.name, **numbers, "set_to": self.label, "agrees": self.agrees, "text": self.text()}


def find(path: Path, result: ProbeResult, decision: Decision) -> Finding:
    """Set the numbers against what the model is set to."""
    label = decision.prediction or ""
    names = {"label": NAMES.get(label, label), "found": NAMES.get(result.behaves_as, "")}
    if result.behaves_as not in NAMES:
        agrees = False if result.behaves_as == "mixed" else None
        return Finding(path, result, label, agrees, ((result.behaves_as, {}),))
    agrees = result.behaves_as == label
    messages: list[tuple[str, dict[str, str]]] = [("agrees" if agrees else "differs", names)]
    if agrees and result.ztsnr is not None and result.ztsnr != decision.ztsnr:
        messages.append(("ztsnr_missing" if result.ztsnr else "ztsnr_unexpected", {}))
    return Finding(path, result, label, agrees, tuple(messages))


def in_doubt(report: Report) -> bool:
    """Whether the file itself leaves open what it predicts."""
    prediction = report.prediction
    best = next((one for one in prediction.evidence if one.says == prediction.type), None)
    return (
        prediction.conflict
        or best is None
        or best.grade in ("weak", "default")
        or (prediction.type == "v_prediction" and prediction.zero_terminal_snr is None)
    )


def _merged(path: Path) -> bool:
    """Whether a file is a merge made here, whose marks were written and not learnt."""
    from modelsmith.files.header import read_header

    try:
        return MERGED in read_header(path).metadata
    except ModelsmithError:
        return False


class Prober:
    """One for each host. The host has ``raw_network()``, a context manager that gives the model in memory."""

    def __init__(self, host: Any) -> None:
        self.host = host
        self._lock = threading.Lock()
        self._known: dict[str, dict[str, Any]] | None = None
        self._wanted: dict[str, bool] = {}

    # what is remembered

    def _file(self) -> Path:
        return self.host.data_folder() / MEMORY_FILE

    @staticmethod
    def _key(path: Path) -> str:
        found = path.stat()
        return f"{path.name}|{found.st_size}|{found.st_mtime_ns}"

    def _memory(self) -> dict[str, dict[str, Any]]:
        if self._known is None:
            try:
                found = json.loads(self._file().read_text(encoding="utf-8"))
            except (OSError, ValueError):
                found = {}
            self._known = found if isinstance(found, dict) else {}
        return self._known

    def _remember(self, path: Path, result: ProbeResult) -> None:
        with self._lock:
            known = self._memory()
            known[self._key(path)] = {
                "gain": result.gain,
                "correlation": result.correlation,
                "response": result.response,
                "earlier_response": result.earlier_response,
            }
            for old in list(known)[:-REMEMBERED]:
                del known[old]
            aside = self._file().with_name(f".{MEMORY_FILE}.modelsmith-{os.getpid()}.tmp")
            try:
                aside.write_text(json.dumps(known), encoding="utf-8")
                os.replace(aside, self._file())
            except OSError as error:
                logger.warning("what the probe found cannot be kept: %s", error)

    def known(self, path: Path) -> Finding | None:
        """What was found of this very file before; None where it was not asked yet."""
        try:
            with self._lock:
                kept = self._memory().get(self._key(path))
        except OSError:
            return None
        if not isinstance(kept, dict):
            return None
        from modelsmith.prediction_probe import judge

        numbers = [kept.get(name) for name in ("gain", "correlation", "response", "earlier_response")]
        if not all(isinstance(number, float) for number in numbers):
            return None
        result = judge(*(float(number) for number in numbers if number is not None))
        return find(path, result, self.host.resolver.resolve(path).decision)

    # the work

    def _asked(self) -> tuple[Path, Decision]:
        path = self.host.loaded_checkpoint()
        if path is None:
            raise ModelsmithError("no model is in memory", "Choose a checkpoint and make a picture first.")
        decision = self.host.resolver.resolve(path).decision
        if decision.prediction is None:
            reason = "; ".join(decision.reasons)
            raise ModelsmithError(
                f"{path.name} is not asked: {reason}",
                "The probe is for SD1, SD2 and SDXL models on a discrete schedule.",
            )
        return path, decision

    def ask(self) -> Finding:
        """Ask the model in memory; the caller holds the webui's queue, or is a job itself.

        Raises ModelsmithError where no model is in memory or the probe does not fit it.
        """
        from modelsmith.prediction_probe import probe

        path, decision = self._asked()
        with self.host.raw_network() as network:
            result = probe(network.ask, LATENT, device=network.device)
        if not math.isnan(result.gain):
            self._remember(path, result)
        found = find(path, result, decision)
        logger.info("%s: probe: %s", path.name, found.text())
        return found

    def run(self) -> Finding:
        """The same as a job of its own: it waits for the one that runs, and shows as one."""
        from modules import call_queue, shared

        self._asked()
        with call_queue.queue_lock:
            shared.state.begin(job="modelsmith-probe")
            try:
                return self.ask()
            finally:
                shared.state.end()

    def before_picture(self) -> Finding | None:
        """Inside a job: ask where the setting says so, the type is in doubt, and it was not asked before."""
        if not settings.get(settings.PROBE):
            return None
        path = self.host.loaded_checkpoint()
        if path is None:
            return None
        resolution = self.host.resolver.resolve(path)
        if resolution.decision.prediction is None:
            return None
        key = self._key(path)
        if key not in self._wanted:
            self._wanted[key] = in_doubt(resolution.report) or _merged(path)
        return (self.known(path) or self.ask()) if self._wanted[key] else None
