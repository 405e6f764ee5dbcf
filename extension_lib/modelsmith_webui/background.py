"""Jobs that the API starts: one thread each, in the host's queue, so that none runs beside a generation."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from modelsmith.errors import Cancelled, ModelsmithError, UnknownNameError, UsageError
from modelsmith_webui.host import Host, JobControl

logger = logging.getLogger(__name__)

State = Literal["queued", "running", "done", "failed", "cancelled"]
Work = Callable[[JobControl], dict[str, Any]]

FINISHED_KEPT = 100
WAITING_ALLOWED = 32


@dataclass
class Job:
    """One job and what has become of it. result: the answer of the work; error, remedy: why it failed."""

    id: str
    kind: str
    state: State = "queued"
    progress: float = 0.0
    text: str = ""
    result: dict[str, Any] | None = None
    error: str = ""
    remedy: str = ""
    started: float | None = None
    ended: float | None = None
    stop: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    def to_json(self) -> dict[str, Any]:
        """What the API tells of it."""
        seconds = None if self.started is None else (self.ended or time.monotonic()) - self.started
        return {
            "id": self.id,
            "kind": self.kind,
            "state": self.state,
            "progress": round(self.progress, 4),
            "text": self.text,
            "seconds": None if seconds is None else round(seconds, 2),
            "result": self.result,
            "error": self.error or None,
            "remedy": self.remedy or None,
        }


class _Control:
    """The job's side of both displays: the host's own progress bar, and what the API tells."""

    def __init__(self, job: Job, inner: JobControl) -> None:
        self._job, self._inner = job, inner

    def report(self, fraction: float, text: str) -> None:
        self._job.progress, self._job.text = min(1.0, max(0.0, fraction)), text
        self._inner.report(fraction, text)

    def cancelled(self) -> bool:
        return self._job.stop.is_set() or self._inner.cancelled()


class Background:
    """Starts jobs and remembers the last ones."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}

    def start(self, kind: str, work: Work) -> Job:
        """Queue the work; it runs when the host's queue comes to it. Raises UsageError where too many wait."""
        job = Job(secrets.token_hex(8), kind)
        with self._lock:
            if sum(not known.over for known in self._jobs.values()) >= WAITING_ALLOWED:
                raise UsageError(f"{WAITING_ALLOWED} jobs are waiting already", "Wait until one has ended")
            finished = [known.id for known in self._jobs.values() if known.over]
            for old in finished[: max(0, len(finished) - FINISHED_KEPT + 1)]:
                del self._jobs[old]
            self._jobs[job.id] = job
        # A daemon: a webui that is being closed does not wait for it, and a half-written output is never renamed.
        threading.Thread(target=self._run, args=(job, work), name=f"modelsmith-{kind}", daemon=True).start()
        return job

    def job(self, identifier: str) -> Job:
        """Raises UnknownNameError for a job that never was, or was forgotten."""
        with self._lock:
            found = self._jobs.get(identifier)
            if found is None:
                raise UnknownNameError("job", identifier, self._jobs)
            return found

    def jobs(self) -> list[Job]:
        """All that are remembered, the oldest first."""
        with self._lock:
            return list(self._jobs.values())

    def cancel(self, identifier: str) -> Job:
        """Ask a job to stop; one that waits ends as soon as its turn comes. Raises UnknownNameError."""
        job = self.job(identifier)
        job.stop.set()
        return job

    def _run(self, job: Job, work: Work) -> None:
        def handler(_task: str) -> list[Any]:
            self._work(job, work)
            # A webui adds its own line to the last output of a job.
            return [""]

        try:
            self._host.wrap_job(handler, extra_outputs=[])(f"task(modelsmith-{job.id})")
        finally:
            if not job.over:
                self._end(job, "failed", "the host ended the job", "See the host's own log.")

    def _work(self, job: Job, work: Work) -> None:
        job.started = time.monotonic()
        try:
            if job.stop.is_set():
                raise Cancelled
            job.state = "running"
            job.result = work(_Control(job, self._host.job_control()))
        except Cancelled as error:
            self._end(job, "cancelled", error.message, error.remedy)
        except ModelsmithError as error:
            self._end(job, "failed", error.message, error.remedy)
        except (OSError, MemoryError, RuntimeError) as error:
            logger.warning("the job %s failed", job.kind, exc_info=True)
            self._end(job, "failed", f"{type(error).__name__}: {error}", "")
        else:
            self._host.refresh_checkpoints()
            job.progress = 1.0
            self._end(job, "done", "", "")

    @staticmethod
    def _end(job: Job, state: State, error: str, remedy: str) -> None:
        job.error, job.remedy, job.ended = error, remedy, time.monotonic()
        job.state = state
