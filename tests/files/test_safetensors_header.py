"""Every kind of damage that a safetensors header can have, and agreement with the safetensors library."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from modelsmith.errors import BadFileError
from modelsmith.files.header import read_header
from modelsmith.files.ranges import read_tensor_bytes, read_values


def raw(path: Path, header: bytes | dict[str, Any] | list[Any], data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


GOOD = {"a": entry("F32", [2], 0, 8), "b": entry("F16", [2, 2], 8, 16)}

BAD: dict[str, tuple[Any, bytes, int | None, str]] = {
    "empty file": (None, b"", None, "empty"),
    "a few bytes": (None, b"\x05\0\0", None, "only 3 bytes"),
    "header longer than the file": (GOOD, b"\0" * 16, 10_000, "claims 10,000 bytes"),
    "header beyond the limit": (GOOD, b"\0" * 16, 1 << 40, "more than the format allows"),
    "no JSON": (b"{nothing here}", b"", None, "not valid JSON"),
    "no UTF-8": (b'{"\xff\xfe": 1}', b"", None, "not valid JSON"),
    "nested without end": (b'{"a":' + b"[" * 200_000, b"", None, "not valid JSON"),
    "a list": (b"[    ]      ", b"", None, "not a JSON object"),
    "cut short": (GOOD, b"\0" * 10, None, "cut short"),
    "bytes too many": (GOOD, b"\0" * 20, None, "4 bytes follow"),
    "overlap": ({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, b"\0" * 12, None, "overlaps"),
    "gap": ({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 12, 20)}, b"\0" * 20, None, "gap"),
    "gap at the start": ({"a": entry("F32", [2], 4, 12)}, b"\0" * 12, None, "gap"),
    "wrong size": ({"a": entry("F32", [3], 0, 8)}, b"\0" * 8, None, "does not fit"),
    "backwards": ({"a": entry("F32", [2], 8, 0)}, b"\0" * 8, None, "malformed"),
    "negative side": ({"a": entry("F32", [-2, -1], 0, 8)}, b"\0" * 8, None, "malformed"),
    "huge sides": ({"a": entry("F32", [1 << 61, 1 << 61], 0, 8)}, b"\0" * 8, None, "malformed"),
    "fraction": ({"a": entry("F32", [2.5], 0, 10)}, b"\0" * 10, None, "malformed"),
    "text for a shape": ({"a": {"dtype": "F32", "shape": "ab", "data_offsets": [0, 8]}}, b"\0" * 8, None, "malformed"),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, b"\0" * 8, None, "has no shape"),
    "three offsets": ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4, 8]}}, b"\0" * 8, None, "malformed"),
    "entry that is none": ({"a": 5}, b"", None, "malformed"),
    "metadata that is no object": ({"__metadata__": [1], **GOOD}, b"\0" * 16, None, "__metadata__"),
    "metadata that is no text": ({"__metadata__": {"a": 1}, **GOOD}, b"\0" * 16, None, "not text"),
    "a name twice": (
        b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}',
        b"", None, "'a' twice",
    ),
    "a field twice": (
        b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"data_offsets":[0,0]}}',
        b"", None, "'data_offsets' twice",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BAD))
def test_damage(name: str, tmp_path: Path) -> None:
    header, data, length, message = BAD[name]
    path = tmp_path / "model.safetensors"
    if header is None:
        path.write_bytes(data)
    else:
        raw(path, header, data, length)
    with pytest.raises(BadFileError, match=r"model\.safetensors") as caught:
        read_header(path)
    assert message in caught.value.problem
    assert caught.value.remedy


def test_other_files_under_the_name(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for content, message in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n", "git-lfs pointer"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
    ):
        path.write_bytes(content)
        with pytest.raises(BadFileError, match=message):
            read_header(path)
    with pytest.raises(BadFileError, match="does not exist"):
        read_header(tmp_path / "nothing.safetensors")
    with pytest.raises(BadFileError, match="null character"):
        read_header("a\0b")


def test_a_good_file(tmp_path: Path) -> None:
    path = raw(
        tmp_path / "x.safetensors", {"__metadata__": {"format": "pt"}, **GOOD}, struct.pack("<2f4e", 1, 2, 3, 4, 5, 6)
    )
    header = read_header(path)
    assert header.format == "safetensors"
    assert header.metadata == {"format": "pt"}
    assert [(i.dtype, i.shape, i.nbytes) for i in header.tensors.values()] == [("F32", (2,), 8), ("F16", (2, 2), 8)]
    assert read_values(header, "a") == (1, 2)
    assert read_values(header, "b") == (3, 4, 5, 6)
    assert read_values(header, "b", last=True) == (6,)
    assert read_tensor_bytes(header, "a", limit=3) == struct.pack("<f", 1)[:3]
    with pytest.raises(BadFileError, match="no tensor 'c'"):
        read_tensor_bytes(header, "c")


def test_unknown_and_small_dtypes_and_empty_tensors(tmp_path: Path) -> None:
    header = {"n": entry("NEW_9", [7], 0, 3), "h": entry("F4", [8], 3, 7), "z": entry("F32", [0, 5], 7, 7)}
    found = read_header(raw(tmp_path / "x.safetensors", header, b"\0" * 7))
    assert {name: info.nbytes for name, info in found.tensors.items()} == {"n": 3, "h": 4, "z": 0}


def test_tensors_in_another_order_than_their_data(tmp_path: Path) -> None:
    header = {"b": entry("U8", [2], 3, 5), "a": entry("U8", [3], 0, 3)}
    assert list(read_header(raw(tmp_path / "x.safetensors", header, b"abcde")).tensors) == ["b", "a"]


def test_agrees_with_the_safetensors_library(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    tensors = {
        "w": torch.randn(3, 4).half(), "b": torch.zeros(0), "s": torch.tensor(3.0), "i": torch.arange(5),
        "h": torch.randn(7).bfloat16(),
    }  # fmt: skip
    library.save_file(tensors, tmp_path / "x.safetensors", {"k": "v"})
    header = read_header(tmp_path / "x.safetensors")
    assert header.metadata == {"k": "v"}
    data = (tmp_path / "x.safetensors").read_bytes()
    for name, tensor in tensors.items():
        info = header.tensors[name]
        assert info.shape == tuple(tensor.shape)
        assert data[info.start : info.start + info.nbytes] == library._tobytes(tensor, name)
