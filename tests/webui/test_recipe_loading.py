"""Recipe checkpoints in stand-ins for AUTOMATIC1111's and Forge's loading: who is asked for what, in which order."""

from __future__ import annotations

import importlib.machinery
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="merges need it")

import torch
from safetensors.torch import load_file

from modelsmith.errors import BadFileError
from modelsmith.merge.engine import run_merge
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.recipe_checkpoint import write_recipe_checkpoint
from modelsmith.merge.request import MergeRequest
from modelsmith_webui import recipe_loading, settings
from modelsmith_webui.hosts.standalone import StandaloneHost
from modelsmith_webui.recipe_loading import RecipeLoading, is_recipe
from pretend_gpu import NAME, computes_on, no_gpu
from webui.demos import DEMOS


@pytest.fixture
def host(demo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> StandaloneHost:
    monkeypatch.setattr(settings, "get", lambda _name: 1.0)
    monkeypatch.setattr(recipe_loading, "_merged", {})
    return StandaloneHost(demo_folder)


def recipe(host: StandaloneHost, alpha: float = 0.25, device: str = "cpu") -> str:
    models = tuple(host.models / name for name in DEMOS)
    request = MergeRequest(models, "weighted_sum", host.models / "mix.safetensors", {"alpha": alpha}, device=device)
    plan = plan_merge(request, writes=False)
    return str(write_recipe_checkpoint(plan, host.models / "mix.recipe.safetensors", overwrite=True).path)


def wanted(host: StandaloneHost, alpha: float = 0.25) -> dict[str, torch.Tensor]:
    models = tuple(host.models / name for name in DEMOS)
    target = host.data_folder() / "wanted.safetensors"
    run_merge(plan_merge(MergeRequest(models, "weighted_sum", target, {"alpha": alpha}, overwrite=True)))
    return load_file(str(target))


def same(found: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return found.keys() == right.keys() and all(torch.equal(found[name], right[name]) for name in right)


class Patches(ModuleType):
    """``modules.patches`` of the webuis."""

    def __init__(self) -> None:
        super().__init__("modules.patches")
        self.originals: dict[Any, Any] = {}

    def patch(self, key: str, module: Any, name: str, replacement: Any) -> None:
        assert (key, module.__name__, name) not in self.originals
        self.originals[key, module.__name__, name] = getattr(module, name)
        setattr(module, name, replacement)

    def undo(self, key: str, module: Any, name: str) -> None:
        setattr(module, name, self.originals.pop((key, module.__name__, name)))


def provide(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: Any) -> Any:
    module = ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, name, module)
    parent, _, child = name.rpartition(".")
    if parent and parent in sys.modules:
        monkeypatch.setattr(sys.modules[parent], child, module, raising=False)
    return module


@pytest.fixture
def a1111(monkeypatch: pytest.MonkeyPatch) -> Any:
    """As much of AUTOMATIC1111 as a load needs; ``calls`` tells what the webui itself did."""
    calls: list[str] = []
    provide(monkeypatch, "modules")
    patches = Patches()
    monkeypatch.setitem(sys.modules, "modules.patches", patches)
    sys.modules["modules"].patches = patches  # type: ignore[attr-defined]
    state = SimpleNamespace(interrupted=False, textinfo="")
    provide(monkeypatch, "modules.shared", state=state, weight_load_location="cpu")
    provide(monkeypatch, "modules.devices", get_optimal_device_name=lambda: "cpu")
    data = SimpleNamespace(sd_model=None, loaded_sd_models=[])
    found = provide(monkeypatch, "modules.sd_models", model_data=data, checkpoints_loaded={}, calls=calls)

    def read_state_dict(file: str, *_args: Any, **_kwargs: Any) -> Any:
        calls.append("read")
        return load_file(file)

    def get_checkpoint_state_dict(info: Any, timer: Any) -> Any:
        del timer
        return found.read_state_dict(info.filename)

    def reload_model_weights(_model: Any = None, info: Any = None, forced_reload: bool = False) -> Any:
        current = data.sd_model
        if current is not None and current.sd_checkpoint_info.filename == info.filename and not forced_reload:
            return current
        calls.append("unhook")
        timer = SimpleNamespace(record=lambda _text: None)
        weights = found.get_checkpoint_state_dict(info, timer)
        data.sd_model = SimpleNamespace(sd_checkpoint_info=info, weights=weights)
        return data.sd_model

    vars(found).update(
        read_state_dict=read_state_dict,
        get_checkpoint_state_dict=get_checkpoint_state_dict,
        reload_model_weights=reload_model_weights,
        load_model=lambda *_args, **_kwargs: None,
        get_state_dict_from_checkpoint=lambda weights: weights,
        select_checkpoint=lambda: None,
    )
    return found


class Info:
    """A CheckpointInfo."""

    def __init__(self, path: str) -> None:
        self.filename = path

    def calculate_shorthash(self) -> str:
        return "0123456789"


def info(path: str) -> Info:
    return Info(path)


def test_a1111_is_given_the_merged_weights(host: StandaloneHost, a1111: Any) -> None:
    loading, path = RecipeLoading(host), recipe(host)
    originals = dict(vars(a1111))
    loading.install()
    model = a1111.reload_model_weights(None, info(path))
    assert same(model.weights, wanted(host))
    plain = a1111.reload_model_weights(None, info(str(host.models / DEMOS[0])))
    assert same(plain.weights, load_file(str(host.models / DEMOS[0])))
    assert a1111.calls == ["unhook", "unhook", "read"]
    loading.uninstall()
    assert {name: value for name, value in vars(a1111).items() if callable(value)} == {
        name: value for name, value in originals.items() if callable(value)
    }


def test_a_recipe_of_a_gpu_is_merged_where_there_is_none_and_that_is_logged(
    host: StandaloneHost, a1111: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    computes_on(monkeypatch, torch.device("cpu"))
    loading, path = RecipeLoading(host), recipe(host, device="cuda")
    loading.install()
    a1111.reload_model_weights(None, info(path))
    assert NAME not in caplog.text
    no_gpu(monkeypatch)
    found = RecipeLoading(host).tensors(path)
    assert same(found, wanted(host)) and f"computed on {NAME}; here the CPU" in caplog.text


def test_a1111_loads_again_when_the_recipe_under_the_name_changed(host: StandaloneHost, a1111: Any) -> None:
    loading, path = RecipeLoading(host), recipe(host)
    loading.install()
    first = a1111.reload_model_weights(None, info(path))
    assert a1111.reload_model_weights(None, info(path)) is first
    recipe(host, 0.5)
    second = a1111.reload_model_weights(None, info(path))
    assert second is not first
    assert same(second.weights, wanted(host, 0.5))


def test_a1111_keeps_its_model_when_an_input_is_missing(host: StandaloneHost, a1111: Any) -> None:
    loading, path = RecipeLoading(host), recipe(host)
    loading.install()
    before = a1111.reload_model_weights(None, info(str(host.models / DEMOS[0])))
    (host.models / DEMOS[1]).unlink()
    a1111.calls.clear()
    with pytest.raises(BadFileError, match=f"{DEMOS[1]} .*is missing"):
        a1111.reload_model_weights(None, info(path))
    assert a1111.calls == []
    assert a1111.model_data.sd_model is before


def test_forge_is_given_the_merged_weights_and_asked_before_it_unloads(
    host: StandaloneHost, a1111: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    provide(monkeypatch, "backend")
    loader = provide(monkeypatch, "backend.loader", load_torch_file=load_file)
    utils = provide(monkeypatch, "backend.utils", load_torch_file=load_file)
    provide(monkeypatch, "modules_forge")
    data = SimpleNamespace(forge_hash="", forge_loading_parameters={}, sd_model=None)

    def forge_model_reload() -> Any:
        calls.append("unload")
        return loader.load_torch_file(data.forge_loading_parameters["checkpoint_info"].filename)

    vars(a1111).update(model_data=data, forge_model_reload=forge_model_reload, load_torch_file=load_file)
    processing = provide(monkeypatch, "modules.processing", forge_model_reload=forge_model_reload)
    loading, path = RecipeLoading(host), recipe(host)
    loading.install()
    data.forge_loading_parameters = {"checkpoint_info": info(path)}
    assert same(processing.forge_model_reload(), wanted(host))
    assert same(utils.load_torch_file(path), wanted(host))
    data.forge_hash = str(data.forge_loading_parameters)
    recipe(host, 0.5)
    assert same(processing.forge_model_reload(), wanted(host, 0.5))
    assert data.forge_hash == ""
    (host.models / DEMOS[1]).unlink()
    calls.clear()
    with pytest.raises(BadFileError, match="is missing"):
        processing.forge_model_reload()
    assert calls == []
    loading.uninstall()
    assert processing.forge_model_reload is forge_model_reload
    assert utils.load_torch_file is loader.load_torch_file is load_file


def test_only_small_files_with_the_mark_are_recipes(host: StandaloneHost, tmp_path: Path) -> None:
    path = recipe(host)
    assert is_recipe(path)
    assert not is_recipe(host.models / DEMOS[0])
    assert not is_recipe(tmp_path / "missing.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    assert not is_recipe(broken)
    recipe(host, 0.5)
    Path(path).write_bytes((host.models / DEMOS[0]).read_bytes())
    assert not is_recipe(path)
