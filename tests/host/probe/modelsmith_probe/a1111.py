"""The probe's part for AUTOMATIC1111: its models are built from a config, which is narrowed just before that."""

from __future__ import annotations

from typing import Any

from modelsmith_probe import record

COMPARED = (0, 500, 900, 998, 999)
_ORIGINALS: dict[str, Any] = {}


def _width(state_dict: Any, name: str, default: int) -> int:
    tensor = state_dict.get(name)
    return default if tensor is None else int(tensor.shape[0])


def _layers(state_dict: Any, mark: str) -> int:
    """How many layers are named ``...mark<number>...``."""
    numbers = {int(name.split(mark)[1].split(".")[0]) for name in state_dict if mark in name}
    return len(numbers)


def _narrow_text_encoders(params: Any, state_dict: Any) -> None:
    import open_clip
    import transformers

    clip_layers = _layers(state_dict, ".encoder.layers.")
    if clip_layers:
        config = transformers.CLIPTextConfig
        original = getattr(config, "modelsmith_probe_original", None) or config.from_pretrained.__func__
        config.modelsmith_probe_original = original

        def from_pretrained(cls: Any, *args: Any, **kwargs: Any) -> Any:
            found = original(cls, *args, **kwargs)
            (found[0] if isinstance(found, tuple) else found).num_hidden_layers = clip_layers
            return found

        config.from_pretrained = classmethod(from_pretrained)
    open_clip_layers = _layers(state_dict, ".transformer.resblocks.")
    for name in ("ViT-H-14", "ViT-bigG-14"):
        if open_clip_layers:
            found = open_clip.factory._MODEL_CONFIGS[name]
            found["text_cfg"]["layers"] = open_clip_layers
            # The picture half is thrown away by the webui; building it takes most of the time.
            found["vision_cfg"]["layers"] = 1
    for embedder in getattr(getattr(params, "conditioner_config", None), "params", {}).get("emb_models", []):
        if "layer_idx" in embedder.get("params", {}):
            embedder.params.layer_idx = clip_layers - 1


def _narrow(config: Any, state_dict: Any) -> None:
    params = config.model.params
    unet = getattr(params, "network_config", None) or params.unet_config
    unet.params.model_channels = _width(state_dict, "model.diffusion_model.input_blocks.0.0.weight", 320)
    width = _width(state_dict, "first_stage_model.encoder.conv_in.weight", 128)
    params.first_stage_config.params.ddconfig.ch = width
    _narrow_text_encoders(params, state_dict)


def watch_guidance(script_callbacks: Any) -> None:
    from modelsmith_probe import guidance

    running: dict[str, Any] = {}

    def remember(params: Any) -> None:
        running["denoiser"] = params.denoiser

    def answered(params: Any) -> None:
        count = len(params.x) // 2
        guidance.answered(params.x[:count], params.x[count:])

    def after(params: Any) -> None:
        denoiser = running["denoiser"]
        scale = denoiser.sampler.sampler_extra_args["cond_scale"] * denoiser.cond_scale_miltiplier
        # Only the denoisers of the webui's own samplers (DDIM, PLMS, UniPC) work with noise.
        by_timestep = type(denoiser).__name__ == "CFGDenoiserTimesteps"
        guidance.after_step(params, scale, denoiser.inner_model.inner_model.alphas_cumprod if by_timestep else None)

    script_callbacks.on_cfg_denoiser(remember)
    script_callbacks.on_cfg_denoised(answered)
    script_callbacks.on_cfg_after_cfg(after)


def foreign_rescale(phi: float) -> None:
    """Take the webui's guidance as CFG_Rescale_webui does: by replacing the method of the class. 0 puts it back."""
    from modules import sd_samplers_cfg_denoiser

    denoiser = sd_samplers_cfg_denoiser.CFGDenoiser
    whole = _ORIGINALS.setdefault("combine_denoised", denoiser.combine_denoised)

    def combine_denoised(self: Any, x_out: Any, conds_list: Any, uncond: Any, cond_scale: float) -> Any:
        guided, cond = (whole(self, x_out, conds_list, uncond, scale) for scale in (cond_scale, 1.0))
        return phi * guided * (cond.std() / guided.std()) + (1 - phi) * guided

    denoiser.combine_denoised = combine_denoised if phi else whole


def install() -> None:
    from modules import sd_models, sd_models_config

    repair_config, load_model_weights = sd_models.repair_config, sd_models.load_model_weights

    def narrowed(sd_config: Any, state_dict: Any = None) -> Any:
        if state_dict is not None:
            _narrow(sd_config, state_dict)
        return repair_config(sd_config, state_dict)

    def recorded(model: Any, checkpoint_info: Any, state_dict: Any, timer: Any) -> Any:
        given = set(state_dict) if state_dict is not None else None
        result = load_model_weights(model, checkpoint_info, state_dict, timer)
        if given is not None:
            own = set(model.state_dict())
            record.add("weights", missing=sorted(own - given), unexpected=sorted(given - own))
        return result

    def vanilla_test(_state_dict: Any) -> bool:
        """The webui's own test runs a UNet of full width, which these checkpoints do not have."""
        record.add("vanilla_sd2_test")
        return False

    sd_models.repair_config = narrowed
    sd_models.load_model_weights = recorded
    sd_models_config.is_using_v_parameterization_for_sd2 = vanilla_test


def _sigma(alphas_cumprod: Any, index: int) -> float | None:
    if alphas_cumprod is None:
        return None
    value = float(alphas_cumprod.double()[index])
    return ((1 - value) / value) ** 0.5


def describe(model: Any) -> dict[str, Any]:
    now, base = getattr(model, "alphas_cumprod", None), getattr(model, "alphas_cumprod_original", None)
    info = getattr(model, "sd_checkpoint_info", None)
    return {
        "file": getattr(info, "name", None),
        "config": getattr(model, "used_config", None),
        "prediction": {"v": "v_prediction", "eps": "epsilon"}.get(getattr(model, "parameterization", None)),
        "sigma_max": _sigma(now, -1),
        "sigma_998": _sigma(now, 998),
        "sigma_500": _sigma(now, 500),
        "sigma_max_between_jobs": _sigma(base, -1),
        "class": type(model).__name__,
        "object": id(model),
    }


def describe_sampler(params: Any) -> dict[str, Any]:
    from modules import shared

    wrapper = getattr(params.denoiser, "model_wrap", None)
    described = describe(shared.sd_model)
    # What the sampler holds: its own copy of the noise levels, or the model's table where it goes by timesteps.
    sigmas = getattr(wrapper, "sigmas", None)
    table = (
        {f"sigma_{index}": float(sigmas[index]) for index in COMPARED}
        if sigmas is not None
        else {f"sigma_{index}": _sigma(wrapper.inner_model.alphas_cumprod, index) for index in COMPARED}
    )
    return {
        **table,
        "wrapper": type(wrapper).__name__,
        "prediction": "v_prediction" if "VDenoiser" in type(wrapper).__name__ else "epsilon",
        "model_prediction": described["prediction"],
        "file": described["file"],
        "config": described["config"],
    }


def current_model() -> Any:
    from modules import sd_models

    return sd_models.model_data.sd_model


def set_parameterization(value: str) -> None:
    """What other extensions and scripts do to the model in memory."""
    current_model().parameterization = value


def network(model: Any) -> Any:
    return model.model.diffusion_model


def models_in_memory() -> list[Any]:
    from modules import sd_models

    return list(sd_models.model_data.loaded_sd_models)


def _chain(function: Any) -> list[str]:
    """The modules of a function and of those of the same name that it wraps, outermost first."""
    found = [function.__module__]
    for cell in getattr(function, "__closure__", None) or ():
        inner = cell.cell_contents
        if callable(inner) and getattr(inner, "__name__", None) in (function.__name__, "original"):
            return found + _chain(inner)
    return found


def functions() -> dict[str, list[str]]:
    """Where the functions that an extension may have replaced come from."""
    from modules import sd_models, sd_models_config, sd_vae

    watched = {
        "find_checkpoint_config": sd_models_config.find_checkpoint_config,
        "apply_alpha_schedule_override": sd_models.apply_alpha_schedule_override,
        "load_model": sd_models.load_model,
        "reload_model_weights": sd_models.reload_model_weights,
        "reuse_model_from_already_loaded": sd_models.reuse_model_from_already_loaded,
        "resolve_vae": sd_vae.resolve_vae,
    }
    return {name: _chain(function) for name, function in watched.items()}
