"""The names of a webui that the adapters and their stand-ins use: found in the source, kept as read from a real one.

``host_names.json`` holds, for each flavour of webui, what every such name is there: the signature of a function,
"class", "module", "value", or null where there is none. test_host_names.py (in tests/webui) holds adapters and
stand-ins against it everywhere; test_stand_in.py (in tests/host) holds it against a real webui.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WEBUI = ROOT / "extension_lib" / "modelsmith_webui"
KEPT = Path(__file__).with_suffix(".json")
SHARED = (
    "app.py",
    "api.py",
    "generation.py",
    "generation_script.py",
    "probing.py",
    "settings.py",
    "hosts/webui.py",
    "hosts/common.py",
    "hosts/vae_choice.py",
)
FORGE = (
    *SHARED,
    "hosts/forge.py",
    "hosts/forge_rescale.py",
    "hosts/forge_vae.py",
    "hosts/forge_edm.py",
    "hosts/forge_probe.py",
)
# By flavour of webui, as tests/host/server.py tells them apart.
SOURCES = {
    "a1111": (*SHARED, "hosts/a1111.py", "hosts/a1111_rescale.py", "hosts/a1111_vae.py", "hosts/a1111_probe.py"),
    "forge": FORGE,
    "neo": (*FORGE, "hosts/neo.py"),
    "ldm_forge": (
        *SHARED,
        "hosts/ldm_forge.py",
        "hosts/ldm_forge_config.py",
        "hosts/ldm_forge_vae.py",
        "hosts/a1111_vae.py",
        "hosts/forge_rescale.py",
        "hosts/forge_probe.py",
    ),
}
PACKAGES = ("modules", "modules_forge", "backend", "ldm_patched")
FORGE_NAMED = (
    "modules.sd_models.model_data.sd_model",
    "modules.sd_models.model_data.forge_hash",
    "modules.sd_models.model_data.forge_loading_parameters",
    "modules.shared.opts.sd_noise_schedule",
    "modules_forge.main_entry.refresh_model_loading_parameters",
    "backend.modules.k_prediction.Prediction",
    "backend.modules.k_prediction.AbstractPrediction.calculate_input",
    "backend.modules.k_prediction.AbstractPrediction.calculate_denoised",
    "backend.modules.k_prediction.AbstractPrediction.noise_scaling",
)
# Wrapped by name, or put by the stand-ins where the webui itself looks for them.
NAMED = {
    "a1111": (
        "modules.sd_models.apply_alpha_schedule_override",
        "modules.sd_models_config.config_sd2",
        "modules.sd_models_config.config_sd2v",
        "modules.sd_models_config.find_checkpoint_config",
        "modules.sd_models_config.find_checkpoint_config_near_filename",
        "modules.sd_models.model_data.loaded_sd_models",
        "modules.sd_models.model_data.sd_model",
        "modules.sd_samplers.all_samplers_map",
        "modules.sd_samplers_cfg_denoiser.CFGDenoiser.combine_denoised",
        "modules.patches.originals",
    ),
    "forge": FORGE_NAMED,
    "neo": (
        *FORGE_NAMED,
        "modules.shared.cmd_opts.lora_dirs",
        "modules.shared.cmd_opts.text_encoder_dirs",
        "modules.shared.opts.refiner_fast_sd",
        "backend.modules.k_prediction.PredictionDiscreteFlow",
    ),
    "ldm_forge": (
        "modules.processing.rescale_zero_terminal_snr_sigmas",
        "modules.sd_models.apply_alpha_schedule_override",
        "modules.sd_models.model_data.loaded_sd_models",
        "modules.sd_models.model_data.sd_model",
        "modules.sd_models_config.config_default",
        "modules.sd_models_config.config_sd2",
        "modules.sd_models_config.config_sd2v",
        "modules.sd_models_config.config_sdxl",
        "modules.sd_text_encoder.list_text_encoders",
        "modules.sd_text_encoder.text_encoder_options",
        "modules.sd_text_encoder.TextEncoderInfo",
        "modules.sd_vae.store_base_vae",
        "modules.shared.opts.sd_noise_schedule",
        "modules.patches.originals",
        "modules_forge.forge_loader.find_checkpoint_config",
        "ldm_patched.modules.model_sampling.EPS",
        "ldm_patched.modules.model_sampling.V_PREDICTION",
        "ldm_patched.modules.model_sampling.EDM",
        "ldm_patched.modules.model_sampling.ModelSamplingDiscrete.set_sigmas",
        "ldm_patched.modules.model_sampling.StableCascadeSampling",
    ),
}
FORGE_LOADED = (
    "loaded.sd_checkpoint_info.filename",
    "loaded.model_config.ztsnr",
    "loaded.model_config.model_type",
    "loaded.get_learned_conditioning",
    "loaded.forge_objects.unet.clone",
    "loaded.forge_objects.unet.set_model_sampler_post_cfg_function",
    "loaded.forge_objects_original.unet.model.diffusion_model",
    "loaded.forge_objects_original.unet.model.computation_dtype",
    "loaded.forge_objects.unet.model.predictor.prediction_type",
    "loaded.forge_objects.unet.model.predictor.sigmas",
    "loaded.forge_objects.unet.model.predictor.log_sigmas",
    "loaded.forge_objects.unet.model.predictor.alphas_cumprod",
    "loaded.forge_objects.unet.model.predictor.set_sigmas",
)
# What is asked of the loaded model; the source reaches it through variables.
LOADED = {
    "a1111": (
        "loaded.alphas_cumprod",
        "loaded.alphas_cumprod_original",
        "loaded.parameterization",
        "loaded.used_config",
        "loaded.is_sdxl",
        "loaded.sd_checkpoint_info.filename",
        "loaded.get_learned_conditioning",
        "loaded.apply_model",
        "loaded.model.conditioning_key",
    ),
    "forge": FORGE_LOADED,
    "neo": FORGE_LOADED,
    "ldm_forge": (
        "loaded.alphas_cumprod",
        "loaded.sd_checkpoint_info.filename",
        "loaded.ztsnr",
        "loaded.get_learned_conditioning",
        "loaded.forge_objects.unet.clone",
        "loaded.forge_objects.unet.set_model_sampler_post_cfg_function",
        "loaded.forge_objects.unet.model.get_dtype",
        "loaded.forge_objects.unet.model.manual_cast_dtype",
        "loaded.forge_objects.unet.model.model_config.sampling_settings",
        "loaded.forge_objects.unet.model.model_sampling.set_sigmas",
        "loaded.forge_objects.unet.model.model_sampling.sigmas",
        "loaded.forge_objects.unet.model.model_sampling.log_sigmas",
    ),
}


def _imported(tree: ast.AST) -> tuple[dict[str, str], set[str]]:
    """Local names of the webui's modules, and what is taken out of them by name."""
    modules: dict[str, str] = {}
    taken: set[str] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.module or node.module.split(".")[0] not in PACKAGES:
            continue
        for alias in node.names:
            modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            taken.add(f"{node.module}.{alias.name}")
    return modules, taken


def _attributes(tree: ast.AST, modules: dict[str, str]) -> Iterator[str]:
    """``sd_models.model_data.sd_model`` for each such chain that begins at a module of the webui."""
    for node in ast.walk(tree):
        parts: list[str] = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            parts.insert(0, inner.attr)
            inner = inner.value
        if parts and isinstance(inner, ast.Name) and inner.id in modules:
            yield ".".join((modules[inner.id], *parts))


def used_names(flavour: str) -> set[str]:
    """Every name of the webui that the adapter for it uses, as a dotted path."""
    found: set[str] = set(NAMED[flavour])
    for name in SOURCES[flavour]:
        tree = ast.parse((WEBUI / name).read_text(encoding="utf-8"))
        modules, taken = _imported(tree)
        found |= taken
        found.update(_attributes(tree, modules))
    return found


def kept() -> dict[str, dict[str, str | None]]:
    """What is known of each flavour."""
    return json.loads(KEPT.read_text(encoding="utf-8"))


def keep(flavour: str, names: dict[str, str | None]) -> None:
    """Write what a real webui says."""
    known = kept() if KEPT.exists() else {}
    known[flavour] = dict(sorted(names.items()))
    KEPT.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n", encoding="utf-8")
