"""Metadata that kohya's sd-scripts puts into the LoRAs it writes, and other programs read from them.

Field names and values: sd-scripts networks/extract_lora_from_models.py, library/model_util.py
``get_model_version_str_for_sd1_sd2``, library/sdxl_model_util.py ``MODEL_VERSION_SDXL_BASE_V1_0``,
networks/flux_extract_lora.py, library/sai_model_spec.py (48d368fa).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from modelsmith import __version__


@dataclass(frozen=True, slots=True)
class _Base:
    version: str
    architecture: str
    module: str = "networks.lora"


_BASES: Mapping[str, _Base] = {
    "sd1": _Base("sd_v1", "stable-diffusion-v1"),
    "sd2": _Base("sd_v2", "stable-diffusion-v2-512"),
    "sdxl": _Base("sdxl_base_v1-0", "stable-diffusion-xl-v1-base"),
    "sdxl-refiner": _Base("sdxl_refiner_v1-0", "stable-diffusion-xl-v1-refiner"),
    "sd3": _Base("sd3", "stable-diffusion-3", "networks.lora_sd3"),
    "flux1": _Base("flux1", "flux-1", "networks.lora_flux"),
    "chroma": _Base("chroma", "chroma", "networks.lora_flux"),
    "flux2": _Base("flux2", "flux-2"),
    "lumina2": _Base("lumina2", "lumina-2", "networks.lora_lumina"),
    "qwen-image": _Base("qwen-image", "qwen-image"),
    "z-image": _Base("z-image", "z-image"),
}
_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}


@dataclass(frozen=True)
class LoraFacts:
    """What the metadata tell: ranks are numbers or ``Dynamic``."""

    architecture: str | None
    prediction: str
    rank: int | None
    conv_rank: int | None
    title: str


def lora_metadata(facts: LoraFacts) -> dict[str, str]:
    """The metadata of a LoRA file; fields that nothing is known for are left out."""
    arguments: dict[str, str] = {}
    if facts.conv_rank:
        arguments = {"conv_dim": str(facts.conv_rank), "conv_alpha": str(float(facts.conv_rank))}
    rank = "Dynamic" if facts.rank is None else str(facts.rank)
    metadata = {
        "ss_network_dim": rank,
        "ss_network_alpha": rank if facts.rank is None else str(float(facts.rank)),
        "ss_network_args": json.dumps(arguments),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": facts.title,
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelsmith_version": __version__,
    }
    base = _BASES.get(facts.architecture or "")
    if base is None:
        return {**metadata, "ss_network_module": "networks.lora"}
    velocity = facts.prediction == "v_prediction" and facts.architecture in ("sd1", "sd2")
    architecture = base.architecture
    if facts.architecture == "sd2" and velocity:
        architecture = "stable-diffusion-v2-768-v"
    metadata |= {
        "ss_v2": str(facts.architecture == "sd2"),
        "ss_base_model_version": base.version + ("_v" if velocity else ""),
        "ss_network_module": base.module,
        "modelspec.architecture": f"{architecture}/lora",
    }
    if facts.prediction in _PREDICTIONS and facts.architecture in ("sd1", "sd2", "sdxl"):
        metadata["modelspec.prediction_type"] = _PREDICTIONS[facts.prediction]
    return metadata
