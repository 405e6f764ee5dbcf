"""Adjustments of detail, contrast and colour after a merge, on the first and the last convolution of a UNet.

The eight numbers and what they do are supermerger's (``fineman`` and ``colorcalc`` in mergers.py): IN, OUT and OUT2
make detail stronger (above 0) or softer, CONT contrast, BRI brightness, COL1 to COL3 the colours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelsmith.errors import UnknownNameError, UsageError
from modelsmith.merge.messages import told

if TYPE_CHECKING:
    from torch import Tensor

NAMES = ("IN", "OUT", "OUT2", "CONT", "BRI", "COL1", "COL2", "COL3")
"""The numbers in their order."""

_ALIASES: Mapping[str, str] = {
    "DETAIL": "IN",
    "DETAIL_IN": "IN",
    "DETAIL_OUT": "OUT",
    "DETAIL_OUT2": "OUT2",
    "CONTRAST": "CONT",
    "BRIGHTNESS": "BRI",
    "COLOR1": "COL1",
    "COLOR2": "COL2",
    "COLOR3": "COL3",
}
# What brightness and the colours add to the four channels of the prediction: one row each.
_CHANNELS_SD1 = ((-1.0, 1 / 3, 2 / 3), (1.0, 1.0, 0.0), (0.0, -1.0, -1.0), (1.0, 0.0, 1.0))
_CHANNELS_SDXL = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (-1.0, -1.0, 0.0), (-1.0, 1.0, 0.0))
_CHANNELS = {"sd1": _CHANNELS_SD1, "sd2": _CHANNELS_SD1, "sdxl": _CHANNELS_SDXL, "sdxl-refiner": _CHANNELS_SDXL}


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What becomes of one tensor: ``values·scale``, and ``add`` on top of its values where it has any."""

    scale: float = 1.0
    add: tuple[float, ...] = ()

    def apply(self, values: Tensor) -> Tensor:
        """The adjusted values, in the type of ``values`` and flat where something is added."""
        import torch

        if not self.add:
            return values * self.scale
        return values.reshape(-1) * self.scale + torch.tensor(self.add, dtype=values.dtype)


def parse_finetune(text: str) -> tuple[float, ...]:
    """The eight numbers of a text: plain ones in order, then ``NAME=value``; missing ones are 0.

    Raises UsageError, and UnknownNameError with the nearest name. A plain number after a name is refused: most often it
    is the rest of a number that was written with a decimal comma.
    """
    values = [0.0] * len(NAMES)
    plain, named = 0, ""
    for item in (part.strip() for part in re.split(r"[,\n]", text)):
        name, mark, value = item.partition("=")
        if mark:
            values[_place(name.strip())] = _number(value)
            named = item
        elif item and named:
            raise told(UsageError, "finetune-order", text=item, named=named)
        elif item or plain:
            plain += 1
            if plain > len(NAMES):
                raise told(UsageError, "finetune-count", count=plain)
            values[plain - 1] = _number(item) if item else 0.0
    return tuple(values)


def _place(name: str) -> int:
    found = _ALIASES.get(name.upper(), name.upper())
    if found not in NAMES:
        raise UnknownNameError("adjustment", name, (*NAMES, *_ALIASES))
    return NAMES.index(found)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise told(UsageError, "finetune-number", text=text.strip())
    return value


def adjustments(text: str, architecture: str | None, name: str) -> dict[str, Adjustment]:
    """What becomes of which tensor, by its name without prefix; nothing where all numbers are 0.

    Raises UsageError for a text that cannot be read and for a model that is no UNet.
    """
    values = parse_finetune(text)
    if not any(values):
        return {}
    if architecture not in _CHANNELS:
        raise told(UsageError, "finetune-architecture", name=name)
    detail_in, detail_out, detail_out2, contrast, brightness, *colours = values
    weights = _CHANNELS[architecture]
    shifts = (brightness, *colours)
    channels = [sum(0.02 * shifts[row] * weights[row][place] for row in range(4)) for place in range(3)]
    found = {
        "input_blocks.0.0.weight": Adjustment(1 - 0.01 * detail_in),
        "input_blocks.0.0.bias": Adjustment(1 + 0.02 * detail_in),
        "out.0.weight": Adjustment(1 - 0.01 * detail_out),
        "out.0.bias": Adjustment(1 + 0.02 * detail_out),
        "out.2.weight": Adjustment(1 - 0.01 * detail_out2),
        "out.2.bias": Adjustment(1.0, (0.02 * contrast, *channels)),
    }
    return {key: one for key, one in found.items() if one.scale != 1.0 or any(one.add)}
