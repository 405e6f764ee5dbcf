"""Holding back Python's garbage collector while thousands of small objects are made."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Generator[None]:
    """Pause the collector of cycles: a header makes thousands of containers, no cycles, and would be walked over
    and over. Nested and concurrent use only shortens the pause.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
