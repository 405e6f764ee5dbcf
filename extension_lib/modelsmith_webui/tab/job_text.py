"""A job's progress in words, for the functions of the library that report in bytes or in stages."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from modelsmith.convert.write import WriteOptions
from modelsmith.merge.request import MergeProgress
from modelsmith.vae.measure import Watch
from modelsmith_webui.host import JobControl
from modelsmith_webui.tab.convert_words import STAGES
from modelsmith_webui.tab.plan_page import ProgressText
from modelsmith_webui.tab.texts import Texts


@dataclass(frozen=True)
class Share:
    """The part of a job that one file makes up: from ``start``, ``width`` wide, both of 0 to 1; ``title`` names it."""

    start: float = 0.0
    width: float = 1.0
    title: str = ""


def write_options(control: JobControl, tr: Texts, overwrite: bool, share: Share | None = None) -> WriteOptions:
    """Writing that reports bytes, speed and time left, and stops when it is cancelled."""
    part, text, begun = share or Share(), ProgressText(tr), time.monotonic()

    def show(done: int, total: int) -> None:
        fraction, line = text(MergeProgress(done, total, "merging", time.monotonic() - begun))
        control.report(part.start + part.width * fraction, f"{part.title} · {line}" if part.title else line)

    return WriteOptions(overwrite=overwrite, progress=show, cancelled=control.cancelled)


def done_of(control: JobControl) -> Callable[[int, int], None]:
    """For functions that tell what is done and how much there is, in whatever they count: as a share."""

    def show(done: int, total: int) -> None:
        share = done / max(1, total)
        control.report(share, f"{share:.0%}")

    return show


def watch(control: JobControl, tr: Texts) -> Watch:
    """Stages with their done part. Each stage fills the bar anew: how long they take differs too much to add up."""

    def show(stage: str, done: float) -> None:
        control.report(done, tr(STAGES.get(stage, stage)))

    return Watch(show, control.cancelled)


def counted(control: JobControl, total: int, text: str) -> Callable[[], bool]:
    """For functions that only ask whether to stop: each question counts as a step of ``total``."""
    steps = 0

    def asked() -> bool:
        nonlocal steps
        steps += 1
        control.report(min(1.0, steps / max(1, total)), text)
        return control.cancelled()

    return asked
