"""Which type each tensor of a merge is written in."""

from __future__ import annotations

from collections.abc import Mapping

from modelsmith.convert.parts import PartTable
from modelsmith.errors import UnknownNameError, UsageError
from modelsmith.files.dtypes import OUTPUT_LABELS, dtype
from modelsmith.files.header import TensorInfo
from modelsmith.merge.inputs import MergeInput
from modelsmith.merge.request import MergeRequest

PRECISIONS: Mapping[str, str] = {
    **OUTPUT_LABELS,
    "fp8_e4m3": "F8_E4M3",
    "fp8_e5m2": "F8_E5M2",
    "fp8_scaled": "F8_E4M3",
}
"""Precisions that a merge can be written in, by the name that people use."""

COMPONENTS: Mapping[str, str] = {"unet": "unet", "text_encoder": "te", "vae": "vae"}
"""Components that may have a precision of their own: the request's name and that of ``convert.parts``."""

_TABLES = ("embedding.weight", "embed_tokens.weight", "shared.weight", "relative_attention_bias.weight")


def check_precisions(request: MergeRequest) -> None:
    """Raise UnknownNameError for a component or a precision that does not exist."""
    for component, label in request.component_dtypes.items():
        if component not in COMPONENTS:
            raise UnknownNameError("component", component, COMPONENTS)
        if label not in PRECISIONS:
            raise UnknownNameError("precision", label, PRECISIONS)


class OutputTypes:
    """Answers for one merge.

    A component's own precision counts first, then that of the whole; an fp8 precision of the whole leaves the VAE, and
    what belongs to no component, as they are in A. In fp8 only matrices and kernels become eight bits wide; vectors
    (norms, biases) take 16. ``fp8_scaled`` is for linear layers (``convert.precision`` says why). Without a precision
    tensors keep A's type; what A has quantised takes 16 bits.
    """

    def __init__(self, request: MergeRequest, a: MergeInput) -> None:
        check_precisions(request)
        self._whole = request.dtype
        self._parts = {COMPONENTS[name]: label for name, label in request.component_dtypes.items()}
        self._any_scaled = "fp8_scaled" in (request.dtype, *self._parts.values())
        self._table = PartTable(a.header.tensors)
        self._schemes = a.schemes
        kinds = [info.dtype for name, info in a.header.tensors.items() if name not in a.schemes]
        self._short = "BF16" if kinds.count("BF16") > kinds.count("F16") else "F16"

    def _label(self, key: str) -> str | None:
        eight = self._whole is not None and self._whole.startswith("fp8")
        if not eight and not self._parts:
            return self._whole
        part = self._table.part_of(key)
        part = "unet" if part == "ema" else part
        if part in self._parts:
            return self._parts[part]
        return None if eight and part not in ("unet", "te") else self._whole

    def of(self, key: str, info: TensorInfo) -> str:
        """The safetensors type of a floating tensor in the output."""
        label = self._label(key)
        own = self._short if key in self._schemes else info.dtype
        if label is None:
            return own
        kind = PRECISIONS[label]
        if dtype(kind).bits > 8:
            return kind
        if len(info.shape) < 2 or (label == "fp8_scaled" and not self.scaled(key, info)):
            return own if dtype(own).bits == 16 else self._short
        return kind

    def scaled(self, key: str, info: TensorInfo) -> bool:
        """Whether a weight is divided by a scale of its own, which is written beside it.

        Raises UsageError for a text encoder or VAE inside a checkpoint, for which no host knows that form.
        """
        if not self._any_scaled or self._label(key) != "fp8_scaled" or len(info.shape) != 2 or 0 in info.shape:
            return False
        if not key.endswith(".weight") or key.endswith(_TABLES):
            return False
        if self._table.bare is not None or key.startswith("model.diffusion_model."):
            return True
        if self._parts.get(self._table.part_of(key)) == "fp8_scaled":
            raise UsageError(
                f"{key} lies in a checkpoint's text encoder or VAE, for which the scaled fp8 form is not defined",
                "Use fp8_scaled for the unet only",
            )
        return False

    def marker(self) -> str:
        """The tensor that tells hosts that the linear layers are scaled."""
        return "scaled_fp8" if self._table.bare is not None else "model.diffusion_model.scaled_fp8"
