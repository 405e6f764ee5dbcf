"""The library's own exceptions.

Each one says what is wrong and what to do about it, names the file or the tensor, and may be shown to a user as it is.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from os import PathLike


class ModelsmithError(Exception):
    """Base of all errors that the library raises on purpose.

    ``message`` says what is wrong, ``remedy`` what to do next (it may be empty); ``str()`` joins the two.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy
        self.said: Callable[[str], tuple[str, str]] | None = None

    def in_language(self, language: str) -> tuple[str, str]:
        """Message and remedy in a language ("en", "ja"); in English where no table of messages holds them."""
        if self.said is not None:
            return self.said(language)
        return self._in_japanese() if language == "ja" else (self.message, self.remedy)

    def _in_japanese(self) -> tuple[str, str]:
        from modelsmith.japanese import in_japanese

        return in_japanese(self.message), in_japanese(self.remedy)

    def __str__(self) -> str:
        if not self.remedy:
            return self.message
        joint = "" if self.message.endswith((".", "!", "?")) else "."
        return f"{self.message}{joint} {self.remedy}"


class BadFileError(ModelsmithError):
    """A file that cannot be read as what it should be."""

    def __init__(self, path: str | PathLike[str], problem: str, remedy: str = "") -> None:
        super().__init__(f"{path}: {problem}", remedy)
        self.path = str(path)
        self.problem = problem

    def _in_japanese(self) -> tuple[str, str]:
        from modelsmith.japanese import in_japanese

        return f"{self.path}: {in_japanese(self.problem)}", in_japanese(self.remedy)


class UnsafeFileError(BadFileError):
    """A pickle that asks for more than tensors. Nothing of it was executed; ``names`` lists what it asks for."""

    def __init__(self, path: str | PathLike[str], names: Iterable[str]) -> None:
        self.names = tuple(names)
        super().__init__(
            path,
            "the pickle asks for " + ", ".join(self.names),
            "Nothing was executed. Get the model as .safetensors from a source that you trust.",
        )


class UnknownNameError(ModelsmithError):
    """A name that is not among the known ones; the nearest known one is offered."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        choices = sorted(known)
        near = difflib.get_close_matches(name, choices, n=1)
        remedy = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(choices)}."
        super().__init__(f"unknown {kind} {name!r}", remedy)
        self.name = name
        self._parts = (kind, name, near[0] if near else None, tuple(choices))

    def _in_japanese(self) -> tuple[str, str]:
        from modelsmith.japanese import unknown_name

        return unknown_name(*self._parts)


class UsageError(ModelsmithError):
    """Arguments that do not fit together, found before any work was done."""


class MergeError(ModelsmithError):
    """Models that cannot be merged in the way that was asked for."""


class NoSpaceError(ModelsmithError):
    """Not enough room on the disk for the output."""


class Cancelled(ModelsmithError):
    """The user stopped the job; nothing of its output was kept."""

    def __init__(self, message: str = "cancelled; nothing was written") -> None:
        super().__init__(message)
