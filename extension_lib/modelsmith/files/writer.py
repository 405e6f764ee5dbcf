"""Writes a safetensors file in one go, chunk by chunk, hashing the bytes as they pass."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING

from modelsmith.errors import Cancelled, UsageError
from modelsmith.files.dtypes import bytes_of, count, dtype, dtype_of
from modelsmith.files.output import ALIGNMENT, OutputFile, aligned_buffer

if TYPE_CHECKING:
    import torch

CHUNK_BYTES = 8 << 20


def filling_threads() -> int:
    """How many threads are to fill chunks where nobody said: as many as there are cores, for they do not wait for the
    disk to write; two at least, for they may wait for it to read."""
    return min(4, max(2, os.cpu_count() or 1))


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the output: its name, safetensors type and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that the tensor takes in the file."""
        return count(self.shape) * dtype(self.dtype).itemsize


@dataclass(frozen=True)
class WriterOptions:
    """How to write.

    chunk_bytes: a multiple of 4 KiB. buffers: how many chunks may be under way at once.
    hashing: whether to compute the SHA-256 of the file; it must be off where the header is replaced at the end, since
    the hash begins with the header. hash_data: then, to compute that of the data alone.
    """

    overwrite: bool = False
    direct: bool = True
    hashing: bool = True
    chunk_bytes: int = CHUNK_BYTES
    buffers: int = 4
    hash_data: bool = False


@dataclass(frozen=True)
class Written:
    """The finished file. sha256 is None where hashing was off; data_sha256, of the bytes after the header (which
    trainers and model sites call AutoV3), is there where that was asked for instead."""

    path: Path
    bytes: int
    sha256: str | None
    data_sha256: str | None = None


@dataclass
class Chunk:
    """One piece of the output under way: ``view`` is to be filled with the bytes of data from ``start`` on.

    readers: who still needs the bytes once it was submitted (the disk, the hash).
    """

    index: int
    start: int
    view: memoryview
    buffer: memoryview = field(repr=False)
    readers: int = 1


def build_header(entries: Sequence[Entry], metadata: Mapping[str, str], at_least: int = 0) -> bytes:
    """Length prefix and JSON of a safetensors file, padded with spaces so that the data start at 4 KiB.

    at_least: bytes that the header is to fill, so that a shorter one can take another's place.

    Raises UsageError for a name given twice.
    """
    table: dict[str, object] = {}
    if metadata:
        table["__metadata__"] = dict(metadata)
    offset = 0
    for entry in entries:
        if entry.name in table:
            raise UsageError(f"the output has two tensors named {entry.name!r}")
        end = offset + entry.nbytes
        table[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    length = max(8 + len(text), at_least)
    text += b" " * (length + -length % ALIGNMENT - 8 - len(text))
    return len(text).to_bytes(8, "little") + text


class StreamingWriter:
    """Writes tensors whose names, types and shapes are all known beforehand.

    Several threads may each ``acquire`` the next chunk, fill it and ``submit`` it; or one thread hands whole tensors
    to ``write`` in the order of ``entries``. ``finish`` makes the file appear; leaving the ``with`` block without it
    removes every trace.
    """

    def __init__(
        self,
        target: Path,
        entries: Sequence[Entry],
        metadata: Mapping[str, str],
        options: WriterOptions | None = None,
    ) -> None:
        self.options = options or WriterOptions()
        if self.options.chunk_bytes % ALIGNMENT or self.options.chunk_bytes <= 0:
            raise UsageError(f"chunks of {self.options.chunk_bytes} bytes are not whole pages of {ALIGNMENT}")
        self.entries = tuple(entries)
        self._header = build_header(self.entries, metadata)
        self.data_bytes = sum(entry.nbytes for entry in self.entries)
        self._output = OutputFile(
            target,
            len(self._header) + self.data_bytes,
            overwrite=self.options.overwrite,
            direct=self.options.direct,
        )
        self._state = threading.Condition()
        self._next = 0
        self._stopped = False
        self._finished = False
        self._free = [aligned_buffer(self.options.chunk_bytes) for _ in range(max(1, self.options.buffers))]
        wanted = self.options.hashing or self.options.hash_data
        self._hasher = _Hasher(self._release) if wanted else None
        if self._hasher:
            self._hasher.start(self._header if self.options.hashing else b"")
        self._failure: Exception | None = None
        self._drain = _Drain(self._write, self._fail)
        self._stream: Chunk | None = None
        self._filled = 0
        self._position = 0

    @property
    def chunks(self) -> int:
        """How many chunks the data make."""
        return -(-self.data_bytes // self.options.chunk_bytes)

    @property
    def direct(self) -> bool:
        """Whether the file system takes direct writes."""
        return self._output.direct

    def acquire(self) -> Chunk | None:
        """Wait for a free buffer and claim the next chunk; None when all chunks are claimed.

        Raises Cancelled once ``stop`` was called; where the disk failed, one caller gets that failure instead.
        """
        with self._state:
            while not self._free and not self._stopped and self._next < self.chunks:
                self._state.wait()
            self._raise_failure()
            if self._stopped:
                raise Cancelled
            if self._next >= self.chunks:
                return None
            buffer = self._free.pop()
            index = self._next
            self._next += 1
        start = index * self.options.chunk_bytes
        length = min(self.options.chunk_bytes, self.data_bytes - start)
        return Chunk(index, start, buffer[:length], buffer, 2 if self._hasher else 1)

    def submit(self, chunk: Chunk) -> None:
        """Hand a filled chunk on to the disk and to the hash; the buffer returns to the pool by itself.

        Failures of the disk are raised by a later ``acquire``, or by ``finish``.
        """
        self._drain.feed(chunk)
        if self._hasher:
            self._hasher.feed(chunk)

    def _write(self, chunk: Chunk) -> None:
        self._output.write_at(chunk.view, len(self._header) + chunk.start)
        self._release(chunk)

    def _fail(self, failure: Exception) -> None:
        with self._state:
            self._failure = failure
        self.stop()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def stop(self) -> None:
        """Make every waiting and later ``acquire`` raise Cancelled."""
        with self._state:
            self._stopped = True
            self._state.notify_all()

    def _release(self, chunk: Chunk) -> None:
        with self._state:
            chunk.readers -= 1
            if not chunk.readers:
                self._free.append(chunk.buffer)
                self._state.notify()

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Append one whole tensor, which must be the next of ``entries`` and have its type and shape.

        Raises UsageError where it is another one.
        """
        entry = self.entries[self._position] if self._position < len(self.entries) else None
        given = (name, dtype_of(tensor.dtype).name, tuple(tensor.shape))
        if entry is None or given != (entry.name, entry.dtype, entry.shape):
            raise UsageError(f"the writer expected {entry} and was given {given}")
        self._position += 1
        if tensor.numel():
            self._append(bytes_of(tensor.cpu().contiguous()))

    def _append(self, data: memoryview) -> None:
        done = 0
        while done < len(data):
            if self._stream is None:
                self._stream, self._filled = self.acquire(), 0
            chunk = self._stream
            if chunk is None:
                raise UsageError("more bytes were written than the header announced")
            part = min(len(chunk.view) - self._filled, len(data) - done)
            chunk.view[self._filled : self._filled + part] = data[done : done + part]
            self._filled += part
            done += part
            if self._filled == len(chunk.view):
                self.submit(chunk)
                self._stream = None

    def finish(self, metadata: Mapping[str, str] | None = None, check: Callable[[Path], None] | None = None) -> Written:
        """Write the header, flush, and give the file its name.

        metadata: a replacement whose header is no longer than the first, for values known only at the end (hashes of
        inputs that were read once, here); only with hashing off.
        check: called with the whole file's temporary path before it gets its name; where it raises, nothing is kept.
        Raises as OutputFile does.
        """
        self._drain.finish()
        with self._state:
            self._raise_failure()
        header = self._header
        if metadata is not None:
            header = build_header(self.entries, metadata, len(self._header))
            if len(header) != len(self._header) or self.options.hashing:
                raise UsageError("the header may not grow, nor its content once it was hashed")
        aligned = aligned_buffer(len(header))
        aligned[:] = header
        self._output.write_at(aligned, 0)
        digest = self._hasher.result(self.chunks) if self._hasher else None
        if check is not None:
            check(self._output.temporary)
        self._output.commit()
        self._finished = True
        whole = digest if self.options.hashing else None
        return Written(self._output.target, self._output.size, whole, None if self.options.hashing else digest)

    def abort(self) -> None:
        """Stop and remove the temporary file; the target is as it was."""
        self.stop()
        self._drain.stop()
        if self._hasher:
            self._hasher.stop()
        if not self._finished:
            self._output.abort()

    def __enter__(self) -> StreamingWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._finished:
            self.abort()


class _Drain:
    """Brings chunks to the disk in threads of its own, so that neither it nor who fills them waits for the other.

    ``failed`` is told the first failure; nothing more is written then. There are two threads, so that a write is under
    way while another one comes back.
    """

    def __init__(self, write: Callable[[Chunk], None], failed: Callable[[Exception], None]) -> None:
        self._write = write
        self._failed = failed
        self._chunks: SimpleQueue[Chunk | None] = SimpleQueue()
        self._stopped = False
        self._threads = [threading.Thread(target=self._run, name="modelsmith-disk", daemon=True) for _ in range(2)]
        for thread in self._threads:
            thread.start()

    def feed(self, chunk: Chunk) -> None:
        self._chunks.put(chunk)

    def _run(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            if self._stopped:
                continue
            try:
                self._write(chunk)
            except Exception as failure:  # noqa: BLE001 - whatever it is, the thread that asks next raises it
                self._stopped = True
                self._failed(failure)

    def finish(self) -> None:
        """Wait until all chunks were written; calling it again does nothing."""
        for _ in self._threads:
            self._chunks.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def stop(self) -> None:
        """Write no more chunks."""
        self._stopped = True
        self.finish()


class _Hasher:
    """SHA-256 in a thread of its own, over chunks that may arrive in any order (hashlib lets other threads run)."""

    def __init__(self, release: Callable[[Chunk], None]) -> None:
        self._release = release
        self._digest = hashlib.sha256()
        self._waiting: dict[int, Chunk] = {}
        self._state = threading.Condition()
        self._done = 0
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="modelsmith-sha256", daemon=True)

    def start(self, header: bytes) -> None:
        self._digest.update(header)
        self._thread.start()

    def feed(self, chunk: Chunk) -> None:
        with self._state:
            self._waiting[chunk.index] = chunk
            self._state.notify_all()

    def _run(self) -> None:
        while True:
            with self._state:
                while self._done not in self._waiting and not self._stopped:
                    self._state.wait()
                if self._stopped:
                    return
                chunk = self._waiting.pop(self._done)
            self._digest.update(chunk.view)
            self._release(chunk)
            with self._state:
                self._done += 1
                self._state.notify_all()

    def result(self, chunks: int) -> str:
        """Wait until all chunks were hashed."""
        with self._state:
            while self._done < chunks and not self._stopped:
                self._state.wait()
        self.stop()
        return self._digest.hexdigest()

    def stop(self) -> None:
        with self._state:
            self._stopped = True
            self._state.notify_all()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
