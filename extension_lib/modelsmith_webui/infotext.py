"""What Modelsmith writes into a picture's parameters, and how that is read back.

``Noise Schedule`` is the webui's own key: other installs understand it, but pasting it would make a settings override
that goes on to the next checkpoint. :func:`translate` takes it out and puts choices for this one picture in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelsmith.decision import Decision, Override
from modelsmith_webui.hosts.common import Resolution

PREDICTION = "Prediction"
SOURCE = "Prediction source"
RESCALE = "Modelsmith CFG rescale"
NOISE_SCHEDULE = "Noise Schedule"
ZERO_TERMINAL_SNR = "Zero Terminal SNR"
DOWNCAST = "Downcast alphas_cumprod"
OWN_KEYS = (PREDICTION, SOURCE, RESCALE)
# The choices for one picture that a pasted text means; read by the fields of the script.
CHOICES = "_modelsmith_choices"

_SHORT = {"v_prediction": "v", "epsilon": "epsilon"}
_LONG = {"v": "v_prediction", "v_prediction": "v_prediction", "epsilon": "epsilon", "eps": "epsilon"}
_SOURCES = {"override": "set for this file", "image": "set for this picture"}


def record(params: dict[str, Any], applied: Decision | None, automatic: Decision | None) -> None:
    """Write what the picture is made with; nothing for a plain epsilon model.

    ``applied`` is what the model in memory is set to, None where it is not set by us; ``automatic`` what it would be
    without any choice for file or picture. Keys that an earlier job left in the same dict are taken out.
    """
    for key in (*OWN_KEYS, NOISE_SCHEDULE):
        params.pop(key, None)
    if applied is None or applied.prediction is None:
        return
    chosen = automatic is None or (automatic.prediction, automatic.ztsnr) != (applied.prediction, applied.ztsnr)
    if applied.prediction == "epsilon" and not applied.ztsnr and not chosen:
        return
    params[PREDICTION] = _SHORT[applied.prediction]
    params[SOURCE] = _SOURCES.get(applied.source, applied.source)
    if applied.ztsnr:
        params[NOISE_SCHEDULE] = ZERO_TERMINAL_SNR


def choices(params: dict[str, Any], decision: Decision, default_rescale: float) -> Override:
    """What must be chosen for one picture so that it is made as ``params`` say; automatic wherever that is the same.

    ``decision`` and ``default_rescale`` are what the checkpoint gets here by itself.
    """
    prediction = _LONG.get(str(params.get(PREDICTION, "")).strip())
    ztsnr = params.get(NOISE_SCHEDULE) == ZERO_TERMINAL_SNR
    rescale = Override.from_json({"cfg_rescale": params.get(RESCALE)}).cfg_rescale
    # A text without our keys and without ZTSNR says nothing: a plain model, or another install.
    told = prediction is not None or rescale is not None
    wanted: dict[str, Any] = {}
    if prediction is not None and prediction != decision.prediction:
        # With another type than the file's own, its own ZTSNR does not follow by itself either.
        wanted |= {"prediction": prediction, "ztsnr": "on" if ztsnr else "off"}
    elif ztsnr != decision.ztsnr and (ztsnr or prediction is not None):
        wanted["ztsnr"] = "on" if ztsnr else "off"
    if (rescale or 0.0) != default_rescale and told:
        wanted["cfg_rescale"] = rescale or 0.0
    return Override.from_json(wanted)


def says_ztsnr(text: str) -> bool:
    """Whether the parameters of a text, its last line, name the schedule; Neo's own reader leaves that key out."""
    return f"{NOISE_SCHEDULE}: {ZERO_TERMINAL_SNR}" in text.strip().rpartition("\n")[2]


def translate(
    params: dict[str, Any],
    find: Callable[[dict[str, Any]], Path | None],
    resolve: Callable[[Path], tuple[Resolution, float]],
) -> Override:
    """Read a pasted text's parameters, once, and take out the keys that would become settings of the whole webui.

    ``find`` gives the checkpoint that the text speaks of, ``resolve`` what that one gets by itself. Where the
    checkpoint is not here or is none of ours, only what belongs to our own keys is taken out.
    """
    known = params.get(CHOICES)
    if isinstance(known, Override):
        return known
    path = find(params)
    resolution, rescale = resolve(path) if path is not None else (None, 0.0)
    found = Override()
    ours = resolution is not None and resolution.decision.prediction is not None
    if resolution is not None and ours:
        found = choices(params, resolution.decision, rescale)
    if (ours or PREDICTION in params) and params.pop(NOISE_SCHEDULE, None) == ZERO_TERMINAL_SNR:
        # In half precision the last noise level of this schedule is infinite.
        params.pop(DOWNCAST, None)
    params[CHOICES] = found
    return found
