"""CFG rescale against the paper's definition, computed in the space of the velocity."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from modelsmith.cfg_rescale import rescale_denoised, rescale_noise  # noqa: E402

SIGMAS = (0.03, 1.0, 14.6, 4518.76)
SCALE = 7.0


def velocities(sigma: float) -> tuple[Any, Any, Any, Any, Any]:
    """In double precision: a and b of the noise level, a noisy latent a x0 + b e, two predictions of v for it."""
    a = torch.tensor((1 / (sigma**2 + 1)) ** 0.5, dtype=torch.float64)
    b = (1 - a**2).sqrt()
    noisy = torch.randn(3, 4, 8, 8, dtype=torch.float64)
    # Each sample has a spread of its own, so that a mean over the batch would be seen.
    spread = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)[:, None, None, None]
    return a, b, noisy, spread * torch.randn_like(noisy) + 0.3, torch.randn_like(noisy) - 0.1


def papers(cond: Any, uncond: Any, phi: float) -> Any:
    guided = uncond + SCALE * (cond - uncond)
    out = torch.empty_like(guided)
    for index in range(len(cond)):
        quotient = torch.std(cond[index]) / torch.std(guided[index])
        out[index] = phi * guided[index] * quotient + (1 - phi) * guided[index]
    return out


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("phi", [0.0, 0.3, 0.7, 1.0])
def test_denoised_as_in_the_paper(sigma: float, phi: float) -> None:
    a, b, noisy, cond, uncond = velocities(sigma)

    def denoised(v: Any) -> Any:
        return a * noisy - b * v

    guided = denoised(uncond) + SCALE * (denoised(cond) - denoised(uncond))
    wanted = denoised(papers(cond, uncond, phi))
    found = rescale_denoised(guided, denoised(cond), noisy / a, torch.full((3,), sigma), phi)
    # k-diffusion's x is the noisy latent divided by a; the function works in single precision.
    torch.testing.assert_close(found, wanted, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("phi", [0.0, 0.3, 0.7, 1.0])
def test_noise_as_in_the_paper(sigma: float, phi: float) -> None:
    a, b, noisy, cond, uncond = velocities(sigma)

    def noise(v: Any) -> Any:
        return b * noisy + a * v

    guided = noise(uncond) + SCALE * (noise(cond) - noise(uncond))
    wanted = noise(papers(cond, uncond, phi))
    found = rescale_noise(guided, noise(cond), noisy, (a**2).repeat(3), phi)
    torch.testing.assert_close(found, wanted, rtol=2e-4, atol=2e-4)


def test_without_guidance_nothing_changes() -> None:
    noisy, cond = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(rescale_denoised(cond, cond, noisy, torch.tensor([3.0, 1.0]), 0.7), cond)
    torch.testing.assert_close(rescale_noise(cond, cond, noisy, torch.tensor(0.3), 1.0), cond)


def test_a_flat_prediction_gives_no_nan_and_types_are_kept() -> None:
    flat = torch.zeros(1, 4, 8, 8, dtype=torch.float16)
    found = rescale_denoised(flat, flat, flat, torch.tensor([1.0]), 0.7)
    assert found.dtype == torch.float16
    assert found.isfinite().all()
