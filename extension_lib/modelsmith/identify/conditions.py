"""The small language in which architectures are described: conditions on the names and shapes of one component."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from modelsmith.identify.view import View


class Condition(Protocol):
    """Something that a component meets or does not."""

    def __call__(self, view: View) -> bool: ...


@dataclass(frozen=True, init=False)
class Has:
    """All of these tensors are there."""

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", names)

    def __call__(self, view: View) -> bool:
        return all(view.has(name) for name in self.names)


@dataclass(frozen=True, init=False)
class Lacks:
    """None of these tensors is there."""

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", names)

    def __call__(self, view: View) -> bool:
        return not any(view.has(name) for name in self.names)


@dataclass(frozen=True)
class Stem:
    """Some name begins with this stem (two parts at most)."""

    stem: str

    def __call__(self, view: View) -> bool:
        return view.has_stem(self.stem)


@dataclass(frozen=True, init=False)
class Side:
    """A side of a tensor has one of these lengths."""

    name: str
    axis: int
    lengths: tuple[int, ...]

    def __init__(self, name: str, axis: int, *lengths: int) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "axis", axis)
        object.__setattr__(self, "lengths", lengths)

    def __call__(self, view: View) -> bool:
        return view.side(self.name, self.axis) in self.lengths


@dataclass(frozen=True)
class Rank:
    """A tensor has this many sides."""

    name: str
    rank: int

    def __call__(self, view: View) -> bool:
        return view.rank(self.name) == self.rank


@dataclass(frozen=True)
class Blocks:
    """There are so many numbered blocks under a stem."""

    stem: str
    low: int
    high: int

    def __call__(self, view: View) -> bool:
        return self.low <= view.blocks(self.stem) <= self.high


@dataclass(frozen=True)
class Depth:
    """There are so many numbered tensors ``pattern N name``."""

    pattern: str
    name: str
    low: int
    high: int

    def __call__(self, view: View) -> bool:
        return self.low <= view.depth(self.pattern, self.name) <= self.high


@dataclass(frozen=True)
class Marked:
    """The file carries a marker tensor of this name."""

    name: str

    def __call__(self, view: View) -> bool:
        return self.name in view.markers


@dataclass(frozen=True, init=False)
class All:
    """Every one of these holds."""

    parts: tuple[Condition, ...]

    def __init__(self, *parts: Condition) -> None:
        object.__setattr__(self, "parts", parts)

    def __call__(self, view: View) -> bool:
        return all(part(view) for part in self.parts)


@dataclass(frozen=True, init=False)
class AnyOf:
    """At least one of these holds."""

    parts: tuple[Condition, ...]

    def __init__(self, *parts: Condition) -> None:
        object.__setattr__(self, "parts", parts)

    def __call__(self, view: View) -> bool:
        return any(part(view) for part in self.parts)


@dataclass(frozen=True)
class Not:
    """This does not hold."""

    part: Condition

    def __call__(self, view: View) -> bool:
        return not self.part(view)


@dataclass(frozen=True)
class Context:
    """The width of the text that a UNet's first cross-attention takes is ``width``.

    SD1 and SD2 have one set of names. A file of reduced width is told by the rank of ``proj_in`` instead, which is a
    1x1 convolution in SD1 (four sides) and a matrix in SD2.
    """

    block: str
    width: int
    projection_rank: int

    def __call__(self, view: View) -> bool:
        found = context_width(view, self.block)
        if found in (768, 1024, 1280, 2048):
            return found == self.width
        return found is not None and view.rank(f"{self.block}.proj_in.weight") == self.projection_rank


def context_width(view: View, block: str) -> int | None:
    """Columns of ``attn2.to_k`` of a transformer block, packed or not: values over the width of the block's norm."""
    name = f"{block}.transformer_blocks.0.attn2.to_k.weight"
    plain = view.side(name, 1)
    inner = view.side(f"{block}.transformer_blocks.0.norm1.bias", 0) or view.side(f"{block}.norm.weight", 0)
    values = view.count(name)
    if inner and values and values % inner == 0:
        return values // inner
    return plain
