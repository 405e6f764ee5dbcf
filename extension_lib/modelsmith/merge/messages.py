"""Every sentence with which merging speaks to a person, in English and Japanese, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import TypeVar

from modelsmith.errors import BadFileError, ModelsmithError
from modelsmith.merge.message_table import ERRORS, NOTICES, TERMS

Params = tuple[tuple[str, str], ...]
_Error = TypeVar("_Error", bound=ModelsmithError)


@dataclass(frozen=True, slots=True)
class Message:
    """A sentence by its id, with the values that it is filled with; a value ``@id`` is a term of the table."""

    id: str
    params: Params = ()

    def text(self, language: str = "en") -> str:
        """The sentence in a language; an unknown language gets English."""
        return _filled(NOTICES[self.id], self.params, language)


def say(message_id: str, **params: object) -> Message:
    """Make a message. The id must stand in the table: a wrong one raises KeyError at once."""
    if message_id not in NOTICES:
        raise KeyError(message_id)
    return Message(message_id, _texts(params))


def told(kind: type[_Error], message_id: str, **params: object) -> _Error:
    """An error whose message and remedy stand in the table; ``error.in_language`` gives both in any language."""
    return _with_languages(kind(*_both(message_id, _texts(params), "en")), message_id, _texts(params))


def bad_file(path: str | PathLike[str], message_id: str, **params: object) -> BadFileError:
    """As ``told``, for a file: the message begins with its path."""
    problem, remedy = _both(message_id, _texts(params), "en")
    error = BadFileError(path, problem, remedy)

    def said(language: str) -> tuple[str, str]:
        text, what_to_do = _both(message_id, _texts(params), language)
        return f"{path}: {text}", what_to_do

    error.said = said
    return error


def _with_languages(error: _Error, message_id: str, params: Params) -> _Error:
    def said(language: str) -> tuple[str, str]:
        return _both(message_id, params, language)

    error.said = said
    return error


def _texts(params: Mapping[str, object]) -> Params:
    return tuple((name, str(value)) for name, value in params.items())


def _both(message_id: str, params: Params, language: str) -> tuple[str, str]:
    message, remedy = ERRORS[message_id]
    return _filled(message, params, language), _filled(remedy, params, language)


def _filled(pair: tuple[str, str], params: Params, language: str) -> str:
    place = 1 if language == "ja" else 0
    return pair[place].format(**{name: _term(value, place) for name, value in params})


def _term(value: str, place: int) -> str:
    """A value as it is, or the term that it names."""
    return TERMS[value[1:]][place] if value.startswith("@") and value[1:] in TERMS else value
