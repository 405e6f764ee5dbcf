"""An index of the model files in a host's folders."""

from __future__ import annotations

from modelsmith.library.index import Entry, Library

__all__ = ["Entry", "Library"]
