"""The quick reading of a header agrees with the careful one in everything that it accepts, and accepts no damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from headers import DATA, load, metadata_of, nbytes
from hypothesis import given, settings
from hypothesis import strategies as st

from modelsmith.errors import BadFileError
from modelsmith.files.safetensors_header import read_carefully, read_usual

SIZE = 4096


def text_of(entries: dict[str, tuple[str, list[int]]], metadata: dict[str, str] | None = None) -> tuple[bytes, int]:
    """A header as the safetensors library writes it, and how many bytes of data it promises."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, (dtype, shape) in entries.items():
        end = offset + nbytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % 8), offset


@pytest.mark.parametrize("name", sorted(path.name[:-8] for path in DATA.glob("*.json.gz")))
def test_real_headers_are_read_quickly_and_alike(name: str) -> None:
    text, length = text_of(load(name), metadata_of(name))
    quick = read_usual(text, 100, 100 + length)
    careful = read_carefully(Path("x"), text, 100, 100 + length)
    assert quick == careful
    assert quick is not None
    assert list(quick[1]) == list(careful[1])
    assert {type(side) for info in quick[1].values() for side in info.shape} <= {int}


TENSORS = {"a": ("F32", [2, 3]), "b.weight": ("F16", [4]), "c": ("U8", []), "名": ("F8_E4M3", [8, 1]), "e": ("F9", [2])}
PLAIN = text_of({name: value for name, value in TENSORS.items() if name != "e"}, {"format": "pt", "note": 'a "b"'})[0]
PIECES = (
    '"', ":", ",", "{", "}", "[", "]", "]},", "]},:[", ":[", "0", "1", "24", "-1", "1.0", "1e1", "true", "null", " ",
    "\\", "\\u0061", "\n", "\t", '"dtype"', '"shape":[', '"data_offsets":', '"a"', '"__metadata__"', '"F16"',
    '"x":{"dtype":"U8","shape":[],"data_offsets":[0,0]},', '"__metadata__":{"a":"b"},', '"data_offsets":[1]},:[2]},',
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good header with up to three places cut out, replaced or filled with what such headers are made of."""
    text = PLAIN.decode()
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.sampled_from([0, 0, 1, 1, 2, 3, 8])))
        text = text[:start] + draw(st.sampled_from(["", *PIECES])) + text[end:]
    return text.encode()


@settings(max_examples=3000, deadline=None, database=None, derandomize=True)
@given(text=damaged(), size=st.sampled_from([41, 41, 41, 40, 42, 0]))
def test_what_is_accepted_is_sound(text: bytes, size: int) -> None:
    quick = read_usual(text, 100, 100 + size)
    try:
        careful = read_carefully(Path("x"), text, 100, 100 + size)
    except BadFileError:
        careful = None
    if quick is not None:
        assert quick == careful


def test_the_undamaged_header_is_read_quickly() -> None:
    quick = read_usual(PLAIN, 100, 141)
    assert quick is not None
    assert quick[0] == {"format": "pt", "note": 'a "b"'}
    assert [info.start for info in quick[1].values()] == [100, 124, 132, 133]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"data_offsets":[0,24]},"b.weight":', '"data_offsets":[0,24]}, "b.weight":'),  # a space
        ('"a":', '"a\\u0041":'),  # an escape
        ('"a":', '"b.weight":'),  # twice
        ('"a":', '"__metadata__":'),  # twice, and no tensor
        ('"a":', '"a\n":'),  # a control character
        ('"F32"', '"F3\t"'),
        ("[2,3]", "[6.0]"),
        ("[2,3]", "[[6]]"),
        ("[2,3]", "[3,3]"),
        ("[0,24]", "[0,24,24]"),
        ("[0,24]", "[0,23]"),
        ("[0,24]", "[4,24]"),
        ("[0,24]", "[false,24]"),
        ('"shape":[2,3],"data_offsets":[0,24]', '"data_offsets":[0,24],"shape":[2,3]'),  # another order
        ('{"format":"pt",', '{"format":"pt","format":"pt",'),
        ('"pt"', "1"),
    ],
)
def test_whatever_is_unusual_is_left_to_the_careful_reading(old: str, new: str) -> None:
    text = PLAIN.decode()
    assert text.count(old) == 1
    assert read_usual(text.replace(old, new).encode(), 100, 141) is None


def test_a_dtype_that_is_not_known_is_taken_as_it_is() -> None:
    text = b'{"e":{"dtype":"F9","shape":[2],"data_offsets":[0,7]}}'
    quick = read_usual(text, 8, 15)
    assert quick == read_carefully(Path("x"), text, 8, 15)
