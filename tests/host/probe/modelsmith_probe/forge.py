"""The probe's part for Forge: families match at any width, and each part is built as wide as the file has it."""

from __future__ import annotations

import math
from typing import Any

from modelsmith_probe import record


def _text_layers(state_dict: Any) -> int:
    mark = ".encoder.layers."
    return len({name.split(mark)[1].split(".")[0] for name in state_dict if mark in name})


def _match_any_width() -> None:
    from huggingface_guess import model_list

    whole = model_list.BASE.matches.__func__

    def matches(cls: Any, unet_config: Any, state_dict: Any = None) -> bool:
        width = cls.unet_config.get("model_channels")
        return whole(cls, {**unet_config, "model_channels": width} if width else unet_config, state_dict)

    model_list.BASE.matches = classmethod(matches)


def _narrow_components() -> None:
    """Patch the two configs that Forge reads from its own folders, for as long as one component is built."""
    import transformers
    from backend import loader
    from backend.nn.vae import IntegratedAutoencoderKL

    build = loader.load_huggingface_component
    load_vae_config = IntegratedAutoencoderKL.load_config
    load_text_config = transformers.CLIPTextConfig.from_pretrained

    def component(guess: Any, name: str, library: str, cls: str, path: str, state_dict: Any) -> Any:
        def vae_config(*args: Any, **kwargs: Any) -> Any:
            config = dict(load_vae_config(*args, **kwargs))
            width = int(state_dict["encoder.conv_in.weight"].shape[0])
            return {**config, "block_out_channels": [width, width * 2, width * 4, width * 4]}

        def text_config(*args: Any, **kwargs: Any) -> Any:
            config = load_text_config(*args, **kwargs)
            config.num_hidden_layers = _text_layers(state_dict)
            return config

        IntegratedAutoencoderKL.load_config = vae_config
        transformers.CLIPTextConfig.from_pretrained = text_config
        try:
            return build(guess, name, library, cls, path, state_dict)
        finally:
            IntegratedAutoencoderKL.load_config = load_vae_config
            transformers.CLIPTextConfig.from_pretrained = load_text_config

    loader.load_huggingface_component = component


def _number(value: Any) -> float | None:
    """A float that JSON can hold; None for NaN and infinity."""
    return float(value) if math.isfinite(float(value)) else None


def _watch_unet() -> None:
    """What the UNet is asked, after all patches that a script may have put on a clone of it."""
    from backend.modules.k_model import KModel

    whole = KModel.apply_model

    def apply_model(self: Any, x: Any, t: Any, *args: Any, **kwargs: Any) -> Any:
        result = whole(self, x, t, *args, **kwargs)
        record.add(
            "unet",
            sigma=_number(t[0]),
            timestep=_number(self.predictor.timestep(t)[0]),
            prediction=self.predictor.prediction_type,
            finite=bool(result.isfinite().all()),
            std=_number(result.float().std()),
        )
        return result

    KModel.apply_model = apply_model


def watch_guidance(script_callbacks: Any) -> None:
    """Forge always works with the denoised latent, and has no callback between the model's answers and guidance."""
    from backend.sampling import sampling_function

    from modelsmith_probe import guidance

    running: dict[str, Any] = {}
    whole = getattr(sampling_function, "modelsmith_probe_whole", None) or sampling_function.calc_cond_uncond_batch
    sampling_function.modelsmith_probe_whole = whole

    def calc_cond_uncond_batch(model: Any, cond: Any, uncond: Any, *args: Any) -> Any:
        result = whole(model, cond, uncond, *args)
        guidance.answered(result[0], result[1] if uncond is not None else None)
        return result

    def remember(params: Any) -> None:
        running["denoiser"] = params.denoiser

    def after(params: Any) -> None:
        denoiser = running["denoiser"]
        scale = denoiser.p.hr_cfg if denoiser.p.is_hr_pass else denoiser.sampler.sampler_extra_args["cond_scale"]
        guidance.after_step(params, scale)

    sampling_function.calc_cond_uncond_batch = calc_cond_uncond_batch
    script_callbacks.on_cfg_denoiser(remember)
    script_callbacks.on_cfg_after_cfg(after)


def install() -> None:
    _match_any_width()
    _narrow_components()
    _watch_unet()


def describe(model: Any) -> dict[str, Any]:
    info = getattr(model, "sd_checkpoint_info", None)
    if getattr(model, "forge_objects", None) is None:
        return {"file": None, "class": type(model).__name__, "prediction": None, "sigma_max": None}
    predictor = model.forge_objects.unet.model.predictor
    sigmas = [_number(value) for value in predictor.sigmas]
    picked = {f"sigma_{index}": sigmas[index] for index in (0, 500, 900, 998, 999) if index < len(sigmas)}
    return {
        "file": getattr(info, "name", None),
        "config": None,
        "prediction": predictor.prediction_type,
        "predictor": type(predictor).__name__,
        "sigma_max": sigmas[-1],
        **picked,
        "ztsnr_flag": getattr(model.model_config, "ztsnr", None),
        "model_type": getattr(model.model_config.model_type, "name", None),
        "class": type(model).__name__,
        "object": id(model),
    }


def describe_sampler(params: Any) -> dict[str, Any]:
    from modules import shared

    described = describe(shared.sd_model)
    return {
        "wrapper": type(params.denoiser.inner_model).__name__,
        "model_prediction": described["prediction"],
        **{name: value for name, value in described.items() if name.startswith(("prediction", "sigma_", "file"))},
    }


def current_model() -> Any:
    from modules import sd_models

    return sd_models.model_data.sd_model


def network(model: Any) -> Any:
    return model.forge_objects.unet.model.diffusion_model


def models_in_memory() -> list[Any]:
    model = current_model()
    return [model] if getattr(model, "forge_objects", None) is not None else []


def functions() -> dict[str, str]:
    """Where the functions that an extension may have replaced come from."""
    from backend import loader
    from backend.modules import k_prediction
    from modules import processing, sd_models

    watched = {
        "forge_model_reload": sd_models.forge_model_reload,
        "forge_loader": loader.forge_loader,
        "processing.forge_model_reload": processing.forge_model_reload,
        "rescale": processing.rescale_zero_terminal_snr_sigmas,
        "set_sigmas": k_prediction.Prediction.set_sigmas,
        "calculate_denoised": k_prediction.Prediction.calculate_denoised,
    }
    return {name: function.__module__ for name, function in watched.items()}
