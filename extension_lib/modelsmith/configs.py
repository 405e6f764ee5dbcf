"""Model configs (the yaml that ldm and sgm build a model from): epsilon configs made into v-prediction ones."""

from __future__ import annotations

import copy
from typing import Any, cast

from modelsmith.errors import ModelsmithError

Config = dict[str, Any]


def _child(node: Config, *path: str) -> Config | None:
    for name in path:
        found = node.get(name)
        if not isinstance(found, dict):
            return None
        node = cast(Config, found)
    return node


def is_v_prediction(config: Config) -> bool:
    """Whether a config builds a v-prediction model, in ldm's way (``parameterization``) or sgm's (``VScaling``)."""
    params = _child(config, "model", "params") or {}
    scaling = _child(params, "denoiser_config", "params", "scaling_config") or {}
    return params.get("parameterization") == "v" or str(scaling.get("target", "")).endswith(".VScaling")


def with_v_prediction(config: Config) -> Config:
    """A copy of ``config`` that builds the same model as v-prediction; the given one is left alone.

    ldm configs get ``parameterization: v``; sgm configs get ``VWeighting`` and ``VScaling`` in place of their Eps
    forms, and gradient checkpointing off, as AUTOMATIC1111's own sd_xl_v.yaml has it.
    """
    result = copy.deepcopy(config)
    params = _child(result, "model", "params")
    if params is None:
        raise ModelsmithError("the config has no model.params", "Give a config that ldm or sgm can build from.")
    denoiser = _child(params, "denoiser_config", "params")
    if denoiser is None:
        params["parameterization"] = "v"
        return result
    for part, name in (("weighting_config", "VWeighting"), ("scaling_config", "VScaling")):
        node = _child(denoiser, part)
        if node is None or "target" not in node:
            raise ModelsmithError(f"the config has no denoiser {part}", "Give an sgm config of a discrete denoiser.")
        node["target"] = str(node["target"]).rsplit(".", 1)[0] + "." + name
    network = _child(params, "network_config", "params")
    if network is not None and "use_checkpoint" in network:
        network["use_checkpoint"] = False
    return result
