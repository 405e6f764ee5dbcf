"""Carries the streamed form of a method out: threads that need a tensor work together on what is asked of it first."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from modelsmith.errors import Cancelled
from modelsmith.merge.kernels import give_memory_back
from modelsmith.merge.methods import MethodSpec
from modelsmith.merge.methods.stream import Ask, Make, Stream, Streamed, Whole, streamed_form

_SKIPPED = 1 << 20
_AHEAD = 4
Load = Callable[[int, int, int], Tensor]


def rows_of(shape: tuple[int, ...], values: int) -> int:
    """Rows in a piece of about so many values; a row is never cut."""
    return max(1, values // max(1, prod(shape[1:])))


class Draws:
    """The random numbers of a tensor from any place on, by going on from the nearest place reached before."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._places = [0]
        self._states: dict[int, Tensor] = {0: self._generator.get_state()}
        self._guard = threading.Lock()

    def take(self, first: int, count: int) -> Tensor:
        """The numbers from the ``first`` on of those that ``torch.rand`` draws from the seed."""
        with self._guard:
            place = self._places[bisect.bisect_right(self._places, first) - 1]
            self._generator.set_state(self._states[place])
            while place < first:
                step = min(_SKIPPED, first - place)
                self._drawn(step)
                place += step
                self._keep(place)
            drawn = self._drawn(count)
            self._keep(first + count)
        return drawn

    def _drawn(self, count: int) -> Tensor:
        return torch.rand(count, generator=self._generator, dtype=torch.float32)

    def _keep(self, place: int) -> None:
        if place not in self._states:
            bisect.insort(self._places, place)
            self._states[place] = self._generator.get_state()


@dataclass
class _Rows:
    """One piece; it reads its rows when they are asked for (``methods.stream.Piece``)."""

    whole: Whole
    index: int
    first: int
    rows: int
    reader: Load
    draws: Draws | None
    _tensors: tuple[Tensor, ...] | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        if self._tensors is None:
            models = range(len(self.whole.stored))
            self._tensors = tuple(self.load(model, self.first, self.rows) for model in models)
        return self._tensors

    def load(self, model: int, first: int, rows: int) -> Tensor:
        values = self.reader(model, first * self.whole.width, rows * self.whole.width)
        return values.to(self.whole.kind).reshape(rows, *self.whole.shape[1:])

    def random(self, stream: int) -> Tensor:
        assert self.draws is not None  # a method that draws has a seed
        width = self.whole.width
        first = stream * self.whole.count + self.first * width
        return self.draws.take(first, self.rows * width).reshape(self.rows, *self.whole.shape[1:])


@dataclass
class OrderedSum:
    """A sum of tensors that come in any order and are added in that of their numbers, in the first one's memory; the
    caller keeps threads apart."""

    total: Any = None
    next: int = 0
    early: dict[int, Any] = field(default_factory=dict[int, Any])

    def take(self, index: int, part: object) -> None:
        """Add a part, or keep it until those before it have come."""
        self.early[index] = part
        while self.next in self.early:
            found: Any = self.early.pop(self.next)
            self.total = found if self.total is None else self.total.add_(found)
            self.next += 1


@dataclass
class _Answers:
    """What came back to one question. count: how often it is asked. left: answers that have not come."""

    ask: Ask
    count: int
    left: int
    next: int = 0
    found: dict[int, Any] = field(default_factory=dict[int, Any])
    sum: OrderedSum = field(default_factory=OrderedSum)

    def take(self, index: int, answer: object) -> None:
        self.left -= 1
        if self.ask.added:
            self.sum.take(index, answer)
        else:
            self.found[index] = answer

    def ahead(self) -> int:
        """How many pieces were begun beyond those that are added up."""
        return self.next - self.sum.next if self.ask.added else 0

    def result(self) -> object:
        return self.sum.total if self.ask.added else [self.found[index] for index in sorted(self.found)]


class StreamedTensor:
    """The values of one tensor by a streamed form, piece by piece; safe for several threads at once.

    load: gives values of a model's tensor, flat, from one place on. heavy: see ``methods.stream.Streamed``.
    """

    def __init__(self, whole: Whole, stream: Stream, load: Load, seed: int | None, *, heavy: bool = False) -> None:
        self.whole = whole
        self._heavy = heavy
        self._stream = stream
        self._load = load
        self._draws = None if seed is None else Draws(seed)
        self._state = threading.Condition()
        self._answers: _Answers | None = None
        self._make: Make | None = None
        self._error: BaseException | None = None
        self._go_on(None)

    def values(self, index: int) -> Tensor:
        """The values of a piece, not yet rounded. Raises what reading raises, and Cancelled after ``stop``."""
        values = self._settled()(self._piece(index))
        if self._heavy:
            give_memory_back()
        return values

    def stop(self) -> None:
        """Make every call that waits or goes on raise Cancelled."""
        with self._state:
            self._error = self._error or Cancelled()
            self._state.notify_all()

    def close(self) -> None:
        """Let go of what the method holds open; no thread may be at work on the tensor any more."""
        self._stream.close()

    def _piece(self, index: int) -> _Rows:
        first = index * self.whole.rows
        rows = min(self.whole.rows, self.whole.shape[0] - first)
        return _Rows(self.whole, index, first, rows, self._load, self._draws)

    def _settled(self) -> Make:
        """What makes the values; answers questions until there are none left."""
        while True:
            with self._state:
                while self._error is None and self._make is None and not self._open():
                    self._state.wait()
                if self._error is not None:
                    raise self._error
                if self._make is not None:
                    return self._make
                answers = cast(_Answers, self._answers)
                index = answers.next
                answers.next += 1
            self._answer(answers, index)

    def _open(self) -> bool:
        """Whether there is a question left to answer now: threads do not run far ahead of a sum, for parts that wait
        to be added are kept."""
        answers = self._answers
        return answers is not None and answers.next < answers.count and answers.ahead() < _AHEAD

    def _answer(self, answers: _Answers, index: int) -> None:
        try:
            answer = answers.ask.part(self._piece(index) if answers.ask.count is None else index)
            with self._state:
                answers.take(index, answer)
                if not answers.left and self._error is None:
                    self._go_on(answers.result())
                self._state.notify_all()
        except BaseException as error:
            with self._state:
                self._error = self._error or error
                self._state.notify_all()
            raise
        if self._heavy:
            give_memory_back()

    def _go_on(self, result: object) -> None:
        """Hand an answer to the method, and take its next question or its end."""
        try:
            found = self._stream.send(result)
        except StopIteration as end:
            found = cast(Make, end.value)
        if isinstance(found, Ask):
            count = self.whole.pieces if found.count is None else found.count
            self._answers = _Answers(found, count, count)
        else:
            self._answers, self._make = None, found


@dataclass(frozen=True, slots=True)
class StreamedMethod:
    """A method's streamed form for one tensor."""

    method: MethodSpec
    whole: Whole
    form: Streamed

    def begin(self, parameters: Mapping[str, float], load: Load, folder: Path | None = None) -> StreamedTensor:
        """Make the tensor. load: see ``StreamedTensor``. folder: see ``methods.stream.Whole``."""
        seed = int(parameters["seed"]) if self.method.seeded else None
        whole = replace(self.whole, folder=folder)
        return StreamedTensor(whole, self.form.form(whole, **parameters), load, seed, heavy=self.form.heavy)


def streamed(
    method: MethodSpec, shape: tuple[int, ...], kind: torch.dtype, stored: tuple[torch.dtype, ...], values: int = 0
) -> StreamedMethod | None:
    """How to make a tensor in pieces; None where the method has to hold it.

    kind, stored: see ``Whole``. values: in a piece, else as many as the method chooses.
    """
    form = streamed_form(method)
    if form is None or not shape or not prod(shape):
        return None
    whole = Whole(shape, rows_of(shape, values or form.values), kind, stored)
    return StreamedMethod(method, whole, form) if form.fits(whole) else None
