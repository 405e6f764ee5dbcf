"""The prediction probe on networks whose right answer is known: the best denoiser of a Gaussian prior."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from modelsmith import schedules  # noqa: E402
from modelsmith.prediction_probe import judge, probe  # noqa: E402


class Ideal:
    """Answers as the best possible network would for latents with a 1/f spectrum.

    ``mean_std`` is the standard deviation of a latent's mean over pictures; ``offset`` the share of offset noise that
    the network was trained with.
    """

    def __init__(self, kind: str, ztsnr: bool = False, mean_std: float = 0.5, offset: float = 0.0) -> None:
        self.kind, self.mean_std, self.offset = kind, mean_std, offset
        self.alphas = schedules.alphas_cumprod()
        if ztsnr:
            self.alphas = schedules.zero_terminal_snr(self.alphas, terminal=0.0)

    def gains(self, size: int, t: int) -> torch.Tensor:
        rows, columns = torch.fft.fftfreq(size).double(), torch.fft.rfftfreq(size).double()
        frequency = (rows[:, None] ** 2 + columns[None, :] ** 2).sqrt()
        power = 1.0 / (frequency.clamp(min=0.5 / size) * size) ** 2
        power = power / power.mean() * 0.75
        noise = torch.ones_like(power)
        power[0, 0] = self.mean_std**2 * size * size
        noise[0, 0] += self.offset**2 * size * size
        a = math.sqrt(max(float(self.alphas[t]), 0.0))
        b = math.sqrt(1 - a * a)
        k = a * power / (a * a * power + b * b * noise)
        epsilon = (1 - a * k) / b
        return epsilon if self.kind == "epsilon" else a * epsilon - b * k

    def __call__(self, x: torch.Tensor, t: int) -> torch.Tensor:
        size = x.shape[-1]
        return torch.fft.irfft2(torch.fft.rfft2(x.double()) * self.gains(size, t), s=(size, size)).to(x)


@pytest.mark.parametrize(
    ("network", "behaves_as", "ztsnr"),
    [
        (Ideal("epsilon"), "epsilon", None),
        (Ideal("epsilon", offset=0.1), "epsilon", None),
        (Ideal("epsilon", ztsnr=True), "epsilon", None),
        (Ideal("v"), "v_prediction", False),
        (Ideal("v", mean_std=0.8), "v_prediction", False),
        (Ideal("v", offset=0.05), "v_prediction", False),
        (Ideal("v", ztsnr=True), "v_prediction", True),
        (Ideal("v", ztsnr=True, mean_std=1.0), "v_prediction", True),
    ],
)
def test_ideal_networks_are_told_apart(network: Ideal, behaves_as: str, ztsnr: bool | None) -> None:
    for size in (32, 64):
        found = probe(network, (4, size, size))
        assert (found.behaves_as, found.ztsnr) == (behaves_as, ztsnr)


@pytest.mark.parametrize(("size", "response"), [(32, -7.9), (64, -12.1), (128, -13.9)])
def test_the_offset_response_of_a_velocity_network_is_what_theory_says(size: int, response: float) -> None:
    assert probe(Ideal("v"), (4, size, size)).response == pytest.approx(response, abs=0.1)
    assert probe(Ideal("v", ztsnr=True), (4, size, size)).response == pytest.approx(0.0, abs=1e-4)


def test_the_same_seed_asks_the_same() -> None:
    one, other = (probe(Ideal("v"), (4, 32, 32), seed=seed) for seed in (3, 4))
    assert probe(Ideal("v"), (4, 32, 32), seed=3) == one
    assert one.correlation != other.correlation
    assert one.correlation == pytest.approx(other.correlation, abs=0.05)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_a_blend_of_both_types_is_mixed(share: float) -> None:
    epsilon, velocity = Ideal("epsilon"), Ideal("v")
    found = probe(lambda x, t: share * epsilon(x, t) + (1 - share) * velocity(x, t))
    assert (found.behaves_as, found.ztsnr) == ("mixed", None)
    assert found.gain == pytest.approx(share, abs=0.05)
    assert found.correlation > 0.85


def test_other_networks_are_unclear() -> None:
    assert probe(lambda x, _t: -x).behaves_as == "unclear"
    assert probe(lambda x, _t: torch.full_like(x, float("nan"))).behaves_as == "unclear"
    # One that predicts the clean latent: the velocity's answer with the other sign.
    velocity = Ideal("v")
    assert probe(lambda x, t: -velocity(x, t)).behaves_as == "unclear"


def test_half_precision_is_enough() -> None:
    network = Ideal("v")
    found = probe(lambda x, t: network(x.half(), t).half())
    assert found.response == pytest.approx(probe(network).response, rel=0.05)


def test_the_numbers_of_small_trained_networks_are_read_right() -> None:
    """Gain, correlation and responses at 999 and 950 of tiny networks trained on synthetic latents."""
    trained = {
        (0.999, 0.999, 0.43, 0.43): ("epsilon", None),
        (0.07, 0.22, -4.15, -4.30): ("v_prediction", False),
        (0.07, 0.25, -3.16, -3.30): ("v_prediction", False),
        (0.04, 0.20, -1.36, -2.48): ("v_prediction", True),
        (1.0, 1.0, 0.62, 0.63): ("epsilon", None),
    }
    for numbers, wanted in trained.items():
        found = judge(*numbers)
        assert (found.behaves_as, found.ztsnr) == wanted
    assert judge(0.1, 0.1, -0.01, -0.02).ztsnr is None
