"""Several LoRAs over one checkpoint, as a transform per tensor that a merge can call while the tensor passes by."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from modelsmith.errors import BadFileError, MergeError
from modelsmith.files.header import FileHeader
from modelsmith.files.tensors import TensorSource, open_tensors
from modelsmith.lora.blocks import BlockWeights, block_weights
from modelsmith.lora.match import Match, MatchReport, match_lora
from modelsmith.lora.modules import KeptReader, Reader, add_bias, add_rows, by_rows, updated
from modelsmith.lora.parse import LoraFile, read_lora
from modelsmith.lora.targets import TargetIndex

if TYPE_CHECKING:
    import torch

FLOATING = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})

_KEPT_BYTES = 64 << 20


@dataclass(frozen=True)
class LoraSpec:
    """One LoRA to apply: file, strength, and weights per block as text (``BlockLayout`` says how; 1 where unnamed)."""

    path: Path
    strength: float = 1.0
    blocks: str | None = None


@dataclass(frozen=True)
class _Step:
    """One module over one tensor. bias: the tensor is the module's bias."""

    file: int
    match: Match
    strength: float
    bias: bool

    @property
    def separable(self) -> bool:
        """Whether rows change without regard to each other and lie in the tensor as the module has them."""
        return self.match.part.kind in ("all", "qkv", "qkvm") and (self.bias or by_rows(self.match.module))


class LoraStack:
    """LoRAs, with strengths and block weights, matched against the tensors of one checkpoint.

    Use it in a ``with`` block. ``apply`` may be called from several threads for different keys. Raises at once, before
    any value is read: BadFileError for a damaged LoRA, MergeError for one made for another architecture, one that
    matches nothing, a shape that does not fit (with the tensor's name) or a quantised target.
    """

    def __init__(
        self, specs: Sequence[LoraSpec], header: FileHeader, *, architecture: str | None, any_architecture: bool = False
    ) -> None:
        self.header = header
        self.specs = tuple(specs)
        self.files: tuple[LoraFile, ...] = tuple(read_lora(spec.path) for spec in specs)
        index = TargetIndex(header)
        wanted = None if any_architecture else architecture
        self.reports: tuple[MatchReport, ...] = tuple(match_lora(file, index, wanted) for file in self.files)
        self._steps: dict[str, list[_Step]] = {}
        for number, (spec, report) in enumerate(zip(specs, self.reports, strict=True)):
            weights = block_weights(spec.blocks, architecture, header, spec.path.name)
            for match in report.matches:
                self._add(number, match, spec.strength, weights)
        self._sources: list[TensorSource] = []
        self._guard = threading.Lock()
        self._kept: OrderedDict[tuple[int, str, torch.dtype], KeptReader] = OrderedDict()
        self._kept_bytes = 0
        try:
            for file in self.files:
                self._sources.append(open_tensors(file.header))
        except BadFileError:
            self.close()
            raise

    def _add(self, number: int, match: Match, strength: float, weights: BlockWeights | None) -> None:
        for key, bias in ((match.weight, False), (match.bias, True)):
            if key is None:
                continue
            self._check_plain(key, number)
            factor = strength * (weights.of(key) if weights else 1.0)
            if factor:
                self._steps.setdefault(key, []).append(_Step(number, match, factor, bias))

    def _check_plain(self, key: str, number: int) -> None:
        info = self.header.tensors[key]
        base = key.removesuffix(".weight")
        beside = (f"{base}.scale_weight", f"{base}.weight_scale", f"{base}.comfy_quant", f"{key}.absmax")
        if info.dtype not in FLOATING or any(name in self.header.tensors for name in beside):
            raise MergeError(
                f"{self.header.path}: tensor {key!r} is quantised ({info.dtype}), so {self.files[number].path.name} "
                "cannot be added to it",
                "Convert the checkpoint to fp16 or bf16 first (modelsmith convert)",
            )

    def touches(self, key: str) -> bool:
        """Whether any LoRA changes this tensor."""
        return key in self._steps

    @property
    def keys(self) -> tuple[str, ...]:
        """Every tensor that is changed."""
        return tuple(self._steps)

    def separable(self, key: str) -> bool:
        """Whether ``apply_rows`` may be used: every row changes without regard to the others."""
        return all(step.separable for step in self._steps.get(key, ()))

    def apply(self, key: str, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor with every LoRA on it; ``tensor`` is fp32 (or fp64), has the checkpoint's shape and is reused.

        The arithmetic is in the tensor's own type. Raises BadFileError where a factor is not finite.
        """
        for step in self._steps.get(key, ()):
            tensor = self._apply_step(step, tensor)
        return tensor

    def apply_rows(self, key: str, rows: torch.Tensor, first: int) -> torch.Tensor:
        """As ``apply``, for the rows from ``first`` on only, in place; for keys that are ``separable``."""
        for step in self._steps.get(key, ()):
            start = step.match.start
            low, high = max(first, start), min(first + rows.shape[0], start + step.match.rows)
            if low < high:
                self._add_rows(step, rows[low - first : high - first], low - start)
        return rows

    def _apply_step(self, step: _Step, tensor: torch.Tensor) -> torch.Tensor:
        if step.separable:
            return self._step_rows(step, tensor)
        kind = step.match.part.kind
        if kind == "transpose":
            return self._whole(step, tensor.T.contiguous()).T.contiguous()
        if kind == "swap":
            half = tensor.shape[0] // 2
            return self._whole(step, tensor.roll(half, 0)).roll(half, 0)
        window = tensor[step.match.start : step.match.start + step.match.rows]
        window.copy_(self._whole(step, window))
        return tensor

    def _step_rows(self, step: _Step, tensor: torch.Tensor) -> torch.Tensor:
        self._add_rows(step, tensor[step.match.start : step.match.start + step.match.rows], 0)
        return tensor

    def _add_rows(self, step: _Step, window: torch.Tensor, first: int) -> None:
        reader = self._kept_reader(step, window)
        if step.bias:
            add_bias(reader, window, step.strength, first)
        else:
            add_rows(step.match.module, reader, window, step.strength, first)

    def _whole(self, step: _Step, weight: torch.Tensor) -> torch.Tensor:
        reader = self._reader(step, weight)
        if not step.bias:
            return updated(step.match.module, reader, weight, step.strength)
        changed = weight.clone()
        add_bias(reader, changed, step.strength, 0)
        return changed

    def _reader(self, step: _Step, like: torch.Tensor) -> Reader:
        return Reader(self.files[step.file], self._sources[step.file], step.match.module, like.dtype)

    def _kept_reader(self, step: _Step, like: torch.Tensor) -> KeptReader:
        """A module is asked for once for every run of rows, by several threads: the last ones read are kept."""
        key = (step.file, step.match.module.name, like.dtype)
        with self._guard:
            found = self._kept.get(key)
            if found is None:
                module = step.match.module
                found = KeptReader(self.files[step.file], self._sources[step.file], module, like.dtype)
                self._kept[key] = found
                self._kept_bytes += found.bytes
                while len(self._kept) > 1 and self._kept_bytes > _KEPT_BYTES:
                    self._kept_bytes -= self._kept.popitem(last=False)[1].bytes
            self._kept.move_to_end(key)
            return found

    def check_unchanged(self) -> None:
        """Raise BadFileError where one of the LoRA files changed since it was opened."""
        for source in self._sources:
            source.check_unchanged()

    def close(self) -> None:
        """Close the LoRA files."""
        for source in self._sources:
            source.close()

    def __enter__(self) -> LoraStack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
