"""The index of a host's folders: what is in it, when it is renewed, and that it survives damage and threads."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "identify"))

from headers import load, write

import modelsmith.library.index as index_module
from modelsmith.library import Library
from modelsmith.library.index import find_models

VAE = "sdxl_vae_fp32"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    (folder / "sub").mkdir(parents=True)
    write(folder / "a.safetensors", load("sd15_unet_bare_fp16"))
    write(folder / "sub" / "b.safetensors", load(VAE))
    (folder / "broken.safetensors").write_bytes(b"nothing")
    (folder / "notes.txt").write_text("no model")
    (folder / ".hidden").mkdir()
    write(folder / ".hidden" / "c.safetensors", load(VAE))
    return folder


def names(library: Library) -> list[str]:
    return [Path(entry.path).name for entry in library.entries()]


def test_it_finds_and_names_every_model(models: Path, tmp_path: Path) -> None:
    library = Library(tmp_path / "cache" / "library.json")
    assert library.entries() == []
    library.refresh([models], wait=True)
    assert names(library) == ["a.safetensors", "broken.safetensors", "b.safetensors"]
    found = {Path(entry.path).name: entry.to_json() for entry in library.entries()}
    assert found["a.safetensors"]["architecture"] == "sd1"
    assert found["b.safetensors"]["kind"] == "vae"
    assert found["broken.safetensors"]["error"]
    assert library.progress() == (3, 3)
    assert not library.busy


def test_a_second_library_reads_the_cache_and_no_model(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Library(tmp_path / "library.json").refresh([models], wait=True)
    monkeypatch.setattr(index_module, "identify", lambda path: pytest.fail(f"{path} was read again"))
    warm = Library(tmp_path / "library.json")
    assert len(warm.entries()) == 3
    warm.refresh([models], wait=True)
    assert len(warm.entries()) == 3
    assert warm.entry(models / "a.safetensors") is not None


def test_only_what_changed_is_read_again(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(tmp_path / "library.json")
    library.refresh([models], wait=True)
    seen: list[str] = []
    real = index_module.identify
    monkeypatch.setattr(index_module, "identify", lambda path: (seen.append(path.name), real(path))[1])
    write(models / "a.safetensors", load("sdxl_base_fp16"))
    assert library.entry(models / "a.safetensors") is None  # what is known is of the old file
    write(models / "new.safetensors", load(VAE))
    (models / "broken.safetensors").unlink()
    (models / "sub" / "b.yaml").write_text("model: {}")
    library.refresh([models], wait=True)
    assert sorted(seen) == ["a.safetensors", "b.safetensors", "new.safetensors"]
    assert names(library) == ["a.safetensors", "new.safetensors", "b.safetensors"]
    entry = library.entry(models / "a.safetensors")
    assert entry is not None
    assert entry.report["architecture"] == "sdxl"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"format":1}', b'{"format":99,"entries":[]}'])
def test_a_damaged_cache_is_made_anew(models: Path, tmp_path: Path, content: bytes) -> None:
    cache = tmp_path / "library.json"
    cache.write_bytes(content)
    library = Library(cache)
    assert library.entries() == []
    library.refresh([models], wait=True)
    assert len(Library(cache).entries()) == 3
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_rows_of_the_wrong_form_are_a_damaged_cache(models: Path, tmp_path: Path) -> None:
    cache = tmp_path / "library.json"
    Library(cache).refresh([models], wait=True)
    found = json.loads(cache.read_text())
    found["entries"] = [1, 2]
    cache.write_text(json.dumps(found))
    assert Library(cache).entries() == []


def test_links_in_a_ring_end(models: Path) -> None:
    try:
        os.symlink(models, models / "sub" / "again")
    except OSError:
        pytest.skip("no links here")
    assert len(list(find_models([models, models]))) == 3


def test_a_diffusers_folder_is_one_model(tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    write(folder / "unet" / "diffusion_pytorch_model.safetensors", load("diffusers/sd1_diffusers"))
    assert list(find_models([tmp_path])) == [folder]
    library = Library(tmp_path / "library.json")
    library.refresh([tmp_path], wait=True)
    assert [entry.report["architecture"] for entry in library.entries()] == ["sd1"]


def test_the_background_does_not_block(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    real = index_module.identify

    def slow(path: Path) -> object:
        gate.wait(20)
        return real(path)

    monkeypatch.setattr(index_module, "identify", slow)
    library = Library(tmp_path / "library.json")
    start = time.perf_counter()
    library.refresh([models])
    library.refresh([models])
    assert library.entries() == []
    assert time.perf_counter() - start < 5
    assert library.busy
    gate.set()
    library.refresh([models], wait=True)
    assert len(library.entries()) == 3


def test_many_threads_at_once(models: Path, tmp_path: Path) -> None:
    library = Library(tmp_path / "library.json")
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                library.refresh([models], wait=True)
                library.entries()
                library.entry(models / "a.safetensors")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert len(library.entries()) == 3


def test_close_stops_and_keeps_what_was_found(models: Path, tmp_path: Path) -> None:
    library = Library(tmp_path / "library.json")
    library.refresh([models])
    library.close()
    assert not library.busy
    library.refresh([models], wait=True)
    assert len(library.entries()) == 3


def test_japanese(models: Path, tmp_path: Path) -> None:
    library = Library(tmp_path / "library.json")
    library.refresh([models], wait=True)
    entry = next(entry for entry in library.entries() if entry.path.endswith("a.safetensors"))
    assert entry.to_json("ja")["advice"] != entry.to_json("en")["advice"]
    assert entry.to_json("ja")["architecture"] == "sd1"
