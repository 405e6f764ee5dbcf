"""Merges LoRAs into one: exactly, by stacking their factors, or brought back to a smaller rank."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from modelsmith.devices import find_gpu, full_precision
from modelsmith.errors import Cancelled, MergeError, UsageError
from modelsmith.files.dtypes import OUTPUT_LABELS
from modelsmith.files.tensors import TensorSource, open_tensors
from modelsmith.lora import deltas
from modelsmith.lora.bake import file_sha256, rounded
from modelsmith.lora.factorise import Factors, RankChoice, factorise_on, rank_for_energy
from modelsmith.lora.linalg import qr, svd
from modelsmith.lora.modules import BIAS_DIFFERENCES, WEIGHT_DIFFERENCES, Reader
from modelsmith.lora.naming import unet_to_diffusers
from modelsmith.lora.parse import LoraFile, LoraModule, read_lora
from modelsmith.lora.saving import check_output, save_tensors
from modelsmith.lora.stack import LoraSpec
from modelsmith.lora.targets import DIFFUSION

if TYPE_CHECKING:
    import torch

METADATA_KEY = "modelsmith_lora_merge"
_KOHYA_ENDINGS = (".lora_up.weight", ".lora_down.weight")
_COPIED_METADATA = (
    "ss_base_model_version",
    "ss_v2",
    "ss_network_module",
    "modelspec.sai_model_spec",
    "modelspec.architecture",
    "modelspec.implementation",
    "modelspec.prediction_type",
)


@dataclass(frozen=True)
class CombineRequest:
    """One merge of LoRAs. resize: None for the exact form, whose rank is the sum of all, else how to choose it.

    device: where the decompositions of the resized form are done, see ``ExtractRequest``.
    """

    loras: tuple[LoraSpec, ...]
    output: Path
    resize: RankChoice | None = None
    dtype: str = "fp16"
    overwrite: bool = False
    device: str = "cpu"


@dataclass(frozen=True)
class CombineResult:
    """A finished merge. energy: kept share of the sum of squares (1 for the exact form). leftover: tensors left out."""

    path: Path
    sha256: str | None
    bytes: int
    seconds: float
    modules: int
    ranks: tuple[int, ...]
    energy: float
    leftover: tuple[str, ...]


@dataclass
class _Made:
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)  # pyright: ignore[reportUnknownVariableType]
    ranks: list[int] = field(default_factory=list[int])
    square: float = 0.0
    kept: float = 0.0


@dataclass(frozen=True)
class CombinePlan:
    """What a merge of LoRAs will come to, from headers alone.

    files: what each of them holds. architectures: what all of them fit, as far as told. modules: of the result.
    ranks: of its modules at the most; empty where none has a rank. leftover: tensors that will be left out.
    """

    request: CombineRequest
    files: tuple[LoraFile, ...]
    architectures: tuple[str, ...]
    modules: int
    ranks: tuple[int, ...]
    leftover: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """One LoRA's say in one module. number: which of the LoRAs it is."""

    file: LoraFile
    number: int
    module: LoraModule
    strength: float


def plan_combine(request: CombineRequest) -> CombinePlan:
    """Check a merge of LoRAs as far as headers tell. Raises as ``combine`` does."""
    return _planned(request)[0]


def _planned(request: CombineRequest) -> tuple[CombinePlan, list[list[_Part]]]:
    """The plan, and what all LoRAs have to say to each module of the result."""
    if len(request.loras) < (1 if request.resize else 2):
        raise UsageError("at least two LoRAs are needed", "To change the rank of one, give --rank or --energy")
    if any(spec.blocks for spec in request.loras):
        raise UsageError("block weights need a checkpoint", "Bake with block weights, or merge without them")
    if request.resize is not None:
        request.resize.checked()
    if request.dtype not in OUTPUT_LABELS:
        raise UsageError(f"unknown precision {request.dtype!r}", f"Known: {', '.join(OUTPUT_LABELS)}")
    files = tuple(read_lora(spec.path) for spec in request.loras)
    fits = _check_architectures(files)
    groups = _groups(request, files)
    for parts in groups:
        if not _is_copied(request, parts):
            _check_kinds(request, parts)
    check_output(request.output, (), overwrite=request.overwrite)
    ranks = (_most_rank(request, parts) for parts in groups)
    leftover = tuple(f"{file.path.name}: {name}" for file in files for name in file.leftover)
    return CombinePlan(request, files, fits, len(groups), tuple(rank for rank in ranks if rank), leftover), groups


def _groups(request: CombineRequest, files: Sequence[LoraFile]) -> list[list[_Part]]:
    groups: dict[tuple[int, str], list[_Part]] = {}
    for number, (spec, file) in enumerate(zip(request.loras, files, strict=True)):
        for module in file.modules:
            groups.setdefault(_identity(module), []).append(_Part(file, number, module, spec.strength))
    return list(groups.values())


def _most_rank(request: CombineRequest, parts: Sequence[_Part]) -> int:
    """The rank of a module of the result at the most; 0 where it has none, or none that headers tell."""
    if any(part.module.algebra not in ("lora", "full") for part in parts):
        return request.resize.rank if request.resize is not None else 0
    stacked = sum(part.file.rank(part.module) or 0 for part in parts)
    return stacked if request.resize is None else min(stacked, request.resize.rank)


def combine(
    request: CombineRequest,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> CombineResult:
    """Write one LoRA that does what all of them do together at their strengths.

    The exact form stacks factors: ``Σ sᵢ cᵢ upᵢ downᵢ = [s₁c₁up₁ …] · [down₁; …]``. The resized one takes the singular
    value decomposition of that sum without ever forming it where ranks are small. Modules are matched across kohya's
    namings (sgm and diffusers). progress: called with the modules done and all of them. Raises UsageError,
    BadFileError, Cancelled, or MergeError for LoRAs of different architectures and for DoRA and OFT, whose effect
    depends on the checkpoint.
    """
    begun = time.monotonic()
    plan, groups = _planned(request)
    with ExitStack() as stack:
        sources = [stack.enter_context(open_tensors(file.header)) for file in plan.files]
        stack.enter_context(full_precision())
        work = _Work(request, sources, find_gpu(request.device))
        for number, parts in enumerate(groups):
            if cancelled is not None and cancelled():
                raise Cancelled
            work.take(parts)
            if progress is not None:
                progress(number + 1, len(groups))
        for source in sources:
            source.check_unchanged()
    made = work.made
    metadata = _metadata(request, plan.files, made)
    written = save_tensors(request.output, made.tensors, metadata, overwrite=request.overwrite)
    return CombineResult(
        written.path,
        written.sha256,
        written.bytes,
        time.monotonic() - begun,
        len(groups),
        tuple(made.ranks),
        made.kept / made.square if made.square else 1.0,
        plan.leftover,
    )


def _identity(module: LoraModule) -> tuple[int, str]:
    """What two files must share for their modules to be the same one."""
    name = module.flat_name
    if module.slot == DIFFUSION:
        return module.slot, unet_to_diffusers(name) or name
    return module.slot, name.removeprefix("text_model_")


def _check_architectures(files: Sequence[LoraFile]) -> tuple[str, ...]:
    """The architectures that all of them may be for; empty where that cannot be told. Raises MergeError."""
    from modelsmith.identify import identify_header

    known: dict[str, frozenset[str]] = {}
    for file in files:
        report = identify_header(file.header)
        fits = frozenset((report.architecture,) if report.architecture else report.candidates)
        for other, theirs in known.items():
            if fits and theirs and not fits & theirs:
                raise MergeError(
                    f"{other} was made for {' or '.join(sorted(theirs))}, {file.path.name} for "
                    f"{' or '.join(sorted(fits))}",
                    "Merge LoRAs of one architecture",
                )
        known[file.path.name] = fits
    told = [fits for fits in known.values() if fits]
    return tuple(sorted(told[0].intersection(*told))) if told else ()


def _is_copied(request: CombineRequest, parts: Sequence[_Part]) -> bool:
    """Whether the module goes into the result as it is."""
    return len(parts) == 1 and parts[0].strength == 1 and request.resize is None


def _check_kinds(request: CombineRequest, parts: Sequence[_Part]) -> None:
    """Raise MergeError where what the parts do together is no product of small factors."""
    for part in parts:
        if part.module.decomposed or part.module.algebra in ("oft", "boft") or "set_weight" in part.module.tensors:
            raise MergeError(
                f"{part.file.path.name}: {part.module.name!r} is {part.module.label}, whose effect depends on the "
                "checkpoint",
                "Bake it into a checkpoint and extract a LoRA from the difference",
            )
    odd = next((part for part in parts if part.module.algebra not in ("lora", "full")), None)
    if odd is not None and request.resize is None:
        raise MergeError(
            f"{odd.file.path.name}: {odd.module.name!r} is {odd.module.label}, which has no exact sum of small factors",
            "Give --rank or --energy to merge by singular values",
        )


class _Work:
    """Computes the modules of the result one after the other. device: for decompositions, None the CPU."""

    def __init__(self, request: CombineRequest, sources: Sequence[TensorSource], device: torch.device | None) -> None:
        self.request = request
        self.made = _Made()
        self._sources = sources
        self._device = device

    def take(self, parts: Sequence[_Part]) -> None:
        """Compute one module from what the LoRAs have to say to it."""
        made, first = self.made, parts[0]
        if _is_copied(self.request, parts):
            for name in first.module.tensors.values():
                made.tensors[name] = self._sources[first.number].load(name)
            rank = first.file.rank(first.module)
            made.ranks.extend([rank] if rank else [])
            return
        for roles in (WEIGHT_DIFFERENCES, BIAS_DIFFERENCES):
            self._sum_roles(parts, roles)
        matrices = [part for part in parts if part.module.algebra != "full"]
        if not matrices:
            return
        plain = all(part.module.algebra == "lora" for part in matrices)
        up, down, kernel = self._stacked(matrices) if plain else self._dense(matrices)
        if self.request.resize is not None:
            found = self._resized(up, down, zlib.crc32(first.module.name.encode()))
            square = float((up.double().T @ up.double() * (down.double() @ down.double().T)).sum()) if plain else 0.0
            square = square if plain else float(up.double().square().sum())
            made.square += square
            made.kept += found.energy * square
            up, down = found.up, found.down
        made.ranks.append(int(up.shape[1]))
        _write(self.request, matrices[0].module, (up, down, kernel), made)

    def _reader(self, part: _Part) -> Reader:
        import torch

        return Reader(part.file, self._sources[part.number], part.module, torch.float32)

    def _sum_roles(self, parts: Sequence[_Part], roles: tuple[str, ...]) -> None:
        """Add up full differences, whatever each file calls them, under the first one's name."""
        total: torch.Tensor | None = None
        name = ""
        for part, role in ((part, role) for part in parts for role in roles if role in part.module.tensors):
            value = part.strength * self._reader(part).load(role)
            if total is not None and value.numel() != total.numel():
                raise MergeError(
                    f"{part.file.path.name}: {part.module.tensors[role]!r} has {value.numel()} values, {name!r} has "
                    f"{total.numel()}",
                    "They were made for different models",
                )
            name = name or part.module.tensors[role]
            total = value if total is None else total + value.reshape(total.shape)
        if total is not None:
            self.made.tensors[name] = rounded(total, OUTPUT_LABELS[self.request.dtype])

    def _stacked(self, parts: Sequence[_Part]) -> tuple[torch.Tensor, torch.Tensor, tuple[int, ...]]:
        """All factors side by side: up ``(m, K)`` with strengths and scales in it, down ``(K, n)``, and the kernel."""
        import torch

        ups: list[torch.Tensor] = []
        downs: list[torch.Tensor] = []
        kernel: tuple[int, ...] = ()
        for part in parts:
            reader = self._reader(part)
            factors = reader.factors()
            down = factors["down"]
            if "mid" in factors:
                down = torch.einsum("mn...,nj->mj...", factors["mid"], down.flatten(1))
            kernel = tuple(down.shape[1:]) if down.dim() > 2 else kernel
            ups.append(part.strength * reader.scale() * factors["up"].flatten(1))
            downs.append(down.flatten(1))
        if len({(up.shape[0], down.shape[1]) for up, down in zip(ups, downs, strict=True)}) > 1:
            raise MergeError(
                f"the LoRAs have different shapes for {parts[0].module.name!r}: "
                + ", ".join(f"{u.shape[0]} × {d.shape[1]}" for u, d in zip(ups, downs, strict=True)),
                "They were made for different models",
            )
        return torch.cat(ups, 1), torch.cat(downs, 0), kernel

    def _dense(self, parts: Sequence[_Part]) -> tuple[torch.Tensor, torch.Tensor, tuple[int, ...]]:
        """The sum of all deltas as ``up``, with the identity as ``down``; kernels as far as a factor shows them."""
        import torch

        total: torch.Tensor | None = None
        kernel: tuple[int, ...] = ()
        for part in parts:
            reader = self._reader(part)
            make = {"lora": deltas.low_rank, "loha": deltas.hadamard, "lokr": deltas.kronecker}[part.module.algebra]
            change = make(reader.factors())
            if change.dim() > 2:
                kernel = tuple(change.shape[1:])
            elif "down" in part.module.tensors and len(part.file.info(part.module, "down").shape) > 2:
                kernel = part.file.info(part.module, "down").shape[1:]
            change = part.strength * reader.scale() * change.flatten(1)
            if total is not None and change.shape != total.shape:
                raise MergeError(
                    f"the LoRAs have different shapes for {part.module.name!r}: {list(total.shape)}, "
                    f"{list(change.shape)}",
                    "They were made for different models",
                )
            total = change if total is None else total + change
        if total is None:
            raise UsageError("no LoRA was given")
        return total, torch.empty(0), kernel

    def _resized(self, up: torch.Tensor, down: torch.Tensor, seed: int) -> Factors:
        """Factors of ``up · down`` (of ``up`` alone where ``down`` is empty) under the choice of rank."""
        import torch

        choice = self.request.resize or RankChoice(1)
        if not down.numel():
            return factorise_on(self._device, up, choice, seed)
        if up.shape[1] >= min(up.shape[0], down.shape[1]):
            return factorise_on(self._device, up @ down, choice, seed)
        left, left_r = qr(up.double())
        right, right_r = qr(down.double().T)
        u, s, vh = svd(left_r @ right_r.T)
        squares = s.square()
        most = min(choice.rank, len(s))
        rank = most if choice.energy is None else rank_for_energy(squares, choice.energy, most)
        total = float(squares.sum())
        root = s[:rank].sqrt()
        return Factors(
            ((left @ u[:, :rank]) * root).to(torch.float32),
            (root[:, None] * (vh[:rank] @ right.T)).to(torch.float32),
            float(squares[:rank].sum()) / total if total else 1.0,
        )


def _write(
    request: CombineRequest,
    module: LoraModule,
    result: tuple[torch.Tensor, torch.Tensor, tuple[int, ...]],
    made: _Made,
) -> None:
    """Put the factors down under the first file's names; only kohya's spelling has an alpha beside them."""
    import torch

    up, down, kernel = result
    rank = up.shape[1]
    kind = OUTPUT_LABELS[request.dtype]
    endings = _KOHYA_ENDINGS
    if module.algebra == "lora":
        start = len(module.name)
        endings = (module.tensors["up"][start:], module.tensors["down"][start:])
    ones = (1,) * (len(kernel) - 1)
    made.tensors[module.name + endings[1]] = rounded(down.reshape(rank, *(kernel or down.shape[1:])), kind)
    made.tensors[module.name + endings[0]] = rounded(up.reshape(up.shape[0], rank, *ones), kind)
    if endings == _KOHYA_ENDINGS:
        made.tensors[module.name + ".alpha"] = torch.tensor(float(rank))


def _metadata(request: CombineRequest, files: Sequence[LoraFile], made: _Made) -> dict[str, str]:
    metadata = {key: files[0].header.metadata[key] for key in _COPIED_METADATA if key in files[0].header.metadata}
    ranks = set(made.ranks)
    rank = str(ranks.pop()) if len(ranks) == 1 else "Dynamic"
    metadata |= {"ss_network_dim": rank, "ss_network_alpha": rank, "modelspec.title": request.output.stem}
    metadata[METADATA_KEY] = json.dumps(
        [
            {"name": spec.path.name, "sha256": file_sha256(spec.path), "strength": spec.strength}
            for spec in request.loras
        ],
        ensure_ascii=False,
    )
    return metadata
