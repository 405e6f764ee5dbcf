"""Reads ``LORA[:STRENGTH[:BLOCKS]]`` as people type it."""

from __future__ import annotations

import math
import re
from pathlib import Path

from modelsmith.errors import UsageError
from modelsmith.lora.stack import LoraSpec

# The path may hold colons itself (C:\…), so the strength is the last thing between colons that reads as a number.
_SPEC = re.compile(r"(?P<path>.+?):(?P<strength>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?::(?P<blocks>[^:\\/]*))?\Z")


def parse_spec(text: str) -> LoraSpec:
    """Read one LoRA of a command line: a path, a strength (1 where left out), block weights (1 where left out).

    Blocks are a preset's name, numbers in the layout's order or ``NAME=value`` pairs, separated by commas. Raises
    UsageError for a strength that is not finite or a name with nothing before the colon.
    """
    if not text.strip():
        raise UsageError("a LoRA was given without a name", "Write FILE, FILE:STRENGTH or FILE:STRENGTH:BLOCKS")
    match = None if Path(text).exists() else _SPEC.match(text)
    if match is None:
        return LoraSpec(Path(text))
    strength = float(match["strength"])
    if not math.isfinite(strength):
        raise UsageError(f"the strength {match['strength']!r} of {match['path']} is not finite", "Give a number")
    return LoraSpec(Path(match["path"]), strength, match["blocks"] or None)
