"""Low-rank factors of a difference, chosen by rank or by kept energy, reproducible for a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from modelsmith.errors import UsageError
from modelsmith.lora.linalg import gram_basis, norm, random_basis, svd

if TYPE_CHECKING:
    import torch

Method = Literal["auto", "exact", "random"]

# The random basis costs about (2 + 4 · iterations) · m · n · r operations, the Gram matrix and its eigenvectors
# about m² · n + 9 · m³ in fp64: they break even near a rank of a fifth of the shorter side.
RANDOM_BELOW = 5
EXACT_UP_TO = 128


@dataclass(frozen=True)
class RankChoice:
    """How the rank of each module is chosen.

    rank: the most. energy: the least that keeps this share (0 … 1) of the sum of squares, at most ``rank``; None for
    always ``rank``. clamp: values of the factors beyond this quantile are clamped (as kohya's extraction does at
    0.99), None for none.
    """

    rank: int
    energy: float | None = None
    method: Method = "auto"
    clamp: float | None = None
    seed: int = 0

    def checked(self) -> RankChoice:
        """Itself, or UsageError for numbers that make no sense."""
        if self.rank < 1:
            raise UsageError(f"a rank of {self.rank} keeps nothing", "Give at least 1")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise UsageError(f"an energy of {self.energy} is no share", "Give a number above 0, at most 1")
        if self.clamp is not None and not 0.5 <= self.clamp <= 1:
            raise UsageError(f"a clamp quantile of {self.clamp} is out of range", "Give a number from 0.5 to 1")
        return self


@dataclass(frozen=True)
class Factors:
    """``up (m, r) · down (r, n)`` and the share of the sum of squares that it keeps."""

    up: torch.Tensor
    down: torch.Tensor
    energy: float

    @property
    def rank(self) -> int:
        """The inner dimension."""
        return int(self.up.shape[1])


def rank_for_energy(squares: torch.Tensor, energy: float, most: int) -> int:
    """The least rank whose squared singular values (falling) sum to the share ``energy`` of all; at most ``most``."""
    import torch

    total = float(squares.sum())
    if total == 0:
        return 1
    kept = torch.cumsum(squares, 0) / total
    enough = int((kept < energy * (1 - 1e-12)).sum()) + 1
    return max(1, min(enough, most, len(squares)))


def factorise(matrix: torch.Tensor, choice: RankChoice, seed: int) -> Factors:
    """The best factors of a matrix (fp32) under ``choice``.

    The basis is exact (eigenvectors of the Gram matrix) or random (Halko et al.); the factors are then the orthogonal
    projection of the matrix onto it, so that an inexact basis costs energy but never makes a wrong sum. Each column of
    ``up`` and row of ``down`` gets the square root of the singular value, which suits fp16 best.
    """
    most = min(choice.rank, *matrix.shape)
    exact = choice.method == "exact" or choice.energy is not None
    if choice.method == "auto" and choice.energy is None:
        exact = most * RANDOM_BELOW > min(matrix.shape) or min(matrix.shape) <= EXACT_UP_TO
    tall = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    if exact:
        squares, vectors = gram_basis(matrix)
        rank = most if choice.energy is None else rank_for_energy(squares, choice.energy, most)
        basis = vectors[:, :rank].to(matrix.dtype)
        other = basis.T @ tall
    else:
        wide = random_basis(tall, most, seed)
        left, _, _ = svd(wide.T @ tall)
        basis = wide @ left[:, :most]
        other = basis.T @ tall
    return _balanced(basis, other, matrix, choice.clamp)


def factorise_on(device: torch.device | None, matrix: torch.Tensor, choice: RankChoice, seed: int) -> Factors:
    """``factorise`` on a device (None: where the matrix is), the factors back on the CPU; done on the CPU where the
    device has too little free memory for it."""
    import torch

    if device is not None:
        try:
            made = factorise(matrix.to(device), choice, seed)
            return Factors(made.up.to("cpu"), made.down.to("cpu"), made.energy)
        except torch.cuda.OutOfMemoryError:
            pass  # the error holds what was begun on the device as long as it is being handled
        torch.cuda.empty_cache()
    return factorise(matrix, choice, seed)


def _balanced(basis: torch.Tensor, other: torch.Tensor, matrix: torch.Tensor, clamp: float | None) -> Factors:
    lengths = other.square().sum(dim=1).sqrt()
    roots = lengths.sqrt()
    first = basis * roots
    second = other / roots.masked_fill(roots == 0, 1)[:, None]
    if clamp is not None and clamp < 1:
        limit = _quantile(first, second, clamp)
        first, second = first.clamp(-limit, limit), second.clamp(-limit, limit)
    total = norm(matrix) ** 2
    kept = norm(other) ** 2 / total if total else 1.0
    flipped = matrix.shape[0] > matrix.shape[1]
    up, down = (second.T, first.T) if flipped else (first, second)
    return Factors(up.contiguous(), down.contiguous(), min(kept, 1.0))


def _quantile(first: torch.Tensor, second: torch.Tensor, share: float) -> float:
    """The value that ``share`` of all entries of both stay below (torch.quantile takes 16 M values at most)."""
    import torch

    values = torch.cat([first.flatten(), second.flatten()])
    place = max(1, min(values.numel(), round(share * values.numel())))
    return abs(float(torch.kthvalue(values, place).values))
