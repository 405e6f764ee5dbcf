"""The form in which a diffusion model is described."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modelsmith.identify.conditions import All, Condition
from modelsmith.identify.report import PredictionType

NameLayout = Literal["ldm", "original", "diffusers"]
ALWAYS = All()


@dataclass(frozen=True)
class Variant:
    """A kind of an architecture that its header shows. ``prediction`` None means as the architecture."""

    id: str
    when: Condition
    prediction: PredictionType | None = None
    inpainting: bool = False


@dataclass(frozen=True)
class Architecture:
    """One architecture in one layout of names.

    when: holds for its files and for no other record's.
    inputs: the tensor and the side that tell the input channels.
    width: a tensor, a side and the lengths of a full model; another length means a model of reduced width.
    """

    id: str
    label: str
    layout: NameLayout
    when: Condition
    prediction: PredictionType
    inputs: tuple[str, int]
    width: tuple[str, int, tuple[int, ...]]
    variants: tuple[Variant, ...] = ()
