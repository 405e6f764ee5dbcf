"""Pickled models: every tensor is found where torch put it, and nothing in a hostile file happens."""

from __future__ import annotations

import os
import pickle
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from modelsmith.errors import BadFileError
from modelsmith.files.header import FileHeader, read_header
from modelsmith.files.inert_pickle import Global, InertPickle, Opaque, PickleError
from modelsmith.identify import identify

torch: Any = pytest.importorskip("torch")


def tensors() -> dict[str, Any]:
    base = torch.arange(24, dtype=torch.float32)
    return {
        "plain": torch.randn(3, 4),
        "half": torch.randn(5).half(),
        "bf": torch.randn(6).bfloat16(),
        "turned": torch.randn(3, 5).t(),
        "view": base[4:10],
        "same storage": base.reshape(4, 6),
        "integers": torch.arange(77)[None],
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
        "expanded": torch.ones(1).expand(4),
    }


def values_of(header: FileHeader, name: str, dtype: Any) -> Any:
    """Read a tensor by its description alone."""
    info = header.tensors[name]
    data = header.path.read_bytes()
    strides = info.strides
    if strides is None:
        strides, step = [], 1
        for side in reversed(info.shape):
            strides.insert(0, step)
            step *= side
    if 0 in info.shape:
        return torch.zeros(info.shape, dtype=dtype)
    reach = 1 + sum((side - 1) * step for side, step in zip(info.shape, strides, strict=True))
    width = torch.empty(0, dtype=dtype).element_size()
    flat = torch.frombuffer(bytearray(data[info.start : info.start + reach * width]), dtype=dtype)
    return flat.as_strided(info.shape, strides)


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_every_tensor_is_found(tmp_path: Path, new: bool, nested: bool) -> None:
    path = tmp_path / "x.ckpt"
    saved = (
        {"state_dict": tensors(), "global_step": 875000, "optimizer_states": [{"m": torch.ones(3)}]}
        if nested
        else tensors()
    )
    torch.save(saved, path, _use_new_zipfile_serialization=new)
    header = read_header(path)
    assert header.format == ("ckpt" if new else "ckpt-legacy")
    assert header.forbidden == ()
    loaded = torch.load(path, weights_only=False)
    expected = loaded["state_dict"] if nested else loaded
    assert list(header.tensors) == list(expected)
    for name, tensor in expected.items():
        assert header.tensors[name].shape == tuple(tensor.shape)
        assert torch.equal(values_of(header, name, tensor.dtype), tensor.detach())
    if nested:
        assert header.scalars["global_step"] == 875000
        assert "optimizer_states" in header.scalars


def test_new_dtypes(tmp_path: Path) -> None:
    if not hasattr(torch, "float8_e4m3fn"):
        pytest.skip("this torch has no fp8")
    torch.save({"w": torch.ones(4).to(torch.float8_e4m3fn)}, tmp_path / "x.ckpt")
    assert read_header(tmp_path / "x.ckpt").tensors["w"].dtype == "F8_E4M3"


class Runs:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("form", ["zip", "legacy", "plain 0", "plain 2", "plain 5"])
def test_nothing_is_executed(tmp_path: Path, form: str) -> None:
    target = tmp_path / "proof"
    path = tmp_path / "x.ckpt"
    value = {"state_dict": {"w": torch.ones(2)}, "payload": Runs(target)}
    if form.startswith("plain"):
        path.write_bytes(pickle.dumps(Runs(target), protocol=int(form[-1])))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=form == "zip")
    header = read_header(path)
    assert [name.rpartition(".")[2] for name in header.forbidden] == ["system"]
    report = identify(path)
    assert (report.kind, report.forbidden) == ("unsafe", header.forbidden)
    assert not target.exists()


def test_globals_before_a_break_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(b"\x80\x02cbuiltins\neval\nX\x05\x00\x00\x00print\x85R\xff\xff broken")
    assert read_header(path).forbidden == ("builtins.eval",)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02cos\nsystem\nq\x00 broken")
    assert read_header(path).forbidden == ("os.system",)


def quick(data: bytes) -> None:
    start = time.perf_counter()
    with pytest.raises(PickleError):
        InertPickle(data).load()
    assert time.perf_counter() - start < 20


BOMBS = {
    "memo": b"\x80\x02Nr\xff\xff\xff\xff" + b"Nr\xfe\xff\xff\xff" + b"x",
    "length of bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60),
    "length of a byte array": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40),
    "length of a number": b"\x80\x02\x8b" + struct.pack("<I", 1 << 30),
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62),
    "steps": b"\x80\x02" + b"N0" * 1_500_000 + b".",
    "marks": b"(" * 3_000_000,
    "digits": b"I" + b"9" * 60_000 + b"\n.",
    "reference to nothing": b"\x80\x02j\x01\x00\x00\x00.",
    "no mark": b"\x80\x02t.",
    "no stack": b"R.",
    "text that does not end": b"\x80\x02c" + b"a" * 1000,
    "empty": b"",
}


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_bombs(name: str) -> None:
    quick(BOMBS[name])


def test_tuples_that_double_do_not_hang() -> None:
    """t = (t, t) sixty times has 2**60 leaves; as a key of a dict Python would hash them all."""
    doubling = b")q\x000" + b"".join(b"h%ch%c\x86q%c0" % (i, i, i + 1) for i in range(60))
    assert InertPickle(b"\x80\x02}" + doubling + b"h\x3cK\x01s.").load() == {}
    value = InertPickle(doubling + b"h\x3c.").load()
    assert isinstance(value, tuple)


def test_a_structure_that_holds_itself(tmp_path: Path) -> None:
    cyclic: dict[str, Any] = {"w": 1}
    cyclic["self"] = cyclic
    (tmp_path / "x.pt").write_bytes(pickle.dumps(cyclic))
    assert read_header(tmp_path / "x.pt").tensors == {}


def test_calls_stay_descriptions() -> None:
    made = InertPickle(pickle.dumps(Runs(Path("x")), protocol=2)).load()
    assert isinstance(made, Opaque)
    assert isinstance(made.maker, Global)


def test_zip_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"w": torch.ones(300)}, path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(BadFileError, match="zip directory is missing"):
        read_header(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(BadFileError, match="without a PyTorch model"):
        read_header(path)


def test_a_storage_that_is_missing_or_too_short(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"w": torch.ones(300)}, path)
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    storage = next(name for name in contents if name.endswith("data/0"))
    for change in ({storage: contents[storage][:100]}, {storage: None}):
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in {**contents, **change}.items():
                if data is not None:
                    archive.writestr(name, data)
        with pytest.raises(BadFileError, match="storage"):
            read_header(path)


def test_a_packed_zip_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\0" * (80 << 20))
    with pytest.raises(BadFileError, match="larger than that of any model"):
        read_header(path)


def test_legacy_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"w": torch.ones(300)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadFileError, match="cut short"):
        read_header(path)


def test_renamed_files_are_read_by_content(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3)}, tmp_path / "x.safetensors")
    report = identify(tmp_path / "x.safetensors")
    assert report.format == "ckpt"
    assert "renamed" in {message.id for message in report.warnings}
