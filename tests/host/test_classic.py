"""In a running Classic: its tables over many batches, in both forms that it had in 2025, and SD2 where it has it.

Until the summer Classic rescaled the sampler's table only, so that the UNet was told wrong timesteps; since then it
rescales the UNet's table too, in place and anew with every batch, so that the timesteps drift.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from host.ldm_forge_expectations import (
    SCHEDULE,
    builds_sd2,
    check,
    check_tables,
    is_classic,
    rescales_lookup,
    unet_calls,
)
from host.server import Webui

WEBUI = "ldm_forge"

BATCHES = 6
STEPS = 8
# What SGM Uniform asks for with eight steps; early Classic has no schedule types, and its own goes down to 0.
SGM_UNIFORM = [999, 874, 749, 624, 500, 375, 250, 125]
LINEAR = [999, 856, 714, 571, 428, 285, 143, 0]


@pytest.fixture(autouse=True)
def classic_only(webui: Webui) -> None:
    if not is_classic(webui):
        pytest.skip("for Classic only")


@pytest.fixture
def alone(started_alone: Webui) -> Webui:
    """The same Classic without Modelsmith, its model fresh from the file."""
    started_alone.options(sd_noise_schedule="Default")
    started_alone.select("sd15")
    return started_alone


def right_timesteps(webui: Webui) -> list[int]:
    return SGM_UNIFORM if (webui.root / "modules" / "sd_schedulers.py").is_file() else LINEAR


def batches(webui: Webui) -> tuple[list[dict[str, Any]], list[float]]:
    """The first step of each batch, and the timesteps of all steps as the UNet was told them."""
    webui.select("sdxl-v-ztsnr")
    steps = webui.txt2img(steps=STEPS, n_iter=BATCHES, scheduler="SGM Uniform")
    assert len(steps) == STEPS * BATCHES
    told = [call["timestep"] for call in unet_calls(webui)]
    # Both prompts may be asked in calls of their own.
    calls, rest = divmod(len(told), len(steps))
    assert rest == 0
    return steps[::STEPS], told[::calls]


def test_every_batch_has_the_same_tables(webui: Webui, report: Callable[..., None]) -> None:
    firsts, told = batches(webui)
    for step in firsts:
        check_tables(step, "sdxl-v-ztsnr")
    assert told == right_timesteps(webui) * BATCHES
    report("batches", "with", *(f"{value:g}" for value in told[-STEPS:]))
    check(webui, webui.txt2img(), "sdxl-v-ztsnr")


def test_alone_its_tables_are_wrong(alone: Webui, report: Callable[..., None]) -> None:
    """The same run without us, against the schedule that the test above holds it to."""
    firsts, told = batches(alone)
    report("batches", "alone", *(f"{value:g}" for value in told[-STEPS:]))
    lookups, right = [step["lookup_900"] for step in firsts], SCHEDULE["True"]["900"]
    assert firsts[0]["sigma_900"] == pytest.approx(right, rel=1e-4)
    if rescales_lookup(alone):
        assert lookups == sorted(set(lookups)), "more with each batch"
        assert lookups[-1] > right * 1.01
    else:
        assert lookups == pytest.approx([SCHEDULE["False"]["900"]] * BATCHES, rel=1e-4)
    assert told[-STEPS:] != right_timesteps(alone)


def test_alone_sd21_768_runs_as_v_prediction(alone: Webui) -> None:
    """Its config is chosen by a mark that no SD2 model has, but what it samples as by the bias."""
    if not builds_sd2(alone):
        pytest.skip("this Classic builds no SD2 models")
    alone.select("sd21-768v")
    assert alone.txt2img()[0]["prediction"] == "v_prediction"
