"""reForge and Classic: the yaml that a checkpoint's outer model is built from.

The UNet, the VAE and the text encoders come from the file itself; the yaml decides which text conditioning stands
around them. The webui tells it by the keys of the text encoder, so a file without one gets that of SD1; of SD2 it
runs the whole UNet to tell v-prediction. The webui's answer stands wherever it names the family that was identified.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelsmith.decision import ConfigBase, ConfigKey, decide
from modelsmith_webui.hosts.common import Resolver

# Names of the webui's module, epsilon first. A webui that has none of them builds no such model.
NAMES: dict[ConfigBase, tuple[str, ...]] = {
    "sd1": ("config_default", "config_sd1"),
    "sd1-inpainting": ("config_inpainting",),
    "sd1-pix2pix": ("config_instruct_pix2pix",),
    "sd2": ("config_sd2",),
    "sd2-inpainting": ("config_sd2_inpainting",),
    "sd2-depth": ("config_depth_model",),
    "sd2-unclip-l": ("config_unclip",),
    "sd2-unclip-h": ("config_unopenclip",),
    "sdxl": ("config_sdxl",),
    "sdxl-inpainting": ("config_sdxl_inpainting",),
    "sdxl-refiner": ("config_sdxl_refiner",),
}
V_NAMES: dict[ConfigBase, str] = {"sd2": "config_sd2v", "sdxl": "config_sdxlv"}


def _known(host: Any, key: ConfigKey) -> list[str]:
    """The webui's configs of a family that exist, the fitting one first."""
    names = list(NAMES[key.base])
    if key.base in V_NAMES:
        names.insert(0 if key.v_prediction else len(names), V_NAMES[key.base])
    paths = [getattr(host, name, None) for name in names]
    return [str(path) for path in paths if path is not None and Path(path).is_file()]


def find_config(original: Callable[..., Any], resolver: Resolver, state_dict: Any, info: Any) -> Any:
    """The config for a checkpoint: a yaml beside it, else the webui's answer where it fits, else one that does.

    What the user set for a file is left out: it is set on the model that was built, and can be taken back there.
    """
    from modules import sd_models_config

    beside = sd_models_config.find_checkpoint_config_near_filename(info)
    if beside is not None:
        return beside
    resolution = resolver.resolve(info.filename)
    key = decide(resolution.report).config
    if resolution.decision.prediction is None or key is None:
        return original(state_dict, info)
    known = _known(sd_models_config, key)
    if key.base.startswith("sd2") and known:
        return known[0]
    found = original(state_dict, info)
    return known[0] if known and str(found) not in known else found
