"""The language in which the API speaks to people. Programs go by codes and ids, which are the same in every language.

A request asks with ``lang`` or, where that is missing, with the header ``Accept-Language``; who asks for nothing gets
English. What a job says is kept in every language, because whoever asks about it later may want another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Literal, cast

from fastapi import Header, Query

from modelsmith.errors import ModelsmithError
from modelsmith.japanese import Said, in_japanese
from modelsmith_webui.background import code_of
from modelsmith_webui.tab.texts import Texts, translations

Language = Literal["en", "ja"]

_LANG = "Language of messages: en or ja. The header Accept-Language where it is left out; codes and ids stay the same."
_asked: ContextVar[Language] = ContextVar("modelsmith_language", default="en")


async def take_language(
    lang: str = Query("", description=_LANG),
    accept_language: str = Header("", include_in_schema=False),
) -> None:
    """A dependency of every route. It is a coroutine so that what it sets holds for the route too."""
    _asked.set(_known(lang) or "en" if lang else preferred(accept_language))


def preferred(header: str) -> Language:
    """The language of ours that an Accept-Language header likes best."""
    best: tuple[float, Language] = (0.0, "en")
    for part in header.split(","):
        name, _, weight = part.strip().partition(";")
        known = _known(name)
        liked = _quality(weight)
        if known is not None and liked > best[0]:
            best = (liked, known)
    return best[1]


def _known(name: str) -> Language | None:
    found = name.strip().lower().replace("-", "_").split("_")[0]
    return cast("Language", found) if found in ("en", "ja") else None


def _quality(text: str) -> float:
    name, _, value = text.strip().partition("=")
    try:
        return float(value) if name.strip() == "q" else 1.0
    except ValueError:
        return 0.0


def language() -> Language:
    """The language of the request that is being answered."""
    return _asked.get()


def texts() -> Texts:
    """The tab's words in the request's language."""
    asked = language()
    return Texts(lambda: asked)


def spoken(text: str) -> str:
    """A sentence of the library with its Japanese, for an answer that may be asked for in either language."""
    return text if isinstance(text, Said) else Said(text, in_japanese(text))


def word(text: str, **values: object) -> str:
    """A sentence of the tab with its Japanese."""
    return Said(text.format(**values), translations("ja").get(text, text).format(**values))


def in_asked_language(answer: Any) -> Any:
    """An answer with each sentence that brings its Japanese in the request's language."""
    if isinstance(answer, Said):
        return answer.japanese if language() == "ja" else str.__str__(answer)
    if isinstance(answer, Mapping):
        return {key: in_asked_language(value) for key, value in cast("Mapping[str, Any]", answer).items()}
    if isinstance(answer, (list, tuple)):
        return [in_asked_language(value) for value in cast("Sequence[Any]", answer)]
    return answer


def error_json(error: ModelsmithError) -> dict[str, Any]:
    """An error as the API tells it."""
    message, remedy = error.in_language(language())
    return {"code": code_of(error), "error": message, "remedy": remedy}
