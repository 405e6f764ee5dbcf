"""The schedules against the published numbers of the hosts."""

from __future__ import annotations

import numpy as np
import pytest

from modelsmith.schedules import alphas_cumprod, model_schedule, sigmas, zero_terminal_snr

# k-diffusion sigmas at these steps: plain in fp64, and with the terminal value that the webuis use.
PLAIN = {0: 0.0291671582, 500: 1.61827883, 900: 8.34659661, 990: 13.8425982, 998: 14.5262757, 999: 14.6146412}
RESCALED = {0: 0.0291671582, 500: 1.77455747, 900: 18.3519193, 990: 245.954562, 998: 2254.23798, 999: 4518.7637}


@pytest.mark.parametrize(("ztsnr", "expected"), [(False, PLAIN), (True, RESCALED)])
def test_sigmas_are_the_hosts(ztsnr: bool, expected: dict[int, float]) -> None:
    found = sigmas(model_schedule(ztsnr))
    for step, sigma in expected.items():
        assert found[step] == pytest.approx(sigma, rel=1e-7), step


def test_rescaling_twice_changes_nothing() -> None:
    once = zero_terminal_snr(alphas_cumprod())
    np.testing.assert_array_equal(zero_terminal_snr(once), once)


def test_rescaling_keeps_the_first_step_and_falls_monotonically() -> None:
    plain = alphas_cumprod()
    rescaled = zero_terminal_snr(plain)
    assert rescaled[0] == pytest.approx(plain[0], rel=1e-12)
    assert np.all(np.diff(rescaled) < 0)
    assert np.all(rescaled[1:] < plain[1:])


def test_the_given_schedule_is_left_alone() -> None:
    plain = alphas_cumprod()
    before = plain.copy()
    zero_terminal_snr(plain)
    np.testing.assert_array_equal(plain, before)
