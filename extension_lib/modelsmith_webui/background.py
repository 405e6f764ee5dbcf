"""The queue of jobs that tab and API share: one at a time, in an order that can be changed, each in the host's own
queue so that none runs beside a generation."""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from modelsmith.errors import Cancelled, ModelsmithError, UnknownNameError, UsageError
from modelsmith.japanese import Said
from modelsmith_webui.host import Host, JobControl

logger = logging.getLogger(__name__)

State = Literal["queued", "running", "done", "failed", "cancelled"]
Work = Callable[[JobControl], dict[str, Any]]

FINISHED_KEPT = 100
WAITING_ALLOWED = 32
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")


class HostEndedJob(ModelsmithError):
    """The host stopped a job in its own way."""

    def _in_japanese(self) -> tuple[str, str]:
        return "ホストがジョブを終了させました", "ホスト側のログを確認してください。"


class SystemTrouble(ModelsmithError):
    """What the system said: no memory, a disk that fails. In its own words."""


@dataclass
class Job:
    """One job and what has become of it.

    title: what it makes. result: the answer of the work. error, remedy, code: why it failed. Sentences bring their
    Japanese along (``japanese.Said``).
    """

    id: str
    kind: str
    title: str = ""
    state: State = "queued"
    progress: float = 0.0
    text: str = ""
    result: dict[str, Any] | None = None
    error: str = ""
    remedy: str = ""
    code: str = ""
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
            "title": self.title,
            "state": self.state,
            "progress": round(self.progress, 4),
            "text": self.text,
            "seconds": None if seconds is None else round(seconds, 2),
            "result": self.result,
            "error": self.error or None,
            "remedy": self.remedy or None,
            "code": self.code or None,
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


def code_of(error: ModelsmithError) -> str:
    """What an error is to a program: ``unknown_name``, ``bad_file``, ``prediction_mix``, ``no_space`` …"""
    return _CAPITAL.sub("_", type(error).__name__.removesuffix("Error")).lower()


class Background:
    """Starts jobs one after the other and remembers the last ones."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        # What waits, in the order in which it will run, and whether a thread is at work on it.
        self._waiting: list[tuple[Job, Work]] = []
        self._busy = False

    def start(self, kind: str, work: Work, title: str = "") -> Job:
        """Queue the work; it runs when those before it are done and the host's own queue comes to it.

        Raises UsageError where too many wait.
        """
        job = Job(secrets.token_hex(8), kind, title)
        with self._lock:
            if sum(not known.over for known in self._jobs.values()) >= WAITING_ALLOWED:
                raise UsageError(f"{WAITING_ALLOWED} jobs are waiting already", "Wait until one has ended")
            finished = [known.id for known in self._jobs.values() if known.over]
            for old in finished[: max(0, len(finished) - FINISHED_KEPT + 1)]:
                del self._jobs[old]
            self._jobs[job.id] = job
            self._waiting.append((job, work))
            idle, self._busy = not self._busy, True
        if idle:
            # A daemon: a webui that is being closed does not wait for it, and a half-written output is never renamed.
            threading.Thread(target=self._serve, name="modelsmith-queue", daemon=True).start()
        return job

    def job(self, identifier: str) -> Job:
        """Raises UnknownNameError for a job that never was, or was forgotten."""
        with self._lock:
            found = self._jobs.get(identifier)
            if found is None:
                raise UnknownNameError("job", identifier, self._jobs)
            return found

    def jobs(self) -> list[Job]:
        """All that are remembered: what has ended and what runs, the oldest first, then what waits, in its order."""
        with self._lock:
            waiting = [job for job, _ in self._waiting]
            return [job for job in self._jobs.values() if job not in waiting] + waiting

    def cancel(self, identifier: str) -> Job:
        """Stop a job: at once where it waits, within a moment where it runs. Raises UnknownNameError."""
        job = self.job(identifier)
        job.stop.set()
        with self._lock:
            waits = job.state == "queued"
            self._waiting = [pair for pair in self._waiting if pair[0] is not job]
            if waits:
                self._end(job, "cancelled", Cancelled())
        return job

    def move(self, identifier: str, place: int) -> list[Job]:
        """Put a job that waits at a place among those that wait, 0 the first. Returns these in their new order.

        Raises UnknownNameError, and UsageError where the job does not wait any more.
        """
        job = self.job(identifier)
        with self._lock:
            pair = next((pair for pair in self._waiting if pair[0] is job), None)
            if pair is None:
                raise UsageError(f"the job {identifier} does not wait any more", "Only waiting jobs can be moved")
            self._waiting.remove(pair)
            self._waiting.insert(max(0, place), pair)
            return [waiting for waiting, _ in self._waiting]

    def _serve(self) -> None:
        """Run what waits until nothing does."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._busy = False
                    return
                job, work = self._waiting.pop(0)
            self._run(job, work)

    def _run(self, job: Job, work: Work) -> None:
        def handler(_task: str) -> list[Any]:
            self._work(job, work)
            # A webui adds its own line to the last output of a job.
            return [""]

        try:
            self._host.wrap_job(handler, extra_outputs=[])(f"task(modelsmith-{job.id})")
        except (OSError, MemoryError, RuntimeError, ValueError, TypeError, AttributeError, LookupError):
            # The next job must have its turn whatever the host did to this one.
            logger.warning("the host ended the job %s", job.kind, exc_info=True)
        finally:
            if not job.over:
                self._end(job, "failed", HostEndedJob("the host ended the job", "See the host's own log."))

    def _work(self, job: Job, work: Work) -> None:
        with self._lock:
            if job.over:  # cancelled while the host was busy
                return
            job.started, job.state = time.monotonic(), "running"
        try:
            job.result = work(_Control(job, self._host.job_control()))
        except Cancelled as error:
            self._end(job, "cancelled", error)
        except ModelsmithError as error:
            self._end(job, "failed", error)
        except (OSError, MemoryError, RuntimeError) as error:
            logger.warning("the job %s failed", job.kind, exc_info=True)
            self._end(job, "failed", SystemTrouble(f"{type(error).__name__}: {error}"))
        else:
            self._host.refresh_checkpoints()
            job.progress = 1.0
            self._end(job, "done")

    @staticmethod
    def _end(job: Job, state: State, failure: ModelsmithError | None = None) -> None:
        if failure is not None:
            message, remedy = failure.in_language("ja")
            job.error, job.code = Said(failure.message, message), code_of(failure)
            job.remedy = Said(failure.remedy, remedy) if failure.remedy else ""
        job.ended = time.monotonic()
        job.state = state


_queues: weakref.WeakKeyDictionary[Host, Background] = weakref.WeakKeyDictionary()
_guard = threading.Lock()


def queue_of(host: Host) -> Background:
    """The one queue of a host, for tab and API alike."""
    with _guard:
        if host not in _queues:
            _queues[host] = Background(host)
        return _queues[host]
