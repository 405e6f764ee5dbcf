"""The table of element types agrees with torch and with safetensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modelsmith.errors import UnknownNameError
from modelsmith.files.dtypes import DTYPES, count, dtype, dtype_of, torch_dtype
from modelsmith.files.header import read_header

KNOWN_TO_TORCH = [name for name, row in DTYPES.items() if getattr(torch, row.torch_name, None) is not None]


@pytest.mark.parametrize("name", KNOWN_TO_TORCH)
def test_widths_and_floating_agree_with_torch(name: str) -> None:
    kind = torch_dtype(name)
    row = dtype(name)
    assert row.itemsize == kind.itemsize
    assert dtype_of(kind) is row
    if name not in ("F8_E8M0", "C64"):
        assert row.floating == kind.is_floating_point
    if row.significand:
        raw = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[row.itemsize]
        after_one = (torch.ones(1).to(kind).view(raw) + 1).view(kind)
        assert after_one.double().item() == 1.0 + 2.0 ** (1 - row.significand)


def test_names_are_those_of_safetensors(tmp_path: Path) -> None:
    kinds = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2")
    path = tmp_path / "all.safetensors"
    save_file({name: torch.zeros(3, dtype=torch_dtype(name)) for name in kinds}, str(path))
    assert {name: info.dtype for name, info in read_header(path).tensors.items()} == {name: name for name in kinds}
    assert {name: dtype_of(tensor.dtype).name for name, tensor in load_file(str(path)).items()} == {
        name: name for name in kinds
    }


def test_labels_name_types_and_unknown_names_get_the_nearest() -> None:
    assert dtype("fp16").name == "F16"
    with pytest.raises(UnknownNameError, match="Did you mean 'BF16'"):
        dtype("BF17")


def test_count_of_scalars_and_empty_shapes() -> None:
    assert (count(()), count((0, 5)), count((2, 3))) == (1, 0, 6)
