"""The probe around the library's: what is remembered, what is said, and when a model is asked by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from makers import write_header_only  # noqa: E402
from modelsmith.decision import Override, decide  # noqa: E402
from modelsmith.errors import ModelsmithError  # noqa: E402
from modelsmith.identify.report import Evidence, Prediction, Report  # noqa: E402
from modelsmith.merge.recipe import RECIPE_KEY  # noqa: E402
from modelsmith.prediction_probe import judge  # noqa: E402
from modelsmith_webui import probing, settings  # noqa: E402
from modelsmith_webui.generation import Generation  # noqa: E402
from modelsmith_webui.hosts.common import Resolution  # noqa: E402

EPSILON, VELOCITY, VELOCITY_ZTSNR = (1.0, 1.0, 0.2, 0.2), (0.05, 0.2, -4.0, -4.2), (0.05, 0.2, -1.0, -2.5)
MIXED, UNCLEAR = (0.5, 0.9, -3.0, -3.0), (-0.9, -0.9, 0.0, 0.0)


def report(prediction: str, ztsnr: bool | None = False, grade: str = "strong", **more: Any) -> Report:
    evidence = (Evidence("v_pred", "tensor v_pred", grade, prediction),) if grade != "none" else ()  # type: ignore[arg-type]
    found = Prediction(prediction, ztsnr, evidence=evidence)  # type: ignore[arg-type]
    return Report("m.safetensors", "checkpoint", "sdxl", ("sdxl",), "base", found, **more)


class Host:
    """One file in memory, and a network that gives back a share of its input."""

    def __init__(self, folder: Path, found: Report, metadata: dict[str, str] | None = None) -> None:
        self.path = write_header_only(folder / "m.safetensors", {"x": ("F16", (2, 2))}, metadata or {})
        self.folder, self.found, self.asked, self.share = folder, found, 0, 1.0
        self.override = Override()
        self.resolver = SimpleNamespace(resolve=self.resolve)

    def resolve(self, path: Path) -> Resolution:
        return Resolution(path, self.found, self.override, decide(self.found, self.override))

    def data_folder(self) -> Path:
        return self.folder

    def loaded_checkpoint(self) -> Path | None:
        return self.path

    @contextmanager
    def raw_network(self) -> Iterator[probing.RawNetwork]:
        self.asked += 1
        yield probing.RawNetwork(lambda x, _t: x * self.share, "cpu")


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    values = {**settings.DEFAULTS, settings.PROBE: True}
    monkeypatch.setattr(settings, "get", values.__getitem__)
    return values


@pytest.mark.parametrize(
    ("prediction", "ztsnr", "numbers", "agrees", "keys"),
    [
        ("epsilon", False, EPSILON, True, ["agrees"]),
        ("epsilon", False, VELOCITY, False, ["differs"]),
        ("v_prediction", True, EPSILON, False, ["differs"]),
        ("v_prediction", False, VELOCITY, True, ["agrees"]),
        ("v_prediction", True, VELOCITY, True, ["agrees", "ztsnr_unexpected"]),
        ("v_prediction", False, VELOCITY_ZTSNR, True, ["agrees", "ztsnr_missing"]),
        ("v_prediction", True, VELOCITY_ZTSNR, True, ["agrees"]),
        ("v_prediction", True, MIXED, False, ["mixed"]),
        ("epsilon", False, UNCLEAR, None, ["unclear"]),
    ],
)
def test_what_is_said(
    prediction: str, ztsnr: bool, numbers: tuple[float, ...], agrees: bool | None, keys: list[str]
) -> None:
    found = probing.find(Path("m.safetensors"), judge(*numbers), decide(report(prediction, ztsnr)))
    assert found.agrees is agrees
    assert [key for key, _ in found.messages] == keys
    assert "{" not in found.text()
    json.dumps(found.to_json(), allow_nan=False)
    assert found.text(lambda text, **_values: text[:2]).count(" ") >= len(keys) - 1


def test_an_answer_is_kept_for_the_file_and_not_for_another_of_its_name(tmp_path: Path) -> None:
    host = Host(tmp_path, report("epsilon"))
    found = probing.Prober(host).ask()
    assert (found.result.behaves_as, found.agrees) == ("epsilon", True)
    again = probing.Prober(host)
    assert again.known(host.path) == found
    # What it is set against is what holds now.
    host.override = Override("v_prediction")
    known = again.known(host.path)
    assert known is not None
    assert known.agrees is False
    write_header_only(host.path, {"y": ("F16", (2, 4))})
    assert again.known(host.path) is None
    host.path.unlink()
    assert again.known(host.path) is None


def test_a_damaged_memory_counts_as_none(tmp_path: Path) -> None:
    host = Host(tmp_path, report("epsilon"))
    for text in ("{", "[]", json.dumps({probing.Prober._key(host.path): {"gain": "x"}})):
        (tmp_path / probing.MEMORY_FILE).write_text(text)
        assert probing.Prober(host).known(host.path) is None
    assert probing.Prober(host).ask().agrees is True
    assert probing.Prober(host).known(host.path) is not None


def test_other_families_and_an_empty_memory_are_refused(tmp_path: Path) -> None:
    host = Host(tmp_path, report("flow"))
    with pytest.raises(ModelsmithError, match="is not asked"):
        probing.Prober(host).ask()
    host.path = None  # type: ignore[assignment]
    with pytest.raises(ModelsmithError, match="no model is in memory"):
        probing.Prober(host).ask()
    assert host.asked == 0


@pytest.mark.parametrize(
    ("found", "metadata", "asked"),
    [
        (report("epsilon", grade="none"), {}, 1),
        (report("epsilon", grade="weak"), {}, 1),
        (report("epsilon"), {}, 0),
        (report("v_prediction", None), {}, 1),
        (report("v_prediction", True), {}, 0),
        (report("v_prediction", True), {RECIPE_KEY: "{}"}, 1),
        (report("flow", grade="none"), {}, 0),
    ],
)
def test_only_files_in_doubt_are_asked_by_themselves_and_once(
    tmp_path: Path, setting: dict[str, Any], found: Report, metadata: dict[str, str], asked: int
) -> None:
    host = Host(tmp_path, found, metadata)
    prober = probing.Prober(host)
    for _ in range(3):
        assert (prober.before_picture() is not None) == bool(asked)
    assert host.asked == asked
    setting[settings.PROBE] = False
    host.asked = 0
    assert probing.Prober(host).before_picture() is None
    assert host.asked == 0


def test_the_key_of_merges_is_the_engines() -> None:
    assert probing.MERGED == RECIPE_KEY


def test_a_picture_is_told_of_a_contradiction_and_never_stopped(tmp_path: Path, setting: dict[str, Any]) -> None:
    host: Any = Host(tmp_path, report("v_prediction", None))
    host.prober = probing.Prober(host)
    comments: list[str] = []
    p = SimpleNamespace(comment=comments.append)
    work = Generation(host)
    work._ask_model(p)
    assert comments == [f"Modelsmith: {host.prober.known(host.path).text()}"]
    assert "behaves as epsilon" in comments[0]

    def broken() -> Any:
        raise RuntimeError("out of memory")

    host.prober = SimpleNamespace(before_picture=broken)
    work._ask_model(p)
    host.prober = None
    work._ask_model(p)
    assert len(comments) == 1


def test_the_tab_says_that_it_asks_and_that_no_answer_came() -> None:
    pytest.importorskip("gradio")
    from modelsmith_webui.tab.probe_view import ProbeView
    from modelsmith_webui.tab.texts import Texts

    def broken() -> Any:
        raise RuntimeError("<out> of memory")

    view = ProbeView(SimpleNamespace(can_probe=True, prober=SimpleNamespace(run=broken)), Texts(lambda: ""))
    assert "being asked" in view.begin()
    assert "ms-error" in view.ask()
    assert "The model gave no answer: &lt;out&gt; of memory" in view.ask()


def test_within_a_hold_the_disk_is_asked_once(tmp_path: Path) -> None:
    import threading

    from modelsmith_webui.hosts.common import Resolver
    from modelsmith_webui.overrides import write_override

    path = write_header_only(tmp_path / "m.safetensors", {"x": ("F16", (2, 2))}, {})
    resolver = Resolver(lambda: True)
    with resolver.held(), resolver.held():
        first = resolver.resolve(path)
        write_override(path, Override("v_prediction"))
        assert resolver.resolve(path) is first
        assert resolver.without_image(path, Override("epsilon")) is not first
        elsewhere: list[Any] = []
        other = threading.Thread(target=lambda: elsewhere.append(resolver.resolve(path)))
        other.start()
        other.join()
    assert elsewhere[0].override == resolver.resolve(path).override == Override("v_prediction")
