"""The answer: what one file is, how that is known, and what a person should mind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from modelsmith.identify.messages import TABLE, Language, Message

Kind = Literal[
    "checkpoint",
    "diffusion_model",
    "vae",
    "text_encoder",
    "lora",
    "controlnet",
    "textual_inversion",
    "hypernetwork",
    "unsafe",
    "unknown",
]
PredictionType = Literal["epsilon", "v_prediction", "flow", "edm", "edm_v_prediction", "cascade", "undetermined"]
Grade = Literal["proof", "strong", "weak", "default"]
Ema = Literal["none", "both", "only"]


@dataclass(frozen=True)
class Evidence:
    """One piece of evidence: where it was found, what it was, how sure it is, and what it says.

    ``source`` is an id and at once its English name; ``about`` is what ``detail`` says, where that is a sentence and no
    mere value.
    """

    source: str
    detail: str
    grade: Grade
    says: str
    about: Message | None = None

    def source_text(self, language: Language = "en") -> str:
        """Where it was found, in a language."""
        entry = TABLE.get(f"source-{self.source.replace(' ', '-')}")
        return self.source if entry is None or language != "ja" else entry[1]

    def detail_text(self, language: Language = "en") -> str:
        """What it was, in a language."""
        return self.detail if self.about is None else self.about.text(language)

    def to_json(self, language: Language = "en") -> dict[str, str]:
        """A plain object for JSON; ``source`` and ``says`` are ids and stay as they are."""
        return {
            "source": self.source,
            "detail": self.detail_text(language),
            "grade": self.grade,
            "says": self.says,
        }


def evidence(source: str, about: Message, grade: Grade, says: str) -> Evidence:
    """A piece of evidence whose detail is a sentence of the table."""
    return Evidence(source, about.text(), grade, says, about)


@dataclass(frozen=True)
class Prediction:
    """What the model predicts. ``zero_terminal_snr`` None means that the file does not tell."""

    type: PredictionType = "undetermined"
    zero_terminal_snr: bool | None = False
    conflict: bool = False
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True)
class Component:
    """A part of a file: the diffusion model, a VAE, a text encoder.

    precision: of most of its bytes (``fp16``, ``fp8_e4m3``, ``q4_k`` ...). quantization: the scheme, None for plain.
    complete: None where it is not known what the part should hold. missing, expected: of its family's names.
    """

    name: str
    precision: str
    quantization: str | None = None
    complete: bool | None = None
    missing: int = 0
    expected: int = 0
    architecture: str | None = None
    tensors: int = 0
    bytes: int = 0
    known_as: str | None = None
    missing_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """Everything that is known about one file; frozen, and the same for tab, API and command line.

    ``architecture`` is None where the header does not decide; ``candidates`` then lists all that fit.
    """

    file: str
    kind: Kind = "unknown"
    architecture: str | None = None
    candidates: tuple[str, ...] = ()
    variant: str | None = None
    prediction: Prediction = Prediction()
    components: tuple[Component, ...] = ()
    precision: str | None = None
    quantization: str | None = None
    ema: Ema = "none"
    in_channels: int | None = None
    layout: str | None = None
    reduced: bool = False
    inpainting: bool = False
    lora_type: str | None = None
    format: str | None = None
    size: int = 0
    tensors: int = 0
    warnings: tuple[Message, ...] = ()
    advice: tuple[Message, ...] = ()
    error: str | None = None
    error_ja: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    globals: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    recipe: bool = False
    """Whether the file is a recipe checkpoint, which holds no weights; the report is of what it makes."""

    def error_text(self, language: Language = "en") -> str | None:
        """Why the file cannot be read and what to do, in a language; None where it can be."""
        return self.error if language != "ja" or self.error_ja is None else self.error_ja

    @property
    def complete(self) -> bool | None:
        """Whether every part whose names are known is whole; None where nothing is known."""
        known = [part.complete for part in self.components if part.complete is not None]
        return all(known) if known else None

    def to_json(self, language: Language = "en") -> dict[str, object]:
        """A plain object for JSON; messages come as text with their ids beside."""
        prediction = self.prediction
        return {
            "file": self.file,
            "badge": self.badge(),
            "kind": self.kind,
            "architecture": self.architecture,
            "candidates": list(self.candidates),
            "variant": self.variant,
            "prediction": {
                "type": prediction.type,
                "zero_terminal_snr": prediction.zero_terminal_snr,
                "conflict": prediction.conflict,
                "evidence": [piece.to_json(language) for piece in prediction.evidence],
            },
            "components": [_component_json(part) for part in self.components],
            "precision": self.precision,
            "quantization": self.quantization,
            "ema": self.ema,
            "in_channels": self.in_channels,
            "layout": self.layout,
            "reduced": self.reduced,
            "inpainting": self.inpainting,
            "complete": self.complete,
            "lora_type": self.lora_type,
            "format": self.format,
            "size": self.size,
            "tensors": self.tensors,
            "warnings": [message.text(language) for message in self.warnings],
            "warning_ids": [message.id for message in self.warnings],
            "advice": [message.text(language) for message in self.advice],
            "metadata": dict(self.metadata),
            "globals": list(self.globals),
            "forbidden": list(self.forbidden),
            "recipe": self.recipe,
            "error": self.error_text(language),
        }

    def badge(self) -> str:
        """One short line, as "SDXL · v-pred · ZTSNR · fp16"."""
        if self.error is not None:
            return "unreadable"
        parts = [self._name()]
        prediction = self.prediction
        if self.kind in ("checkpoint", "diffusion_model") and self.architecture is not None:
            parts.append(_SHORT[prediction.type] + ("?" if prediction.conflict else ""))
            if prediction.zero_terminal_snr:
                parts.append("ZTSNR")
        scheme = self.quantization or self.precision
        if scheme:
            parts.append(scheme)
        if self.complete is False:
            parts.append("incomplete")
        if self.recipe:
            parts.append("recipe")
        return " · ".join(parts)

    def _name(self) -> str:
        known = [LABELS.get(name, name) for name in ((self.architecture,) if self.architecture else self.candidates)]
        name = "/".join(known)
        if self.kind in ("checkpoint", "diffusion_model"):
            plain = self.variant is None or self.variant in _PLAIN_VARIANTS
            return name if plain else f"{name} {self.variant}"
        return f"{KIND_LABELS[self.kind]} {name}".strip()


def _component_json(part: Component) -> dict[str, object]:
    return {
        "name": part.name,
        "architecture": part.architecture,
        "precision": part.precision,
        "quantization": part.quantization,
        "complete": part.complete,
        "missing": part.missing,
        "expected": part.expected,
        "missing_names": list(part.missing_names),
        "tensors": part.tensors,
        "bytes": part.bytes,
        "known_as": part.known_as,
    }


LABELS: Mapping[str, str] = {
    "sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL", "sdxl-refiner": "SDXL refiner", "sd3": "SD3", "flux1": "FLUX.1",
    "flux2": "FLUX.2", "chroma": "Chroma", "qwen-image": "Qwen-Image", "z-image": "Z-Image", "lumina2": "Lumina 2",
    "stable-cascade": "Stable Cascade", "pixart": "PixArt", "auraflow": "AuraFlow", "hunyuan-dit": "HunyuanDiT",
    "kolors": "Kolors", "wan": "Wan", "clip-l": "CLIP-L", "clip-g": "CLIP-G", "clip-h": "CLIP-H",
    "t5-xxl": "T5-XXL", "umt5-xxl": "UMT5-XXL", "gemma2-2b": "Gemma 2 2B", "qwen2.5-vl-7b": "Qwen2.5-VL 7B",
    "qwen3-0.6b": "Qwen3 0.6B", "qwen3-4b": "Qwen3 4B", "qwen3-8b": "Qwen3 8B", "mistral3-24b": "Mistral 3 24B",
}  # fmt: skip
"""What people call an architecture."""

KIND_LABELS: Mapping[Kind, str] = {
    "checkpoint": "checkpoint", "diffusion_model": "diffusion model", "vae": "VAE", "text_encoder": "text encoder",
    "lora": "LoRA", "controlnet": "ControlNet", "textual_inversion": "embedding", "hypernetwork": "hypernetwork",
    "unsafe": "unsafe", "unknown": "unknown",
}  # fmt: skip

_PLAIN_VARIANTS = frozenset(
    {"v1", "base", "refiner", "base-or-768v", "base512", "768-v", "kolors", "auraflow", "chroma"}
)
_SHORT: Mapping[PredictionType, str] = {
    "epsilon": "eps",
    "v_prediction": "v-pred",
    "flow": "flow",
    "edm": "EDM",
    "edm_v_prediction": "EDM v-pred",
    "cascade": "cascade",
    "undetermined": "eps or v?",
}
