"""A report in the making, and the small steps that its makers share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelsmith.files.header import FileHeader, TensorInfo
from modelsmith.identify.architectures import ARCHITECTURES, Architecture, Variant
from modelsmith.identify.messages import Message
from modelsmith.identify.precision import bytes_by_dtype, precision_of, quantization_of
from modelsmith.identify.report import LABELS, Component, Kind, Prediction
from modelsmith.identify.split import Parts
from modelsmith.identify.view import View


@dataclass
class Draft:
    """What is known of a file so far."""

    header: FileHeader
    parts: Parts
    kind: Kind = "unknown"
    candidates: tuple[str, ...] = ()
    architecture: Architecture | None = None
    variant: str | None = None
    prediction: Prediction = field(default_factory=Prediction)
    components: list[Component] = field(default_factory=list[Component])
    in_channels: int | None = None
    layout: str | None = None
    reduced: bool = False
    partial: bool = False
    inpainting: bool = False
    lora_type: str | None = None
    warnings: list[Message] = field(default_factory=list[Message])
    advice: list[Message] = field(default_factory=list[Message])
    _views: dict[tuple[int, str], View] = field(default_factory=dict[tuple[int, str], View])

    def view(self, tensors: Mapping[str, TensorInfo], prefix: str) -> View:
        """One component of the file, to be asked; the same view again for the same tensors, with what it has learnt."""
        key = (id(tensors), prefix)  # a view holds its tensors, so the id stays theirs
        if key not in self._views:
            self._views[key] = View(tensors, prefix, self.header, self.parts.markers)
        return self._views[key]

    def component(self, name: str, tensors: Mapping[str, TensorInfo], prefix: str = "") -> Component:
        """Measure one part of the file."""
        by_bytes = bytes_by_dtype(tensors)
        quantization = quantization_of(tensors, by_bytes, self.header, prefix)
        return Component(
            name=name,
            precision=precision_of(by_bytes, quantization),
            quantization=quantization,
            tensors=len(tensors),
            bytes=sum(by_bytes.values()),
        )


def match(view: View) -> tuple[Architecture, Variant] | None:
    """The first record whose condition holds, with the first variant of it that does."""
    for record in ARCHITECTURES:
        if record.when(view):
            for variant in record.variants:
                if variant.when(view):
                    return record, variant
    return None


def names_of(ids: tuple[str, ...]) -> str:
    """Labels of architectures, for a sentence."""
    return " / ".join(LABELS.get(name, name) for name in ids)
