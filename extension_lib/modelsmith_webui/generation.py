"""The script in txt2img and img2img: choices for one picture, CFG rescale, what is recorded, and the advice."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelsmith.decision import Decision, Override, decide
from modelsmith.errors import ModelsmithError
from modelsmith_webui import infotext, settings, xyz, xyz_merge
from modelsmith_webui.hosts import a1111_rescale, forge_rescale
from modelsmith_webui.hosts.common import Resolution

if TYPE_CHECKING:
    from modelsmith.sampling_advice import Advice, Sampling

logger = logging.getLogger(__name__)

AUTOMATIC = "Automatic"
RESCALES = [AUTOMATIC, "Off", "0.2", "0.3", "0.5", "0.7", "1"]
JOB = "modelsmith_job"
# Below this Neo's own CFG rescale is off.
NEOS_LEAST_RESCALE = 0.05


@dataclass(frozen=True)
class Job:
    """What one job chose for its pictures, and the checkpoint it began with."""

    path: Path | None
    image: Override


def _choice(name: str, value: Any) -> tuple[str, Any]:
    """A value of a control, an axis or the API as a value of :class:`Override`."""
    text = str(value).strip().casefold().replace("-", "_")
    if text in ("", "automatic", "auto", "none"):
        return name, "auto"
    if name == "cfg_rescale":
        return name, 0.0 if text == "off" else text
    return name, {"v": "v_prediction", "vpred": "v_prediction", "eps": "epsilon"}.get(text, text)


def chosen(p: Any, args: tuple[Any, ...]) -> Override:
    """What is chosen for the pictures of a job: by an axis of the X/Y/Z plot, else by the script's controls.

    Choices that are not known are told in the log and left to automatic.
    """
    names = ("prediction", "ztsnr", "cfg_rescale")
    by_axis = {name: value for name, value in getattr(p, xyz.CHOSEN, {}).items() if name in names}
    return choice_of(dict(zip(names, args, strict=False)) | by_axis)


def choice_of(given: dict[str, Any]) -> Override:
    """The choice that these values of controls, axes or the API mean."""
    wanted = dict(_choice(name, value) for name, value in given.items())
    found = Override.from_json(wanted)
    for name, value in wanted.items():
        if value != "auto" and getattr(found, name) in ("auto", None):
            logger.warning("Modelsmith: %s=%r is not known; it is left to automatic", name, given[name])
    return found


def rescale_of(resolution: Resolution, image: Override | None = None) -> float:
    """phi for one picture: chosen for it, else for the file, else the setting, which is for ZTSNR v models alone."""
    decision = resolution.decision
    if decision.prediction is None:
        return 0.0
    for override in (image, resolution.override):
        if override is not None and override.cfg_rescale is not None:
            return override.cfg_rescale
    wants = decision.prediction == "v_prediction" and decision.ztsnr
    return float(settings.get(settings.CFG_RESCALE)) if wants else 0.0


def other_rescale(p: Any) -> str | None:
    """The parameter by which another extension says that it rescales the pictures of the job ``p``.

    Neo's own says so too, but not where an axis of the X/Y/Z plot chose it: that sets a field of the job alone.
    """
    if getattr(p, "rescale_cfg", 0.0) >= NEOS_LEAST_RESCALE:
        return "Rescale CFG"
    for key, value in p.extra_generation_params.items():
        name = key.casefold()
        if key == infotext.RESCALE or "rescale" not in name or "cfg" not in name:
            continue
        try:
            on = float(value) != 0.0
        except (TypeError, ValueError):
            on = False
        if on:
            return key
    return None


class Generation:
    """The script's work for one host. One object serves both tabs."""

    def __init__(self, host: Any) -> None:
        self.host = host
        self.resolver = getattr(host, "resolver", None)
        # The checkpoint of the last text that was pasted, where it asks for a choice for its picture.
        self.pasted_for: Path | None = None

    # a job

    def before_load(self, p: Any) -> None:
        """At the very start: nothing of an earlier job, also of one that failed, goes on to this one."""
        self._choose(None)
        xyz_merge.prepare(self.host, p)
        vae = getattr(self.host, "vae", None)
        if vae is not None:
            vae.choose_for_job(p, getattr(p, xyz.CHOSEN, {}).get("vae"))
        self.host.before_load(p)

    def begin(self, p: Any, args: tuple[Any, ...]) -> None:
        """The model is loaded, no sampler is built yet."""
        with self._held():
            self._begin(p, args)

    def _held(self) -> AbstractContextManager[None]:
        held = getattr(self.resolver, "held", None)
        return held() if held is not None else nullcontext()

    def _begin(self, p: Any, args: tuple[Any, ...]) -> None:
        path, image = self.host.loaded_checkpoint(), chosen(p, args)
        setattr(p, JOB, Job(path, image))
        self._choose(None if path is None or image.is_auto else (path, image))
        self.host.before_process(p)
        self._record(p, path)
        self._advise(p, path, image)
        self._ask_model(p)
        self._say_what_cannot_run(p, path)

    def before_batch(self, p: Any) -> None:
        job: Job | None = getattr(p, JOB, None)
        if job is not None and job.path is not None and not job.image.is_auto:
            self._choose((job.path, job.image))
        self.host.before_batch(p)

    def before_sampling(self, p: Any) -> None:
        """Before each sampling, also that of the hires pass."""
        with self._held():
            self._before_sampling(p)

    def _before_sampling(self, p: Any) -> None:
        self.host.before_sampling(p)
        params = p.extra_generation_params
        job: Job | None = getattr(p, JOB, None)
        path = self.host.loaded_checkpoint()
        if path is None or self.resolver is None:
            return
        phi = rescale_of(self.resolver.resolve(path), job.image if job is not None else None)
        if phi <= 0.0:
            forge_rescale.uninstall(p)
            return

        def yields() -> bool:
            other = other_rescale(p)
            if other is not None and params.pop(infotext.RESCALE, None) is not None:
                logger.info("CFG rescale is left to the one of %r", other)
            return other is not None

        rescale = forge_rescale if hasattr(p.sd_model, "forge_objects") else a1111_rescale
        if rescale.install(p, phi, yields):
            params[infotext.RESCALE] = f"{phi:g}"
        else:
            logger.warning("CFG rescale is off for this picture: another extension guides the sampling")

    def end(self, p: Any) -> None:
        """All pictures are made: what was chosen for them ends with them."""
        if self.resolver is not None and self.resolver.image is not None:
            self._choose(None)
            self.host.before_process(p)

    def _choose(self, image: tuple[Path, Override] | None) -> None:
        if self.resolver is None or self.resolver.image == image:
            return
        self.resolver.image = image
        # Models of other checkpoints may still be as the job before wanted them.
        self.host.reapply()

    def _record(self, p: Any, path: Path | None) -> None:
        applied = self.host.applied_decision()
        automatic = self._plain(path) if path is not None else None
        infotext.record(p.extra_generation_params, applied, automatic)

    def _say_what_cannot_run(self, p: Any, path: Path | None) -> None:
        problem = self.host.cannot_run(self.resolver.resolve(path)) if path is not None and self.resolver else None
        if problem and hasattr(p, "comment"):
            p.comment(f"Modelsmith: {problem}")

    def _ask_model(self, p: Any) -> None:
        """Where the setting asks for it: what a model whose type is in doubt says itself. Never stops a picture."""
        prober = getattr(self.host, "prober", None) if settings.get(settings.PROBE) else None
        if prober is None:
            return
        try:
            found = prober.before_picture()
        except (ModelsmithError, OSError, RuntimeError, ValueError) as error:
            logger.warning("the model in memory could not be asked what it predicts: %s", error)
            return
        if found is not None and found.agrees is False and hasattr(p, "comment"):
            p.comment(f"Modelsmith: {found.text()}")

    def _plain(self, path: Path) -> Decision | None:
        return decide(self.resolver.report(path)) if self.resolver is not None else None

    # pasting

    def pasted(self, params: dict[str, Any], text: str = "") -> Override:
        """What a pasted text means for one picture; keys that would become settings are taken out of ``params``.

        ``text`` is the whole of it, where the webui gives that too.
        """
        if self.resolver is None:
            return Override()
        resolver = self.resolver

        def resolve(path: Path) -> tuple[Resolution, float]:
            resolution = resolver.without_image(path)
            return resolution, rescale_of(resolution)

        left_out = infotext.NOISE_SCHEDULE not in params and infotext.says_ztsnr(text)
        if left_out:
            params[infotext.NOISE_SCHEDULE] = infotext.ZERO_TERMINAL_SNR
        found = infotext.translate(params, self._checkpoint_of, resolve)
        if left_out:
            params.pop(infotext.NOISE_SCHEDULE, None)
        self.pasted_for = None if found.is_auto else self._checkpoint_of(params)
        return found

    def _checkpoint_of(self, params: dict[str, Any]) -> Path | None:
        """The checkpoint that a text names; the chosen one where it names none."""
        from modules import sd_models

        named = [str(params[key]) for key in ("Model hash", "Model") if params.get(key)]
        if not named:
            return self.host.loaded_checkpoint()
        found = next((info for info in map(sd_models.checkpoint_aliases.get, named) if info is not None), None)
        return Path(found.filename) if found is not None else None

    # advice

    def sigma_max(self) -> float:
        """The webui's setting that caps noise levels; 0 where it does not."""
        from modules import shared

        return float(getattr(shared.opts, "sigma_max", 0) or 0)

    def rescale(self, path: Path, image: Override) -> float:
        """phi for a picture of this checkpoint."""
        if self.resolver is None:
            return 0.0
        return rescale_of(self.resolver.without_image(path, image), image)

    def advice(self, path: Path, sampling: Sampling, image: Override) -> Advice | None:
        """The advice for a picture of a checkpoint; None where its model has no zero terminal SNR."""
        from modelsmith.sampling_advice import advise

        return advise(sampling) if self._has_ztsnr(path, image) else None

    def _has_ztsnr(self, path: Path, image: Override) -> bool:
        decision = self.resolver.without_image(path, image).decision if self.resolver is not None else None
        return decision is not None and decision.prediction == "v_prediction" and decision.ztsnr

    def _advise(self, p: Any, path: Path | None, image: Override) -> None:
        """Keep the advice on this job for the API, and say what spoils pictures beneath them."""
        self.host.advice = None
        if path is None or not self._has_ztsnr(path, image):
            return
        from modelsmith.sampling_advice import Sampling

        hires = bool(getattr(p, "enable_hr", False))
        with_strength = hires or hasattr(p, "init_images")
        sampling = Sampling(
            sampler=str(p.sampler_name),
            scheduler=resolve_scheduler(p.sampler_name, getattr(p, "scheduler", None)),
            steps=int((getattr(p, "hr_second_pass_steps", 0) if hires else 0) or p.steps),
            cfg=float(p.cfg_scale),
            rescale=self.rescale(path, image),
            strength=p.denoising_strength if with_strength else None,
            sigma_max=self.sigma_max(),
        )
        found = self.advice(path, sampling, image)
        self.host.advice = found
        if found is not None and found.level == "bad" and hasattr(p, "comment"):
            p.comment(f"Modelsmith: {found.text()}")


def resolve_scheduler(sampler: Any, scheduler: Any) -> str:
    """The label of the scheduler that is used: "Automatic" stands for what the sampler prefers, or for uniform."""
    from modules import sd_samplers

    if scheduler not in (None, "", AUTOMATIC):
        return str(scheduler)
    known = getattr(sd_samplers, "all_samplers_map", {}).get(sampler)
    preferred = known.options.get("scheduler") if known is not None else None
    try:
        from modules import sd_schedulers
    except ImportError:
        return str(preferred or "Uniform").title()
    found = sd_schedulers.schedulers_map.get(preferred)
    return str(found.label) if found is not None else "Uniform"
