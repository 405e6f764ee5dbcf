"""The advice for models with zero terminal SNR, against measured schedules of 28 steps."""

from __future__ import annotations

import pytest

from modelsmith.sampling_advice import FITTING_SCHEDULER, PLAIN_SIGMA_MAX, Sampling, advise, sigma_at


@pytest.mark.parametrize(
    ("scheduler", "level"),
    [
        ("Uniform", "fine"),
        ("Normal", "fine"),
        ("SGM Uniform", "fine"),
        ("Simple", "fine"),
        ("KL Optimal", "fine"),
        ("DDIM", "weak"),
        ("Align Your Steps", "weak"),
        ("Karras", "bad"),
        ("Exponential", "bad"),
        ("Polyexponential", "bad"),
        ("Beta", "bad"),
    ],
)
def test_each_scheduler(scheduler: str, level: str) -> None:
    found = advise(Sampling("Euler", scheduler, 28))
    assert found.level == level
    assert scheduler in found.text()
    assert (found.scheduler == FITTING_SCHEDULER) == (level != "fine" and scheduler != "Align Your Steps")
    assert found.cfg is None


@pytest.mark.parametrize("sampler", ["DDIM", "PLMS", "UniPC", "DDIM CFG++"])
def test_samplers_with_a_spacing_of_their_own(sampler: str) -> None:
    found = advise(Sampling(sampler, "SGM Uniform"))
    assert found.level == "weak"
    assert found.text().startswith(sampler)


@pytest.mark.parametrize(
    ("scheduler", "first", "second", "above_plain", "above_100", "below_1"),
    [("Karras", 4519, 3643, 19, 14, 4), ("Exponential", 4519, 2903, 13, 9, 8)],
)
def test_where_the_steps_go(
    scheduler: str, first: float, second: float, above_plain: int, above_100: int, below_1: int
) -> None:
    sigmas = [sigma_at(scheduler, 28, index) or 0.0 for index in range(28)]
    assert sigmas[0] == pytest.approx(first, rel=1e-3)
    assert sigmas[1] == pytest.approx(second, rel=1e-3)
    assert sum(sigma > PLAIN_SIGMA_MAX for sigma in sigmas) == above_plain
    assert sum(sigma > 100 for sigma in sigmas) == above_100
    assert sum(sigma < 1 for sigma in sigmas) == below_1


@pytest.mark.parametrize(
    ("scheduler", "strength", "sigma"),
    [("Karras", 0.3, "11.1"), ("Karras", 0.5, "135"), ("Karras", 0.75, "1.11e+03"), ("Exponential", 0.5, "14.3")],
)
def test_where_a_denoising_strength_begins(scheduler: str, strength: float, sigma: str) -> None:
    found = advise(Sampling("Euler", scheduler, 28, strength=strength))
    assert found.level == "bad"
    assert f"noise level {sigma}," in found.text()


def test_a_capped_noise_level_makes_karras_usable_but_not_beta() -> None:
    assert advise(Sampling("Euler", "Karras", sigma_max=160)).level == "fine"
    assert advise(Sampling("Euler", "Beta", sigma_max=160)).level == "bad"
    assert advise(Sampling("Euler", "Karras", sigma_max=1000)).level == "bad"


def test_high_cfg_is_said_unless_it_is_rescaled() -> None:
    found = advise(Sampling("Euler", "Simple", cfg=7))
    assert (found.level, found.scheduler, found.cfg) == ("weak", None, 5.0)
    assert "CFG scale 7" in found.text()
    assert advise(Sampling("Euler", "Simple", cfg=7, rescale=0.7)).level == "fine"
    assert advise(Sampling("Euler", "Simple", cfg=5)).cfg is None
