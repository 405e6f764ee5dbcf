"""Epsilon configs made into v-prediction ones."""

from __future__ import annotations

from typing import Any

import pytest

from modelsmith.configs import is_v_prediction, with_v_prediction
from modelsmith.errors import ModelsmithError


def sgm_config() -> dict[str, Any]:
    modules = "sgm.modules.diffusionmodules"
    denoiser = {
        "num_idx": 1000,
        "weighting_config": {"target": f"{modules}.denoiser_weighting.EpsWeighting"},
        "scaling_config": {"target": f"{modules}.denoiser_scaling.EpsScaling"},
    }
    return {
        "model": {
            "target": "sgm.models.diffusion.DiffusionEngine",
            "params": {
                "denoiser_config": {"target": f"{modules}.denoiser.DiscreteDenoiser", "params": denoiser},
                "network_config": {"params": {"use_checkpoint": True, "in_channels": 4}},
            },
        }
    }


def test_sgm_config_gets_the_v_classes_of_the_same_modules() -> None:
    given = sgm_config()
    made = with_v_prediction(given)
    params = made["model"]["params"]
    denoiser = params["denoiser_config"]["params"]
    assert denoiser["scaling_config"]["target"] == "sgm.modules.diffusionmodules.denoiser_scaling.VScaling"
    assert denoiser["weighting_config"]["target"] == "sgm.modules.diffusionmodules.denoiser_weighting.VWeighting"
    assert params["network_config"]["params"] == {"use_checkpoint": False, "in_channels": 4}
    assert is_v_prediction(made)
    assert given == sgm_config() and not is_v_prediction(given)


def test_ldm_config_gets_the_parameterization() -> None:
    given = {"model": {"params": {"linear_start": 0.00085}}}
    made = with_v_prediction(given)
    assert made["model"]["params"] == {"linear_start": 0.00085, "parameterization": "v"}
    assert is_v_prediction(made) and not is_v_prediction(given)


@pytest.mark.parametrize("config", [{}, {"model": {}}, {"model": {"params": {"denoiser_config": {"params": {}}}}}])
def test_a_config_without_its_parts_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ModelsmithError):
        with_v_prediction(config)
