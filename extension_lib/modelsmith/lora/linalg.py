"""The few decompositions that LoRA work needs, typed (torch.linalg has no annotations) and reproducible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import torch

OVERSAMPLING = 10
POWER_ITERATIONS = 3


def _linalg() -> Any:
    import torch

    return cast(Any, torch).linalg


def norm(tensor: torch.Tensor) -> float:
    """The Frobenius norm, summed in fp64."""
    return float(_linalg().vector_norm(tensor.double()))


def solve_right(matrix: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """X with ``X · matrix = right``, for batches of square matrices."""
    return cast("torch.Tensor", _linalg().solve(matrix, right, left=False))


def orthonormal(matrix: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis of the columns of a tall matrix."""
    return cast("torch.Tensor", _linalg().qr(matrix)[0])


def qr(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``Q, R`` of a tall matrix, reduced."""
    q, r = _linalg().qr(matrix)
    return q, r


def svd(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``U, S, Vᵀ``, reduced, singular values falling."""
    u, s, vh = _linalg().svd(matrix, full_matrices=False)
    return u, s, vh


def gram_basis(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All squared singular values, falling, and the singular vectors of the shorter side, from the Gram matrix.

    The Gram matrix is summed and taken apart in fp64: in fp32 it would lose singular values below 3e-4 of the largest,
    which matters where a rank is chosen by energy. Columns of the basis belong to rows of ``matrix`` when it is wide.
    """
    wide = matrix.double() if matrix.shape[0] <= matrix.shape[1] else matrix.double().T
    values, vectors = _linalg().eigh(wide @ wide.T)
    return values.flip(0).clamp_min(0), vectors.flip(1)


def random_basis(matrix: torch.Tensor, rank: int, seed: int) -> torch.Tensor:
    """An orthonormal basis ``(rows, rank + 10)`` that captures the leading left singular vectors.

    Randomised range finder with power iterations, Halko, Martinsson and Tropp 2011 (arXiv 0909.4061) algorithm 4.4;
    the start is drawn from a generator of its own, so that the same seed gives the same basis whatever ran before.
    """
    import torch

    width = min(rank + OVERSAMPLING, *matrix.shape)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(matrix.shape[1], width, generator=generator, dtype=matrix.dtype).to(matrix.device)
    basis = orthonormal(matrix @ start)
    for _ in range(POWER_ITERATIONS):
        basis = orthonormal(matrix @ orthonormal(matrix.T @ basis))
    return basis
