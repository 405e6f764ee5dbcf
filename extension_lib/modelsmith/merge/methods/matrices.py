"""Methods that take matrices apart: rotations and ranks. The decompositions run in fp64."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from modelsmith.lora.linalg import gram_basis, svd
from modelsmith.merge.methods import catalogue_likeness as catalogue
from modelsmith.merge.methods.basic import add_scaled, weighted_sum
from modelsmith.merge.methods.spec import implements

_GENERIC = 0.7390851332151607
"""Any number does for which no two eigenvalues that differ give the same cos + c·sin; this one is cos of itself."""


def as_matrix(values: Tensor) -> Tensor:
    """Kernels of convolutions as the short side (channels by places of the kernel), other tensors by their rows."""
    if values.dim() == 4 and values.shape[2] * values.shape[3] > 1:
        return values.reshape(values.shape[0] * values.shape[1], -1)
    return values.reshape(values.shape[0], -1)


def nearest_rotation(a: Tensor, b: Tensor, *, proper: bool) -> Tensor:
    """The orthogonal Q that minimises ``|A·Q − B|``; ``proper``: no reflection, which has no fractional power."""
    return rotation_of(a.T @ b, proper=proper)


def rotation_of(product: Tensor, *, proper: bool) -> Tensor:
    """``nearest_rotation`` from the product ``Aᵀ·B``."""
    u, _, vh = svd(product)
    linalg = cast(Any, torch).linalg
    if proper and float(linalg.det(u @ vh)) < 0:
        u[:, -1] *= -1
    return u @ vh


def rotation_power(rotation: Tensor, power: float) -> Tensor:
    """A rotation by the share ``power`` of each of its angles.

    Q commutes with the Hermitian ``(Q + Qᵀ)/2 + c·(Q − Qᵀ)/2i``, whose eigenvectors are orthonormal, unlike those
    that a general solver finds for eigenvalues that lie close together.
    """
    hermitian = torch.complex((rotation + rotation.T) / 2, ((rotation - rotation.T) / 2).mul_(-_GENERIC))
    _, vectors = cast(Any, torch).linalg.eigh(hermitian)
    del hermitian  # as large as what follows
    values = (rotation.to(vectors.dtype) @ vectors).mul_(vectors.conj()).sum(0)
    turned = torch.polar(torch.ones_like(values.real), torch.angle(values) * power)
    return ((vectors * turned) @ vectors.conj().T).real.clone()


@implements(catalogue.ROTATE)
def rotate(a: Tensor, b: Tensor, *, alignment: float, alpha: float) -> Tensor:
    """Vectors and single values are mixed by alpha; matrices are turned along their shorter side."""
    if a.dim() < 2 or not a.numel() or torch.equal(a, b):
        return weighted_sum(a, b, alpha=alpha)
    if alignment == 1.0 and alpha == 1.0:
        return b.clone()
    first, second = as_matrix(a).double(), as_matrix(b).double()
    wide = first.shape[0] < first.shape[1]
    if wide:
        first, second = first.T, second.T
    mean_a, mean_b = first.mean(0), second.mean(0)
    first, second = first - mean_a, second - mean_b
    rotation = nearest_rotation(first, second, proper=0.0 < alignment < 1.0)
    if alpha:
        first = first + (second @ rotation.T - first) * alpha
    if alignment:
        first = first @ (rotation if alignment == 1.0 else rotation_power(rotation, alignment))
    result = first + mean_a + (mean_b - mean_a) * alignment
    return (result.T if wide else result).reshape(a.shape).to(a.dtype)


@implements(catalogue.RANK_TRUNCATION)
def rank_truncation(a: Tensor, b: Tensor, c: Tensor, *, alpha: float, rank: float) -> Tensor:
    """By the leading singular vectors of the shorter side, from the Gram matrix; vectors are added whole."""
    difference = b - c
    if a.dim() >= 2 and a.numel() and rank < 1.0:
        matrix = difference.reshape(a.shape[0], -1).double()
        kept = round(min(matrix.shape) * rank)
        _, basis = gram_basis(matrix)
        basis = basis[:, :kept]
        wide = matrix.shape[0] <= matrix.shape[1]
        nearest = basis @ (basis.T @ matrix) if wide else (matrix @ basis) @ basis.T
        difference = nearest.reshape(a.shape).to(a.dtype)
    return add_scaled(a, difference, alpha)
