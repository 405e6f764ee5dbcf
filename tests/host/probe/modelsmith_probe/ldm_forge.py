"""The probe's part for reForge and Classic: families match at any width, parts are as wide as the file has them."""

from __future__ import annotations

import math
import types
from typing import Any

from modelsmith_probe import record

WATCHED = (0, 500, 900, 998, 999)
PREDICTIONS = {"EPS": "epsilon", "V_PREDICTION": "v_prediction"}


def _layers(state_dict: Any) -> int:
    for mark in (".encoder.layers.", ".transformer.resblocks."):
        numbers = {name.split(mark)[1].split(".")[0] for name in state_dict if mark in name}
        if numbers:
            return len(numbers)
    return 0


def _match_any_width() -> None:
    from ldm_patched.modules import supported_models_base

    whole = supported_models_base.BASE.matches.__func__

    def matches(cls: Any, unet_config: Any, *args: Any, **kwargs: Any) -> bool:
        width = cls.unet_config.get("model_channels")
        return whole(cls, {**unet_config, "model_channels": width} if width else unet_config, *args, **kwargs)

    supported_models_base.BASE.matches = classmethod(matches)


def _narrow_text_encoders() -> None:
    """The configs that the webui reads from its own folder get as many layers as the file has.

    For the whole load: reForge may build the text encoders apart from the rest, from the file of the same name.
    """
    import transformers
    from modules_forge import forge_loader

    read = transformers.CLIPTextConfig.from_json_file
    known = {"layers": 0}

    def from_json_file(path: Any) -> Any:
        config = read(path)
        config.num_hidden_layers = known["layers"] or config.num_hidden_layers
        return config

    transformers.CLIPTextConfig.from_json_file = from_json_file
    build = forge_loader.load_checkpoint_guess_config

    def load_checkpoint_guess_config(state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        known["layers"] = _layers(state_dict)
        return build(state_dict, *args, **kwargs)

    load = forge_loader.load_model_for_a1111

    def load_model_for_a1111(*args: Any, **kwargs: Any) -> Any:
        model = load(*args, **kwargs)
        for embedder in getattr(getattr(model, "conditioner", None), "embedders", ()):
            wrapped = getattr(embedder, "wrapped", None)
            # SDXL's config counts from the first layer: 11 of 12.
            if getattr(wrapped, "layer_idx", None) == 11:
                wrapped.layer_idx = wrapped.transformer.config.num_hidden_layers - 1
        return model

    forge_loader.load_checkpoint_guess_config = load_checkpoint_guess_config
    forge_loader.load_model_for_a1111 = load_model_for_a1111


def _narrow_vae() -> None:
    """The autoencoder's width is written into the webui; the one of the file takes its place."""
    from ldm_patched.modules import sd

    whole, build = sd.VAE.__init__, sd.AutoencoderKL

    def make(self: Any, sd: Any = None, *args: Any, **kwargs: Any) -> None:
        _narrow.width = int(sd["decoder.norm_out.weight"].shape[0])
        whole(self, sd, *args, **kwargs)

    def autoencoder(*args: Any, **kwargs: Any) -> Any:
        kwargs["ddconfig"] = {**kwargs["ddconfig"], "ch": _narrow.width}
        return build(*args, **kwargs)

    sd.VAE.__init__ = make
    sd.AutoencoderKL = autoencoder


class _narrow:
    width = 128


def _number(value: Any) -> float | None:
    """A float that JSON can hold; None for NaN and infinity."""
    return float(value) if math.isfinite(float(value)) else None


def _prediction(sampling: Any) -> str:
    bases = [base.__name__ for base in type(sampling).__mro__]
    return next((PREDICTIONS[name] for name in bases if name in PREDICTIONS), "+".join(bases[:3]))


def _watch_unet() -> None:
    """What the UNet is asked, after all patches that a script may have put on a clone of it."""
    from ldm_patched.modules.model_base import BaseModel

    whole = BaseModel.apply_model

    def apply_model(self: Any, x: Any, t: Any, *args: Any, **kwargs: Any) -> Any:
        result = whole(self, x, t, *args, **kwargs)
        record.add(
            "unet",
            sigma=_number(t[0]),
            timestep=_number(self.model_sampling.timestep(t)[0]),
            prediction=_prediction(self.model_sampling),
            finite=bool(result.isfinite().all()),
            std=_number(result.float().std()),
        )
        return result

    BaseModel.apply_model = apply_model


def watch_guidance(script_callbacks: Any) -> None:
    """These webuis always work with the denoised latent; the model's answers are met just before guidance."""
    from ldm_patched.modules import samplers

    from modelsmith_probe import guidance

    running: dict[str, Any] = {}
    # reForge has a function for guidance alone; in Classic it follows on the one that gives both answers.
    name = "cfg_function" if hasattr(samplers, "cfg_function") else "calc_cond_uncond_batch"
    whole = getattr(samplers, "modelsmith_probe_whole", None) or getattr(samplers, name)
    samplers.modelsmith_probe_whole = whole

    def cfg_function(model: Any, cond: Any, uncond: Any, /, *args: Any, **kwargs: Any) -> Any:
        guidance.answered(cond, uncond)
        return whole(model, cond, uncond, *args, **kwargs)

    def calc_cond_uncond_batch(model: Any, cond: Any, uncond: Any, *args: Any) -> Any:
        result = whole(model, cond, uncond, *args)
        guidance.answered(result[0], result[1] if uncond is not None else None)
        return result

    def remember(params: Any) -> None:
        running["denoiser"] = params.denoiser

    def after(params: Any) -> None:
        denoiser = running["denoiser"]
        second = getattr(denoiser.p, "is_hr_pass", False) and getattr(denoiser.p, "hr_cfg", None)
        guidance.after_step(params, second or denoiser.sampler.sampler_extra_args["cond_scale"])

    setattr(samplers, name, cfg_function if name == "cfg_function" else calc_cond_uncond_batch)
    script_callbacks.on_cfg_denoiser(remember)
    script_callbacks.on_cfg_after_cfg(after)


def network(model: Any) -> Any:
    return model.forge_objects.unet.model.diffusion_model


def _fewer_collections() -> Any:
    """The module gc, which collects at every tenth request: reForge asks many times when it drops a model."""
    import gc
    import itertools

    requests = itertools.count()

    def collect(*args: Any) -> int:
        return gc.collect(*args) if next(requests) % 10 == 0 else 0

    return types.SimpleNamespace(**{**vars(gc), "collect": collect})


def install() -> None:
    from modules import sd_models, sd_models_config

    # reForge looks at every object of the process twice per load, which takes four times as long as these models do.
    if hasattr(sd_models, "force_memory_deallocation"):
        sd_models.force_memory_deallocation = lambda: ""
        sd_models.gc = _fewer_collections()
    _match_any_width()
    _narrow_text_encoders()
    _narrow_vae()
    _watch_unet()
    # The webui's own test of SD2 runs a UNet of full width, which these checkpoints do not have.
    if hasattr(sd_models_config, "is_using_v_parameterization_for_sd2"):
        sd_models_config.is_using_v_parameterization_for_sd2 = lambda _state_dict: False


def _picked(sigmas: Any, name: str) -> dict[str, float | None]:
    return {f"{name}_{index}": _number(sigmas[index]) for index in WATCHED if index < len(sigmas)}


def describe(model: Any) -> dict[str, Any]:
    """Both tables: ``sigma_`` is what samplers are built from, ``lookup_`` what timesteps are looked up in."""
    info = getattr(model, "sd_checkpoint_info", None)
    unet = getattr(getattr(model, "forge_objects", None), "unet", None)
    if unet is None or getattr(model, "alphas_cumprod", None) is None:
        return {"file": None, "class": type(model).__name__, "prediction": None, "sigma_max": None}
    sampling = unet.model.model_sampling
    cumprod = model.alphas_cumprod.double()
    sigmas = ((1 - cumprod) / cumprod) ** 0.5
    return {
        "file": getattr(info, "name", None),
        "config": None,
        "prediction": _prediction(sampling),
        "sampling": type(sampling).__name__,
        "sigma_max": _number(sigmas[-1]),
        **_picked(sigmas, "sigma"),
        **_picked(sampling.sigmas, "lookup"),
        "ztsnr_flag": getattr(model, "ztsnr", None),
        "leftovers": [name for name in ("sigmas_original", "alphas_cumprod_original") if hasattr(model, name)],
        "class": type(model).__name__,
        "object": id(model),
    }


def describe_sampler(params: Any) -> dict[str, Any]:
    """The table that the running sampler was built with, and the one that its timesteps are looked up in."""
    from modules import shared

    wrapper = getattr(params.denoiser, "model_wrap", None)
    described = describe(shared.sd_model)
    table = getattr(wrapper, "sigmas", None)
    kept = ("prediction", "sigma_", "lookup_", "file")
    return {
        "wrapper": type(wrapper).__name__,
        "model_prediction": described["prediction"],
        **{name: value for name, value in described.items() if name.startswith(kept)},
        **(_picked(table, "sigma") if table is not None else {}),
    }


def current_model() -> Any:
    from modules import sd_models

    return getattr(sd_models.model_data, "sd_model", None)


def models_in_memory() -> list[Any]:
    from modules import sd_models

    current = current_model()
    return list(getattr(sd_models.model_data, "loaded_sd_models", [current] if current is not None else []))


def functions() -> dict[str, str]:
    """Where the functions that an extension may have replaced come from."""
    from modules import processing, sd_models
    from modules_forge import forge_loader

    watched = {
        "rescale": (processing, "rescale_zero_terminal_snr_sigmas"),
        "apply_alpha_schedule_override": (sd_models, "apply_alpha_schedule_override"),
        "load_model_for_a1111": (forge_loader, "load_model_for_a1111"),
    }
    return {
        name: getattr(module, field).__module__ for name, (module, field) in watched.items() if hasattr(module, field)
    }
