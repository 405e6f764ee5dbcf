"""AUTOMATIC1111: the right config when a model is built, prediction type and schedule on the model that was loaded.

The model object is where the state lives: ``parameterization`` picks the k-diffusion wrapper, and
``alphas_cumprod_original`` is what the webui starts from before each batch. Both are written for every model that
Modelsmith knows, absolutely, so that a weight swap into the same object leaves nothing behind.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from modelsmith import schedules
from modelsmith.configs import is_v_prediction, with_v_prediction
from modelsmith.decision import DISCRETE_ARCHITECTURES, Decision, Override
from modelsmith.errors import BadFileError, ModelsmithError
from modelsmith_webui.host import Capability, LoadedStatus
from modelsmith_webui.hosts.a1111_vae import A1111Vae, resolving_module
from modelsmith_webui.hosts.common import Resolution, path_of
from modelsmith_webui.hosts.webui import WebuiHost
from modelsmith_webui.overrides import write_override

if TYPE_CHECKING:
    from modelsmith_webui.probing import RawNetwork

logger = logging.getLogger(__name__)

STATE = "_modelsmith"
# What this webui builds models of.
ARCHITECTURES = DISCRETE_ARCHITECTURES | {"sd3"}
ZTSNR_OPTION = "Zero Terminal SNR"
# The webui's names of the prediction types.
PARAMETERIZATION = {"v_prediction": "v", "epsilon": "eps"}
# Files store the plain table in half precision at worst; within that, the exact one is meant.
HALF_PRECISION = 2e-3

_installs = itertools.count()
# Configs made by us and the ones they were made from. The module outlives a reload of the UI, as the model does.
_made_from: dict[str, str] = {}


@dataclass
class Applied:
    """Kept on a model: what was set, and what the webui had."""

    path: Path
    decision: Decision
    host_parameterization: str
    host_schedule: Any  # torch tensor, shape (1000,)
    schedule: Any  # ours, in place of the host's; identity tells whether the webui has put in another since


class A1111Host(WebuiHost):
    """AUTOMATIC1111 1.10: SD1, SD2 and SDXL through ldm and sgm configs."""

    capabilities: frozenset[Capability] = frozenset(
        {"prediction", "config", "user_metadata", "loaded_model", "webui"},
    )

    def __init__(self) -> None:
        super().__init__("A1111")
        self._patches: list[tuple[Any, str, Callable[..., Any]]] = []
        # The key of the patches that are in force; a wrapper with another one does nothing any more.
        self._key: str | None = None
        self._reapply_waits = False
        self.vae = A1111Vae(self, lambda: self._key is not None)

    # taking hold

    def install(self) -> None:
        if self._key is not None:
            return
        from modules import sd_models, sd_models_config

        self._key = f"modelsmith-{next(_installs)}"
        self._patch(sd_models_config, "find_checkpoint_config", self._wrap_find_config)
        self._patch(sd_models, "apply_alpha_schedule_override", self._wrap_schedule_override)
        sd_vae = resolving_module()
        if sd_vae is not None:
            self._patch(sd_vae, "resolve_vae", self._wrap_resolve_vae)

    def _patch(self, module: Any, name: str, wrap: Callable[[Any, str | None], Callable[..., Any]]) -> None:
        from modules import patches

        replacement = wrap(getattr(module, name), self._key)
        patches.patch(self._key, module, name, replacement)
        self._patches.append((module, name, replacement))

    def uninstall(self) -> None:
        """Undo the patches and give every model in memory what the webui would have set.

        Where another extension has wrapped one of the functions since, it keeps our wrapper, which then does nothing.
        """
        if self._key is None:
            return
        from modules import patches

        key, self._key = self._key, None
        for module, name, replacement in self._patches:
            if getattr(module, name) is replacement:
                patches.undo(key, module, name)
        self._patches.clear()
        for model in self._models_in_memory():
            self._restore(model)
        self.vae.put_back()

    # the VAE

    def _wrap_resolve_vae(self, original: Callable[[Any], Any], key: str | None) -> Callable[[Any], Any]:
        def resolve_vae(checkpoint_file: Any) -> Any:
            return original(checkpoint_file) if self._key != key else self.vae.resolve(original, checkpoint_file)

        return resolve_vae

    # the config

    def _wrap_find_config(self, original: Callable[..., str], key: str | None) -> Callable[..., str]:
        def find_checkpoint_config(state_dict: Any, info: Any) -> str:
            if self._key != key or info is None:
                return original(state_dict, info)
            self._say_what_cannot_run(Path(info.filename))
            return self._find_config(original, state_dict, info)

        return find_checkpoint_config

    def _find_config(self, original: Callable[..., str], state_dict: Any, info: Any) -> str:
        """The config for a checkpoint. It is asked for twice per load, and a change of the path rebuilds the model."""
        from modules import sd_models_config

        beside = sd_models_config.find_checkpoint_config_near_filename(info)
        if beside is not None:
            return cast(str, beside)
        decision = self.resolver.resolve(info.filename).decision
        if decision.prediction is None:
            return original(state_dict, info)
        is_v = decision.prediction == "v_prediction"
        if decision.config is not None and decision.config.base == "sd2":
            # The webui tells the two apart by running a whole UNet, twice, eight seconds each.
            return cast(str, sd_models_config.config_sd2v if is_v else sd_models_config.config_sd2)
        # Of a copy: the webui's next version takes ``v_pred`` out of what it is given, and finds epsilon later.
        stock = original(None if state_dict is None else dict(state_dict), info)
        return self._v_config(stock) if is_v else stock

    def _say_what_cannot_run(self, path: Path) -> None:
        problem = self.cannot_run(self.resolver.resolve(path))
        if problem:
            logger.warning("%s: %s", path.name, problem)

    def cannot_run(self, resolution: Resolution) -> str | None:
        if resolution.decision.prediction is not None or resolution.decision.source == "off":
            return None
        report = resolution.report
        if report.architecture is None:
            return None
        if report.architecture not in ARCHITECTURES:
            return f"the file is {report.architecture}, which {self.name} cannot load"
        found = report.prediction.type
        if found in ("edm", "edm_v_prediction", "flow") and report.architecture in DISCRETE_ARCHITECTURES:
            return (
                f"the file is a model of type {found}; {self.name} samples it as epsilon on the discrete schedule, "
                "which gives noise; use a webui that has a schedule for it"
            )
        return None

    def _v_config(self, stock: str) -> str:
        """A config like ``stock`` that builds a v-prediction model; ``stock`` itself where none can be made."""
        try:
            return _make_v_config(Path(stock), self.data_folder() / "configs")
        except (OSError, ModelsmithError) as error:
            logger.warning("no v-prediction config can be made from %s (%s); the webui's own is used", stock, error)
            return stock

    # the loaded model

    def _wrap_schedule_override(self, original: Callable[..., None], key: str | None) -> Callable[..., None]:
        def apply_alpha_schedule_override(sd_model: Any, p: Any = None) -> None:
            original(sd_model, p)
            if self._key == key:
                _keep_schedule(sd_model, p)

        return apply_alpha_schedule_override

    def _models_in_memory(self) -> list[Any]:
        from modules import sd_models

        current = self.loaded_model()
        models = list(getattr(sd_models.model_data, "loaded_sd_models", []))
        if current is not None and all(model is not current for model in models):
            models.append(current)
        return models

    def reapply(self) -> None:
        """Bring the models in memory in line with settings and overrides; a running job keeps what it started with."""
        from modules import shared

        if shared.state.job:
            self._reapply_waits = True
            return
        self._reapply_waits = False
        for model in self._models_in_memory():
            self._apply(model)
        self.vae.reapply()

    def set_override(self, path: Path, override: Override) -> None:
        write_override(path, override)
        self.reapply()

    def model_loaded(self, model: Any) -> None:
        self._apply(model)

    def before_process(self, processing: Any) -> None:
        if self._reapply_waits:
            self._reapply_waits = False
            for model in self._models_in_memory():
                self._apply(model)
        self._apply(processing.sd_model)

    def before_batch(self, processing: Any) -> None:
        self._apply(processing.sd_model)

    def _apply(self, model: Any) -> None:
        """Set prediction type and schedule of one model. Doing it again changes nothing."""
        info = getattr(model, "sd_checkpoint_info", None)
        if self._key is None or info is None or not _has_discrete_schedule(model):
            return
        path = path_of(info.filename)
        decision = self.resolver.resolve(path).decision
        known = _applied(model, path)
        if decision.prediction is None:
            self._restore(model)
            return
        if known is None or known.decision != decision:
            _set_schedule(model, path, decision, known)
            logger.info("%s: %s", path.name, "; ".join(decision.reasons))
        model.parameterization = PARAMETERIZATION[decision.prediction]

    def _restore(self, model: Any) -> None:
        """Give a model that we changed what the webui would have set by itself."""
        info = getattr(model, "sd_checkpoint_info", None)
        if info is None or getattr(model, STATE, None) is None:
            return
        from modules import sd_models

        known = _applied(model, path_of(info.filename))
        if known is not None:
            model.alphas_cumprod_original = known.host_schedule
            model.parameterization = known.host_parameterization
        else:
            # Other weights were put into the object since; only the prediction type can be left over from before.
            model.parameterization = _host_parameterization(model)
        delattr(model, STATE)
        sd_models.apply_alpha_schedule_override(model)

    def raw_network(self) -> AbstractContextManager[RawNetwork]:
        """The network in memory for the prediction probe, as a job of the webui."""
        from modelsmith_webui.hosts.a1111_probe import raw_network

        return raw_network(self.loaded_model())

    def has_set(self, model: Any, path: Path, decision: Decision) -> bool:
        known = _applied(model, path)
        return known is not None and known.decision == decision

    def status(self) -> LoadedStatus | None:
        model, path = self.loaded_model(), self.loaded_checkpoint()
        if model is None or path is None:
            return None
        resolution = self.resolver.resolve(path)
        decision, problem = resolution.decision, self.cannot_run(resolution)
        now = getattr(model, "alphas_cumprod", None)
        last = None if now is None else float(now[-1])
        sigma = None if not last else ((1.0 - last) / last) ** 0.5
        return LoadedStatus(
            path=path,
            decision=decision,
            applied=self.has_set(model, path, decision),
            config=getattr(model, "used_config", None),
            sigma_max=sigma,
            notes=(*([problem] if problem else []), *_notes(decision), *self.vae.notes()),
        )


def _notes(decision: Decision) -> list[str]:
    """What in the webui's settings gets in the way of the decision."""
    from modules import shared

    notes: list[str] = []
    opts = shared.opts
    if (
        decision.prediction == "epsilon"
        and getattr(opts, "sd_noise_schedule", "") == ZTSNR_OPTION
        and not decision.ztsnr_said
    ):
        notes.append("Settings > Noise schedule is Zero Terminal SNR, which spoils the pictures of an epsilon model.")
    if decision.ztsnr and getattr(opts, "sigma_max", 0):
        notes.append("Settings > sigma max overrides the noise level that this model starts from; set it to 0.")
    if decision.ztsnr and getattr(opts, "use_old_karras_scheduler_sigmas", False):
        notes.append("Settings > old karras scheduler sigmas overrides the noise level that this model starts from.")
    return notes


def _has_discrete_schedule(model: Any) -> bool:
    schedule = getattr(model, "alphas_cumprod_original", None)
    return schedule is not None and not schedule.is_meta and hasattr(model, "parameterization")


def _applied(model: Any, path: Path) -> Applied | None:
    """What we set on a model, unless other weights or another schedule were put into it since."""
    known = getattr(model, STATE, None)
    if known is None or known.path != path or model.alphas_cumprod_original is not known.schedule:
        return None
    return cast(Applied, known)


def _set_schedule(model: Any, path: Path, decision: Decision, known: Applied | None) -> None:
    import torch
    from modules import sd_models

    host = known.host_schedule if known is not None else _host_schedule(model, path)
    values = host.detach().double().cpu().numpy()
    if decision.ztsnr:
        plain = schedules.alphas_cumprod(len(values))
        exact = plain if abs(values / plain - 1.0).max() < HALF_PRECISION else values
        values = schedules.zero_terminal_snr(exact)
        # A table that was saved after rescaling ends in 0, which would be an infinite noise level.
        values[-1] = max(values[-1], schedules.TERMINAL_ALPHAS_CUMPROD)
    schedule = torch.tensor(values, dtype=torch.float32, device=host.device)
    parameterization = known.host_parameterization if known is not None else _host_parameterization(model)
    model.alphas_cumprod_original = schedule
    setattr(model, STATE, Applied(path, decision, parameterization, host, schedule))
    sd_models.apply_alpha_schedule_override(model)


def _host_schedule(model: Any, path: Path) -> Any:
    """The schedule that the webui should have for the weights it has just loaded, as a tensor of its own.

    SDXL's is computed at each load. SD1 and SD2 keep the table of the weights that were in the object before, rescaled
    or not, unless the file brings one: then the one of the model's config is computed here.
    """
    import torch

    current = model.alphas_cumprod_original
    if getattr(model, "is_sdxl", False) or _brings_schedule(path):
        return current.clone()
    start = getattr(model, "linear_start", schedules.LINEAR_START)
    end = getattr(model, "linear_end", schedules.LINEAR_END)
    values = schedules.alphas_cumprod(len(current), float(start), float(end))
    return torch.tensor(values, dtype=torch.float32, device=current.device)


def _brings_schedule(path: Path) -> bool:
    from modelsmith.files.header import read_header

    try:
        return "alphas_cumprod" in read_header(path).tensors
    except BadFileError:
        return False


def _read_config(path: str | Path) -> dict[str, Any]:
    """A model config as a dict. Raises BadFileError where it cannot be read or is none."""
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadFileError(path, f"cannot be read as a config ({error})") from error
    if not isinstance(found, dict):
        raise BadFileError(path, "is not a config")
    return cast("dict[str, Any]", found)


def _host_parameterization(model: Any) -> str:
    """What the webui would have set from the config that it would have used."""
    used = str(getattr(model, "used_config", ""))
    if not used:
        return str(model.parameterization)
    try:
        return "v" if is_v_prediction(_read_config(_made_from.get(used, used))) else "eps"
    except BadFileError as error:
        logger.warning("%s", error)
        return str(model.parameterization)


def _keep_schedule(model: Any, processing: Any) -> None:
    """Undo what the webui's own options do to a ZTSNR schedule: rescale it a second time, or put it in half precision.

    In half precision the last values become 0, which is an infinite noise level and black pictures. Whatever the
    schedule, the one that is sampled with becomes a copy: weights that bring a table are loaded into it in place.
    """
    from modules import shared

    known = getattr(model, STATE, None)
    if known is None or model.alphas_cumprod_original is not known.schedule:
        return
    decision = known.decision
    # What a person said for this file or picture goes before the webui's option for all.
    said_off = decision.ztsnr_said and not decision.ztsnr
    # The webui's next version rescales by itself what has a ``ztsnr`` tensor, epsilon models too.
    by_itself = getattr(model, "ztsnr", False) and getattr(shared.opts, "sd_noise_schedule", "") != ZTSNR_OPTION
    if decision.ztsnr or said_off or by_itself or model.alphas_cumprod is known.schedule:
        model.alphas_cumprod = known.schedule.to(shared.device, copy=True)
    if processing is None:
        return
    if decision.ztsnr or said_off:
        processing.extra_generation_params.pop("Downcast alphas_cumprod", None)
    if decision.ztsnr and "Noise Schedule" in processing.extra_generation_params:
        # That version writes the option here, which may be another.
        processing.extra_generation_params["Noise Schedule"] = ZTSNR_OPTION
    elif said_off or by_itself:
        processing.extra_generation_params.pop("Noise Schedule", None)


def _make_v_config(stock: Path, folder: Path) -> str:
    """Write the v-prediction form of a config under a name that depends on its content alone; its absolute path."""
    import yaml

    config = _read_config(stock)
    if is_v_prediction(config):
        return str(stock)
    wanted = yaml.safe_dump(with_v_prediction(config), sort_keys=False)
    digest = hashlib.sha256(wanted.encode()).hexdigest()[:8]
    target = (folder / f"{stock.stem}-v-{digest}.yaml").resolve()
    if not target.exists() or target.read_text(encoding="utf-8") != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.modelsmith-{os.getpid()}.tmp")
        aside.write_text(wanted, encoding="utf-8")
        os.replace(aside, target)
    _made_from[str(target)] = str(stock)
    return str(target)
