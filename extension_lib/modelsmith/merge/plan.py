"""Plans a merge from headers alone: what becomes of every tensor, what to tell the user, how much is written."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from modelsmith.devices import gpu_name
from modelsmith.errors import MergeError, UsageError
from modelsmith.files.dtypes import count, dtype
from modelsmith.files.header import TensorInfo
from modelsmith.files.names import check_output_name
from modelsmith.files.output import check_space, free_bytes
from modelsmith.files.writer import Entry, build_header
from modelsmith.markers import MARKERS
from modelsmith.merge.blocks import BASE, BlockLayout, layout_for, parse_weights, weights_from_list
from modelsmith.merge.extras import decoded_notices, plan_loras
from modelsmith.merge.finetune import Adjustment, adjustments
from modelsmith.merge.guard import Notice, Verdict, Weights, judge, notice
from modelsmith.merge.inputs import LETTERS, MergeInput, open_inputs
from modelsmith.merge.messages import told
from modelsmith.merge.methods import MethodSpec, get_method
from modelsmith.merge.precision import PRECISIONS, OutputTypes, check_precisions
from modelsmith.merge.recipe import UNKNOWN_HASH, RecipeParts, build_metadata
from modelsmith.merge.request import BlockWeights, MergeRequest
from modelsmith.merge.rules import RuledValues, apply_rules

if TYPE_CHECKING:
    import torch

Action = Literal["copy", "elements", "whole", "widen", "position_ids", "scale", "empty"]

_SCHEDULE = re.compile(
    r"^(?:betas|alphas_cumprod(?:_prev)?|sqrt_\w+|log_one_minus_alphas_cumprod|posterior_\w+|lvlb_weights|logvar)$"
)
_POSITION_IDS = re.compile(r"(?:^|\.)embeddings\.position_ids$")
_PREFIXED_MARKER = re.compile(r"^(?:model\.diffusion_model\.|diffusion_model\.)")
MAX_LISTED = 5


@dataclass(frozen=True, slots=True)
class Operand:
    """One tensor that takes part: which model, its name there, and where it lies."""

    model: int
    name: str
    info: TensorInfo


@dataclass(frozen=True, slots=True)
class TensorJob:
    """What becomes of one tensor of the output.

    action: ``copy`` the only operand; ``elements``: the method value by value; ``whole``: the method on whole
    tensors; ``widen``: an input convolution with 9 or 8 channels with one of 4; ``position_ids``: 0, 1, 2 …;
    ``scale``: the scale of ``base``, a weight in scaled fp8; ``empty``: a marker.
    lora: a LoRA changes the tensor. scaled: it is divided by its scale. adjust: what is done to it after all else.
    """

    entry: Entry
    action: Action
    operands: tuple[Operand, ...] = ()
    parameters: Mapping[str, float] = field(default_factory=dict[str, float])
    block: str = BASE
    lora: bool = False
    scaled: bool = False
    base: TensorJob | None = None
    adjust: Adjustment | None = None

    @property
    def pieced(self) -> bool:
        """Whether the tensor is computed apart from the chunks (``merge.pieces``)."""
        changed = self.lora or self.scaled or self.adjust is not None
        return changed or self.action not in ("copy", "elements")


@dataclass(frozen=True)
class MergePlan:
    """A merge that was checked and can be run.

    notices: what the user should know before starting. output_bytes: size of the new file. free_bytes: room in its
    folder. summary: one line that says what will be done. device: the GPU that computes it; None is the CPU.
    """

    request: MergeRequest
    method: MethodSpec
    inputs: tuple[MergeInput, ...]
    layout: BlockLayout
    jobs: tuple[TensorJob, ...]
    parts: RecipeParts
    notices: tuple[Notice, ...]
    output_bytes: int
    free_bytes: int
    summary: str
    device: torch.device | None = None

    @property
    def verdict(self) -> Verdict:
        """What the result predicts."""
        return self.parts.verdict

    def hashes(self) -> tuple[str, ...]:
        """Known SHA-256 of the inputs, with UNKNOWN_HASH for the others."""
        known = self.request.known_hashes
        return tuple(known.get(one.path, UNKNOWN_HASH) for one in self.inputs)

    def metadata(self, hashes: Sequence[str]) -> dict[str, str]:
        """The output's metadata."""
        return build_metadata(self.parts, hashes)


def plan_merge(request: MergeRequest, *, writes: bool = True) -> MergePlan:
    """Check a merge and plan it, reading headers only. torch is imported where a GPU is asked for, else not.

    writes: False for a merge into memory, which needs neither the output's folder nor room in it.
    Raises UsageError, UnknownNameError, BadFileError, MergeError (PredictionMixError among them) and NoSpaceError;
    each names what is wrong and what to do.
    """
    method = get_method(request.method)
    method.check_models(len(request.models))
    if writes:
        _check_output(request)
    device = _device(request, method)
    inputs = open_inputs(request.models, request.names)
    layout = layout_for(inputs[0].report.architecture, inputs[0].header.tensors)
    parameters = method.fill(request.parameters)
    blocks = _block_weights(request, method, layout, parameters)
    ruled = apply_rules(request.rules, method, layout, inputs[0].header.tensors)
    rows = _with_rules(blocks, ruled, layout, inputs[0])
    weights = _guard_weights(method, rows, layout, parameters)
    without_c = method.weighs_c and not any(rows[method.weighs_c].values())
    judged = [one.prediction for one in (inputs[:2] if without_c else inputs)]
    verdict = judge(judged, method.effect, weights, request.allow_prediction_mix)
    builder = _Builder(_Setup(request, method, inputs, layout, parameters, blocks, verdict, ruled))
    jobs = builder.build()
    computed_on = gpu_name(device) if device is not None else ""
    parts = RecipeParts(request, inputs, verdict, parameters, builder.given, layout.id, builder.widened, computed_on)
    metadata = build_metadata(parts, [UNKNOWN_HASH] * len(inputs))
    size = len(build_header([job.entry for job in jobs], metadata)) + sum(job.entry.nbytes for job in jobs)
    if writes:
        check_space(request.output.parent, size)
    return MergePlan(
        request,
        method,
        inputs,
        layout,
        jobs,
        parts,
        (*verdict.notices, *ruled.notices, *builder.notices, *_other_device(parts)),
        size,
        free_bytes(request.output.parent) if writes else 0,
        _summary(parts, method, blocks),
        device,
    )


def _device(request: MergeRequest, method: MethodSpec) -> torch.device | None:
    """The GPU that computes the merge; None is the CPU. Raises UsageError for a device that is unknown or absent."""
    if request.device == "cpu":
        return None
    from modelsmith.merge.device import choose_device

    return choose_device(request.device, method)


def _other_device(parts: RecipeParts) -> list[Notice]:
    """That what is repeated was computed on a GPU that does not compute it now."""
    then, now = parts.request.computed_on, parts.device
    return [notice("warning", "recipe-device", then=then, now=now or "@cpu")] if then and then != now else []


def _check_output(request: MergeRequest) -> None:
    target = request.output
    check_output_name(target.name)
    if target.suffix.lower() != ".safetensors":
        raise told(UsageError, "output-ending", name=target.name)
    if not target.parent.is_dir():
        raise told(UsageError, "output-folder", folder=target.parent)
    if target.exists() and not request.overwrite:
        raise told(UsageError, "output-exists", path=target)
    if request.dtype is not None and request.dtype not in PRECISIONS:
        raise told(UsageError, "precision-unknown", name=request.dtype, known=", ".join(PRECISIONS))
    check_precisions(request)


Resolved = Mapping[str, Mapping[str, float]]


def _block_weights(
    request: MergeRequest, method: MethodSpec, layout: BlockLayout, parameters: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """The weight of every block, for each parameter that may differ between blocks."""
    result: dict[str, dict[str, float]] = {}
    for name in request.block_weights:
        if not method.parameter(name).per_block:
            raise told(UsageError, "no-block-weights", method=method.label, parameter=name)
    for parameter in method.parameters:
        if parameter.per_block:
            given = named_weights(request.block_weights.get(parameter.id, {}), layout)
            result[parameter.id] = layout.resolve(given, parameters[parameter.id])
    return result


def named_weights(given: BlockWeights, layout: BlockLayout) -> dict[str, float]:
    """Block weights by name, from any form that a request may have. Raises UsageError, UnknownNameError."""
    if isinstance(given, str):
        return parse_weights(given, layout)
    if isinstance(given, Mapping):
        return {layout.block(name).id: float(value) for name, value in given.items()}
    return weights_from_list(given, layout)


def _with_rules(blocks: Resolved, ruled: RuledValues, layout: BlockLayout, a: MergeInput) -> Resolved:
    if not ruled.values:
        return blocks
    places = {key: layout.block_of(key) for key, info in a.header.tensors.items() if dtype(info.dtype).floating}
    return {name: ruled.over_blocks(name, row, places) for name, row in blocks.items()}


def _guard_weights(
    method: MethodSpec, blocks: Resolved, layout: BlockLayout, parameters: Mapping[str, float]
) -> Weights:
    """How strongly each block takes anything but A, by the strongest of the parameters that give A back at 0."""
    if not method.neutral:
        return Weights(layout, dict.fromkeys(layout.ids, 0.5))
    rows = [blocks.get(name) or dict.fromkeys(layout.ids, parameters[name]) for name in method.neutral]
    return Weights(layout, {block: max((row[block] for row in rows), key=abs) for block in layout.ids})


def _summary(parts: RecipeParts, method: MethodSpec, blocks: Resolved) -> str:
    models = ", ".join(f"{one.letter} = {one.name}" for one in parts.inputs)
    own = {name: set(weights.values()) for name, weights in blocks.items()}
    values = ", ".join(
        f"{name} {next(iter(own.get(name, {value}))):g}"
        for name, value in parts.parameters.items()
        if len(own.get(name, {value})) == 1
    )
    varied = ", ".join(f"{name} by block" for name, weights in own.items() if len(weights) > 1)
    told = f"{method.label}: {method.formula}; {models}; " + ", ".join(part for part in (values, varied) if part)
    return f"{told}; computed on {parts.device}" if parts.device else told


@dataclass(frozen=True)
class _Setup:
    """All that was settled before the first tensor is looked at."""

    request: MergeRequest
    method: MethodSpec
    inputs: tuple[MergeInput, ...]
    layout: BlockLayout
    parameters: Mapping[str, float]
    blocks: Resolved
    verdict: Verdict
    ruled: RuledValues


class _Builder:
    """Decides tensor by tensor; collects what is to be reported."""

    def __init__(self, setup: _Setup) -> None:
        self.request, self.method, self.inputs = setup.request, setup.method, setup.inputs
        self.layout, self.parameters = setup.layout, setup.parameters
        self.blocks, self.verdict, self.ruled = setup.blocks, setup.verdict, setup.ruled
        a = self.inputs[0]
        self._adjust = adjustments(self.request.finetune, a.report.architecture, a.name)
        # A whole row of one other value is told too: ALL_B with alpha 0.5 is not alpha 0.5.
        self.given = {
            name: dict(weights)
            for name, weights in self.blocks.items()
            if set(weights.values()) != {self.parameters[name]}
        }
        self._types = OutputTypes(self.request, self.inputs[0])
        self._loras = plan_loras(self.request, self.inputs[0])
        self.notices: list[Notice] = [*self._loras.notices, *decoded_notices(self.inputs)]
        self.widened = False
        self._shared: dict[str, tuple[dict[str, float], int | None]] = {}
        self._missing: list[str] = []
        self._ema = _ema_names(self.inputs[0].header.tensors)

    def build(self) -> tuple[TensorJob, ...]:
        """All jobs in the order of the output file: wide types first, so that every tensor stays aligned; else as in
        A, so that A is read from front to end."""
        a = self.inputs[0]
        place = {key: (str(info.file or ""), info.start) for key, info in a.stored.tensors.items()}
        jobs: list[TensorJob] = []
        for canonical, key in sorted(a.canonical.items(), key=lambda item: place[item[1]]):
            job = self._job(canonical, key, a.header.tensors[key])
            if job is not None:
                jobs.append(job)
                if job.scaled:
                    layer = key[: -len(".weight")]
                    jobs.append(TensorJob(Entry(f"{layer}.scale_weight", "F32", ()), "scale", base=job))
        if any(job.scaled for job in jobs):
            jobs.append(TensorJob(Entry(self._types.marker(), "F8_E4M3", (0,)), "empty"))
        self._report_missing()
        jobs += self._markers()
        return tuple(sorted(jobs, key=lambda job: -dtype(job.entry.dtype).itemsize))

    def _job(self, canonical: str, key: str, info: TensorInfo) -> TensorJob | None:
        if canonical in MARKERS:
            return None
        own = Operand(0, key, info)
        if _POSITION_IDS.search(key):
            return TensorJob(Entry(key, "I64", info.shape), "position_ids", (own,))
        if _SCHEDULE.match(key):
            return self._schedule(own)
        if not dtype(info.dtype).floating:
            return TensorJob(Entry(key, info.dtype, info.shape), "copy", (own,))
        operands = self._operands(canonical, own)
        if operands is None:
            return None
        block = self.layout.block_of(self._ema.get(key, key))
        entry = Entry(key, self._types.of(key, info), info.shape)
        job = TensorJob(entry, "copy", operands, {}, block)
        if len(operands) > 1:
            job = self._merge(entry, operands, block)
        lora, scaled, adjust = key in self._loras.keys, self._types.scaled(key, info), self._adjust.get(canonical)
        if lora or scaled or adjust is not None:
            job = replace(job, lora=lora, scaled=scaled, adjust=adjust)
        return job

    def _operands(self, canonical: str, own: Operand) -> tuple[Operand, ...] | None:
        """The same tensor in every model; A's alone or None where another lacks it, by the chosen policy."""
        operands = [own]
        for index, other in enumerate(self.inputs[1:], start=1):
            found = other.find(canonical)
            if found is None:
                self._missing.append(own.name)
                return None if self.request.missing == "skip" else (own,)
            operands.append(Operand(index, *found))
        return tuple(operands)

    def _merge(self, entry: Entry, operands: tuple[Operand, ...], block: str) -> TensorJob:
        parameters, source = self._of_block(block)
        own = self.ruled.of(self._ema.get(entry.name, entry.name))
        if own or self.method.seeded:
            parameters = {**parameters, **own}
            source = self._unmixed(parameters)
        if self.method.seeded:
            parameters["seed"] = tensor_seed(int(parameters["seed"]), entry.name)
        shapes = {operand.info.shape for operand in operands}
        if len(shapes) > 1:
            return self._widen(entry, operands, parameters, block)
        if source is not None:
            return TensorJob(entry, "copy", (operands[source],), parameters, block)
        action: Action = "elements" if self.method.scope == "elements" else "whole"
        return TensorJob(entry, action, operands, parameters, block)

    def _of_block(self, block: str) -> tuple[dict[str, float], int | None]:
        """The parameters of a block, one mapping for all its tensors, and the model that they copy from."""
        found = self._shared.get(block)
        if found is None:
            own = {name: weights[block] for name, weights in self.blocks.items()}
            parameters = {**self.parameters, **own}
            found = self._shared[block] = parameters, self._unmixed(parameters)
        return found

    def _unmixed(self, parameters: Mapping[str, float]) -> int | None:
        """The model that a tensor is copied from bit for bit, where the weights say so."""
        if self.method.is_identity(parameters):
            return 0
        return 1 if self.method.is_b(parameters) else None

    def _widen(
        self, entry: Entry, operands: tuple[Operand, ...], parameters: Mapping[str, float], block: str
    ) -> TensorJob:
        """Input convolutions of inpainting (9) and pix2pix (8 channels) models with plain ones (4)."""
        shapes = [operand.info.shape for operand in operands]
        rests = {shape[:1] + shape[2:] for shape in shapes}
        widths = {shape[1] for shape in shapes if len(shape) == 4}
        if len(rests) != 1 or len(widths) != 2 or 4 not in widths or not widths <= {4, 8, 9}:
            shown = ", ".join(
                f"{LETTERS[operand.model]} {list(operand.info.shape)} in {self.inputs[operand.model].path.name}"
                for operand in operands
            )
            raise told(MergeError, "shapes", tensor=entry.name, told=shown)
        wide = max(shapes, key=lambda shape: shape[1])
        self.widened = True
        self.notices.append(notice("info", "widened", tensor=entry.name, narrow=4, wide=wide[1]))
        return TensorJob(Entry(entry.name, entry.dtype, wide), "widen", operands, parameters, block)

    def _schedule(self, own: Operand) -> TensorJob | None:
        a = self.inputs[0].prediction
        if (a.type, bool(a.ztsnr)) != (self.verdict.type, bool(self.verdict.ztsnr)):
            return None  # A's noise schedule, kept in the file, would no longer be the result's
        return TensorJob(Entry(own.name, own.info.dtype, own.info.shape), "copy", (own,))

    def _report_missing(self) -> None:
        if self._missing and self.request.missing == "stop":
            raise told(
                MergeError,
                "missing",
                count=len(self._missing),
                path=self.inputs[0].path,
                names=_listed(self._missing),
            )
        if self._missing:
            done = "missing-skipped" if self.request.missing == "skip" else "missing-from-a"
            self.notices.append(notice("warning", done, count=len(self._missing), names=_listed(self._missing)))
        for other in self.inputs[1:]:
            surplus = [
                key
                for canonical, key in other.canonical.items()
                if canonical not in self.inputs[0].canonical and not _is_extra(key)
            ]
            if surplus:
                listed = _listed(surplus)
                self.notices.append(notice("warning", "surplus", count=len(surplus), model=other.name, names=listed))

    def _markers(self) -> list[TensorJob]:
        """The marker tensors that are true of the result; those of the inputs are dropped."""
        kind = self.verdict.type
        if self.inputs[0].report.kind not in ("checkpoint", "diffusion_model"):
            return []
        jobs: list[TensorJob] = []
        if kind == "v_prediction" and self.inputs[0].report.architecture in ("sd1", "sd2", "sdxl", "sdxl-refiner"):
            # Empty float32 tensors without a prefix, as ComfyUI writes them.
            jobs.append(TensorJob(Entry("v_pred", "F32", (0,)), "empty"))
            if self.verdict.ztsnr:
                jobs.append(TensorJob(Entry("ztsnr", "F32", (0,)), "empty"))
        wanted = {"edm_v_prediction": "edm_vpred.", "edm": "edm_"}.get(kind)
        if wanted:
            jobs += self._copied_markers(wanted)
        before = {marker for one in self.inputs for marker in _markers_of(one)}
        lost = before - {job.entry.name for job in jobs}
        if lost:
            self.notices.append(notice("info", "markers-dropped", names=", ".join(sorted(lost))))
        return jobs

    def _copied_markers(self, start: str) -> list[TensorJob]:
        order = [self.verdict.type_from, *range(len(self.inputs))]
        jobs: dict[str, TensorJob] = {}
        for index in order:
            for key, info in self.inputs[index].header.tensors.items():
                name = _PREFIXED_MARKER.sub("", key)
                matches = name in MARKERS and name.startswith(start)
                if matches and (start != "edm_" or not name.startswith("edm_vpred")) and name not in jobs:
                    entry = Entry(name, info.dtype, info.shape)
                    jobs[name] = TensorJob(entry, "copy", (Operand(index, key, info),))
        return list(jobs.values())


def _markers_of(one: MergeInput) -> set[str]:
    return {name for name in MARKERS if name in one.canonical}


def _is_extra(key: str) -> bool:
    """Tensors whose absence in A means nothing: markers, schedules, position ids, averaged copies."""
    plain = _PREFIXED_MARKER.sub("", key)
    return (
        plain in MARKERS
        or bool(_SCHEDULE.match(key))
        or bool(_POSITION_IDS.search(key))
        or key.startswith("model_ema.")
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MAX_LISTED])
    return shown if len(names) <= MAX_LISTED else f"{shown} and {len(names) - MAX_LISTED} more"


def _ema_names(tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """From the averaged copies' names (dots removed, ldm/modules/ema.py) back to the tensors that they copy."""
    if not any(key.startswith("model_ema.") for key in tensors):
        return {}
    return {
        "model_ema." + key.removeprefix("model.").replace(".", ""): key for key in tensors if key.startswith("model.")
    }


def tensor_seed(seed: int, name: str) -> int:
    """A seed of its own for every tensor, so that the order of the work does not matter."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7], "little")


def elements(job: TensorJob) -> int:
    """Values in a job's tensor."""
    return count(job.entry.shape)
