"""Small pieces of HTML that the views share. Everything that is not a tag is escaped here."""

from __future__ import annotations

import html
from collections.abc import Iterable

NOTICE_KINDS = ("info", "warning", "error", "done")


def esc(text: object) -> str:
    return html.escape(str(text), quote=True)


def tag(name: str, inner: str = "", css: str = "", **attributes: object) -> str:
    """An element around HTML that is already escaped. ``data_x`` and ``aria_x`` become ``data-x`` and ``aria-x``."""
    words = [name] + ([f'class="{esc(css)}"'] if css else [])
    words += [f'{key.rstrip("_").replace("_", "-")}="{esc(value)}"' for key, value in attributes.items()]
    return f"<{' '.join(words)}>{inner}</{name}>"


def text_tag(name: str, text: object, css: str = "", **attributes: object) -> str:
    """An element around plain text."""
    return tag(name, esc(text), css, **attributes)


def badge(text: str, kind: str = "", title: str = "") -> str:
    extra: dict[str, object] = {"title": title} if title else {}
    return text_tag("span", text, f"ms-badge {kind}".strip(), **extra)


def sentence(text: str, language: str = "ja") -> str:
    """``text`` with a full stop where it has no end of its own: two that follow each other must not run together.

    language: of the page. In English, Japanese letters belong to a name; in Japanese, a text without any is not
    translated.
    """
    text = text.strip()
    if not text or text[-1] in ".!?:…。！？":
        return text
    return text + ("。" if language == "ja" and any(map(_is_japanese, text)) else ".")


def _is_japanese(letter: str) -> bool:
    return "\u3040" <= letter <= "\u30ff" or "\u4e00" <= letter <= "\u9fff"


def notice(kind: str, text: str, remedy: str = "", language: str = "ja") -> str:
    """One message: ``kind`` is info, warning, error or done. language: see :func:`sentence`."""
    if not remedy:
        return notice_with(kind, text, "")
    return notice_with(kind, sentence(text, language), text_tag("span", sentence(remedy, language), "ms-notice-remedy"))


def notice_with(kind: str, text: str, more: str) -> str:
    """One message with HTML behind it."""
    inner = text_tag("span", text, "ms-notice-text")
    if more:
        inner += " " + more
    role = "alert" if kind == "error" else "status"
    return tag("div", inner, f"ms-notice ms-{kind}", role=role)


def section(title: str, inner: str, css: str = "") -> str:
    return tag("section", text_tag("h4", title) + inner, f"ms-section {css}".strip())


def answer_mark(ticket: str) -> str:
    """What makes an answer differ from the one before, so that the page sees that it has come."""
    return tag("span", hidden="hidden", data_ticket=ticket)


def press(label: str, elem_id: str) -> str:
    """A small button in a piece of HTML that presses a button of the page (javascript/modelsmith.js)."""
    return text_tag("button", label, "ms-mini", type="button", data_press=elem_id)


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Pairs of a name and a value, both plain text; rows with an empty value are left out."""
    return facts_html((name, esc(value)) for name, value in rows)


def facts_html(rows: Iterable[tuple[str, str]]) -> str:
    """As :func:`facts`, the values being HTML already."""
    inner = "".join(text_tag("dt", name) + tag("dd", value) for name, value in rows if value)
    return tag("dl", inner, "ms-facts")


def size_text(count: int) -> str:
    """Bytes as a person reads them, in powers of ten as file managers and disks count."""
    amount = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            return f"{amount:.0f} {unit}" if unit in ("B", "KB") or amount >= 100 else f"{amount:.2f} {unit}"
        amount /= 1000
    return f"{amount:.2f} GB"
