"""Where a merge's chunks may go beside a file (``engine.Sink``)."""

from __future__ import annotations

import threading

from modelsmith.errors import Cancelled
from modelsmith.files.output import aligned_buffer
from modelsmith.files.writer import Chunk


class NullSink:
    """Takes a merge of any size and drops it: for measuring, and for checking inputs for values that are not finite."""

    def __init__(self, data_bytes: int, chunk_bytes: int = 2 << 20, buffers: int = 8) -> None:
        self._data_bytes = data_bytes
        self._chunk_bytes = chunk_bytes
        self._state = threading.Condition()
        self._free = [aligned_buffer(chunk_bytes) for _ in range(buffers)]
        self._next = 0
        self._stopped = False

    @property
    def data_bytes(self) -> int:
        """Bytes of all chunks."""
        return self._data_bytes

    def acquire(self) -> Chunk | None:
        """The next piece to fill; None after the last. Raises Cancelled once ``stop`` was called."""
        with self._state:
            while not self._free and not self._stopped:
                self._state.wait()
            start = self._next * self._chunk_bytes
            if self._stopped:
                raise Cancelled
            if start >= self._data_bytes:
                return None
            buffer, index = self._free.pop(), self._next
            self._next += 1
        return Chunk(index, start, buffer[: min(self._chunk_bytes, self._data_bytes - start)], buffer)

    def submit(self, chunk: Chunk) -> None:
        """Drop a filled piece."""
        with self._state:
            self._free.append(chunk.buffer)
            self._state.notify()

    def stop(self) -> None:
        """Make every waiting and later ``acquire`` raise Cancelled."""
        with self._state:
            self._stopped = True
            self._state.notify_all()
