"""Makes LoRA modules of every algebra with random factors, and says in fp64, from definitions, what each does.

The definitions are written out (sums over indices, numpy's Kronecker product, a loop over blocks), not as the library
computes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import torch

Tensors = dict[str, torch.Tensor]
Apply = Callable[[torch.Tensor, float], torch.Tensor]


@dataclass(frozen=True)
class Made:
    """Tensors by suffix, and what they do to a weight (fp64) at a strength."""

    tensors: Tensors
    apply: Apply


def _random(*shape: int, scale: float = 0.1, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return (torch.randn(shape) * scale).to(dtype)


def _inner(shape: tuple[int, ...]) -> int:
    return prod(shape[1:])


def _tucker(core: torch.Tensor, out: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """``Σ core[m, n, …] out[i, m] inner[n, j]``, by loops over the two ranks."""
    rows, columns = out.shape[0], inner.shape[1]
    total = torch.zeros(rows, columns, *core.shape[2:], dtype=torch.float64)
    for m in range(core.shape[0]):
        for n in range(core.shape[1]):
            total += (out[:, m][:, None] * inner[n][None, :]).reshape(rows, columns, *(1,) * (core.dim() - 2)) * core[
                m, n
            ]
    return total


def _linear(tensors: Mapping[str, torch.Tensor], delta: torch.Tensor, scale: float) -> Made:
    return Made(dict(tensors), lambda weight, strength: weight + strength * scale * delta.reshape(weight.shape))


def lora(shape: tuple[int, ...], rank: int = 3, alpha: float | None = 2.0, tucker: bool = False) -> Made:
    """LoRA, LoCon, or LoCon with a Tucker core."""
    kernel = shape[2:]
    ones = (1,) * len(kernel)
    up = _random(shape[0], rank, *ones)
    down = _random(rank, shape[1], *(ones if tucker else kernel))
    tensors = {".lora_up.weight": up, ".lora_down.weight": down}
    if tucker:
        core = _random(rank, rank, *kernel)
        tensors[".lora_mid.weight"] = core
        delta = _tucker(core.double(), up.double().flatten(1), down.double().flatten(1))
    else:
        delta = torch.from_numpy(np.tensordot(up.double().flatten(1).numpy(), down.double().numpy(), axes=1))
    if alpha is not None:
        tensors[".alpha"] = torch.tensor(alpha)
    return _linear(tensors, delta, 1.0 if alpha is None else alpha / rank)


def peft(shape: tuple[int, ...], rank: int = 3, adapter: str = "") -> Made:
    """PEFT's spelling, without alpha."""
    made = lora(shape, rank, None)
    names = {".lora_up.weight": f".lora_B{adapter}.weight", ".lora_down.weight": f".lora_A{adapter}.weight"}
    return Made({names[name]: tensor for name, tensor in made.tensors.items()}, made.apply)


def loha(shape: tuple[int, ...], rank: int = 3, tucker: bool = False) -> Made:
    """LoHa, with cores or without."""
    tensors: Tensors = {".alpha": torch.tensor(1.5)}
    halves: list[torch.Tensor] = []
    for which in "12":
        if tucker:
            a, b = _random(rank, shape[0], scale=0.4), _random(rank, shape[1], scale=0.4)
            core = _random(rank, rank, *shape[2:], scale=0.4)
            tensors[f".hada_t{which}"] = core
            halves.append(_tucker(core.double(), a.double().T, b.double()))
        else:
            a, b = _random(shape[0], rank, scale=0.4), _random(rank, _inner(shape), scale=0.4)
            halves.append(torch.from_numpy(a.double().numpy() @ b.double().numpy()))
        tensors |= {f".hada_w{which}_a": a, f".hada_w{which}_b": b}
    return _linear(tensors, halves[0] * halves[1], 1.5 / rank)


def lokr(shape: tuple[int, ...], form: str = "full", rank: int = 2) -> Made:
    """LoKr: ``full``, ``w2`` or ``both`` factorised, ``tucker`` for a core in w2."""
    rows, columns = (2, 4) if shape[1] % 4 == 0 else (2, 2)
    big = (shape[0] // rows, shape[1] // columns)
    tensors: Tensors = {".alpha": torch.tensor(1.5)}
    if form == "both":
        a, b = _random(rows, rank, scale=0.4), _random(rank, columns, scale=0.4)
        tensors |= {".lokr_w1_a": a, ".lokr_w1_b": b}
        first = a.double().numpy() @ b.double().numpy()
    else:
        whole = _random(rows, columns, scale=0.4)
        tensors[".lokr_w1"] = whole
        first = whole.double().numpy()
    scale = 1.0 if form == "full" else 1.5 / rank
    if form == "full":
        second = _random(*big, *shape[2:])
        tensors[".lokr_w2"] = second
        other = second.double().numpy()
    elif form == "tucker":
        a, b, core = _random(rank, big[0]), _random(rank, big[1]), _random(rank, rank, *shape[2:])
        tensors |= {".lokr_w2_a": a, ".lokr_w2_b": b, ".lokr_t2": core}
        other = _tucker(core.double(), a.double().T, b.double()).numpy()
    else:
        a, b = _random(big[0], rank), _random(rank, big[1] * prod(shape[2:]))
        tensors |= {".lokr_w2_a": a, ".lokr_w2_b": b}
        other = (a.double().numpy() @ b.double().numpy()).reshape(*big, *shape[2:])
    delta = np.stack(
        [np.kron(first, other.reshape(*big, -1)[:, :, place]) for place in range(prod(shape[2:]))],
        axis=-1,
    )
    return _linear(tensors, torch.from_numpy(delta), scale)


def dora(shape: tuple[int, ...], on: str = "input") -> Made:
    """DoRA with magnitudes per input (LyCORIS), per output, or per output under PEFT's name."""
    inner = lora(shape)
    axis = 1 if on == "input" else 0
    numbers = torch.rand(shape[axis]) + 0.5
    flat = [1] * len(shape)
    flat[axis] = shape[axis]
    tensors = dict(inner.tensors)
    if on == "peft":
        tensors[".lora_magnitude_vector"] = numbers
    else:
        tensors[".dora_scale"] = numbers.reshape(flat)

    def apply(weight: torch.Tensor, strength: float) -> torch.Tensor:
        tuned = inner.apply(weight, 1.0)
        result = torch.empty_like(tuned)
        for place in range(shape[axis]):
            piece = tuned.select(axis, place)
            result.select(axis, place).copy_(piece * float(numbers[place].double()) / piece.norm())
        return weight + strength * (result - weight)

    return Made(tensors, apply)


def oft(shape: tuple[int, ...], alpha: float | None, rescale: bool = False) -> Made:
    """OFT with two blocks; alpha is the constraint as a share of the output's size."""
    size = shape[0] // 2
    blocks = _random(2, size, size, scale=0.3)
    tensors: Tensors = {".oft_blocks": blocks}
    if alpha is not None:
        tensors[".alpha"] = torch.tensor(alpha)
    factor = _random(shape[0], *(1,) * (len(shape) - 1)) + 1
    if rescale:
        tensors[".rescale"] = factor

    def apply(weight: torch.Tensor, strength: float) -> torch.Tensor:
        skew = blocks.double() - blocks.double().transpose(1, 2)
        limit = (alpha or 0) * shape[0]
        if limit and skew.norm() > limit:
            skew = skew * limit / skew.norm()
        eye = torch.eye(size, dtype=torch.float64)
        rows = []
        for block in range(2):
            rotation = (eye + skew[block]) @ torch.inverse(eye - skew[block])
            mixed = strength * (rotation - eye) + eye
            rows.append(mixed.T @ weight[block * size : (block + 1) * size].flatten(1))
        result = torch.cat(rows).reshape(weight.shape)
        return result * (1 + strength * (factor.double() - 1)) if rescale else result

    return Made(tensors, apply)


def boft(shape: tuple[int, ...], rounds: int = 2) -> Made:
    """BOFT with blocks of 4 rows."""
    size, number = 4, shape[0] // 4
    blocks = _random(rounds, number, size, size, scale=0.3)

    def apply(weight: torch.Tensor, strength: float) -> torch.Tensor:
        rows = weight.flatten(1)
        eye = torch.eye(size, dtype=torch.float64)
        for index in range(rounds):
            step = 2**index * size // 2
            order = [
                group * 2 * step + side * step + place
                for group in range(shape[0] // (2 * step))
                for place in range(step)
                for side in range(2)
            ]
            mixed = rows[order]
            for block in range(number):
                skew = blocks[index, block].double() - blocks[index, block].double().T
                rotation = (eye + skew) @ torch.inverse(eye - skew)
                here = slice(block * size, (block + 1) * size)
                mixed[here] = (eye + strength * (rotation - eye)) @ mixed[here]
            rows = torch.empty_like(mixed)
            rows[order] = mixed
        return rows.reshape(weight.shape)

    return Made({".oft_blocks": blocks}, apply)


def full(shape: tuple[int, ...], role: str = ".diff") -> Made:
    """A difference of the whole weight, or the weight that takes its place."""
    value = _random(*shape)
    if role == ".set_weight":
        return Made({role: value}, lambda weight, strength: weight + strength * (value.double() - weight))
    return Made({role: value}, lambda weight, strength: weight + strength * value.double())


LINEAR: dict[str, Callable[[tuple[int, ...]], Made]] = {
    "lora": lora,
    "lora without alpha": lambda shape: lora(shape, alpha=None),
    "peft": peft,
    "peft default": lambda shape: peft(shape, adapter=".default"),
    "loha": loha,
    "lokr full": lokr,
    "lokr w2": lambda shape: lokr(shape, "w2"),
    "lokr both": lambda shape: lokr(shape, "both"),
    "dora input": dora,
    "dora output": lambda shape: dora(shape, "output"),
    "dora peft": lambda shape: dora(shape, "peft"),
    "oft": lambda shape: oft(shape, None),
    "oft constrained": lambda shape: oft(shape, 2**-7),
    "oft rescaled": lambda shape: oft(shape, None, rescale=True),
    "boft": lambda shape: boft(shape, 2 if shape[0] % 8 == 0 else 1),
    "diff": full,
    "set_weight": lambda shape: full(shape, ".set_weight"),
}

CONV: dict[str, Callable[[tuple[int, ...]], Made]] = {
    "locon": lora,
    "locon tucker": lambda shape: lora(shape, tucker=True),
    "loha": loha,
    "loha tucker": lambda shape: loha(shape, tucker=True),
    "lokr full": lokr,
    "lokr w2": lambda shape: lokr(shape, "w2"),
    "lokr tucker": lambda shape: lokr(shape, "tucker"),
    "dora input": dora,
    "dora output": lambda shape: dora(shape, "output"),
    "oft": lambda shape: oft(shape, None),
    "boft": lambda shape: boft(shape, 2 if shape[0] % 8 == 0 else 1),
    "diff": full,
}
