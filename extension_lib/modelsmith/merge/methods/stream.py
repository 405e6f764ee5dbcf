"""Methods that need to know a whole tensor, without holding it: the tensor comes in pieces of whole rows.

A method in this form is a generator.  It yields what is to be asked of every piece (``each`` or ``total``), gets the
answers, asks again or not, and returns the function that makes the values of a piece.  Which thread answers for which
piece, and when, changes no bit: answers come back, or are added up, in the order of the pieces.

A method that holds something open while values are made yields that function instead of returning it; its generator
is closed when the last value is made, or when the merge ends otherwise.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from modelsmith.errors import UsageError
from modelsmith.merge.methods.spec import MethodSpec

_DIGIT = 16
_VALUES = 1 << _DIGIT

FEW = 1 << 18
"""Values in a piece where a value needs little but itself: the temporaries of all threads stay small."""

SOME = 1 << 19
"""Values in a piece where every piece costs something of its own: a table of counts, or the tensor read once more."""

MANY = 1 << 20
"""Values in a piece that needs neighbouring rows too."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A tensor that comes in pieces.

    rows: in each piece but the last. kind: the type that is computed in. stored: the types of the models' own values.
    folder: for temporary files; None: the system's.
    """

    shape: tuple[int, ...]
    rows: int
    kind: torch.dtype
    stored: tuple[torch.dtype, ...]
    folder: Path | None = None

    @property
    def count(self) -> int:
        """Values in the tensor."""
        return prod(self.shape)

    @property
    def pieces(self) -> int:
        """How many pieces there are."""
        return -(-self.shape[0] // self.rows)

    @property
    def width(self) -> int:
        """Values in a row."""
        return prod(self.shape[1:])


class Piece(Protocol):
    """Some rows of a tensor in all models."""

    @property
    def whole(self) -> Whole:
        """The tensor."""
        ...

    @property
    def index(self) -> int:
        """The piece's number."""
        ...

    @property
    def first(self) -> int:
        """Its first row."""
        ...

    @property
    def rows(self) -> int:
        """How many rows it has."""
        ...

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The rows of every model, shape ``(rows, *whole.shape[1:])``, in the type that is computed in."""
        ...

    def load(self, model: int, first: int, rows: int) -> Tensor:
        """Other rows of one model."""
        ...

    def random(self, stream: int) -> Tensor:
        """Random numbers from 0 to 1 for the piece's values: those that ``torch.rand`` of the whole tensor gives the
        ``stream``-th time from the tensor's seed."""
        ...


Make = Callable[[Piece], Tensor]
Stream = Generator["Ask | Make", Any, Make]
_Form = Callable[..., Stream]
_FormVar = TypeVar("_FormVar", bound=_Form)


@dataclass(frozen=True, slots=True)
class Ask:
    """What every piece is asked. added: only the sum of the answers is wanted, so that they need not be kept.

    count: of things that are no pieces; ``part`` gets their numbers then.
    """

    part: Callable[[Any], Any]
    added: bool
    count: int | None = None


def each(part: Callable[[Piece], Any]) -> Ask:
    """Ask for the list of all answers, in the order of the pieces."""
    return Ask(part, False)


def total(part: Callable[[Piece], Tensor]) -> Ask:
    """Ask for the sum of all answers, added up in the order of the pieces."""
    return Ask(part, True)


def numbered(count: int, part: Callable[[int], Any]) -> Ask:
    """Ask for the list of all answers for the numbers from 0 on."""
    return Ask(part, False, count)


@dataclass(frozen=True, slots=True)
class Streamed:
    """A streamed form: called with the tensor and the parameters.

    values: in a piece, about; a row is never cut. heavy: whether a piece costs so much arithmetic, and so many
    temporaries, that what it frees should go back to the system at once.
    """

    form: _Form
    fits: Callable[[Whole], bool]
    values: int
    heavy: bool = False


_STREAMED: dict[str, Streamed] = {}
_MODULES = ("stream_vectors", "stream_sparse", "stream_likeness", "stream_matrices", "stream_crossover")


def _always(_: Whole) -> bool:
    return True


def streams(
    spec: MethodSpec, fits: Callable[[Whole], bool] = _always, values: int = FEW, *, heavy: bool = False
) -> Callable[[_FormVar], _FormVar]:
    """Tie a streamed form to a specification.

    fits: whether it can be had for a tensor. values, heavy: see ``Streamed``. Raises UsageError where a method has two.
    """

    def tie(form: _FormVar) -> _FormVar:
        if spec.id in _STREAMED:
            raise UsageError(f"{spec.id} has two streamed forms")
        _STREAMED[spec.id] = Streamed(form, fits, values, heavy)
        return form

    return tie


def streamed_form(spec: MethodSpec) -> Streamed | None:
    """The streamed form of a method; None where it has none."""
    for module in _MODULES:
        importlib.import_module(f"{__package__}.{module}")
    return _STREAMED.get(spec.id)


Values = Callable[[Piece], Sequence[Tensor]]


def of_rank(whole: Whole, values: Values, ranks: Sequence[Sequence[int]]) -> Generator[Ask, Any, list[list[float]]]:
    """The magnitudes of given ranks (from 1, rising) among all values of a tensor: exact, without sorting it.

    values: several tensors from a piece. ranks: for each of these. A magnitude's bits, read as a whole number, order
    as it does, so that counting them sixteen bits at a time finds any rank (two passes in fp32, four in fp64).
    """
    bits = 64 if whole.kind == torch.float64 else 32
    found = [[(0, rank) for rank in wanted] for wanted in ranks]
    for shift in range(bits - _DIGIT, -1, -_DIGIT):
        prefixes = [sorted({prefix for prefix, _ in wanted}) for wanted in found]
        counts: Tensor = yield total(partial(_digits, values, prefixes, shift, shift + _DIGIT == bits))
        line = 0
        rows: list[dict[int, Tensor]] = []
        for wanted in prefixes:
            rows.append({prefix: counts[line + place].cumsum(0) for place, prefix in enumerate(wanted)})
            line += len(wanted)
        found = [
            [_narrowed(row[prefix], prefix, rank) for prefix, rank in wanted]
            for wanted, row in zip(found, rows, strict=True)
        ]
    return [[_number(prefix, bits) for prefix, _ in wanted] for wanted in found]


def _digits(values: Values, prefixes: Sequence[Sequence[int]], shift: int, first: bool, piece: Piece) -> Tensor:
    """For each prefix, how many magnitudes that begin with it go on with each digit."""
    lines: list[Tensor] = []
    for tensor, wanted in zip(values(piece), prefixes, strict=True):
        kind = torch.int64 if tensor.dtype == torch.float64 else torch.int32
        code = tensor.abs().reshape(-1).view(kind)
        for prefix in wanted:
            chosen = code if first else code[(code >> (shift + _DIGIT)) == prefix]
            lines.append(torch.bincount((chosen >> shift) & (_VALUES - 1), minlength=_VALUES))
    return torch.stack(lines) if lines else torch.zeros(0, _VALUES, dtype=torch.int64)


def _narrowed(counts: Tensor, prefix: int, rank: int) -> tuple[int, int]:
    digit = int(torch.searchsorted(counts, rank))
    before = int(counts[digit - 1]) if digit else 0
    return (prefix << _DIGIT) | digit, rank - before


def _number(code: int, bits: int) -> float:
    kinds = "Qd" if bits == 64 else "If"
    return float(struct.unpack(kinds[1], struct.pack(kinds[0], code))[0])
