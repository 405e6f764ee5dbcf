"""Writes a table of nodes as one .safetensors file: a few threads read, compute and write, one hashes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

from modelsmith.convert.casts import Loss, LossBook
from modelsmith.convert.model import Model
from modelsmith.convert.nodes import Node, nbytes
from modelsmith.convert.rounding import Cast
from modelsmith.convert.scaled import ScaledWeight, ScaleValue
from modelsmith.convert.spans import Filler
from modelsmith.errors import BadFileError, Cancelled, UsageError
from modelsmith.files.dtypes import DTYPES
from modelsmith.files.writer import Entry, StreamingWriter, WriterOptions, filling_threads

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


@dataclass(frozen=True)
class WriteOptions:
    """overwrite: replace an existing target. progress, cancelled: asked and told after every chunk. finished: told the
    temporary path of the whole file before it gets its name. hashing: compute the SHA-256 of the file as it is written;
    one core hashes 1 to 2 GB a second, which a fast disk outruns."""

    overwrite: bool = False
    progress: Progress | None = None
    cancelled: Callable[[], bool] | None = None
    finished: Callable[[Path], None] | None = None
    hashing: bool = True


@dataclass(frozen=True)
class WriteResult:
    """What was written. sha256: empty where it was not asked for; losses: by tensor; notes: sentences for the user;
    dropped: how many tensors of each kind were left out, None where nothing was asked to be."""

    path: Path
    bytes_in: int
    bytes_out: int
    sha256: str
    seconds: float
    losses: dict[str, Loss] = field(default_factory=dict[str, Loss])
    notes: tuple[str, ...] = ()
    dropped: dict[str, int] | None = None


def write_model(model: Model, target: Path, book: LossBook, options: WriteOptions | None = None) -> WriteResult:
    """Write the model beside ``target`` and rename it when it is whole; the input is never touched.

    Raises as the writer and the readers do, Cancelled where the user stopped it, and UsageError where target and input
    are one file.
    """
    chosen = options or WriteOptions()
    _refuse_same_file(model, target)
    if not model.tensors:
        raise BadFileError(model.path, "no tensor would be left to write", "Keep at least one part")
    started = time.monotonic()
    order = _order(model.tensors)
    for name, node in model.tensors.items():
        if isinstance(node, (Cast, ScaledWeight)):
            node.name = name  # parts may have got other names since
    entries = [Entry(name, model.tensors[name].dtype, model.tensors[name].shape) for name in order]
    writing = WriterOptions(overwrite=chosen.overwrite, hashing=chosen.hashing, buffers=filling_threads() + 4)
    with StreamingWriter(target, entries, model.metadata, writing) as writer:
        _Run(writer, [model.tensors[name] for name in order], book, chosen).run()
        model.check_unchanged()
        written = writer.finish(check=chosen.finished)
    return WriteResult(
        written.path,
        model.header.size,
        written.bytes,
        written.sha256 or "",
        time.monotonic() - started,
        book.losses(),
        tuple(model.notes),
    )


def _order(tensors: Mapping[str, Node]) -> list[str]:
    """Names in the order of the output: wider types first, so that every tensor lies aligned to its element.

    Scales come last, where that leaves them aligned.
    """
    order = sorted(tensors, key=lambda name: -DTYPES[tensors[name].dtype].itemsize)
    scales = [name for name in order if isinstance(tensors[name], ScaleValue)]
    others = [name for name in order if not isinstance(tensors[name], ScaleValue)]
    return order if sum(nbytes(tensors[name]) for name in others) % 4 else others + scales


def _keep_memory() -> None:
    """Make the C library keep small temporaries instead of returning them to the system after every operation.

    glibc raises its limit for that to the size of the largest block that was freed, up to 32 MiB (mallopt(3),
    M_MMAP_THRESHOLD). Without it the page faults of the tiles took four times as long as the arithmetic (measured).
    """
    torch.empty(31 << 20, dtype=torch.uint8)


def _refuse_same_file(model: Model, target: Path) -> None:
    inputs = {info.file or model.header.path for info in model.header.tensors.values()}
    if any(path.exists() and target.exists() and path.samefile(target) for path in inputs):
        raise UsageError(f"{target} is the input itself", "Choose another name; the original is never changed")


class _Run:
    """The threads of one output."""

    def __init__(self, writer: StreamingWriter, nodes: list[Node], book: LossBook, options: WriteOptions) -> None:
        self._writer = writer
        self._filler = Filler(writer.entries, nodes, book)
        self._options = options
        self._guard = threading.Lock()
        self._done = 0

    def run(self) -> None:
        """Fill all chunks. The first failure stops every thread and is raised."""
        before = torch.get_num_threads()
        _keep_memory()
        try:
            self._run_threads()
        finally:
            torch.set_num_threads(before)

    def _run_threads(self) -> None:
        threads = filling_threads()
        with ThreadPoolExecutor(threads, thread_name_prefix="modelsmith-convert") as pool:
            futures = [pool.submit(self._work) for _ in range(threads)]
            try:
                failures = [error for future in futures if (error := future.exception()) is not None]
            except BaseException:
                self._writer.stop()
                raise
        real = [error for error in failures if not isinstance(error, Cancelled)]
        if failures:
            raise (real or failures)[0]

    def _work(self) -> None:
        # No threads of torch's own inside each worker. The number is kept per thread from its first question on.
        torch.set_num_threads(1)
        torch.get_num_threads()
        try:
            with torch.inference_mode():  # a tensor's views then cost less
                while (chunk := self._writer.acquire()) is not None:
                    self._filler.fill(chunk.view, chunk.start)
                    size = len(chunk.view)
                    self._writer.submit(chunk)
                    self._tell(size)
        except BaseException:
            self._writer.stop()
            raise

    def _tell(self, size: int) -> None:
        if self._options.cancelled is not None and self._options.cancelled():
            raise Cancelled
        with self._guard:
            self._done += size
            if self._options.progress is not None:
                self._options.progress(self._done, self._writer.data_bytes)
