"""Our encoder and decoder against two independent implementations."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from vae_makers import flat, narrow_layout, random_weights  # noqa: E402
from vae_oracles import LdmModel, diffusers_model, diffusers_run  # noqa: E402

from modelsmith.vae.layout import Layout  # noqa: E402
from modelsmith.vae.network import Network, Probe  # noqa: E402

LAYOUTS = {
    "sdxl": narrow_layout(4, (32, 64, 64, 64)),
    "x4": narrow_layout(4, (32, 64, 64)),
    "flux1": narrow_layout(16, (32, 64), blocks=2, quant=False),
    "flux2": narrow_layout(32, (32, 32, 64), batch_norm=True),
}


def sample(layout: Layout, side: str) -> torch.Tensor:
    if side == "decoder":
        return torch.randn((2, layout.latent_channels, 6, 4), dtype=torch.float64) * 5
    return torch.rand((2, 3, 8 * layout.factor, 4 * layout.factor), dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("side", ["decoder", "encoder"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_same_as_diffusers(name: str, side: str) -> None:
    layout = LAYOUTS[name]
    weights = {key: value.double() for key, value in random_weights(layout).items()}
    value = sample(layout, side)
    wanted = diffusers_run(diffusers_model(layout, weights), side, value)
    found = Network(layout, flat(weights)).run(side, value)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("side", ["decoder", "encoder"])
def test_same_as_latent_diffusion(side: str) -> None:
    layout = LAYOUTS["sdxl"]
    weights = {key: value.double() for key, value in random_weights(layout).items()}
    value = sample(layout, side)
    wanted = LdmModel(layout, weights).run(side, value)
    found = Network(layout, flat(weights)).run(side, value)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_the_probe_sees_every_layer_and_changes_nothing() -> None:
    layout = LAYOUTS["x4"]
    weights = flat(random_weights(layout))
    value = sample(layout, "decoder").float()
    probe = Probe()
    watched = Network(layout, weights, probe).decode(value)
    torch.testing.assert_close(watched, Network(layout, weights).decode(value), rtol=0, atol=0)
    convolutions = {n.removesuffix(".weight") for n, t in weights.items() if t.ndim == 4 and n.startswith("decoder")}
    assert convolutions - {f"decoder.mid.attn_1.{part}" for part in ("q", "k", "v", "proj_out")} <= probe.maxima.keys()
    assert probe.maxima["decoder.conv_out"] == float(watched.abs().max())
    assert {
        n.removesuffix(".weight") for n in weights if n.startswith("decoder") and "norm" in n and "weight" in n
    } == (probe.variances.keys())


def test_imitated_fp16_overflows_where_fp16_itself_does() -> None:
    layout = LAYOUTS["x4"]
    value = sample(layout, "decoder").float()
    for gain in (1.0, 1e5):
        weights = flat(random_weights(layout, gain=gain))
        probe = Probe(storage=torch.float16)
        rounded = {name: tensor.half().float() for name, tensor in weights.items()}
        imitated = Network(layout, rounded, probe).decode(value.half().float())
        halves = {name: tensor.half() for name, tensor in weights.items()}
        own = Network(layout, halves).decode(value.half())
        assert bool(imitated.isfinite().all()) == bool(own.isfinite().all()) == (gain == 1.0)
        if gain == 1.0:
            # Both round every stored value; they differ by the order in which a sum is added up.
            assert float((imitated - own.float()).abs().max()) < 0.02 * float(imitated.abs().max())
