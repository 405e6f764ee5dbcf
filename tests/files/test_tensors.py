"""Tensors read back are those that were saved, whole and in pieces, and damage is reported."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modelsmith.errors import BadFileError
from modelsmith.files.header import read_header
from modelsmith.files.tensors import open_tensors


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    state = {
        "matrix": torch.randn(37, 53).half(),
        "wide": torch.randn(11, dtype=torch.float64),
        "ids": torch.arange(77).reshape(1, 77),
        "scalar": torch.tensor(3.25),
        "empty": torch.empty(0),
        "flags": torch.tensor([True, False, True]),
        "short": torch.randn(5).bfloat16(),
    }
    path = tmp_path / "model.safetensors"
    save_file(state, str(path))
    return path, state


def test_every_tensor_is_read_as_saved(saved: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, state = saved
    with open_tensors(read_header(path)) as source:
        for name, tensor in state.items():
            found = source.load(name)
            assert found.dtype == tensor.dtype and found.shape == tensor.shape and torch.equal(found, tensor)


def test_pieces_are_the_values_in_row_major_order(saved: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, state = saved
    with open_tensors(read_header(path)) as source:
        assert torch.equal(source.load_flat("matrix", 100, 57), state["matrix"].reshape(-1)[100:157])
        assert source.load_flat("matrix", 0, 0).numel() == 0


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_files_with_strides_are_read_in_torchs_order(tmp_path: Path, legacy: bool) -> None:
    base = torch.randn(6, 8)
    state = {"plain": base, "turned": base.t(), "part": base[1:4, 2:7], "every": base[::2]}
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=not legacy)
    with open_tensors(read_header(path)) as source:
        for name, tensor in state.items():
            assert torch.equal(source.load(name), tensor)
            assert torch.equal(source.load_flat(name, 3, 7), tensor.reshape(-1)[3:10])


def test_a_name_that_is_not_there(saved: tuple[Path, dict[str, torch.Tensor]]) -> None:
    with open_tensors(read_header(saved[0])) as source, pytest.raises(BadFileError, match="no tensor 'other'"):
        source.load("other")


def test_a_file_shortened_after_its_header_was_read(saved: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, _ = saved
    header = read_header(path)
    last = max(header.tensors, key=lambda name: header.tensors[name].start)
    with open_tensors(header) as source:
        os.truncate(path, header.tensors[last].start)
        with pytest.raises(BadFileError, match="ends at byte"):
            source.load(last)


def test_a_change_is_noticed_and_no_change_is_not(saved: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, _ = saved
    with open_tensors(read_header(path)) as source:
        source.check_unchanged()
        stamp = path.stat().st_mtime_ns + 1_000_000
        os.utime(path, ns=(stamp, stamp))
        with pytest.raises(BadFileError, match="changed while it was being read"):
            source.check_unchanged()
        path.unlink()
        with pytest.raises(BadFileError, match="cannot be read any more"):
            source.check_unchanged()


def test_no_descriptor_stays_open(saved: tuple[Path, dict[str, torch.Tensor]]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with open_tensors(read_header(saved[0])) as source:
            source.load("matrix")
    assert len(os.listdir("/proc/self/fd")) == before
