"""All diffusion models that are known, in the order in which they are asked; no two claim one file."""

from __future__ import annotations

from modelsmith.identify.records import Architecture, Variant
from modelsmith.identify.transformers import TRANSFORMERS
from modelsmith.identify.unets import UNETS

ARCHITECTURES: tuple[Architecture, ...] = (*TRANSFORMERS, *UNETS)

__all__ = ["ARCHITECTURES", "Architecture", "Variant"]
