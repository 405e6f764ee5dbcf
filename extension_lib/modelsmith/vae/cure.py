"""The exact cure: powers of two that keep every activation of a VAE within fp16's range and leave its output alone.

The residual stream of encoder and decoder is only ever read through GroupNorm, whose result does not depend on the
scale of its input (but for its epsilon).  So whatever writes into the stream may be scaled by one factor for each
resolution: conv_in, every block's conv2, the bias of a shortcut (its input is scaled already), the attention's
proj_out, and of the convolution that changes the resolution the bias by the new factor, the weight by the ratio of
the two.  A block's conv1 is read by norm2 alone and has a factor of its own.  Within the attention a factor may be
moved from the values to the output matrix, and from the queries to the keys.

A power of two changes an exponent and no mantissa, so the arithmetic stays the same bit for bit until the epsilon.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from modelsmith.vae.layout import Layout, Side
from modelsmith.vae.network import EPS, FP16_MAX


@dataclass(frozen=True)
class Stage:
    """One piece of a residual stream that shares a factor.

    name: the resolution's, for people. writers: layers whose result is added to the stream, scaled with weight and
    bias. shortcuts: scaled in their bias only. entry: the convolution that changes the resolution before it.
    sums: where the stream itself is stored.
    """

    name: str
    side: Side
    writers: tuple[str, ...]
    shortcuts: tuple[str, ...]
    entry: str | None
    sums: tuple[str, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Every layer whose stored result takes the stage's factor."""
        return (*self.writers, *self.shortcuts, *((self.entry,) if self.entry else ()), *self.sums)


@dataclass(frozen=True)
class Plan:
    """The cure's exponents, all of powers of two. Zero entries are left out.

    stages: stage -> exponent of its stream. branches: ``...conv1`` -> exponent. values, queries: attention ->
    exponent of its values (undone in proj_out) and of its queries (undone in the keys).
    """

    stages: Mapping[str, int] = field(default_factory=lambda: dict[str, int]())
    branches: Mapping[str, int] = field(default_factory=lambda: dict[str, int]())
    values: Mapping[str, int] = field(default_factory=lambda: dict[str, int]())
    queries: Mapping[str, int] = field(default_factory=lambda: dict[str, int]())

    def __bool__(self) -> bool:
        return bool(self.stages or self.branches or self.values or self.queries)


def stages(layout: Layout, side: Side) -> tuple[Stage, ...]:
    """The stages of one side, in the order in which the values pass them."""
    return _decoder_stages(layout) if side == "decoder" else _encoder_stages(layout)


def _decoder_stages(layout: Layout) -> tuple[Stage, ...]:
    found: list[Stage] = []
    coarsest = len(layout.up) - 1
    width = layout.decoder_mid
    for number in range(coarsest, -1, -1):
        level = layout.up[number]
        blocks = [f"decoder.up.{number}.block.{block}" for block in range(level.blocks)]
        middle = _middle("decoder", layout) if number == coarsest else _Writers((), ())
        found.append(
            Stage(
                name=f"decoder.up.{number}",
                side="decoder",
                writers=(
                    *(("decoder.conv_in",) if number == coarsest else ()),
                    *middle.writers,
                    *(f"{block}.conv2" for block in blocks),
                ),
                shortcuts=(f"{blocks[0]}.nin_shortcut",) if width != level.channels else (),
                entry=None if number == coarsest else f"decoder.up.{number + 1}.upsample.conv",
                sums=(*middle.sums, *blocks),
            )
        )
        width = level.channels
    return tuple(found)


def _encoder_stages(layout: Layout) -> tuple[Stage, ...]:
    found: list[Stage] = []
    coarsest = len(layout.down) - 1
    width = layout.down[0].channels
    for number, level in enumerate(layout.down):
        blocks = [f"encoder.down.{number}.block.{block}" for block in range(level.blocks)]
        middle = _middle("encoder", layout) if number == coarsest else _Writers((), ())
        found.append(
            Stage(
                name=f"encoder.down.{number}",
                side="encoder",
                writers=(
                    *(("encoder.conv_in",) if number == 0 else ()),
                    *(f"{block}.conv2" for block in blocks),
                    *middle.writers,
                ),
                shortcuts=(f"{blocks[0]}.nin_shortcut",) if width != level.channels else (),
                entry=None if number == 0 else f"encoder.down.{number - 1}.downsample.conv",
                sums=(*blocks, *middle.sums),
            )
        )
        width = level.channels
    return tuple(found)


@dataclass(frozen=True)
class _Writers:
    writers: tuple[str, ...]
    sums: tuple[str, ...]


def _middle(side: Side, layout: Layout) -> _Writers:
    blocks = (f"{side}.mid.block_1", f"{side}.mid.block_2")
    attention = f"{side}.mid.attn_1"
    writers = tuple(f"{block}.conv2" for block in blocks)
    if not layout.attention:
        return _Writers(writers, blocks)
    return _Writers((*writers, f"{attention}.proj_out"), (*blocks, attention))


def plan(layout: Layout, maxima: Mapping[str, float], limit: float, sides: tuple[Side, ...]) -> Plan:
    """Choose the exponents that bring every layer that a factor reaches down to ``limit``.

    maxima: layer -> largest absolute activation measured in fp32. Only layers above ``limit`` are scaled, by the
    smallest power of two that suffices.
    """
    streams: dict[str, int] = {}
    branches: dict[str, int] = {}
    values: dict[str, int] = {}
    queries: dict[str, int] = {}
    for side in sides:
        for stage in stages(layout, side):
            if exponent := _exponent(max(maxima.get(layer, 0.0) for layer in stage.layers), limit):
                streams[stage.name] = exponent
        for layer in maxima:
            if layer.startswith(side) and layer.endswith(".conv1") and (exponent := _exponent(maxima[layer], limit)):
                branches[layer] = exponent
        attention = f"{side}.mid.attn_1"
        if exponent := _exponent(maxima.get(f"{attention}.v", 0.0), limit):
            values[attention] = exponent
        exponent = _exponent(maxima.get(f"{attention}.q", 0.0), limit)
        exponent = exponent or -_exponent(maxima.get(f"{attention}.k", 0.0), limit)
        if exponent:
            queries[attention] = exponent
    return Plan(streams, branches, values, queries)


def _exponent(peak: float, limit: float) -> int:
    """The largest e <= 0 with peak * 2**e <= limit."""
    if peak <= limit:
        return 0
    return -max(1, math.ceil(math.log2(peak / limit)))


def tensor_exponents(layout: Layout, chosen: Plan) -> dict[str, int]:
    """Turn a plan into one exponent for each tensor that changes, by canonical name."""
    found: dict[str, int] = {}

    def add(layer: str, weight: int, bias: int) -> None:
        for name, exponent in ((f"{layer}.weight", weight), (f"{layer}.bias", bias)):
            found[name] = found.get(name, 0) + exponent

    for side in ("decoder", "encoder"):
        before = 0
        for stage in stages(layout, side):
            own = chosen.stages.get(stage.name, 0)
            for layer in stage.writers:
                add(layer, own, own)
            for layer in stage.shortcuts:
                add(layer, 0, own)
            if stage.entry:
                add(stage.entry, own - before, own)
            before = own
    for layer, exponent in chosen.branches.items():
        add(layer, exponent, exponent)
    for attention, exponent in chosen.values.items():
        add(f"{attention}.v", exponent, exponent)
        add(f"{attention}.proj_out", -exponent, 0)
    for attention, exponent in chosen.queries.items():
        add(f"{attention}.q", exponent, exponent)
        add(f"{attention}.k", -exponent, -exponent)
    return {name: exponent for name, exponent in found.items() if exponent}


def scaled(tensor: Tensor, exponent: int) -> Tensor:
    """Multiply by ``2**exponent`` in the tensor's own type: exact unless a value leaves the type's normal range."""
    return tensor if exponent == 0 else tensor * (2.0**exponent)


def inexact_values(before: Tensor, after: Tensor, exponent: int) -> int:
    """How many values cannot be scaled back to what they were (in fp16: fell below the smallest normal number)."""
    return int((after.double() * 2.0**-exponent != before.double()).sum())


def apply(weights: Mapping[str, Tensor], exponents: Mapping[str, int]) -> dict[str, Tensor]:
    """The whole table with the exponents applied."""
    return {name: scaled(tensor, exponents.get(name, 0)) for name, tensor in weights.items()}


def epsilon_effect(layout: Layout, chosen: Plan, variances: Mapping[str, float]) -> dict[str, float]:
    """How much each GroupNorm's least varied group is damped by epsilon weighing more, as a fraction of its result.

    Before: 1 / sqrt(v + eps). After: 2**e / sqrt(v * 4**e + eps). An upper bound for that layer: groups that vary
    more are damped less, and a group without any variation gives the same result whatever the factor.
    """
    found: dict[str, float] = {}
    for name, exponent in _norm_exponents(layout, chosen).items():
        variance = variances.get(name)
        if variance is not None and variance > 0:
            found[name] = 1 - math.sqrt((variance + EPS) / (variance + EPS * 4.0**-exponent))
    return found


def _norm_exponents(layout: Layout, chosen: Plan) -> dict[str, int]:
    found = {layer.removesuffix("conv1") + "norm2": exponent for layer, exponent in chosen.branches.items()}
    for side in ("decoder", "encoder"):
        exponent = 0
        for stage in stages(layout, side):
            exponent = chosen.stages.get(stage.name, 0)
            readers = [f"{name}.norm" if ".attn_" in name else f"{name}.norm1" for name in stage.sums]
            found.update({name: exponent for name in readers if exponent})
        if exponent:
            found[f"{side}.norm_out"] = exponent
    return found


def beyond_reach(maxima: Mapping[str, float], limit: float = FP16_MAX) -> dict[str, float]:
    """Layers above ``limit`` that no factor reaches: what GroupNorm gives out, and the network's own output."""
    reached = (".conv1", ".conv2", ".nin_shortcut", ".proj_out", ".q", ".k", ".v", ".mixed", ".conv", ".conv_in")
    return {
        layer: peak
        for layer, peak in maxima.items()
        if peak > limit and not layer.endswith((*reached, ".scores")) and not _is_sum(layer)
    }


def _is_sum(layer: str) -> bool:
    last = layer.rsplit(".", 1)[-1]
    return last.isdigit() or last.startswith(("block_", "attn_"))


def same_tables(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether two tables hold the same tensors, bit for bit."""
    return first.keys() == second.keys() and all(
        tensor.dtype == second[name].dtype and torch.equal(tensor, second[name]) for name, tensor in first.items()
    )
