"""Forge and the webuis with its backend (reForge's newmain_newforge, Neo): state on the predictor of the loaded model.

Forge keeps the prediction type as a string on ``KModel.predictor``, read anew at each step, and the schedule as the
predictor's ``sigmas``, which all samplers read when they are built. Both are plain attributes of an object that lives
and dies with the loaded model and that every clone of the UNet shares, so setting them once per load reaches UI, API,
hires, refiner and scripts alike, and nothing is left for the next model.

Forge's own way to zero terminal SNR (``model_config.ztsnr``: rescale before sampling, put back after) is not used: it
has no ``finally``, so an exception in sampling leaves the rescaled table behind, and it looks at the first model of a
hires or refiner pass only. The table is set for good instead and the flag cleared.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelsmith.decision import DISCRETE_ARCHITECTURES, Decision, Override
from modelsmith.schedules import FloatArray, sigmas, zero_terminal_snr
from modelsmith_webui.host import Capability, LoadedStatus
from modelsmith_webui.hosts import forge_edm
from modelsmith_webui.hosts.common import Resolution, path_of
from modelsmith_webui.hosts.forge_vae import ForgeVae
from modelsmith_webui.hosts.webui import WebuiHost
from modelsmith_webui.overrides import write_override

if TYPE_CHECKING:
    from modelsmith_webui.probing import RawNetwork

logger = logging.getLogger(__name__)

STATE = "_modelsmith"
# The predictor classes that follow the discrete schedule; flow and EDM ones are never touched.
DISCRETE_PREDICTOR = "Prediction"
DISCRETE_TYPES = ("epsilon", "v_prediction")
HOST_ZTSNR_OPTION = "Zero Terminal SNR"
# Two tables of the same schedule differ by less than this in their last value, plain and rescaled by a factor of 309.
SAME_SIGMA = 0.01


@dataclass
class ModelState:
    """What the host had set on a model when it was first met, and what it was set to since."""

    predictor: Any
    prediction_type: str
    ztsnr_flag: Any
    model_type: Any
    plain: FloatArray
    decision: Decision | None = None
    notes: tuple[str, ...] = ()


def discrete_predictor(model: Any) -> Any | None:
    """The predictor of a loaded model where prediction type and schedule may be set, else None."""
    unet = getattr(getattr(model, "forge_objects", None), "unet", None)
    predictor = getattr(getattr(unet, "model", None), "predictor", None)
    if type(predictor).__name__ != DISCRETE_PREDICTOR:
        return None
    settable = hasattr(predictor, "set_sigmas") and hasattr(predictor, "sigmas")
    return predictor if settable and getattr(predictor, "prediction_type", None) in DISCRETE_TYPES else None


def _table(predictor: Any) -> FloatArray:
    return predictor.sigmas.detach().cpu().double().numpy()


def plain_table(predictor: Any) -> FloatArray:
    """The sigmas that the host built the predictor with, shape (T,).

    ``set_sigmas`` leaves ``alphas_cumprod`` alone, so a table that no longer agrees with it is a leftover of an
    interrupted rescale, and the schedule is worked out again from ``alphas_cumprod``.
    """
    found = _table(predictor)
    cumprod = getattr(predictor, "alphas_cumprod", None)
    if cumprod is None:
        return found
    built = sigmas(cumprod.detach().cpu().double().numpy())
    return found if abs(found[-1] / built[-1] - 1.0) < SAME_SIGMA else built


def zero_terminal_snr_table(plain: FloatArray) -> FloatArray:
    """The sigmas of the same schedule with zero terminal SNR, shape kept."""
    return sigmas(zero_terminal_snr(1.0 / (1.0 + plain**2)))


def _set_table(predictor: Any, wanted: FloatArray) -> None:
    """Give the predictor a table; nothing happens where it has it already, in single precision."""
    if np.array_equal(_table(predictor).astype(np.float32), wanted.astype(np.float32)):
        return
    import torch

    table = torch.from_numpy(wanted.copy()).to(device=predictor.sigmas.device, dtype=torch.float32)
    type(predictor).set_sigmas(predictor, table)


def _keep_table(predictor: Any, keep: bool) -> None:
    """Make the predictor deaf to tables that others give it, or not any more."""
    if keep:
        predictor.__dict__["set_sigmas"] = _nothing
    else:
        predictor.__dict__.pop("set_sigmas", None)


def _nothing(_sigmas: Any) -> None:
    """In place of a predictor's ``set_sigmas``."""


def _with_name(model_type: Any, name: str) -> Any:
    """The member of the host's ModelType enum that means a prediction type; as it is where there is none."""
    members = getattr(type(model_type), "__members__", {})
    return members.get(name, model_type)


class ForgeHost(WebuiHost):
    """Forge, newmain_newforge and Neo."""

    capabilities: frozenset[Capability] = frozenset({"prediction", "user_metadata", "loaded_model", "webui"})

    def __init__(self, name: str = "Forge") -> None:
        super().__init__(name)
        self.vae = ForgeVae(self)

    # taking hold of the host needs no patch but for the VAE: the model object is enough

    def install(self) -> None:
        self.vae.install()

    def uninstall(self) -> None:
        self.vae.uninstall()
        self._restore(self.loaded_model())

    def model_loaded(self, model: Any) -> None:
        self._bring_in_line(model)
        status = self.status()
        if status is None:
            return
        for note in status.notes:
            logger.warning("%s: %s", status.path.name, note)

    def reapply(self) -> None:
        self._bring_in_line(self.loaded_model())
        self.vae.reapply()

    def set_override(self, path: Path, override: Override) -> None:
        write_override(path, override)
        self.reapply()

    def before_load(self, processing: Any) -> None:
        """Make Forge load again after a load that failed.

        A failed load leaves no model in memory but the mark of the previous one, so choosing that one again would be
        taken for "already loaded" and end in an exception for good.
        """
        from modules import sd_models

        data = sd_models.model_data
        if data.sd_model is None and getattr(data, "forge_hash", ""):
            data.forge_hash = ""
        self.vae.reapply()

    def before_process(self, processing: Any) -> None:
        self._bring_in_line(self.loaded_model())
        self.vae.note(processing)

    def before_batch(self, processing: Any) -> None:
        self._bring_in_line(self.loaded_model())

    def before_sampling(self, processing: Any) -> None:
        """Forge has just written its option into the infotext, also where this picture is made without it."""
        decision = self.applied_decision()
        if decision is not None and decision.ztsnr_said and not decision.ztsnr:
            processing.extra_generation_params.pop("Noise Schedule", None)

    def raw_network(self) -> AbstractContextManager[RawNetwork]:
        """The network in memory for the prediction probe, as a job of the webui."""
        from backend import memory_management
        from backend.sampling.sampling_function import sampling_prepare

        from modelsmith_webui.hosts.forge_probe import raw_network

        model = self.loaded_model()
        dtype = model.forge_objects_original.unet.model.computation_dtype
        return raw_network(model, sampling_prepare, memory_management.get_torch_device(), dtype)

    def has_set(self, model: Any, path: Path, decision: Decision) -> bool:
        state: ModelState | None = getattr(model, STATE, None)
        discrete = state is not None and state.decision == decision and discrete_predictor(model) is not None
        return discrete or forge_edm.installed(model) is not None

    def status(self) -> LoadedStatus | None:
        path, model = self.loaded_checkpoint(), self.loaded_model()
        if path is None:
            return None
        predictor = discrete_predictor(model)
        state: ModelState | None = getattr(model, STATE, None)
        resolution = self.resolver.resolve(path)
        decision = resolution.decision
        continuous = forge_edm.installed(model)
        shown = continuous or predictor
        sigma_max = float(shown.sigmas[-1]) if shown is not None else None
        notes = state.notes if state is not None and continuous is None else self._left_alone(resolution, continuous)
        applied = self.has_set(model, path, decision)
        return LoadedStatus(path, decision, applied, config=None, sigma_max=sigma_max, notes=notes + self.vae.notes())

    # the work

    def _bring_in_line(self, model: Any) -> None:
        """Set what the decision says, or put back what the host had; the same again changes nothing."""
        info = getattr(model, "sd_checkpoint_info", None)
        if info is None or self._continuous(model, path_of(info.filename)):
            return
        predictor = discrete_predictor(model)
        if predictor is None:
            return
        decision = self.resolver.resolve(path_of(info.filename)).decision
        if decision.prediction is None:
            self._restore(model)
            return
        state = self._state(model, predictor)
        first = state.decision != decision
        self._apply(model, state, decision)
        if first:
            self._log(path_of(info.filename), state)

    def _continuous(self, model: Any, path: Path) -> bool:
        """Whether the model is one for a continuous schedule, and has it now."""
        resolution = self.resolver.resolve(path)
        left = resolution.decision.prediction is None and resolution.decision.source != "off"
        if left and resolution.report.prediction.type == "edm_v_prediction":
            return forge_edm.install(model, path)
        forge_edm.restore(model)
        return False

    def _state(self, model: Any, predictor: Any) -> ModelState:
        state: ModelState | None = getattr(model, STATE, None)
        if state is None or state.predictor is not predictor:
            config: Any = getattr(model, "model_config", None)
            state = ModelState(
                predictor=predictor,
                prediction_type=predictor.prediction_type,
                ztsnr_flag=getattr(config, "ztsnr", None),
                model_type=getattr(config, "model_type", None),
                plain=plain_table(predictor),
            )
            setattr(model, STATE, state)
        return state

    def _apply(self, model: Any, state: ModelState, decision: Decision) -> None:
        state.predictor.prediction_type = decision.prediction
        config: Any = getattr(model, "model_config", None)
        if state.ztsnr_flag is not None:
            config.ztsnr = False
        if state.model_type is not None:
            name = "V_PREDICTION" if decision.prediction == "v_prediction" else "EPS"
            config.model_type = _with_name(state.model_type, name)
        # With its own option on, the host rescales what it finds and puts that back, so it must find the plain table;
        # where a person said for this file or picture that it is off, it finds a predictor that keeps its table.
        host_rescales = self._host_option_is_on() and not decision.ztsnr_said
        _keep_table(state.predictor, decision.ztsnr_said and self._host_option_is_on())
        rescaled = decision.ztsnr and not host_rescales
        _set_table(state.predictor, zero_terminal_snr_table(state.plain) if rescaled else state.plain)
        state.decision = decision
        state.notes = self._notes(decision, host_rescales)

    def _restore(self, model: Any) -> None:
        forge_edm.restore(model)
        state: ModelState | None = getattr(model, STATE, None)
        if state is None:
            return
        delattr(model, STATE)
        state.predictor.prediction_type = state.prediction_type
        _keep_table(state.predictor, False)
        _set_table(state.predictor, state.plain)
        config: Any = getattr(model, "model_config", None)
        if state.ztsnr_flag is not None:
            config.ztsnr = state.ztsnr_flag
        if state.model_type is not None:
            config.model_type = state.model_type

    def _host_option_is_on(self) -> bool:
        from modules import shared

        return getattr(shared.opts, "sd_noise_schedule", "Default") == HOST_ZTSNR_OPTION

    def _notes(self, decision: Decision, host_rescales: bool) -> tuple[str, ...]:
        if not host_rescales or decision.ztsnr:
            return ()
        return (
            f"the setting Noise schedule is {HOST_ZTSNR_OPTION!r} for every model, also for this one, which does not "
            "want it; set it to Default and let Modelsmith decide for each model",
        )

    def _left_alone(self, resolution: Resolution, continuous: Any) -> tuple[str, ...]:
        """What to say of a model that has no discrete schedule."""
        if continuous is not None:
            low, high = float(continuous.sigmas[0]), float(continuous.sigmas[-1])
            return (f"EDM v-prediction on continuous noise levels from {low:g} to {high:g}",)
        problem = self.cannot_run(resolution)
        return (problem,) if problem else ()

    def cannot_run(self, resolution: Resolution) -> str | None:
        if resolution.decision.prediction is not None or resolution.decision.source == "off":
            return None
        found, architecture = resolution.report.prediction.type, resolution.report.architecture
        if found == "edm":
            return f"the file is an EDM model (Playground v2.5), which {self.name} cannot run: it fails to load"
        if found == "edm_v_prediction" and forge_edm.installed(self.loaded_model()) is None:
            return f"the file is an EDM v-prediction model (CosXL), for which this {self.name} has no schedule"
        if found == "flow" and architecture in DISCRETE_ARCHITECTURES and discrete_predictor(self.loaded_model()):
            return (
                f"the file is a flow model with the network of {architecture}; {self.name} samples it as a diffusion "
                "model, which gives noise"
            )
        return None

    def _log(self, path: Path, state: ModelState) -> None:
        decision = state.decision
        if decision is None:
            return
        sigma_max = float(state.predictor.sigmas[-1])
        why = "; ".join(decision.reasons)
        logger.info(
            "%s: %s, ZTSNR %s, largest sigma %.2f (%s)",
            path.name,
            decision.prediction,
            "on" if decision.ztsnr else "off",
            sigma_max,
            why,
        )
