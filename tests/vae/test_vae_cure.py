"""The cure's arithmetic: powers of two only, no mantissa changed, and the same output from independent models."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from vae_makers import flat, narrow_layout, random_weights  # noqa: E402
from vae_oracles import LdmModel, diffusers_model, diffusers_run  # noqa: E402

from modelsmith.vae import cure  # noqa: E402
from modelsmith.vae.layout import Layout  # noqa: E402
from modelsmith.vae.network import FP16_MAX, Network, Probe  # noqa: E402

SIDES = ("decoder", "encoder")
LAYOUT = narrow_layout(4, (32, 64))


def inputs(layout: Layout, side: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    if side == "decoder":
        return torch.randn((1, layout.latent_channels, 6, 6), generator=generator) * 7
    return torch.rand((1, 3, 6 * layout.factor, 6 * layout.factor), generator=generator) * 2 - 1


def maxima(layout: Layout, weights: dict[str, torch.Tensor]) -> dict[str, float]:
    probe = Probe()
    network = Network(layout, flat(weights), probe)
    for side in SIDES:
        network.run(side, inputs(layout, side))
    return probe.maxima


def cured(layout: Layout, weights: dict[str, torch.Tensor], limit: float = FP16_MAX / 4) -> dict[str, torch.Tensor]:
    chosen = cure.plan(layout, maxima(layout, weights), limit, SIDES)
    return cure.apply(weights, cure.tensor_exponents(layout, chosen))


LAYOUTS = {
    "sd": LAYOUT,
    "deep": narrow_layout(4, (32, 64, 32, 64)),
    "16 channels": narrow_layout(16, (32, 64), quant=False),
    "32 channels": narrow_layout(32, (32, 32), batch_norm=True),
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_diffusers_overflows_before_and_gives_the_same_after(name: str, side: str) -> None:
    layout = LAYOUTS[name]
    weights = random_weights(layout, gain=3e4, branch=1e5)
    after = cured(layout, weights)
    value = inputs(layout, side)
    broken = diffusers_run(diffusers_model(layout, weights, torch.float16), side, value.half())
    assert not bool(broken.isfinite().all())
    whole = diffusers_run(diffusers_model(layout, after, torch.float16), side, value.half())
    assert bool(whole.isfinite().all())

    exact = diffusers_run(diffusers_model(layout, weights, torch.float64), side, value.double())
    size = float(exact.abs().max())
    full = diffusers_run(diffusers_model(layout, weights, torch.float32), side, value)
    full_after = diffusers_run(diffusers_model(layout, after, torch.float32), side, value)
    assert float((full_after - full).abs().max()) <= 1e-5 * size
    bf16 = diffusers_run(diffusers_model(layout, weights, torch.bfloat16), side, value.bfloat16())
    half_error = float((whole.double() - exact).abs().mean())
    assert half_error < 0.01 * size
    assert 4 * half_error < float((bf16.double() - exact).abs().mean())


@pytest.mark.parametrize("side", SIDES)
def test_the_ldm_classes_agree(side: str) -> None:
    weights = random_weights(LAYOUT, gain=3e4, branch=1e5)
    value = inputs(LAYOUT, side)
    before, after = LdmModel(LAYOUT, weights), LdmModel(LAYOUT, cured(LAYOUT, weights))
    full = before.run(side, value)
    torch.testing.assert_close(after.run(side, value), full, rtol=0, atol=1e-5 * float(full.abs().max()))
    assert not bool(before.run(side, value.half()).isfinite().all())
    assert bool(after.run(side, value.half()).isfinite().all())


def test_only_what_asks_for_it_is_scaled() -> None:
    weights = random_weights(LAYOUT)
    found = maxima(LAYOUT, weights)
    assert not cure.plan(LAYOUT, found, FP16_MAX / 4, SIDES)
    found["decoder.up.0.block.1"] = 300_000.0
    chosen = cure.plan(LAYOUT, found, FP16_MAX / 4, SIDES)
    assert dict(chosen.stages) == {"decoder.up.0": -5}
    assert not chosen.branches and not chosen.values and not chosen.queries
    changed = cure.tensor_exponents(LAYOUT, chosen)
    assert changed["decoder.up.1.upsample.conv.weight"] == changed["decoder.up.1.upsample.conv.bias"] == -5
    assert "decoder.up.0.block.0.nin_shortcut.weight" not in changed
    assert changed["decoder.up.0.block.0.nin_shortcut.bias"] == -5
    assert all(name.startswith("decoder.up.") for name in changed)


def test_each_layer_comes_below_the_limit() -> None:
    weights = random_weights(LAYOUT, gain=1e5, branch=1e6)
    before, after = maxima(LAYOUT, weights), maxima(LAYOUT, cured(LAYOUT, weights))
    assert max(before.values()) > FP16_MAX
    assert max(after.values()) <= FP16_MAX / 4


def test_large_values_and_queries_of_the_attention_are_moved_on() -> None:
    weights = random_weights(LAYOUT)
    for layer in ("v", "q"):
        weights[f"decoder.mid.attn_1.{layer}.weight"] *= 1e5
    weights["decoder.mid.attn_1.k.weight"] *= 1e-5
    weights["decoder.mid.attn_1.k.bias"] *= 1e-5
    weights["decoder.mid.attn_1.proj_out.weight"] *= 1e-5
    after = cured(LAYOUT, weights)
    value = inputs(LAYOUT, "decoder")
    assert max(maxima(LAYOUT, after).values()) <= FP16_MAX / 4
    torch.testing.assert_close(
        Network(LAYOUT, flat(after)).decode(value), Network(LAYOUT, flat(weights)).decode(value), rtol=0, atol=1e-4
    )


plans = st.builds(
    cure.Plan,
    st.fixed_dictionaries({stage.name: st.integers(-12, 0) for side in SIDES for stage in cure.stages(LAYOUT, side)}),
    st.dictionaries(
        st.sampled_from([n.removesuffix(".weight") for n in LAYOUT.tensors() if n.endswith("conv1.weight")]),
        st.integers(-12, -1),
    ),
    st.dictionaries(st.sampled_from(["decoder.mid.attn_1", "encoder.mid.attn_1"]), st.integers(-8, -1)),
    st.dictionaries(st.sampled_from(["decoder.mid.attn_1", "encoder.mid.attn_1"]), st.integers(-8, 8)),
)


@given(plans, st.integers(0, 100), st.sampled_from(["float32", "bfloat16", "float16"]))
@settings(max_examples=25, deadline=None)
def test_every_plan_changes_exponents_and_no_mantissa(plan: cure.Plan, seed: int, kind: str) -> None:
    weights = {name: tensor.to(getattr(torch, kind)) for name, tensor in random_weights(LAYOUT, seed).items()}
    exponents = cure.tensor_exponents(LAYOUT, plan)
    after = cure.apply(weights, exponents)
    assert all(isinstance(exponent, int) and exponent for exponent in exponents.values())
    for name, tensor in weights.items():
        exponent = exponents.get(name, 0)
        if exponent == 0:
            assert torch.equal(after[name], tensor)
            continue
        lost = cure.inexact_values(tensor, after[name], exponent)
        assert kind == "float16" or lost == 0
        mantissa, power = torch.frexp(tensor.double())
        new_mantissa, new_power = torch.frexp(after[name].double())
        whole = after[name].double() * 2.0**-exponent == tensor.double()
        assert int((~whole).sum()) == lost
        assert torch.equal(new_mantissa[whole], mantissa[whole])
        moved = whole & (mantissa != 0)
        assert torch.equal(new_power[moved] - power[moved], torch.full_like(power[moved], exponent))


@given(plans)
@settings(max_examples=15, deadline=None)
def test_every_plan_leaves_the_output_alone(plan: cure.Plan) -> None:
    """In fp64, where the epsilon alone can make a difference: with streams this large it makes none."""
    weights = {n: t.double() for n, t in random_weights(LAYOUT, gain=1e7, branch=1e7).items()}
    after = cure.apply(weights, cure.tensor_exponents(LAYOUT, plan))
    for side in SIDES:
        value = inputs(LAYOUT, side).double()
        wanted = Network(LAYOUT, flat(weights)).run(side, value)
        found = Network(LAYOUT, flat(after)).run(side, value)
        assert float((found - wanted).abs().max()) <= 1e-9 * float(wanted.abs().max())


def test_the_epsilon_effect_bounds_what_a_norm_loses() -> None:
    plan = cure.Plan(stages={"decoder.up.0": -4})
    variance = 1e-3
    effect = cure.epsilon_effect(LAYOUT, plan, {"decoder.norm_out": variance, "decoder.mid.block_1.norm1": variance})
    assert effect.keys() == {"decoder.norm_out"}
    value = torch.randn((1, 32, 8, 8), dtype=torch.float64)
    value = (value - value.mean((2, 3), keepdim=True)) / value.std((2, 3), keepdim=True, correction=0) * variance**0.5
    before = torch.nn.functional.group_norm(value, 32, eps=1e-6)
    after = torch.nn.functional.group_norm(value / 16, 32, eps=1e-6)
    torch.testing.assert_close(
        1 - after / before, torch.full_like(before, effect["decoder.norm_out"]), rtol=1e-6, atol=0
    )


def test_what_no_factor_reaches_is_named() -> None:
    found = maxima(LAYOUT, random_weights(LAYOUT))
    assert not cure.beyond_reach(found)
    assert cure.beyond_reach({**found, "decoder.conv_out": 1e6, "decoder.up.0.block.1": 1e6}) == {
        "decoder.conv_out": 1e6
    }
