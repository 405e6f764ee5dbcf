"""The library's closed sets in words for a person. The keys are the library's ids; the values are UI strings."""

from __future__ import annotations

from collections.abc import Mapping

KINDS: Mapping[str, str] = {
    "checkpoint": "Checkpoint",
    "diffusion_model": "Diffusion model",
    "vae": "VAE",
    "text_encoder": "Text encoder",
    "lora": "LoRA",
    "controlnet": "ControlNet",
    "textual_inversion": "Textual inversion",
    "hypernetwork": "Hypernetwork",
    "unsafe": "Unsafe file",
    "unknown": "Unknown",
}

PREDICTIONS: Mapping[str, str] = {
    "epsilon": "epsilon",
    "v_prediction": "v-prediction",
    "flow": "flow matching",
    "edm": "EDM",
    "edm_v_prediction": "EDM v-prediction",
    "cascade": "Cascade",
    "undetermined": "undetermined",
}

GRADES: Mapping[str, str] = {
    "proof": "proof",
    "strong": "strong",
    "weak": "weak",
    "default": "assumed",
}

PARTS: Mapping[str, str] = {"diffusion_model": "Diffusion model", "vae": "VAE", "text_encoder": "Text encoder"}

# What the library says of precision and completeness in badges and tables, where it is a word and no format's name.
STATES: Mapping[str, str] = {
    "mixed": "mixed",
    "incomplete": "incomplete",
    "recipe": "recipe",
    "unreadable": "unreadable",
}

# By whose names a file's tensors go.
LAYOUTS: Mapping[str, str] = {
    "ldm": "original (ldm)",
    "original": "original",
    "original-bare": "original, without a prefix",
    "diffusers": "diffusers",
    "comfy-checkpoint": "a ComfyUI checkpoint",
    "a1111/kohya": "kohya",
}

# What a piece of evidence speaks for, beside the prediction types.
SAYS: Mapping[str, str] = {**PREDICTIONS, "ztsnr": "ZTSNR", "no_ztsnr": "no ZTSNR"}

YES_NO: Mapping[object, str] = {True: "yes", False: "no", None: "unknown"}

EMA: Mapping[str, str] = {"both": "EMA and plain weights", "only": "EMA weights only"}

OVERRIDE_PREDICTIONS: Mapping[str, str] = {
    "auto": "automatic",
    "epsilon": "epsilon",
    "v_prediction": "v-prediction",
}
OVERRIDE_ZTSNR: Mapping[str, str] = {"auto": "automatic", "on": "on", "off": "off"}

PRECISIONS: Mapping[str, str | None] = {
    "as model A": None,
    "fp16": "fp16",
    "bf16": "bf16",
    "fp32": "fp32",
    "fp8 e4m3": "fp8_e4m3",
    "fp8 e5m2": "fp8_e5m2",
    "fp8 scaled": "fp8_scaled",
}


def id_of(words: Mapping[str, str], word: str) -> str:
    """The id behind a word of one of the tables above; an id is its own answer."""
    return next((key for key, value in words.items() if value == word), word)
