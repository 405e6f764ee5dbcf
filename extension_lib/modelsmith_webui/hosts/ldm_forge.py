"""The Forge family with the LDM backend: reForge (main, main-old) and Classic.

These webuis keep the noise schedule twice: ``alphas_cumprod`` on the model gives the samplers their sigmas, and the
UNet's ``model_sampling`` looks up the timestep of a sigma. The prediction type is a base class of ``model_sampling``.
Both tables and the class are set on the objects of the loaded model, from a schedule of our own, and set again before
each batch, because the webuis' own way damages them: reForge puts them back without a ``finally`` and takes what it
finds after an exception for the original, later Classic rescales one of them in place with every batch, and neither
looks at the second model of a hires or refiner pass.

``model_sampling`` stays the same object, only its class and its tables change: reForge's Advanced Model Sampling puts
another object in its place for a while and then puts this one back.
"""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from modelsmith import schedules
from modelsmith.decision import Decision, Override
from modelsmith.schedules import FloatArray
from modelsmith_webui.host import Capability, LoadedStatus
from modelsmith_webui.hosts.a1111_vae import resolving_module
from modelsmith_webui.hosts.common import Resolution, path_of
from modelsmith_webui.hosts.ldm_forge_config import find_config
from modelsmith_webui.hosts.ldm_forge_text import leave_recipes_out, text_encoder_module, wrap_list
from modelsmith_webui.hosts.ldm_forge_vae import LdmForgeVae, keep_own_vae
from modelsmith_webui.hosts.webui import WebuiHost

if TYPE_CHECKING:
    from modelsmith_webui.probing import RawNetwork

logger = logging.getLogger(__name__)

STATE = "_modelsmith"
# What the webuis call the class that they build, its first base and, for each prediction type, its second one.
SAMPLING, DISCRETE = "ModelSampling", "ModelSamplingDiscrete"
PREDICTION_BASES = {"epsilon": "EPS", "v_prediction": "V_PREDICTION"}
# Copies that the webui puts back after a batch, whatever was set in between.
LEFTOVERS = ("sigmas_original", "alphas_cumprod_original")
HOST_ZTSNR_OPTION = "Zero Terminal SNR"
AMS_SCRIPT = "advanced model sampling for reforge"
# Nearer than this a table of the webui's is the one that is meant, in its own rounding.
SAME_TABLE = 1e-4

_installs = itertools.count()


@dataclass
class ModelState:
    """What the webui had set on a model when it was first met, and what it was set to since."""

    sampling: Any  # the UNet's model_sampling
    sampling_class: type
    sigmas: Any  # its table, torch tensor, shape (T,)
    cumprod: Any  # the model's alphas_cumprod, torch tensor, shape (T,)
    cumprod_original: Any  # the webui's own copy of it, or None
    ztsnr_flag: Any
    plain: tuple[Any, Any]  # sigmas and alphas_cumprod of the family, float32 tensors, shape (T,)
    ztsnr: tuple[Any, Any]  # the same with zero terminal SNR
    decision: Decision | None = None  # None: as the webui had it
    rescaled: bool = False
    notes: tuple[str, ...] = ()


def _unet(model: Any) -> Any:
    return getattr(getattr(getattr(model, "forge_objects", None), "unet", None), "model", None)


def _bases(sampling: Any) -> tuple[str, ...]:
    return tuple(base.__name__ for base in type(sampling).__bases__)


def discrete_sampling(model: Any) -> Any | None:
    """The ``model_sampling`` of a loaded model where type and schedule may be set, else None.

    Flow, EDM and all other samplings have other bases, and what a script put in its place has another name.
    """
    sampling = getattr(_unet(model), "model_sampling", None)
    if type(sampling).__name__ != SAMPLING or getattr(model, "alphas_cumprod", None) is None:
        return None
    return sampling if _bases(sampling) in {(DISCRETE, base) for base in PREDICTION_BASES.values()} else None


def _plain_schedule(model: Any, sampling: Any) -> FloatArray | None:
    """``alphas_cumprod`` before any rescaling; None where the model's config wants another kind of schedule."""
    settings = getattr(getattr(_unet(model), "model_config", None), "sampling_settings", None) or {}
    if settings.get("beta_schedule", "linear") != "linear" or len(sampling.sigmas) != len(model.alphas_cumprod):
        return None
    start = settings.get("linear_start", schedules.LINEAR_START)
    end = settings.get("linear_end", schedules.LINEAR_END)
    return schedules.alphas_cumprod(len(sampling.sigmas), float(start), float(end))


def _values(tensor: Any) -> FloatArray:
    return tensor.detach().cpu().double().numpy()


def _table(wanted: FloatArray, host: Any) -> Any:
    """A table as float32 tensor; the webui's own where it is the same but for rounding, so that pictures stay equal."""
    import torch

    if np.allclose(_values(host), wanted, rtol=SAME_TABLE, atol=0.0):
        return host
    return torch.tensor(wanted, dtype=torch.float32, device=host.device)


def _tables(wanted: FloatArray, sigmas: Any, cumprod: Any) -> tuple[Any, Any]:
    """Both tables of the schedule ``wanted``, an ``alphas_cumprod`` of shape (T,), beside the webui's own."""
    return _table(schedules.sigmas(wanted), sigmas), _table(wanted, cumprod)


def _set_tables(model: Any, sampling: Any, sigmas: Any, cumprod: Any) -> None:
    """Give the model both tables; copies, because the webui may rescale in place."""
    import torch

    if not torch.equal(sampling.sigmas, sigmas.to(sampling.sigmas.device)):
        sampling.set_sigmas(sigmas.clone())
    if not torch.equal(model.alphas_cumprod, cumprod.to(model.alphas_cumprod.device)):
        model.alphas_cumprod = cumprod.clone()


def _sampling_class(sampling: Any, prediction: str) -> type:
    """The webui's class for a prediction type, made of the same parts as the one that it built."""
    wanted = PREDICTION_BASES[prediction]
    discrete, current = type(sampling).__bases__
    if current.__name__ == wanted:
        return type(sampling)
    base = getattr(sys.modules[current.__module__], wanted)
    return type(SAMPLING, (discrete, base), {"__module__": type(sampling).__module__})


def _advanced_sampling_is_on(processing: Any) -> bool:
    """Whether the user ticked reForge's Advanced Model Sampling for this job, which then has the last word."""
    given = getattr(processing, "script_args", None) or ()
    for script in getattr(getattr(processing, "scripts", None), "alwayson_scripts", None) or ():
        if str(getattr(script, "name", "")).startswith(AMS_SCRIPT):
            values = given[script.args_from : script.args_to]
            if len(values) > 0 and values[0]:
                return True
    return False


class LdmForgeHost(WebuiHost):
    """reForge main and main-old, Classic."""

    capabilities: frozenset[Capability] = frozenset({"prediction", "config", "user_metadata", "loaded_model", "webui"})

    def __init__(self, name: str = "reForge") -> None:
        super().__init__(name)
        self._patches: list[tuple[Any, str, Callable[..., Any]]] = []
        # The key of the patches that are in force; a wrapper with another one does nothing any more.
        self._key: str | None = None
        self._configs: dict[Path, str] = {}
        self._mended: type | None = None
        self._text: ModuleType | None = None
        self.vae = LdmForgeVae(self, lambda: self._key is not None)

    # taking hold

    def install(self) -> None:
        """Keep the webui's own Zero Terminal SNR option from rescaling what is rescaled already; configs and VAEs."""
        if self._key is not None:
            return
        from modules import processing, sd_models
        from modules_forge import forge_loader

        self._key = f"modelsmith-{next(_installs)}"
        self._patch(processing, "rescale_zero_terminal_snr_sigmas", self._wrap_rescale)
        self._patch(sd_models, "apply_alpha_schedule_override", self._wrap_override)
        self._patch(forge_loader, "find_checkpoint_config", self._wrap_find_config)
        self._patch(resolving_module(), "resolve_vae", self._wrap_resolve_vae)
        self._patch(resolving_module(), "store_base_vae", self._wrap_store_base_vae)
        self._mend_failed_loads(type(sd_models.model_data))
        self._text = text_encoder_module()
        if self._text is not None:
            self._patch(self._text, "list_text_encoders", self._wrap_list_text_encoders)
            leave_recipes_out(self._text)

    def _mend_failed_loads(self, data: type) -> None:
        """Let Classic load again: a load that failed leaves it without the attribute that every load looks at."""
        if not hasattr(data, "sd_model"):
            setattr(data, "sd_model", None)  # noqa: B010 - a class of the webui
            self._mended = data

    def _patch(self, module: Any, name: str, wrap: Callable[[Any, str | None], Callable[..., Any]]) -> None:
        from modules import patches

        if not hasattr(module, name):
            return
        replacement = wrap(getattr(module, name), self._key)
        patches.patch(self._key, module, name, replacement)
        self._patches.append((module, name, replacement))

    def _wrap_rescale(self, original: Callable[..., Any], key: str | None) -> Callable[..., Any]:
        def rescale_zero_terminal_snr_sigmas(sigmas: Any) -> Any:
            ends = schedules.sigmas(np.array([schedules.TERMINAL_ALPHAS_CUMPROD]))[0]
            if self._key == key and float(sigmas[-1]) > ends * (1.0 - SAME_TABLE):
                return sigmas
            return original(sigmas)

        return rescale_zero_terminal_snr_sigmas

    def _wrap_override(self, original: Callable[..., Any], key: str | None) -> Callable[..., Any]:
        def apply_alpha_schedule_override(sd_model: Any, p: Any = None, *args: Any, **kwargs: Any) -> None:
            original(sd_model, p, *args, **kwargs)
            state: ModelState | None = getattr(sd_model, STATE, None)
            if self._key == key and state is not None and state.rescaled:
                self._write_tables(sd_model, state)

        return apply_alpha_schedule_override

    def _wrap_find_config(self, original: Callable[..., Any], key: str | None) -> Callable[..., Any]:
        def find_checkpoint_config(state_dict: Any, info: Any) -> Any:
            if self._key != key or info is None:
                return original(state_dict, info)
            found = find_config(original, self.resolver, state_dict, info)
            self._configs[path_of(info.filename)] = Path(found).name
            return found

        return find_checkpoint_config

    def _wrap_resolve_vae(self, original: Callable[[Any], Any], key: str | None) -> Callable[[Any], Any]:
        def resolve_vae(checkpoint_file: Any) -> Any:
            return original(checkpoint_file) if self._key != key else self.vae.resolve(original, checkpoint_file)

        return resolve_vae

    def _wrap_store_base_vae(self, original: Callable[[Any], Any], key: str | None) -> Callable[..., Any]:
        def store_base_vae(model: Any) -> Any:
            return original(model) if self._key != key else keep_own_vae(original, model)

        return store_base_vae

    def _wrap_list_text_encoders(self, original: Callable[..., Any], key: str | None) -> Callable[..., Any]:
        return wrap_list(cast(ModuleType, self._text), original, lambda: self._key == key)

    def uninstall(self) -> None:
        """Undo the patches and put every model in memory back as the webui had it."""
        if self._key is not None:
            from modules import patches

            key, self._key = self._key, None
            for module, name, replacement in self._patches:
                if getattr(module, name) is replacement:
                    patches.undo(key, module, name)
            self._patches.clear()
            if self._text is not None:
                self._text.list_text_encoders()
        if self._mended is not None:
            delattr(self._mended, "sd_model")
            self._mended = None
        for model in self._models_in_memory():
            state: ModelState | None = getattr(model, STATE, None)
            if state is not None:
                self._restore(model, state)
                delattr(model, STATE)
        self.vae.put_back()

    def _models_in_memory(self) -> list[Any]:
        from modules import sd_models

        current = self.loaded_model()
        models = [model for model in getattr(sd_models.model_data, "loaded_sd_models", ()) if model is not current]
        return models if current is None else [current, *models]

    # callbacks

    def model_loaded(self, model: Any) -> None:
        self._bring_in_line(model)
        for note in self._notes(getattr(model, STATE, None)):
            logger.warning("%s", note)

    def reapply(self) -> None:
        """Bring the models in memory in line; while a job runs that waits for the next one."""
        from modules import shared

        if shared.state.job:
            return
        for model in self._models_in_memory():
            self._bring_in_line(model)

    def set_override(self, path: Path, override: Override) -> None:
        super().set_override(path, override)
        # The preferred VAE is kept there too.
        self.vae.reapply()

    def before_process(self, processing: Any) -> None:
        self.before_batch(processing)

    def before_batch(self, processing: Any) -> None:
        current = self.loaded_model()
        for model in self._models_in_memory():
            self._bring_in_line(model, left=model is current and _advanced_sampling_is_on(processing))

    def raw_network(self) -> AbstractContextManager[RawNetwork]:
        """The network in memory for the prediction probe, as a job of the webui."""
        from ldm_patched.modules import model_management

        from modelsmith_webui.hosts.forge_probe import raw_network

        model = self.loaded_model()
        network = _unet(model)
        dtype = getattr(network, "manual_cast_dtype", None) or network.get_dtype()

        def load(unet: Any, _latents: Any) -> None:
            model_management.load_model_gpu(unet)

        return raw_network(model, load, model_management.get_torch_device(), dtype)

    def has_set(self, model: Any, path: Path, decision: Decision) -> bool:
        state: ModelState | None = getattr(model, STATE, None)
        return state is not None and state.decision == decision

    def status(self) -> LoadedStatus | None:
        path, model = self.loaded_checkpoint(), self.loaded_model()
        if path is None:
            return None
        decision = self.resolver.resolve(path).decision
        state: ModelState | None = getattr(model, STATE, None)
        sampling = state.sampling if state is not None else getattr(_unet(model), "model_sampling", None)
        table = getattr(sampling, "sigmas", None)
        return LoadedStatus(
            path,
            decision,
            applied=self.has_set(model, path, decision),
            config=self._configs.get(path),
            sigma_max=None if table is None else float(table[-1]),
            notes=(*self._notes(state), *self._left_alone(decision, state, sampling), *self.vae.notes()),
        )

    def _notes(self, state: ModelState | None) -> tuple[str, ...]:
        return () if state is None else state.notes

    def _left_alone(self, decision: Decision, state: ModelState | None, sampling: Any) -> tuple[str, ...]:
        if decision.prediction is None or state is not None or sampling is None:
            return ()
        return (f"this webui samples the file as {' '.join(_bases(sampling))}, which Modelsmith leaves as it is",)

    # the work

    def _bring_in_line(self, model: Any, left: bool = False) -> None:
        """Set what the decision says, or put back what the webui had; the same again changes nothing.

        ``left``: the user's own script decides for this job.
        """
        info = getattr(model, "sd_checkpoint_info", None)
        if self._key is None or info is None:
            return
        state = self._state(model)
        if state is None:
            return
        resolution = self.resolver.resolve(path_of(info.filename))
        if left or resolution.decision.prediction is None:
            self._restore(model, state)
            if left and resolution.decision.prediction is not None:
                state.notes = ("Advanced Model Sampling was on for the last job, so Modelsmith set nothing for it",)
            return
        first = state.decision != resolution.decision
        self._apply(model, state, resolution)
        if first:
            _log(path_of(info.filename), resolution.decision, state)

    def _state(self, model: Any) -> ModelState | None:
        """What is known of the model, taken down when it is first met; None where nothing may be set."""
        known: ModelState | None = getattr(model, STATE, None)
        sampling = discrete_sampling(model)
        if sampling is None or (known is not None and known.sampling is sampling):
            return known
        plain = _plain_schedule(model, sampling)
        if plain is None:
            return None
        original = getattr(model, "alphas_cumprod_original", None)
        sigmas = sampling.sigmas.detach().clone()
        cumprod = (known.cumprod if known is not None else model.alphas_cumprod).detach().clone()
        state = ModelState(
            sampling=sampling,
            sampling_class=type(sampling),
            sigmas=sigmas,
            cumprod=cumprod,
            cumprod_original=known.cumprod_original if known is not None else original,
            ztsnr_flag=known.ztsnr_flag if known is not None else getattr(model, "ztsnr", None),
            plain=_tables(plain, sigmas, cumprod),
            ztsnr=_tables(schedules.zero_terminal_snr(plain), sigmas, cumprod),
        )
        setattr(model, STATE, state)
        return state

    def _apply(self, model: Any, state: ModelState, resolution: Resolution) -> None:
        decision = resolution.decision
        if decision.prediction is None:
            return
        host_option = self._host_option_is_on()
        # The webui's option asks for ZTSNR everywhere; that is honoured where a model can use it.
        wished = host_option and decision.prediction == "v_prediction" and resolution.override.ztsnr != "off"
        state.rescaled = decision.ztsnr or wished
        state.sampling.__class__ = _sampling_class(state.sampling, decision.prediction)
        self._write_tables(model, state)
        for name in LEFTOVERS:
            model.__dict__.pop(name, None)
        if state.ztsnr_flag is not None:
            model.ztsnr = False
        state.decision = decision
        state.notes = _contradiction() if host_option and not state.rescaled else ()

    def _write_tables(self, model: Any, state: ModelState) -> None:
        sigmas, cumprod = state.ztsnr if state.rescaled else state.plain
        _set_tables(model, state.sampling, sigmas, cumprod)

    def _restore(self, model: Any, state: ModelState) -> None:
        """Put back what the webui had; what is known of it is kept."""
        if state.decision is None:
            return
        state.decision, state.rescaled, state.notes = None, False, ()
        state.sampling.__class__ = state.sampling_class
        _set_tables(model, state.sampling, state.sigmas, state.cumprod)
        for name in LEFTOVERS:
            model.__dict__.pop(name, None)
        if state.cumprod_original is not None:
            model.alphas_cumprod_original = state.cumprod_original
        if state.ztsnr_flag is not None:
            model.ztsnr = state.ztsnr_flag

    def _host_option_is_on(self) -> bool:
        from modules import shared

        return getattr(shared.opts, "sd_noise_schedule", "Default") == HOST_ZTSNR_OPTION


def _contradiction() -> tuple[str, ...]:
    return (
        f"the setting Noise schedule is {HOST_ZTSNR_OPTION!r} for every model, also for this one, which does not want "
        "it; set it to Default and let Modelsmith decide for each model",
    )


def _log(path: Path, decision: Decision, state: ModelState) -> None:
    logger.info(
        "%s: %s, ZTSNR %s, largest sigma %.2f (%s)",
        path.name,
        decision.prediction,
        "on" if state.rescaled else "off",
        float(state.sampling.sigmas[-1]),
        "; ".join(decision.reasons),
    )
