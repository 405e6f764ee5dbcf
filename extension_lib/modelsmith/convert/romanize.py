"""An ASCII file name made from any name: kana by Hepburn, accents taken off, the rest marked by a short hash."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from modelsmith.files.names import MAX_NAME_BYTES

_ROWS = {
    "": "アイウエオ", "k": "カキクケコ", "s": "サシスセソ", "t": "タチツテト", "n": "ナニヌネノ", "h": "ハヒフヘホ",
    "m": "マミムメモ", "r": "ラリルレロ", "g": "ガギグゲゴ", "z": "ザジズゼゾ", "d": "ダヂヅデド", "b": "バビブベボ",
    "p": "パピプペポ",
}  # fmt: skip
_SPECIAL = {
    "シ": "shi", "チ": "chi", "ツ": "tsu", "フ": "fu", "ジ": "ji", "ヂ": "ji", "ヅ": "zu", "ヤ": "ya", "ユ": "yu",
    "ヨ": "yo", "ワ": "wa", "ヰ": "i", "ヱ": "e", "ヲ": "o", "ン": "n", "ヴ": "vu", "ァ": "a", "ィ": "i", "ゥ": "u",
    "ェ": "e", "ォ": "o", "ャ": "ya", "ュ": "yu", "ョ": "yo", "ヵ": "ka", "ヶ": "ke", "ヮ": "wa",
}  # fmt: skip
_KANA = {
    **{kana: row + vowel for row, kanas in _ROWS.items() for kana, vowel in zip(kanas, "aiueo", strict=True)},
    **_SPECIAL,
}
_SMALL_Y = {"ャ": "a", "ュ": "u", "ョ": "o"}
_SMALL_VOWELS = {"ァ": "a", "ィ": "i", "ゥ": "u", "ェ": "e", "ォ": "o"}
_SOFT = ("sh", "ch", "j")
_LONG_MARKS = "ーｰ"


def kana_to_latin(text: str) -> str:
    """Write kana in Latin letters (Hepburn, long vowels unmarked); everything else stays.

    ``ッ`` doubles the consonant that follows, as in ``ミックス`` → ``mikkusu``.
    """
    katakana = "".join(chr(ord(letter) + 0x60) if "ぁ" <= letter <= "ゖ" else letter for letter in text)
    out: list[str] = []
    double = False
    for letter in katakana:
        if letter == "ッ":
            double = True
            continue
        if letter in _LONG_MARKS and out:
            continue
        sound = _joined(out, letter)
        if sound and sound[0].isascii() and double:
            sound = ("t" if sound.startswith("ch") else sound[0]) + sound
        double = False
        out.append(sound)
    return "".join(out)


def _joined(out: list[str], letter: str) -> str:
    """The sound of one kana; small ones change the sound before them."""
    previous = out[-1] if out else ""
    if letter in _SMALL_Y and previous.endswith("i") and len(previous) > 1:
        stem = previous[:-1]
        out[-1] = stem if stem.endswith(_SOFT) else stem + "y"
        return _SMALL_Y[letter]
    if letter in _SMALL_VOWELS and previous.isascii() and len(previous) > 1 and previous[-1] in "aiueo":
        out[-1] = previous[:-1] + ("w" if previous in ("ku", "gu") else "")
        return _SMALL_VOWELS[letter]
    return _KANA.get(letter, letter)


def ascii_name(name: str) -> str:
    """Suggest a file name of ASCII letters, digits, dots, dashes and underscores, without ending.

    What cannot be written so (kanji, emoji) is left out and a hash of six digits of the whole name is added, so that
    two names do not become one.
    """
    plain = unicodedata.normalize("NFKC", name)
    latin = unicodedata.normalize("NFD", kana_to_latin(plain))
    kept: list[str] = []
    lost = False
    for letter in latin:
        if letter.isascii():
            kept.append(letter)
        elif unicodedata.category(letter) == "Mn":
            continue  # an accent that NFD took off its letter
        else:
            lost = lost or unicodedata.category(letter)[0] in "LNS"
            kept.append("-")
    text = re.sub(r"[^A-Za-z0-9._-]+", "-", "".join(kept))
    text = re.sub(r"-*([._-])-*", r"\1", re.sub(r"-{2,}", "-", text)).strip("-._")
    text = text[: MAX_NAME_BYTES - 40]
    if lost or not text:
        text = f"{text or 'model'}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"
    return text
