"""The 36 known block presets, each as a formula over the position of a block, and their folding to SDXL.

A preset has 26 values: BASE, IN00-11, M00, OUT00-11. The curves are those that supermerger
(``scripts/mbwpresets_master.txt``) and the other block mergers share; here ``t`` runs from 0 at IN00 to 1 at OUT11.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from modelsmith.errors import UnknownNameError

OUT_FROM_A = "OUT_FROM_A"
OUT_FROM_B = "OUT_FROM_B"
PARTS_ONLY = "PARTS_ONLY"
NETWORK_ONLY = "NETWORK_ONLY"

BY_GROUP: Mapping[str, str] = {
    OUT_FROM_A: "OUT, TIME and FINAL from A alone: keeps A's prediction type and ZTSNR; the rest as alpha says",
    OUT_FROM_B: "OUT, TIME and FINAL from B alone: keeps B's prediction type and ZTSNR; the rest as alpha says",
    PARTS_ONLY: "text encoders and VAE only: the network stays A's",
    NETWORK_ONLY: "the network only: text encoders and VAE stay A's",
    "EARLY_B": "the first half of the blocks from B",
    "LATE_B": "the second half of the blocks from B",
    "MIDDLE_B": "the middle half of the blocks from B",
    "ENDS_B": "the first and the last quarter of the blocks from B",
    "DEPTH_UP": "rising from A at the first block to B at the last",
    "DEPTH_DOWN": "falling from B at the first block to A at the last",
    "DOUBLE_B": "the double-stream blocks from B (FLUX, Chroma)",
    "SINGLE_B": "the single-stream blocks from B (FLUX, Chroma)",
    "REFINERS_B": "the refiners from B (Lumina 2, Z-Image)",
}
"""Presets that follow the groups of a layout and so fit every architecture that has those groups."""

STEPS = 25
Curve = Callable[[float], float]


def _smoothstep(t: float) -> float:
    return 3 * t**2 - 2 * t**3


def _fold(x: float) -> float:
    """Reflect ``x`` into 0..1, a triangle wave of period 2."""
    x = math.fmod(x, 2.0)
    return 2.0 - x if x > 1.0 else x


def _cosine(t: float) -> float:
    return (1 + math.cos(math.pi * t)) / 2


def _true_hermite(t: float) -> float:
    return 0.0 if t == 0 else 77 / 12 * t**3 - 77 / 8 * t**2 + 25 / 6 * t + 1 / 24


def _fake_hermite(t: float) -> float:
    return 19 / 3 * t**3 - 19 / 2 * t**2 + 25 / 6 * t


def _reverse(curve: Curve) -> Curve:
    return lambda t: 1.0 - curve(t)


def _times(factor: int) -> Curve:
    return lambda t: _fold(factor * _smoothstep(t))


def _folded(factor: int) -> Curve:
    return lambda t: _smoothstep(_fold(factor * t))


def _curve(curve: Curve) -> tuple[float, ...]:
    return (0.0, *(curve(step / (STEPS - 1)) for step in range(STEPS)))


def _spans(*spans: tuple[int, int, float]) -> tuple[float, ...]:
    """Values 0 except for spans (first, last, value) of positions 1 (IN00) to 25 (OUT11)."""
    values = [0.0] * (STEPS + 1)
    for first, last, value in spans:
        values[first : last + 1] = [value] * (last - first + 1)
    return tuple(values)


def _wrap(width: int) -> tuple[float, ...]:
    return _spans((1, width, 1.0), (STEPS + 1 - width, STEPS, 1.0))


def _build() -> dict[str, tuple[float, ...]]:
    presets: dict[str, tuple[float, ...]] = {
        "GRAD_V": _curve(lambda t: abs(1 - 2 * t)),
        "GRAD_A": _curve(lambda t: 1 - abs(1 - 2 * t)),
        "FLAT_25": _spans((1, 25, 0.25)),
        "FLAT_75": _spans((1, 25, 0.75)),
        "WRAP08": _wrap(4),
        "WRAP12": _wrap(6),
        "WRAP14": _wrap(7),
        "WRAP16": _wrap(8),
        "MID12_50": _spans((6, 19, 0.5)),
        "OUT07": _spans((19, 25, 1.0)),
        "OUT12": _spans((14, 25, 1.0)),
        "OUT12_5": _spans((13, 13, 0.5), (14, 25, 1.0)),
        "RING08_SOFT": _spans((6, 10, 0.5), (7, 9, 1.0), (16, 20, 0.5), (17, 19, 1.0)),
        "RING08_5": _spans((7, 10, 1.0), (16, 19, 1.0)),
        "RING10_5": _spans((6, 10, 1.0), (16, 20, 1.0)),
        "RING10_3": _spans((7, 11, 1.0), (15, 19, 1.0)),
        "SMOOTHSTEP": _curve(_smoothstep),
        "REVERSE-SMOOTHSTEP": _curve(_reverse(_smoothstep)),
    }
    for name, family in (("*", _times), ("/", _folded)):
        for factor in (2, 3, 4):
            presets[f"SMOOTHSTEP{name}{factor}"] = _curve(family(factor))
            presets[f"R_SMOOTHSTEP{name}{factor}"] = _curve(_reverse(family(factor)))
    presets |= {
        "COSINE": _curve(_cosine),
        "REVERSE_COSINE": _curve(_reverse(_cosine)),
        "TRUE_CUBIC_HERMITE": _curve(_true_hermite),
        "TRUE_REVERSE_CUBIC_HERMITE": _curve(_reverse(_true_hermite)),
        "FAKE_CUBIC_HERMITE": _curve(_fake_hermite),
        "FAKE_REVERSE_CUBIC_HERMITE": _curve(_reverse(_fake_hermite)),
        "ALL_A": _spans(),
        "ALL_B": (1.0,) * (STEPS + 1),
    }
    return presets


PRESETS: Mapping[str, tuple[float, ...]] = _build()


def preset(name: str) -> tuple[float, ...]:
    """The 26 values of a preset. Raises UnknownNameError with the nearest name."""
    found = PRESETS.get(name) or PRESETS.get(name.upper())
    if found is None:
        raise UnknownNameError("preset", name, (*PRESETS, *BY_GROUP))
    return found


def fold_to_sdxl(values: Sequence[float]) -> tuple[float, ...]:
    """Turn 26 values (BASE, IN00-11, M00, OUT00-11) into SDXL's 21 (BASE, IN00-08, M00, OUT00-08, VAE).

    SDXL has no IN09-11 and no OUT09-11; its VAE takes the weight 0, as supermerger folds it (``weighttoxl``).
    """
    return (*values[:10], *values[13:23], 0.0)


def spread(curve: Sequence[float], count: int) -> tuple[float, ...]:
    """Sample a preset's 25 block values at ``count`` evenly spaced places, for models with another number of blocks."""
    if count == 1:
        return (curve[len(curve) // 2],)
    result: list[float] = []
    for step in range(count):
        place = step * (len(curve) - 1) / (count - 1)
        low = min(int(place), len(curve) - 2)
        result.append(curve[low] + (curve[low + 1] - curve[low]) * (place - low))
    return tuple(result)
