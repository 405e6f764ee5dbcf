"""The override beside a checkpoint: kept among other people's keys, never losing them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelsmith.decision import Override
from modelsmith.errors import BadFileError
from modelsmith_webui.overrides import metadata_path, read_override, write_override


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tmp_path / "some model.v2.safetensors"


def test_it_lies_where_the_webui_keeps_user_metadata(checkpoint: Path) -> None:
    assert metadata_path(checkpoint) == checkpoint.parent / "some model.v2.json"


@pytest.mark.parametrize(
    "override",
    [
        Override(prediction="v_prediction"),
        Override(prediction="epsilon", ztsnr="off"),
        Override(ztsnr="on", vae="kl-f8.safetensors"),
    ],
)
def test_what_was_written_is_read(checkpoint: Path, override: Override) -> None:
    write_override(checkpoint, override)
    assert read_override(checkpoint) == override


def test_other_keys_are_kept(checkpoint: Path) -> None:
    other = {"description": "私のモデル", "vae": "x.pt", "notes": {"a": [1, 2]}}
    metadata_path(checkpoint).write_text(json.dumps(other), encoding="utf-8")
    write_override(checkpoint, Override(ztsnr="on"))
    assert json.loads(metadata_path(checkpoint).read_text(encoding="utf-8")) == {
        **other,
        "modelsmith": {"ztsnr": "on"},
    }
    write_override(checkpoint, Override())
    assert json.loads(metadata_path(checkpoint).read_text(encoding="utf-8")) == other


def test_automatic_writes_no_file(checkpoint: Path) -> None:
    write_override(checkpoint, Override())
    assert list(checkpoint.parent.iterdir()) == []


@pytest.mark.parametrize("damaged", ["{", "[1]", '"text"'])
def test_damaged_metadata_is_left_as_it_is(checkpoint: Path, damaged: str) -> None:
    path = metadata_path(checkpoint)
    path.write_text(damaged, encoding="utf-8")
    assert read_override(checkpoint) == Override()
    with pytest.raises(BadFileError, match=r"some model\.v2\.json"):
        write_override(checkpoint, Override(ztsnr="on"))
    assert path.read_text(encoding="utf-8") == damaged


@pytest.mark.parametrize(
    "values", [None, 3, [], {"prediction": "x0"}, {"prediction": 1, "ztsnr": []}, {"ztsnr": "maybe", "vae": 7}]
)
def test_nonsense_counts_as_automatic(values: object) -> None:
    assert Override.from_json(values).is_auto
