"""supermerger's long list of weights for SDXL: every layer and every transformer block on its own.

From its ``BLOCKIDXLLL`` and ``blockfromkey`` (scripts/mergers/mergers.py): a name is the block (``IN4``), the layer in
it (``IN41``) and the transformer block in that (``IN410``); CLIPL and the VAE take the plain weight.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

_PLACES: Mapping[str, str] = {"IN": "input_blocks", "OUT": "output_blocks", "MID": "middle_block"}
_SINGLE: Mapping[str, str] = {
    "CLIPG": r"conditioner\.embedders\.1\.",
    "OUT9": r"diffusion_model\.out\.",
    "TIME": r"time_embed\.",
    "LABEL": r"label_emb\.",
}
_NAME = re.compile(r"(IN|OUT)(\d)(\d)(\d*)\Z|(MID)(\d)0(\d*)\Z")


def _with_transformers(layer: str, count: int) -> Iterator[str]:
    yield layer
    yield from (f"{layer}{number}" for number in range(count))


def _names() -> Iterator[str]:
    yield from ("CLIPG", "IN0", "IN00", "IN10", "IN20", "IN30")
    for block, count in ((4, 2), (5, 2)):
        yield f"IN{block}0"
        yield from _with_transformers(f"IN{block}1", count)
    yield "IN60"
    for block in (7, 8):
        yield f"IN{block}0"
        yield from _with_transformers(f"IN{block}1", 10)
    yield "MID00"
    yield from _with_transformers("MID10", 10)
    yield "MID20"
    for block in range(6):
        yield f"OUT{block}0"
        yield from _with_transformers(f"OUT{block}1", 10 if block < 3 else 2)
        if block in (2, 5):
            yield f"OUT{block}2"
    yield from ("OUT60", "OUT70", "OUT80", "OUT9", "TIME", "LABEL", "VAE")


NAMES = tuple(_names())
"""What the 109 weights behind the first one are for, in their order."""


def pattern_of(name: str) -> str:
    """A regular expression for the tensors of a name; empty for those that take the plain weight, or have none."""
    if name in _SINGLE:
        return _SINGLE[name]
    found = _NAME.match(name)
    if found is None:
        return ""
    kind, block, layer, number, middle, place, inner = found.groups()
    if middle:
        start, number = rf"middle_block\.{place}\.", inner
    else:
        start = rf"{_PLACES[kind]}\.{block}\.{layer}\."
    return start + (rf"transformer_blocks\.{number}\." if number else "(?!transformer_blocks)")


def as_rules(weights: Sequence[float]) -> str:
    """The 109 weights as rules of ``merge.rules``, one for each weight that occurs."""
    places: dict[float, list[str]] = {}
    for name, weight in zip(NAMES, weights, strict=True):
        pattern = pattern_of(name)
        if pattern:
            places.setdefault(weight, []).append(pattern)
    return ",".join(f"/(?:{'|'.join(patterns)})/:{weight:g}" for weight, patterns in places.items())
