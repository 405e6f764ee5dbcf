"""Runs a planned merge: a few threads that each read, compute and write one chunk of the output at a time.

Memory is bounded by the chunks under way, whatever the size of the models or of any one tensor.  The bytes do not
depend on the number of threads, on the size of the chunks, or on how the writes reach the disk.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from modelsmith.devices import full_precision
from modelsmith.errors import Cancelled, ModelsmithError
from modelsmith.files.dtypes import dtype, torch_dtype
from modelsmith.files.tensors import RangeFile
from modelsmith.files.writer import Chunk, StreamingWriter, WriterOptions, filling_threads
from modelsmith.lora.stack import LoraStack
from modelsmith.merge.device import pinned_buffer
from modelsmith.merge.guard import Notice, notice
from modelsmith.merge.kernels import Kernel, all_finite, copy_values, keep_memory
from modelsmith.merge.pieces import Pieces, Shared
from modelsmith.merge.plan import MergePlan, TensorJob
from modelsmith.merge.reading import ChunkReader, Group, InputHash, Segments
from modelsmith.merge.recipe import RECIPE_KEY, UNKNOWN_HASH
from modelsmith.merge.request import EngineOptions, MergeProgress, MergeResult
from modelsmith.merge.statistics import Watch, settled
from modelsmith.merge.weights import WeightSource

Progress = Callable[[MergeProgress], None]
IsCancelled = Callable[[], bool]


def run_merge(
    plan: MergePlan,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
    options: EngineOptions | None = None,
) -> MergeResult:
    """Carry a plan out.

    progress: called from this thread, several times a second. cancelled: asked as often; when it says yes, the merge
    stops within one chunk and nothing is left behind. Raises Cancelled, BadFileError (an input that is damaged or
    changed meanwhile), NoSpaceError, MergeError; the target then is what it was before.
    """
    started = time.monotonic()
    options = options or EngineOptions()
    plan = settled(plan, Watch(progress, cancelled, options.threads))
    known = plan.hashes()
    streamed = UNKNOWN_HASH in known
    keep_memory()
    threads = options.threads or filling_threads()
    writing = _writing(plan, options, threads, streamed)
    with ExitStack() as stack:
        stack.enter_context(full_precision())
        sources = [stack.enter_context(one.open()) for one in plan.inputs]
        for one in plan.inputs:
            one.check_unchanged()
        hashes = _input_hashes(plan, sources, known)
        entries = [job.entry for job in plan.jobs]
        writer = stack.enter_context(StreamingWriter(plan.request.output, entries, plan.metadata(known), writing))
        run = _Run(plan, sources, _lora(plan, stack), writer, hashes, plan.request.output.parent)
        _work(run, threads, _Reporter(progress, cancelled, writer.data_bytes, started))
        metadata = plan.metadata(_final_hashes(sources, known, hashes))
        run.check_unchanged()
        if progress:
            progress(MergeProgress(writer.data_bytes, writer.data_bytes, "finishing", time.monotonic() - started))
        written = writer.finish(metadata if streamed else None)
    return MergeResult(
        written.path,
        written.sha256,
        time.monotonic() - started,
        written.bytes,
        (*plan.notices, *run.notices()),
        metadata[RECIPE_KEY],
        written.data_sha256,
    )


def _writing(plan: MergePlan, options: EngineOptions, threads: int, streamed: bool) -> WriterOptions:
    """streamed: the inputs' hashes are computed while they stream by, so the header is written anew at the end."""
    return WriterOptions(
        overwrite=plan.request.overwrite,
        direct=options.direct,
        hashing=options.hashing and not streamed,
        hash_data=streamed and options.hash_data,
        chunk_bytes=options.chunk_bytes,
        buffers=threads + 4,
    )


class Sink(Protocol):
    """Where the chunks of a merge go; StreamingWriter is the one that makes a file of them."""

    @property
    def data_bytes(self) -> int:
        """Bytes of all chunks."""
        ...

    def acquire(self) -> Chunk | None:
        """The next piece to fill; None after the last. Raises Cancelled once ``stop`` was called."""
        ...

    def submit(self, chunk: Chunk) -> None:
        """Take a filled piece."""
        ...

    def stop(self) -> None:
        """Make every later ``acquire`` raise Cancelled."""
        ...


def merge_into(
    plan: MergePlan,
    sink: Sink,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
    threads: int = 0,
) -> tuple[Notice, ...]:
    """Compute the jobs of a plan into any sink, with the values that ``run_merge`` writes; no file is made.

    Raises as ``run_merge`` does. Returns what was noticed about the values.
    """
    plan = settled(plan, Watch(progress, cancelled, threads))
    with ExitStack() as stack:
        stack.enter_context(full_precision())
        sources = [stack.enter_context(one.open()) for one in plan.inputs]
        for one in plan.inputs:
            one.check_unchanged()
        run = _Run(plan, sources, _lora(plan, stack), sink, {})
        threads = threads or filling_threads()
        _work(run, threads, _Reporter(progress, cancelled, sink.data_bytes, time.monotonic()))
        run.check_unchanged()
    return run.notices()


def _lora(plan: MergePlan, stack: ExitStack) -> LoraStack | None:
    """The LoRAs of a merge, matched against A, open as long as the stack."""
    if not plan.request.loras:
        return None
    a = plan.inputs[0]
    return stack.enter_context(LoraStack(plan.request.loras, a.header, architecture=a.report.architecture))


def _is_single(source: WeightSource) -> bool:
    return len(source.files) == 1


def _only_file(source: WeightSource) -> RangeFile:
    return next(iter(source.files.values()))


def _final_hashes(
    sources: list[WeightSource], known: tuple[str, ...], hashes: dict[RangeFile, InputHash]
) -> tuple[str, ...]:
    """The hashes of all inputs, those computed in passing brought to the ends of their files."""
    return tuple(
        hashes[_only_file(source)].finish() if digest == UNKNOWN_HASH and _only_file(source) in hashes else digest
        for source, digest in zip(sources, known, strict=True)
    )


def _input_hashes(plan: MergePlan, sources: list[WeightSource], known: tuple[str, ...]) -> dict[RangeFile, InputHash]:
    """A running hash for every input of one file whose hash nobody knows; sharded models have none."""
    return {
        _only_file(source): InputHash(_only_file(source))
        for source, digest in zip(sources, known, strict=True)
        if digest == UNKNOWN_HASH and _is_single(source) and plan.jobs
    }


@dataclass
class _Reporter:
    """Progress and cancelling, both in the caller's thread."""

    progress: Progress | None
    cancelled: IsCancelled | None
    total: int
    started: float

    def report(self, done: int) -> None:
        if self.progress:
            self.progress(MergeProgress(done, self.total, "merging", time.monotonic() - self.started))
        if self.cancelled and self.cancelled():
            raise Cancelled


@dataclass
class _Run:
    """What the threads of one merge share. folder: see ``pieces.Shared``."""

    plan: MergePlan
    sources: list[WeightSource]
    lora: LoraStack | None
    writer: Sink
    hashes: dict[RangeFile, InputHash]
    folder: Path | None = None
    errors: list[BaseException] = field(default_factory=list[BaseException])
    done: int = 0
    guard: threading.Lock = field(default_factory=threading.Lock)
    found: dict[tuple[str, str], Notice] = field(default_factory=dict[tuple[str, str], Notice])

    def __post_init__(self) -> None:
        self.segments = Segments(self.plan.jobs, self.sources)
        self.pieces = Pieces(Shared(self.sources, self.lora, self._repaired, self.folder))

    def _repaired(self, job: TensorJob) -> None:
        path = str(self.plan.inputs[job.operands[0].model].path)
        self.note(path, job.entry.name, notice("warning", "repaired", file=path, tensor=job.entry.name))

    def check_unchanged(self) -> None:
        """Raise BadFileError where an input or a LoRA changed since it was opened."""
        for source in self.sources:
            source.check_unchanged()
        if self.lora is not None:
            self.lora.check_unchanged()

    def stop(self, error: BaseException) -> None:
        with self.guard:
            self.errors.append(error)
        self.writer.stop()
        self.pieces.stop()
        for digest in self.hashes.values():
            digest.stop()

    def note(self, place: str, key: str, problem: Notice) -> None:
        with self.guard:
            self.found.setdefault((place, key), problem)

    def notices(self) -> tuple[Notice, ...]:
        return tuple(self.found[place] for place in sorted(self.found))


def _work(run: _Run, threads: int, reporter: _Reporter) -> None:
    """Start the workers and wait for them, reporting; raise the first error that any of them met."""
    ready = threading.Barrier(threads + 1)
    workers = [
        threading.Thread(target=_worker, args=(run, ready), name=f"modelsmith-merge-{number}", daemon=True)
        for number in range(threads)
    ]
    with _one_thread_each():
        for worker in workers:
            worker.start()
        ready.wait()
    try:
        while any(worker.is_alive() for worker in workers):
            for worker in workers:
                worker.join(0.1 / threads)
            reporter.report(run.done)
    except BaseException as error:
        run.stop(error)
        raise
    finally:
        for worker in workers:
            worker.join()
        run.pieces.close()
    real = [error for error in run.errors if not isinstance(error, Cancelled)] or run.errors
    if real:
        raise real[0]


@contextlib.contextmanager
def _one_thread_each() -> Generator[None, None, None]:
    """Keep torch from starting threads of its own inside each worker.

    torch keeps the number per thread once a thread has asked for it, and one for threads to come; the latter is
    what the host must find unchanged afterwards.
    """
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _worker(run: _Run, ready: threading.Barrier) -> None:
    torch.set_num_threads(1)
    torch.get_num_threads()  # a thread's first question settles its number; later changes elsewhere leave it alone
    ready.wait()
    try:
        kernel = Kernel(run.plan.method, run.plan.device)
        reader = ChunkReader(run.sources, run.hashes, partial(pinned_buffer, device=run.plan.device))
        while (chunk := run.writer.acquire()) is not None:
            _fill(run, kernel, reader, chunk)
            length = len(chunk.view)
            run.writer.submit(chunk)
            with run.guard:
                run.done += length
        if kernel.lacked_memory:
            run.note("", "", notice("warning", "device-memory", device=run.plan.parts.device))
    except (ModelsmithError, OSError, RuntimeError, MemoryError, ValueError, TypeError, KeyError) as error:
        run.stop(error)


def _fill(run: _Run, kernel: Kernel, reader: ChunkReader, chunk: Chunk) -> None:
    for group in reader.read(run.segments.of(chunk.start, len(chunk.view)), chunk.index):
        job, segment = group.job, group.segment
        kind = torch_dtype(job.entry.dtype)
        output = torch.frombuffer(chunk.view, dtype=kind, count=segment.length, offset=segment.offset)
        if job.action == "elements" and not job.pieced:
            finite = kernel.elements(group.operands, output, job.entry.dtype, job.parameters)
        elif job.pieced:
            finite = copy_values(run.pieces.take(job, segment.first, segment.length, kernel), output)
        else:
            finite = copy_values(group.operands[0], output)
        if not finite:
            _explain(run, group, output)


def _explain(run: _Run, group: Group, output: Tensor) -> None:
    """Find out which input brought a NaN or an infinity into the result, or whether the result overflowed."""
    first = 0
    for job, length, operands in group.split():
        values = output[first : first + length]
        first += length
        if not all_finite(values):
            _explain_one(run, job, operands)


def _explain_one(run: _Run, job: TensorJob, tensors: list[Tensor]) -> None:
    culprits = [operand for operand, tensor in zip(job.operands, tensors, strict=False) if not all_finite(tensor)]
    if not tensors:
        culprits = [op for op in job.operands if not all_finite(run.sources[op.model].load(op.name))]
    for operand in culprits:
        path = str(run.plan.inputs[operand.model].path)
        run.note(path, operand.name, notice("warning", "not-finite", file=path, tensor=operand.name))
    if not culprits:
        label = dtype(job.entry.dtype).label
        run.note("", job.entry.name, notice("warning", "too-large", tensor=job.entry.name, dtype=label))
