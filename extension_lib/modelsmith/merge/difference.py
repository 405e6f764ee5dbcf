"""Where two models differ: for every block how far apart they are, streamed and in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelsmith.errors import Cancelled, UsageError
from modelsmith.files.dtypes import count, dtype
from modelsmith.files.tensors import is_strided
from modelsmith.markers import MARKERS
from modelsmith.merge.blocks import BlockLayout, layout_for
from modelsmith.merge.inputs import MergeInput, open_inputs
from modelsmith.merge.weights import WeightSource

PIECE = 1 << 20
"""Values of each model that are looked at together: 24 MiB in fp64 for three models."""

Progress = Callable[[float], None]
IsCancelled = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class BlockDifference:
    """How two models differ in one block.

    relative_l2: length of the difference over the length of A's weights (B − A, or B − C where there is a C); 0 where
    both are 0 and None where only A's length is. cosine: of the angle between A's and B's weights, or between A's and
    B − C where there is a C; None where one of them is 0. largest: the largest absolute change. values: how many were
    compared; ones that are not finite are left out.
    """

    relative_l2: float | None
    cosine: float | None
    largest: float
    values: int


@dataclass(frozen=True)
class DifferenceMap:
    """All blocks of one layout. missing: tensors that not every model has; shapes: those whose shapes differ."""

    layout: BlockLayout
    blocks: Mapping[str, BlockDifference]
    missing: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    not_finite: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the API and the command line give them; blocks in the order of the layout."""
        return {
            "layout": self.layout.id,
            "blocks": {
                name: {
                    "relative_l2": found.relative_l2,
                    "cosine": found.cosine,
                    "largest": found.largest,
                    "values": found.values,
                    "label": self.layout.block(name).label,
                }
                for name, found in self.blocks.items()
            },
            "missing": list(self.missing),
            "shapes": list(self.shapes),
            "not_finite": list(self.not_finite),
        }


@dataclass
class _Sums:
    """What is added up for one block, in fp64."""

    own: float = 0.0
    other: float = 0.0
    dot: float = 0.0
    change: float = 0.0
    largest: float = 0.0
    values: int = 0

    def add(self, a: Tensor, other: Tensor, change: Tensor) -> None:
        self.own += float(torch.dot(a, a))
        self.other += float(torch.dot(other, other))
        self.dot += float(torch.dot(a, other))
        self.change += float(torch.dot(change, change))
        self.largest = max(self.largest, float(change.abs().max()))
        self.values += a.numel()

    def result(self) -> BlockDifference:
        lengths = math.sqrt(self.own * self.other)
        relative = math.sqrt(self.change / self.own) if self.own else (0.0 if not self.change else None)
        cosine = max(-1.0, min(1.0, self.dot / lengths)) if lengths else None
        return BlockDifference(relative, cosine, self.largest, self.values)


@dataclass
class _Work:
    """What is being compared, and what was found so far."""

    inputs: tuple[MergeInput, ...]
    sources: tuple[WeightSource, ...]
    layout: BlockLayout
    sums: dict[str, _Sums] = field(default_factory=dict[str, _Sums])
    missing: list[str] = field(default_factory=list[str])
    shapes: list[str] = field(default_factory=list[str])
    not_finite: set[str] = field(default_factory=set[str])


def difference_map(
    a: Path,
    b: Path,
    c: Path | None = None,
    *,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
) -> DifferenceMap:
    """Compare B with A block by block; with a C, compare the difference B − C with A.

    progress: called with the share that is done, 0 to 1. cancelled: asked for every piece. Raises BadFileError,
    MergeError (models of different kinds or architectures), Cancelled.
    """
    paths = (a, b) if c is None else (a, b, c)
    inputs = open_inputs(paths, {})
    layout = layout_for(inputs[0].report.architecture, inputs[0].header.tensors)
    sources: list[WeightSource] = []
    try:
        sources.extend(one.open() for one in inputs)
        work = _Work(inputs, tuple(sources), layout)
        _compare(work, progress or _silent, cancelled or _never)
        for source in sources:
            source.check_unchanged()
    finally:
        for source in sources:
            source.close()
    blocks = {name: work.sums[name].result() for name in layout.ids if name in work.sums}
    return DifferenceMap(layout, blocks, tuple(work.missing), tuple(work.shapes), tuple(sorted(work.not_finite)))


def difference_json(a: Path, b: Path, c: Path | None = None, **watch: Any) -> dict[str, Any]:
    """``difference_map`` as plain values, with the names of the files in place of their paths."""
    found = difference_map(a, b, c, **watch).to_json()
    return {"models": [path.name for path in (a, b, c) if path is not None], **found}


def _silent(share: float) -> None:
    del share


def _never() -> bool:
    return False


def _compare(work: _Work, progress: Progress, cancelled: IsCancelled) -> None:
    plan = list(_common(work))
    total = sum(count(work.inputs[0].header.tensors[names[0]].shape) for names in plan) or 1
    if not plan:
        raise UsageError("the models have no tensor in common", "Choose models of one architecture")
    done = 0
    for names in plan:
        sums = work.sums.setdefault(work.layout.block_of(names[0]), _Sums())
        for pieces in _pieces(work, names):
            if cancelled():
                raise Cancelled("cancelled")
            _add(work, sums, names[0], pieces)
            done += pieces[0].numel()
            progress(done / total)


def _common(work: _Work) -> Iterator[tuple[str, ...]]:
    """Names of the tensors that all models have in one shape, in the order in which they lie in A."""
    first = work.inputs[0]
    place = {key: (str(info.file or ""), info.start) for key, info in first.header.tensors.items()}
    for canonical, key in sorted(first.canonical.items(), key=lambda item: place[item[1]]):
        info = first.header.tensors[key]
        if not dtype(info.dtype).floating or not count(info.shape) or key in MARKERS:
            continue
        found = [one.find(canonical) for one in work.inputs[1:]]
        others = [other for other in found if other is not None]
        if len(others) < len(found):
            work.missing.append(key)
        elif any(other[1].shape != info.shape for other in others):
            work.shapes.append(key)
        else:
            yield (key, *(name for name, _ in others))


def _pieces(work: _Work, names: tuple[str, ...]) -> Iterator[list[Tensor]]:
    """The same values of every model, in fp64, a piece at a time."""
    size = count(work.inputs[0].header.tensors[names[0]].shape)
    whole = [
        source.load(name).reshape(-1) if is_strided(source.info(name)) else None
        for source, name in zip(work.sources, names, strict=True)
    ]
    for first in range(0, size, PIECE):
        length = min(PIECE, size - first)
        yield [
            (source.load_flat(name, first, length) if loaded is None else loaded[first : first + length]).double()
            for source, name, loaded in zip(work.sources, names, whole, strict=True)
        ]


def _add(work: _Work, sums: _Sums, key: str, pieces: list[Tensor]) -> None:
    a, b = pieces[0], pieces[1]
    change = b - (pieces[2] if len(pieces) == 3 else a)
    other = change if len(pieces) == 3 else b
    sound = torch.isfinite(a) & torch.isfinite(other) & torch.isfinite(change)
    if not bool(sound.all()):
        work.not_finite.add(key)
        a, other, change = a[sound], other[sound], change[sound]
    if a.numel():
        sums.add(a, other, change)
