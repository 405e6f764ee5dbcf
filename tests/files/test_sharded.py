"""Sharded models and diffusers folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from headers import Entries, load, write

from modelsmith.errors import BadFileError
from modelsmith.files.header import read_header
from modelsmith.identify import identify


def shard(folder: Path, entries: Entries, parts: int = 3, stem: str = "diffusion_pytorch_model") -> Path:
    names = list(entries)
    weights: dict[str, str] = {}
    for number in range(parts):
        file = f"{stem}-{number + 1:05}-of-{parts:05}.safetensors"
        mine = names[number::parts]
        write(folder / file, {name: entries[name] for name in mine})
        weights.update(dict.fromkeys(mine, file))
    index = folder / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weights}))
    return index


def test_index_and_folder(tmp_path: Path) -> None:
    index = shard(tmp_path, load("diffusers/flux_dev_diffusers"))
    for target in (index, tmp_path):
        header = read_header(target)
        assert header.format == "sharded"
        assert len(header.tensors) == 1160
        info = header.tensors["x_embedder.weight"]
        assert info.file is not None
        assert info.file.parent == tmp_path
        report = identify(target)
        assert (report.kind, report.architecture, report.complete) == ("diffusion_model", "flux1", True)
    assert read_header(index).size == sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))


def test_diffusers_folder(tmp_path: Path) -> None:
    for part, sample in (
        ("unet", "diffusers/sdxl_diffusers"),
        ("vae", "diffusers/vae_kl4_diffusers"),
        ("text_encoder", "te_clip_l_fp16"),
        ("text_encoder_2", "te_clip_g_fp16"),
    ):
        (tmp_path / part).mkdir()
        write(tmp_path / part / "model.safetensors", load(sample))
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "scheduler").mkdir()
    config = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    report = identify(tmp_path)
    assert (report.kind, report.architecture, report.layout) == ("checkpoint", "sdxl", "diffusers")
    assert [c.name for c in report.components] == ["diffusion_model", "vae", "clip_l", "clip_g"]
    assert (report.prediction.type, report.prediction.zero_terminal_snr) == ("v_prediction", True)
    assert report.complete is True


def test_damage(tmp_path: Path) -> None:
    index = shard(tmp_path, {"a": ("F32", [2]), "b": ("F32", [3])}, 2, "model")
    good = json.loads(index.read_text())

    def problem(content: object) -> str:
        index.write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(BadFileError) as caught:
            read_header(index)
        return caught.value.message

    assert "not valid JSON" in problem("{")
    assert "not a JSON object" in problem([1])
    assert "no weight_map" in problem({})
    assert "no file of its folder" in problem({"weight_map": {"a": "../secret.safetensors"}})
    assert "no file of its folder" in problem({"weight_map": {"a": "/etc/passwd"}})
    assert "no file of its folder" in problem({"weight_map": {"a": index.name}})
    assert "does not exist" in problem({"weight_map": {"a": "gone.safetensors"}})
    assert "is not in its shard" in problem(
        {"weight_map": {**good["weight_map"], "c": next(iter(good["weight_map"].values()))}}
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadFileError, match="holds no model"):
        read_header(tmp_path / "empty")


def test_a_folder_of_models_is_none(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.safetensors", {"x": ["F32", [1]]})
    with pytest.raises(BadFileError, match="holds 2 models and is none"):
        read_header(tmp_path)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")  # variants of one part
    header = read_header(tmp_path)
    assert all(info.file is not None and info.file.is_file() for info in header.tensors.values())
