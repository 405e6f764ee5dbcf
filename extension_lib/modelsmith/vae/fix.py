"""The cure from end to end: measure a VAE, choose the powers of two, write the new file, prove it, or leave nothing."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from modelsmith import __version__
from modelsmith.errors import ModelsmithError, UsageError
from modelsmith.files.dtypes import bytes_of
from modelsmith.files.header import read_header
from modelsmith.files.tensors import TensorSource, open_tensors
from modelsmith.files.writer import Entry, StreamingWriter, WriterOptions, Written
from modelsmith.vae import cure
from modelsmith.vae.calibration import CalibrationOptions, Inputs, small_inputs
from modelsmith.vae.company import with_company
from modelsmith.vae.families import Hints, Identity, identify_vae
from modelsmith.vae.health import FIX_RECORD, Measurement, summarise
from modelsmith.vae.layout import Side, VaeFile, find_vae
from modelsmith.vae.measure import Distance, Run, Watch, distance
from modelsmith.vae.network import FP16_MAX
from modelsmith.vae.output import check_target, kept_metadata
from modelsmith.vae.survey import Survey, survey
from modelsmith.vae.weights import load_weights, widened

TOLERANCE = 1e-5
"""How far, relative to the largest output value, the cured VAE's fp32 output may lie from the original's."""

HEADROOMS = (2.0, 1.25)
"""What is tried where the headroom that was asked for changes the output."""

_NATIVE_WIDTH = 64
_NATIVE_SIDE = 64
"""Up to so many channels, and pixels a side, a CPU calculates fp16 convolutions in bearable time (512 channels at
16 x 16 take 1.3 s each; 32 channels at 128 x 128 some minutes for the whole proof)."""


class NothingToCure(ModelsmithError):
    """The VAE stays within fp16 as it is."""


class ProofFailed(ModelsmithError):
    """The cured VAE did not pass; nothing of it was kept."""


@dataclass(frozen=True)
class FixRequest:
    """What to cure. headroom: the factor that is left between the largest activation and fp16's 65,504.

    sides: which halves to cure. hints: what is known of the family. A smaller headroom is tried where the output
    would otherwise differ. compare_bf16: also run the original in bf16, to show beside the cured one's fp16.
    """

    source: Path
    target: Path
    sides: tuple[Side, ...] = ("decoder", "encoder")
    headroom: float = 4.0
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    hints: Hints = field(default_factory=Hints)
    overwrite: bool = False
    compare_bf16: bool = False

    def __post_init__(self) -> None:
        if not 1.0 <= self.headroom <= 1024.0:
            raise UsageError(f"a headroom of {self.headroom:g} makes no sense", "Choose one from 1 to 1024")
        if not self.sides:
            raise UsageError("neither the decoder nor the encoder was chosen")


@dataclass(frozen=True)
class Proof:
    """What was checked on the written file. fp32: distance of its output from the original's in fp32.

    fp16: distance of its fp16 output, finite on every input, from the original's in fp32. native: whether that was
    calculated in fp16 itself; otherwise in fp32 with every stored value rounded to fp16. maxima: layer -> largest
    absolute activation in fp32. bf16: distance of the original's bf16 output, where that was asked for. small: where
    ``native`` is false, the distance of an output calculated in fp16 itself on a small part of the first inputs.
    """

    fp32: Distance
    fp16: Distance
    native: bool
    maxima: Mapping[str, float]
    bf16: Distance | None
    small: Distance | None = None


@dataclass(frozen=True)
class FixResult:
    """A cured VAE. exponents: tensor in the file -> power of two. epsilon: the most any GroupNorm group is damped.

    inexact: values that lost bits because the file's fp16 could not hold them scaled.
    """

    path: Path
    sha256: str | None
    seconds: float
    identity: Identity
    headroom: float
    plan: cure.Plan
    exponents: Mapping[str, int]
    before: Measurement
    after: Measurement
    proof: Proof
    epsilon: float
    inexact: int


@dataclass(frozen=True)
class _Cure:
    """A chosen cure and the weights it makes."""

    headroom: float
    plan: cure.Plan
    exponents: dict[str, int]
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class _Kept:
    """A cure that was written and proved."""

    chosen: _Cure
    written: Written
    proof: Proof
    inexact: int


def run_fix(request: FixRequest, watch: Watch | None = None) -> FixResult:
    """Cure a VAE file, or the VAE inside a checkpoint, into a new file.

    Everything but the scaled tensors is copied byte for byte. Raises NothingToCure where no activation asks for it,
    ProofFailed where the written file does not give the same output in fp32 or is not finite in fp16, BadFileError
    for a file without a VAE that can be calculated; in each case nothing is written.
    """
    watch = watch or Watch()
    started = time.monotonic()
    check_target(request.source, request.target, request.overwrite)
    header = read_header(request.source)
    vae = find_vae(header)
    identity = identify_vae(vae, with_company(vae, request.hints))
    with open_tensors(header) as source:
        original = survey(vae, identity, source, request.calibration, watch)
        _require_reach(original, request.sides)
        kept = _first_that_holds(original, identity, source, request, watch)
    chosen, probe, inputs = kept.chosen, original.outcome.probe, tuple(original.outcome.results)
    effects = cure.epsilon_effect(vae.layout, chosen.plan, probe.variances)
    return FixResult(
        path=kept.written.path,
        sha256=kept.written.sha256,
        seconds=time.monotonic() - started,
        identity=identity,
        headroom=chosen.headroom,
        plan=chosen.plan,
        exponents={vae.names[name]: exponent for name, exponent in chosen.exponents.items()},
        before=summarise(probe.maxima, inputs),
        after=summarise({**probe.maxima, **kept.proof.maxima}, inputs),
        proof=kept.proof,
        epsilon=max(effects.values(), default=0.0),
        inexact=kept.inexact,
    )


def _of(sides: tuple[Side, ...], maxima: Mapping[str, float]) -> dict[str, float]:
    """The layers of these sides."""
    starts = {"decoder": ("decoder.", "post_quant_conv"), "encoder": ("encoder.", "quant_conv")}
    return {layer: peak for layer, peak in maxima.items() if any(layer.startswith(starts[side]) for side in sides)}


def _require_reach(original: Survey, sides: tuple[Side, ...]) -> None:
    unreachable = cure.beyond_reach(_of(sides, original.outcome.probe.maxima))
    if unreachable:
        layer, peak = max(unreachable.items(), key=lambda item: item[1])
        raise ProofFailed(
            f"{original.vae.header.path}: layer {layer!r} reaches {peak:,.0f}, and no exact factor can lower it",
            "Run this VAE in bf16 or fp32",
        )


def _first_that_holds(
    original: Survey, identity: Identity, source: TensorSource, request: FixRequest, watch: Watch
) -> _Kept:
    """Write and prove the cure with the most headroom, at most what was asked for, that leaves the output alone."""
    headrooms = (request.headroom, *(smaller for smaller in HEADROOMS if smaller < request.headroom))
    for headroom in headrooms:
        chosen = _choose(original, headroom, request)
        try:
            return _write(original, identity, chosen, _Job(source, request, watch))
        except _OutputDiffers as error:
            if headroom == headrooms[-1]:
                raise ProofFailed(error.message, error.remedy) from error
    raise UsageError("no headroom was tried")


class _OutputDiffers(ProofFailed):
    """The fp32 output is not the original's."""


@dataclass(frozen=True)
class _Job:
    source: TensorSource
    request: FixRequest
    watch: Watch


def _choose(original: Survey, headroom: float, request: FixRequest) -> _Cure:
    layout, maxima = original.vae.layout, original.outcome.probe.maxima
    chosen = cure.plan(layout, maxima, FP16_MAX / headroom, request.sides)
    if not chosen:
        peak = summarise(_of(request.sides, maxima), ()).peak
        raise NothingToCure(
            f"{original.vae.header.path}: the largest activation is {peak.value:,.0f} ({peak.layer}), which leaves "
            f"fp16 a factor of {FP16_MAX / max(peak.value, 1e-9):,.1f}",
            "Use the file as it is; nothing was written",
        )
    exponents = cure.tensor_exponents(layout, chosen)
    return _Cure(headroom, chosen, exponents, cure.apply(original.weights, exponents))


def _write(original: Survey, identity: Identity, chosen: _Cure, job: _Job) -> _Kept:
    """Copy all tensors in the order of the file, the scaled ones scaled, and prove the file before it gets its name."""
    header = original.vae.header
    by_file = {actual: name for name, actual in original.vae.names.items()}
    entries = [Entry(name, info.dtype, info.shape) for name, info in header.tensors.items()]
    metadata = {**kept_metadata(header), FIX_RECORD: _record(original, identity, chosen)}
    proofs: list[Proof] = []
    inexact = 0
    options = WriterOptions(overwrite=job.request.overwrite)
    with StreamingWriter(job.request.target, entries, metadata, options) as writer:
        for number, entry in enumerate(entries):
            job.watch.step("writing", number / len(entries))
            exponent = chosen.exponents.get(by_file.get(entry.name, ""), 0)
            tensor = job.source.load(entry.name)
            if exponent:
                after = cure.scaled(tensor, exponent)
                inexact += cure.inexact_values(tensor, after, exponent)
                tensor = after
            writer.write(entry.name, tensor)
        job.source.check_unchanged()
        written = writer.finish(check=lambda temporary: proofs.append(_prove(temporary, original, chosen, job)))
    return _Kept(chosen, written, proofs[0], inexact)


def _prove(temporary: Path, original: Survey, chosen: _Cure, job: _Job) -> Proof:
    """Read the written VAE back and run it. Raises ProofFailed."""
    vae = find_vae(read_header(temporary))
    with open_tensors(vae.header) as source:
        weights = load_weights(vae, source)
    path, reference = original.vae.header.path, original.outcome.results
    if vae.layout != original.vae.layout or not cure.same_tables(weights, chosen.weights):
        raise ProofFailed(f"{job.request.target}: what was written is not what was calculated", "Check the disk")

    def run(storage: torch.dtype | None, native: bool, stage: str) -> Run:
        return Run(vae.layout, original.calibration, job.request.sides, storage, native, job.watch, stage)

    wide = widened(weights)
    full = run(None, False, "proving in fp32").make(wide)
    fp32 = distance(full.results, reference)
    if not fp32.largest <= TOLERANCE:
        raise _OutputDiffers(
            f"{path}: the scaled VAE's fp32 output differs by {fp32.largest:.1e} of its size, more than "
            f"{TOLERANCE:.0e}, because groups of its GroupNorms vary too little",
            "Run this VAE in bf16 or fp32; nothing was written",
        )
    half = run(torch.float16, False, "proving in fp16").make(wide)
    able = _calculates_fp16()
    native = able and _is_small(vae, original.calibration.images)
    own = run(torch.float16, True, "proving in fp16 itself").make(wide) if native else half
    if half.broken or own.broken:
        layers = [layer for layer, peak in half.probe.maxima.items() if math.isinf(peak)]
        raise ProofFailed(
            f"{path}: the scaled VAE still overflows in fp16 on {', '.join({*half.broken, *own.broken})} (first in "
            f"{next(iter(layers), 'the output')})",
            "Run this VAE in bf16 or fp32; nothing was written",
        )
    small = _prove_small(original, wide, job) if able and not native else None
    bf16 = None
    if job.request.compare_bf16:
        wide = widened(original.weights)
        bf16 = distance(run(torch.bfloat16, False, "comparing with bf16").make(wide).results, reference)
    return Proof(fp32, distance(own.results, reference), native, full.probe.maxima, bf16, small)


def _prove_small(original: Survey, cured: Mapping[str, Tensor], job: _Job) -> Distance:
    """Run a wide VAE in fp16 itself, on the one size that a CPU does in bearable time. Raises ProofFailed."""
    layout = original.vae.layout
    inputs = small_inputs(layout, original.calibration)
    before = Run(layout, inputs, job.request.sides, watch=job.watch, stage="proving in fp16 itself")
    reference = before.make(widened(original.weights)).results
    found = replace(before, storage=torch.float16, native=True).make(cured)
    if found.broken:
        raise ProofFailed(
            f"{original.vae.header.path}: the scaled VAE overflows when it is calculated in fp16 itself "
            f"(on {', '.join(found.broken)})",
            "Run this VAE in bf16 or fp32; nothing was written",
        )
    return distance(found.results, reference)


def _is_small(vae: VaeFile, images: Inputs) -> bool:
    """Whether the proof may be calculated in fp16 itself. The decoder makes images as large as the encoder's."""
    if any(side > _NATIVE_SIDE for _, image in images for side in image.shape[2:]):
        return False
    layout = vae.layout
    widest = max(layout.encoder_mid, layout.decoder_mid, *(level.channels for level in (*layout.down, *layout.up)))
    return widest <= _NATIVE_WIDTH


def _calculates_fp16() -> bool:
    """Whether this torch has the network's operations in fp16 for the CPU; older ones have not."""
    value = torch.zeros((1, 32, 2, 2), dtype=torch.float16)
    try:
        F.conv2d(value, torch.zeros((1, 32, 1, 1), dtype=torch.float16))
        F.silu(F.group_norm(value, 32))
        F.interpolate(value, scale_factor=2.0, mode="nearest")
        F.scaled_dot_product_attention(value, value, value)
    except RuntimeError:
        return False
    return True


def _record(original: Survey, identity: Identity, chosen: _Cure) -> str:
    """The metadata entry of the output. It is only ever seen on a file that passed the proof."""
    peak = summarise(original.outcome.probe.maxima, ()).peak
    witness = next(name for name in chosen.exponents if name.endswith(".bias"))
    digest = hashlib.sha256(bytes_of(chosen.weights[witness].to(torch.float16))).hexdigest()
    return json.dumps(
        {
            "by": f"modelsmith {__version__}",
            "what": "scaled by powers of two so that it runs in fp16 with the same output; no training",
            "family": list(identity.families),
            "headroom": chosen.headroom,
            "streams": dict(chosen.plan.stages),
            "branches": dict(chosen.plan.branches),
            "values": dict(chosen.plan.values),
            "queries": dict(chosen.plan.queries),
            "inputs": list(original.outcome.results),
            "largest_before": [peak.layer, peak.value],
            "proved": f"fp32 output within {TOLERANCE:.0e} of the original's, fp16 finite on all inputs",
            "witness": [witness, digest],
        },
        separators=(",", ":"),
    )
