"""What each kind of LoRA does to a weight: pure functions on fp32 tensors.

``weight`` is always the module's own matrix or kernel, ``(out, in, *kernel)``; ``strength`` is the user's multiplier.
At strength 0 every function gives the weight back; at 1 the trained result. LoRA, LoHa, LoKr and full differences are
linear in between. Sources: LyCORIS lycoris/functional/*.py and lycoris/modules/*.py (f49d30d6), kohya sd-scripts
networks/lora.py and oft.py (48d368fa), ComfyUI comfy/weight_adapter/*.py (a125cd84); formulas only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from modelsmith.errors import MergeError
from modelsmith.lora.linalg import norm, solve_right

if TYPE_CHECKING:
    import torch

    Factors = Mapping[str, torch.Tensor]


def low_rank(factors: Factors) -> torch.Tensor:
    """LoRA and LoCon: ``up · down``, or ``Σ mid[m, n, …] up[i, m] down[n, j]`` with a Tucker core.

    up ``(out, r[, 1, 1])``, down ``(r, in[, k, k])`` or, with mid ``(r, r, k, k)``, ``(r, in[, 1, 1])``. Gives
    ``(out, in·k·k)`` or ``(out, in, k, k)``. Hu et al. 2021 (arXiv 2106.09685) eq. 3; LyCORIS functional/locon.py.
    """
    import torch

    up, down = factors["up"].flatten(1), factors["down"].flatten(1)
    if "mid" in factors:
        return torch.einsum("mn...,im,nj->ij...", factors["mid"], up, down)
    return up @ down


def hadamard(factors: Factors) -> torch.Tensor:
    """LoHa: ``(w1_a · w1_b) ⊙ (w2_a · w2_b)``, each product through a core ``t`` where the file has one.

    w_a ``(out, r)``, w_b ``(r, in·k·k)``; with cores ``(r, r, k, k)`` they are ``(r, out)`` and ``(r, in)``.
    FedPara (arXiv 2108.06098) prop. 1 and 3; LyCORIS functional/loha.py.
    """
    import torch

    halves: list[torch.Tensor] = []
    for which in "12":
        a, b = factors[f"hada_w{which}_a"], factors[f"hada_w{which}_b"]
        core = factors.get(f"hada_t{which}")
        if core is None:
            halves.append(a.flatten(1) @ b.flatten(1))
        else:
            halves.append(torch.einsum("ij...,jr,ip->pr...", core, b, a))
    return halves[0] * halves[1]


def kronecker(factors: Factors) -> torch.Tensor:
    """LoKr: ``w1 ⊗ w2``, each whole or as ``a · b``; w2 may go through a core ``t2`` ``(r, r, k, k)``.

    Gives ``(out, in[, k, k])`` or, where w2 came flattened, ``(out, in·k·k)``. LyCORIS functional/lokr.py; the
    Kronecker product orders rows and columns so that a flattened kernel stays innermost.
    """
    import torch

    first = factors["lokr_w1"] if "lokr_w1" in factors else factors["lokr_w1_a"] @ factors["lokr_w1_b"]
    if "lokr_w2" in factors:
        second = factors["lokr_w2"]
    elif "lokr_t2" in factors:
        second = torch.einsum("ij...,jr,ip->pr...", factors["lokr_t2"], factors["lokr_w2_b"], factors["lokr_w2_a"])
    else:
        second = factors["lokr_w2_a"] @ factors["lokr_w2_b"].flatten(1)
    first = first.reshape(*first.shape, *(1,) * (second.dim() - 2))
    return torch.kron(first, second.contiguous())


def decompose(weight: torch.Tensor, delta: torch.Tensor, magnitude: torch.Tensor, strength: float) -> torch.Tensor:
    """DoRA: ``W + s·(m·(W + Δ)/‖W + Δ‖ − W)``.

    The norm runs over all but the axis that ``magnitude`` belongs to: ``(1, in[, 1, 1])`` as LyCORIS and ComfyUI
    have it by default, ``(out, 1[, 1, 1])`` or ``(out,)`` as PEFT and LyCORIS' ``wd_on_output`` do. Interpolating the
    finished weight is what A1111 (extensions-builtin/Lora/network.py) and ComfyUI (weight_adapter/base.py) do for
    strengths other than 1. Liu et al. 2024 (arXiv 2402.09353) eq. 5. A row or column of norm 0 stays 0.
    """
    tuned = weight + delta
    rows, columns = weight.shape[0], weight.shape[1]
    on_output = magnitude.dim() == 1 or magnitude.shape[0] == magnitude.numel()
    if on_output and magnitude.numel() != rows and magnitude.numel() == columns:
        on_output = False
    if magnitude.numel() != (rows if on_output else columns):
        raise MergeError(f"a DoRA magnitude of {tuple(magnitude.shape)} does not fit a weight of {tuple(weight.shape)}")
    axis = 0 if on_output else 1
    others = [dim for dim in range(weight.dim()) if dim != axis]
    length = tuned.square().sum(dim=others, keepdim=True).sqrt()
    factor = magnitude.reshape(length.shape) / length.masked_fill(length == 0, 1)
    return weight + strength * (tuned * factor - weight)


def _rotations(blocks: torch.Tensor, constraint: float, strength: float) -> torch.Tensor:
    """Cayley transform ``R = (I + Q)(I − Q)⁻¹``, ``Q = B − Bᵀ``, moved from the identity by ``strength``.

    Where the norm of all of Q exceeds ``constraint`` (> 0), Q is scaled down to it. In fp64: the inverse of an
    ill-conditioned block would cost fp32 three digits, and the blocks are small.
    """
    import torch

    skew = blocks.double() - blocks.double().transpose(-1, -2)
    size = norm(skew)
    if 0 < constraint < size:
        skew = skew * (constraint / size)
    identity = torch.eye(blocks.shape[-1], dtype=torch.float64)
    rotation = solve_right(identity - skew, identity + skew)
    return (identity + strength * (rotation - identity)).to(blocks.dtype)


def _rescaled(weight: torch.Tensor, rescale: torch.Tensor | None, strength: float) -> torch.Tensor:
    if rescale is None:
        return weight
    factor = rescale.reshape(-1, *(1,) * (weight.dim() - 1))
    return weight * (1 + strength * (factor - 1))


def rotate(weight: torch.Tensor, factors: Factors, constraint: float, strength: float) -> torch.Tensor:
    """OFT: each of k blocks of n output rows is turned, ``W'[k, m] = Σₙ R[k, n, m] W[k, n]``.

    blocks ``(k, n, n)`` with k·n output rows; rescale ``(out, 1[, …])``. constraint: alpha · out, 0 for none (both
    kohya networks/oft.py and LyCORIS diag_oft.py multiply by the output's size). Qiu et al. 2023 (arXiv 2306.07280).
    The rescale, which LyCORIS applies whole, is moved from 1 by the strength so that 0 changes nothing.
    """
    import torch

    blocks = factors["oft_blocks"]
    if blocks.shape[0] * blocks.shape[1] != weight.shape[0]:
        raise MergeError(f"OFT blocks of {tuple(blocks.shape)} do not fit a weight of {tuple(weight.shape)}")
    rotation = _rotations(blocks, constraint, strength)
    parts = weight.reshape(blocks.shape[0], blocks.shape[1], -1)
    turned = torch.einsum("knm,knp->kmp", rotation, parts).reshape(weight.shape)
    return _rescaled(turned, factors.get("rescale"), strength)


def butterfly(weight: torch.Tensor, factors: Factors, constraint: float, strength: float) -> torch.Tensor:
    """BOFT: m rounds of block rotations with a butterfly order of rows between them.

    blocks ``(m, k, b, b)``. In round i rows are regrouped so that those 2ⁱ·b/2 apart meet in one block, turned
    (``W'[k, i] = Σⱼ R[k, i, j] W[k, j]``) and put back. Liu et al. 2023 (arXiv 2311.06243); LyCORIS modules/boft.py,
    whose rule for strengths other than 1 (each round's rotation moved from the identity) is kept.
    """
    import torch

    blocks = factors["oft_blocks"]
    rounds, number, size, _ = blocks.shape
    if number * size != weight.shape[0] or size % 2 or weight.shape[0] % (2 ** (rounds - 1) * size):
        raise MergeError(f"BOFT blocks of {tuple(blocks.shape)} do not fit a weight of {tuple(weight.shape)}")
    rotation = _rotations(blocks, constraint, strength)
    rows = weight.reshape(weight.shape[0], -1)
    for index in range(rounds):
        step = 2**index * (size // 2)
        mixed = rows.reshape(-1, 2, step, rows.shape[1]).transpose(1, 2).reshape(number, size, -1)
        turned = torch.einsum("kij,kjp->kip", rotation[index], mixed)
        rows = turned.reshape(-1, step, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)
    return _rescaled(rows.reshape(weight.shape), factors.get("rescale"), strength)


def replace(weight: torch.Tensor, value: torch.Tensor, strength: float) -> torch.Tensor:
    """ComfyUI's ``set_weight``: the stored weight takes the place of the model's; in between, a straight line."""
    import torch

    return value.clone() if strength == 1 else torch.lerp(weight, value, strength)
