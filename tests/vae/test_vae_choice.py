"""Which VAE is chosen and which is refused, over small files with true names and stand-ins for the checkpoints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from host.checkpoints import SD1, SDXL, Recipe, write
from host.vae_files import change_vae, write_vae_file
from modelsmith.errors import UnknownNameError
from modelsmith.files.header import read_header
from modelsmith.identify import identify
from modelsmith.vae.choice import Judge, Model, Verdict, automatic
from modelsmith.vae.families import Fingerprints
from modelsmith.vae.health import values_print
from modelsmith.vae.layout import find_vae
from modelsmith.vae.memory import VaeMemory

PRINTS = Fingerprints("a" * 64, "b" * 64)


def model(architecture: str | None, wanted: set[str], baked: str = "healthy") -> Model:
    return Model(Path("model.safetensors"), architecture, frozenset(wanted), baked)  # type: ignore[arg-type]


SD15 = model("sd1", {"sd"})
XL = model("sdxl", {"sdxl"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("vaes")
    write_vae_file(made / "one-xl.safetensors", family="sdxl", seed=1)
    write_vae_file(made / "two-sd.safetensors", family="sd", seed=2)
    write_vae_file(made / "untold.safetensors", seed=3)
    write_vae_file(made / "sdxl_by_name.safetensors", seed=4)
    write_vae_file(made / "wide.safetensors", channels=16, seed=5)
    return made


@pytest.fixture
def judge() -> Judge:
    return Judge(VaeMemory(), identify)


def listed(folder: Path, *names: str) -> list[tuple[str, Path]]:
    return [(f"{name}.safetensors", folder / f"{name}.safetensors") for name in names]


@pytest.mark.parametrize(
    ("name", "wanted", "refused"),
    [
        ("one-xl", SD15, True),
        ("two-sd", XL, True),
        ("two-sd", SD15, False),
        ("wide", XL, True),
        ("wide", SD15, True),
        ("wide", model("flux1", {"flux1"}), False),
        ("one-xl", model("flux1", {"flux1"}), True),
        # A name is no proof, and nothing at all is none either.
        ("sdxl_by_name", SD15, False),
        ("untold", SD15, False),
        ("one-xl", model(None, set()), False),
        ("one-xl", model("pixart", set()), False),
    ],
)
def test_refused_on_decisive_evidence_only(judge: Judge, folder: Path, name: str, wanted: Model, refused: bool) -> None:
    found = judge.refuse(folder / f"{name}.safetensors", wanted)
    assert (found is not None) == refused
    if found is not None:
        assert found.wanted == wanted.label
        assert f"{name}.safetensors is not used" in str(found)


def test_a_kind_without_families_is_judged_by_its_shape(tmp_path: Path, judge: Judge) -> None:
    from makers import write_header_only

    path = write_header_only(
        tmp_path / "wan.safetensors",
        {
            "decoder.middle.0.residual.0.gamma": ("BF16", (384, 1, 1, 1)),
            "decoder.conv1.weight": ("BF16", (384, 16, 3, 3, 3)),
            "conv1.weight": ("BF16", (32, 32, 1, 1, 1)),
        },
    )
    assert identify(path).kind == "vae"
    found = judge.refuse(path, XL)
    assert found is not None
    assert "wan" in found.family
    assert judge.refuse(path, model("wan", set())) is None


def test_a_persons_word_stands_above_all(judge: Judge, folder: Path) -> None:
    path = folder / "one-xl.safetensors"
    prints = judge.verdict(path).identity.fingerprints  # type: ignore[union-attr]
    judge.memory.say(prints, "sd")
    assert judge.refuse(path, SD15) is None
    assert judge.refuse(path, XL) is not None
    judge.memory.say(prints, None)
    assert judge.refuse(path, SD15) is not None
    judge.memory.allow(prints, SD15.wanted, True)
    assert judge.refuse(path, SD15) is None
    assert judge.refuse(path, model("flux1", {"flux1"})) is not None
    judge.memory.allow(prints, SD15.wanted, False)
    assert judge.refuse(path, SD15) is not None


def test_memory_lasts_and_survives_damage(tmp_path: Path) -> None:
    path = tmp_path / "vae.json"
    memory = VaeMemory(path)
    memory.say(PRINTS, "sdxl")
    memory.allow(PRINTS, frozenset({"sd"}), True)
    memory.learn(Path("x"), (1, 2), lambda: {"digest": "sd"})
    again = VaeMemory(path)
    assert again.said(PRINTS) == "sdxl"
    assert again.allowed(PRINTS, frozenset({"sd", "sdxl"}))
    assert not again.allowed(PRINTS, frozenset({"flux1"}))
    assert again.told() == {"digest": "sd"}
    assert not again.any_measured and again.measured("print") is None
    memory.note_measured("print", True, 70_000.0)
    assert VaeMemory(path).measured("print") is True
    with pytest.raises(UnknownNameError, match="sdxl"):
        memory.say(PRINTS, "sdxk")
    strange = {"said": [], "allowed": {"x": 1}, "taught": {"x": [1], "y": [1, 2, 3]}, "measured": {"x": [1, 2]}}
    for damage in ("{", "[]", json.dumps(strange)):
        path.write_text(damage)
        assert VaeMemory(path).told() == {}
        assert VaeMemory(path).said(PRINTS) is None
        assert not VaeMemory(path).any_measured
    assert [found.name for found in tmp_path.iterdir()] == ["vae.json"]


def test_what_was_measured_stands_above_the_header(tmp_path: Path, judge: Judge) -> None:
    """A VAE seen to overflow is not taken for a cured one, nor its checkpoint's own for healthy, and the reverse."""
    cured = write_vae_file(tmp_path / "twin.safetensors", family="sdxl", seed=1)
    checkpoint = write(tmp_path, Recipe("xl", SDXL, text_layers=1))
    model = judge.model(checkpoint)
    assert (model.baked, judge.verdict(cured).cured) == ("at_risk", False)
    print_of = {path: values_print(find_vae(read_header(path))) for path in (cured, checkpoint)}
    judge.memory.note_measured(print_of[cured], False, 900.0)
    judge.memory.note_measured(print_of[checkpoint], False, 1200.0)
    assert (judge.model(checkpoint).baked, judge.verdict(cured).cured) == ("healthy", True)
    assert automatic(judge, judge.model(checkpoint), [], None, half=True).reason == "baked"
    judge.memory.note_measured(print_of[checkpoint], True, 2e5)
    assert judge.model(checkpoint).baked == "at_risk"
    judge.memory.note_measured(print_of[cured], True, 2e5)
    assert judge.verdict(cured).cured is False


def test_what_checkpoints_disagree_about_is_not_believed() -> None:
    memory = VaeMemory()
    memory.learn(Path("a"), (1, 1), lambda: {"shared": "sd", "own": "sd"})
    memory.learn(Path("b"), (1, 1), lambda: {"shared": "sdxl"})
    assert memory.told() == {"own": "sd"}
    memory.learn(Path("b"), (1, 1), lambda: pytest.fail("the file is unchanged"))
    memory.learn(Path("b"), (2, 1), dict)
    assert memory.told() == {"own": "sd", "shared": "sd"}


def test_a_vae_is_known_from_a_checkpoint_that_has_it(tmp_path: Path) -> None:
    """Nothing in or beside the file says what it is; a checkpoint of the folder has the same one baked in."""
    import numpy as np

    from host import checkpoints

    def values(name: str, shape: Any, random: Any, is_text: bool) -> Any:
        found = original(name, shape, random, is_text)
        return np.full(shape, 1.25, np.float16) if name.endswith("encoder.norm_out.weight") else found

    original = checkpoints._values
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "_values", values)
        teacher = write(tmp_path, Recipe("teacher", SDXL, text_layers=1))
        path = checkpoints.write_vae(tmp_path, "nothing-tells")
    assert Judge(VaeMemory(), identify).refuse(path, SD15) is None
    found = Judge(VaeMemory(), identify, lambda: [teacher]).refuse(path, SD15)
    assert found is not None
    assert "fingerprint" in found.detail


# the automatic choice


def pick(judge: Judge, wanted: Model, files: list[tuple[str, Path]], preference: str | None = None) -> tuple[str, str]:
    found = automatic(judge, wanted, files, preference, half=False)
    return found.reason, found.path.stem if found.path is not None else ""


def test_order_of_the_automatic_choice(judge: Judge, folder: Path) -> None:
    files = listed(folder, "untold", "one-xl", "two-sd", "sdxl_by_name", "wide")
    assert pick(judge, SD15, files) == ("baked", "")
    assert pick(judge, SD15, files, "untold") == ("preference", "untold")
    assert pick(judge, SD15, files, "None") == ("preference", "")
    assert pick(judge, SD15, files, "gone") == ("baked", "")
    for state in ("missing", "damaged"):
        assert pick(judge, model("sd1", {"sd"}, state), files) == ("family", "two-sd")
        assert pick(judge, model("sdxl", {"sdxl"}, state), files) == ("family", "one-xl")
        assert pick(judge, model("flux2", {"flux2"}, state), files) == ("nothing_fits", "")
        assert pick(judge, model(None, set(), state), files) == ("unknown_model", "")
    # A name is enough to choose by where there is nothing better, but never to refuse by.
    assert pick(judge, model("sdxl", {"sdxl"}, "missing"), listed(folder, "untold", "sdxl_by_name")) == (
        "family",
        "sdxl_by_name",
    )


def test_a_baked_vae_at_risk_gives_way_to_its_exact_copy_only(folder: Path) -> None:
    class Cured(Judge):
        """Takes every VAE for one that was cured."""

        def verdict(self, path: Path) -> Verdict:
            return replace(super().verdict(path), cured=True)

    judge = Cured(VaeMemory(), identify)
    decoder = judge.verdict(folder / "one-xl.safetensors").identity.fingerprints.decoder
    at_risk = Model(Path("m"), "sdxl", frozenset({"sdxl"}), "at_risk", decoder)
    files = listed(folder, "two-sd", "one-xl")
    assert automatic(judge, at_risk, files, None, half=True).path == folder / "one-xl.safetensors"
    assert automatic(judge, at_risk, files, None, half=False).reason == "baked"
    other = Model(Path("m"), "sdxl", frozenset({"sdxl"}), "at_risk", "another decoder")
    assert automatic(judge, other, files, None, half=True).reason == "baked"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("checkpoint"), Recipe("sd15", SD1, text_layers=1))


def test_state_of_the_baked_vae(checkpoint: Path, tmp_path: Path, judge: Judge) -> None:
    found = judge.model(checkpoint)
    assert (found.architecture, found.wanted, found.baked) == ("sd1", {"sd"}, "healthy")
    for remove, expected in ((True, "missing"), (False, "damaged")):
        made = change_vae(checkpoint, tmp_path / f"{expected}.safetensors", remove=remove)
        assert judge.model(made).baked == expected
    (tmp_path / "c.safetensors").write_bytes(b"no model")
    unreadable = judge.model(tmp_path / "c.safetensors")
    assert (unreadable.baked, unreadable.wanted) == ("unknown", frozenset())


def test_a_damaged_vae_is_never_chosen(folder: Path, tmp_path: Path, judge: Judge) -> None:
    whole = write_vae_file(tmp_path / "a-sd.safetensors", family="sd", seed=6)
    cut = tmp_path / "b-sd.safetensors"
    cut.write_bytes(whole.read_bytes()[:5000])
    whole.unlink()
    files = [("b", cut)]
    assert pick(judge, model("sd1", {"sd"}, "missing"), files) == ("nothing_fits", "")
    assert judge.refuse(cut, SD15) is None
    assert judge.verdict(cut).problem
