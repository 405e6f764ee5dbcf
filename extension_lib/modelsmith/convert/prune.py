"""Leaving out what does not change a picture: averages, training leftovers, schedule buffers, optimiser states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modelsmith.convert.model import Model
from modelsmith.convert.parts import is_marker
from modelsmith.errors import BadFileError
from modelsmith.files.dtypes import DTYPES, count
from modelsmith.identify.templates import unflatten_ema
from modelsmith.markers import LAST_ALPHA, SCHEDULE_BUFFERS

Ema = Literal["drop", "use", "keep"]

UNET_PREFIX = "model.diffusion_model."
EMA_PREFIX = "model_ema."
SCHEDULE = SCHEDULE_BUFFERS | {"alphas_cumprod_original"}

_LEFTOVERS = (
    "first_stage_model.loss.", "optimizer_states.", "optimizer.", "lr_schedulers.", "callbacks.", "loops.",
    "hyper_parameters.", "grad_scaler.", "native_amp_scaling_state.",
)  # fmt: skip
_NAMED = frozenset({"global_step", "epoch", "pytorch-lightning_version", "model_ema.decay", "model_ema.num_updates"})


@dataclass(frozen=True)
class PruneOptions:
    """ema: what becomes of the averaged UNet weights. schedule, training: whether those are left out."""

    ema: Ema = "drop"
    schedule: bool = True
    training: bool = True


@dataclass(frozen=True)
class PruneReport:
    """Bytes of tensors before and after, and how many tensors of each kind were left out."""

    bytes_before: int
    bytes_after: int
    dropped: dict[str, int]


def ema_name(name: str) -> str:
    """Where the average of a UNet tensor is kept: without dots, as CompVis' ldm/modules/ema.py writes it."""
    return EMA_PREFIX + name[len("model.") :].replace(".", "")


def prune(model: Model, options: PruneOptions) -> PruneReport:
    """Leave out what the options say. Markers always stay.

    With ``ema="use"`` the averages take the place of the UNet's weights; their dotless names are found from the
    UNet's own, and in a file that has only averages from those of the known UNets.
    Raises BadFileError where the averages are missing or do not fit.
    """
    before = model.bytes()
    dropped: dict[str, int] = {}
    if options.ema == "use":
        _use_ema(model)
    if options.schedule:
        keep_last_alpha(model)
    for name in list(model.tensors):
        kind = _reason(name, options)
        if kind and not is_marker(name):
            del model.tensors[name]
            model.quantized.pop(name, None)
            dropped[kind] = dropped.get(kind, 0) + 1
    if not any(not is_marker(name) for name in model.tensors):
        raise BadFileError(model.path, "nothing but what is pruned would be left", "Keep the EMA weights of this file")
    return PruneReport(before, model.bytes(), dropped)


def _reason(name: str, options: PruneOptions) -> str:
    if name.startswith(EMA_PREFIX):
        return "" if options.ema == "keep" else "ema"
    if name in SCHEDULE:
        return "schedule" if options.schedule else ""
    if name.startswith(_LEFTOVERS) or name in _NAMED:
        return "training" if options.training else ""
    return ""


def _use_ema(model: Model) -> None:
    names = [name for name in model.tensors if name.startswith(UNET_PREFIX) and not is_marker(name)]
    names = names or _known_names(model)
    averages = {name: ema_name(name) for name in names}
    present = sum(average in model.tensors for average in averages.values())
    if not names or not present:
        raise BadFileError(model.path, "it has no UNet with EMA weights beside it", "Prune it with the EMA dropped")
    missing = [name for name, average in averages.items() if average not in model.tensors]
    if missing:
        raise BadFileError(
            model.path,
            f"{len(missing)} of {len(names)} UNet tensors have no EMA weight, the first is {missing[0]!r}",
            "Prune it with the EMA dropped",
        )
    for name, average in averages.items():
        if name in model.tensors and model.tensors[average].shape != model.tensors[name].shape:
            raise BadFileError(
                model.path, f"the EMA weight of {name!r} has another shape", "Prune with the EMA dropped"
            )
        model.tensors[name] = model.tensors[average]
    model.notes.append(f"the EMA weights of {present} of {len(names)} UNet tensors are the weights now")


def _known_names(model: Model) -> list[str]:
    """The names of a UNet of which only the averages are there: the dots that they lost are those of a known UNet.

    Raises BadFileError where one of them belongs to none.
    """
    averages = {name: info for name, info in model.header.tensors.items() if name.startswith(EMA_PREFIX + "diffusion")}
    found = unflatten_ema(averages)
    strange = [flat for flat in found if "." not in flat]
    if strange:
        raise BadFileError(
            model.path, f"the EMA weight {strange[0]!r} belongs to no UNet that is known", "Use a file with the UNet"
        )
    return [UNET_PREFIX + name for name in found]


def keep_last_alpha(model: Model) -> None:
    """The last value says whether the model was made for zero terminal SNR: it outlives the buffer as metadata."""
    node = model.tensors.get("alphas_cumprod")
    if node is None or not count(node.shape) or not DTYPES[node.dtype].floating:
        return
    last = float(node.read(count(node.shape) - 1, 1).float())
    model.metadata.setdefault(LAST_ALPHA, repr(last))
    model.notes.append(f"the dropped alphas_cumprod ended at {last:.6g}; this is kept as metadata")
