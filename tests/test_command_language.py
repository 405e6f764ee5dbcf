"""The command line in Japanese: chosen by the system or by --lang, whole in help, results, errors and findings."""

from __future__ import annotations

import argparse
import ast
import re
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import modelsmith
from convert.helpers import saved, tiny_checkpoint
from host import checkpoints
from host.checkpoints import SD1, Recipe, write, write_lora, write_vae
from modelsmith import speech_cli
from modelsmith.cli import build_parser, main
from modelsmith.command_words import ARGUMENTS, HEADINGS, JAPANESE
from modelsmith.identify.report import KIND_LABELS
from modelsmith.japanese import in_japanese

LIBRARY = Path(modelsmith.__file__).parent
MODULES = [path for path in sorted(LIBRARY.rglob("*cli.py")) if path.name == "cli.py" or path.name.endswith("_cli.py")]
SPEAKING = ("words", "say", "warn")


@pytest.fixture
def japanese(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LANGUAGE", "ja_JP.UTF-8")
    yield
    speech_cli.speak("en")


def texts(node: ast.expr) -> list[str]:
    """The texts that an argument may be; none where it is put together elsewhere."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return texts(node.body) + texts(node.orelse)
    if isinstance(node, ast.Subscript):
        return dictionary(node.value)
    return []


def dictionary(node: ast.expr) -> list[str]:
    return [text for value in node.values for text in texts(value)] if isinstance(node, ast.Dict) else []


def spoken(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of all that a module says."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in SPEAKING:
            for text in texts(node.args[0]):
                yield node.lineno, text


ELSEWHERE = {
    "KIND_LABELS[report.kind]": list(KIND_LABELS.values()),
    "prediction.type": ["epsilon", "v_prediction", "flow", "edm", "edm_v_prediction", "cascade", "undetermined"],
    "notice.level": ["info", "warning"],
    "health.verdict.replace('_', ' ')": ["safe", "at risk", "unknown"],
    "stage": ["writing", "copying", "baking", "extracting", "proving in fp32", "proving in fp16",
              "proving in fp16 itself", "measuring"],
    "name": ["kind", "fits", "variant", "type", "layout", "input channels", "size", "EMA", "prediction", "part",
             "asks for"],
    "what": ["  {} tensors differ, but are not in the LoRA: {}", "{} tensors of different shapes: {}"],
    "kinds[kind]": ["{} averages (EMA)", "{} schedule buffers", "{} training leftovers"],
    "_WORDS[verdict]": ["equal", "equal after rounding", "different", "of another shape", "in the first only",
                        "in the second only"],
    "sentence": ["  {} values of {} tensors were out of range and took the largest value there is"],
    "english": [], "text": [], "options['help']": [], "options['description']": [],
}  # fmt: skip
"""What stands in a table or comes as an argument, by how it is written where it is said."""


def test_all_that_is_said_has_its_japanese() -> None:
    missing: list[str] = []
    unknown: set[str] = set()
    found = 0
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for line, text in spoken(tree):
            found += 1
            if text not in JAPANESE:
                missing.append(f"{path.relative_to(LIBRARY)}:{line}: {text!r}")
        unknown |= {
            ast.unparse(node.args[0])
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in SPEAKING and not texts(node.args[0])
        }
    assert not missing, "\n".join(missing)
    assert found > 100
    assert {one for one in unknown if one.replace("difference.verdict", "verdict") not in ELSEWHERE} == set()
    assert [text for known in ELSEWHERE.values() for text in known if text not in JAPANESE] == []


def test_nothing_is_printed_past_the_table() -> None:
    """Only the module that speaks prints; a progress line of a percentage is no sentence."""
    for path in MODULES:
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        printed = [ast.unparse(node) for node in calls if getattr(node.func, "id", "") == "print"]
        allowed = 1 if path.name == "speech_cli.py" or path.parent.name == "lora" else 0
        assert len(printed) == allowed, (path.name, printed)


def fields(text: str) -> int:
    return sum(name is not None for _, name, _, _ in string.Formatter().parse(text))


def test_translations_are_filled_as_their_english_is() -> None:
    for table in (JAPANESE, ARGUMENTS):
        for english, said in table.items():
            assert fields(english) == fields(said), english
            assert english.count("%(default)s") == said.count("%(default)s"), english
            assert len(english) - len(english.lstrip(" ")) == len(said) - len(said.lstrip(" ")) or english == " or "


SAME = {"EMA", "VAE", "LoRA", "ControlNet", "epsilon", "v_prediction", "flow", "edm", "edm_v_prediction", "cascade",
        "{} to {}", "{}; bytes {} -> {}"}  # fmt: skip


def test_translations_are_japanese() -> None:
    plain = {english for english, said in JAPANESE.items() if not re.search("[぀-ヿ一-鿿]", said)}
    assert {text for text in plain if re.search("[A-Za-z]{3}", text.replace("{}", ""))} <= SAME


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from parsers(inner)


def test_help_of_every_command(japanese: None) -> None:
    speech_cli.speak("ja")
    found = list(parsers(build_parser()))
    assert len(found) == 20
    for parser in found:
        text = parser.format_help()
        assert all(heading not in text for heading in HEADINGS)
        assert "使い方: " in text and "オプション:" in text
        if parser.description:
            assert re.search("[぀-ヿ]", parser.description), parser.prog
        for action in parser._actions:
            if action.help not in (None, argparse.SUPPRESS):
                assert re.search("[぀-ヿ一-鿿]", action.help), (parser.prog, action.dest, action.help)
            if isinstance(action, argparse._SubParsersAction):
                assert all(re.search("[぀-ヿ]", choice.help or "") for choice in action._choices_actions)
            elif action.help is None:
                raise AssertionError(f"{parser.prog}: {action.dest} has no help")


@pytest.mark.parametrize(
    ("environment", "asked", "language"),
    [
        ({"LANG": "ja_JP.UTF-8"}, None, "ja"),
        ({"LANG": "en_US.UTF-8"}, None, "en"),
        ({"LANG": "ja_JP.UTF-8", "LC_ALL": "C"}, None, "en"),
        ({"LANG": "C", "LC_MESSAGES": "ja"}, None, "ja"),
        ({"LANG": "C", "LANGUAGE": "ja:en"}, None, "ja"),
        ({"LANGUAGE": "de:ja", "LANG": "ja_JP"}, None, "en"),
        ({"LANG": "ja_JP.UTF-8"}, "en", "en"),
        ({"LANG": "C"}, "ja", "ja"),
        ({"LANG": "ja_JP"}, "fr", "ja"),
    ],
)
def test_the_language_of_the_system(environment: dict[str, str], asked: str | None, language: str) -> None:
    assert speech_cli.language_of(environment, asked) == language


def test_asking_before_and_after_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["--lang", "ja", "convert", "-h"],
        ["convert", "--lang=ja", "-h"],
        ["convert", "-h", "--lang", "ja"],
    ):
        assert main(arguments) == 0
        assert "形式" in capsys.readouterr().out
    assert main(["convert", "-h"]) == 0
    assert "precision" in capsys.readouterr().out
    assert speech_cli.asked_for(["merge", "--", "--lang", "ja"]) is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["convert", "x"], "次の引数が必要です: -o/--output"),
        (["nonsense"], "'nonsense' は選べません"),
        (["convert", "x", "-o", "y", "--ema", "z", "--prune"], "引数 --ema: 'z' は選べません"),
        (["lora", "extract", "--rank", "many"], "引数 -r/--rank: 'many' は int の値ではありません"),
        (["convert", "x", "-o"], "引数 -o/--output: 値が一つ必要です"),
        (["verify"], "次の引数が必要です: paths"),
        (["verify", "x", "--nonsense"], "不明な引数です: --nonsense"),
    ],
)
def test_errors_of_arguments(
    japanese: None, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert main(arguments) == 2
    assert told in capsys.readouterr().err


def test_every_terminal(tmp_path: Path) -> None:
    """Names and sentences that a terminal cannot show do not stop the work."""
    source = saved(tmp_path / "桜.safetensors", tiny_checkpoint())
    environment = {"PYTHONPATH": str(LIBRARY.parent), "PYTHONIOENCODING": "ascii", "LANG": "ja_JP.UTF-8"}
    command = [sys.executable, "-m", "modelsmith", "repair", str(source)]
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert rb"\u685c" in done.stdout and rb"\u76f4\u3059" in done.stdout


# ---- one walk over all commands

NAMES = re.compile(
    r"modelsmith|safetensors|SHA-?256|AutoV[23]|\bsha256\b|\bfp?\d+\b|fp8_\w+|bf16|SD1|SDXL|VAE|LoRA|EMA|NaN|UNet|ema|"
    r"`[^`]*`|cosine|\|B-A\|/\|A\||recipe|alpha|A1111"
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("m")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "VOCABULARY", 64)  # most of the bytes otherwise
        write(folder, Recipe("a", SD1, text_layers=1))
        write(folder, Recipe("b", SD1, text_layers=1, seed=1))
    write_vae(folder, "v")
    write_lora(folder, "l", SD1)
    tensors = tiny_checkpoint()
    tensors["model.diffusion_model.time_embed.0.weight"][0, 0] = 1e6
    tensors["model.diffusion_model.out.2.weight"][0, 0, 0, 0] = torch.nan
    ids = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    save_file({**tensors, ids: tensors[ids].float(), "model_ema.decay": torch.zeros(1)}, str(folder / "f.safetensors"))
    (folder / "list.txt").write_text(f"{'0' * 64}  v.safetensors\n", encoding="utf-8")
    (folder / "many").mkdir()
    save_file(tiny_checkpoint(), str(folder / "many" / "x.safetensors"))
    (folder / "many" / "y.safetensors").write_bytes(b"nothing")
    return folder


WALK = (
    (["identify", "a.safetensors", "f.safetensors", "none"], 1),
    (["merge", "-a", "a.safetensors", "-b", "b.safetensors", "--alpha", "0.5", "-o", "{}/m.safetensors", "--quiet"], 0),
    (["merge", "-a", "a.safetensors", "-c", "b.safetensors", "-o", "{}/m.safetensors"], 2),
    (["replay", "{}/m.safetensors", "--models", ".", "-o", "{}/n.safetensors", "--quiet"], 0),
    (["replay", "a.safetensors"], 1),
    (["difference", "a.safetensors", "b.safetensors", "--quiet"], 0),
    (["lora", "bake", "-m", "a.safetensors", "-l", "l.safetensors", "-o", "{}/lb.safetensors"], 0),
    (["lora", "extract", "-b", "a.safetensors", "-t", "b.safetensors", "-r", "2", "-o", "{}/le.safetensors"], 0),
    (["lora", "merge", "-l", "l.safetensors", "-l", "l.safetensors:0.5", "-o", "{}/lm.safetensors"], 0),
    (["lora", "info", "l.safetensors", "-m", "v.safetensors"], 1),
    (["lora", "info", "l.safetensors", "-m", "a.safetensors"], 0),
    (["lora", "extract", "-b", "a.safetensors", "-t", "none", "-o", "{}/x.safetensors"], 1),
    (["vae", "check", "v.safetensors", "--measure", "--size", "4", "--latents", "1"], 0),
    (["vae", "bake", "a.safetensors", "v.safetensors", "{}/vb.safetensors"], 0),
    (["vae", "extract", "a.safetensors", "{}/ve.safetensors"], 0),
    (["vae", "check", "l.safetensors"], 1),
    (["convert", "f.safetensors", "-o", "{}/c.safetensors", "-p", "fp16", "--prune", "--quiet"], 0),
    (["convert", "f.safetensors", "-o", "{}/c2.safetensors", "-p", "fp16", "--clip", "--quiet"], 0),
    (["convert", "f.safetensors", "-o", "{}/d.safetensors", "-p", "unet=fp8_scaled", "--prune", "--dry-run"], 0),
    (["convert", "f.safetensors", "-o", "{}/d.safetensors", "--ema", "use", "--prune"], 1),
    (["convert", "many", "-o", "{}/many", "-p", "bf16", "--dry-run"], 1),
    (["convert", "many", "-o", "{}/many", "-p", "bf16", "--quiet"], 1),
    (["convert", "many", "-o", "{}/many", "-p", "bf16", "--quiet"], 1),
    (["convert", "many", "-o", "many"], 2),
    (["repair", "f.safetensors"], 0),
    (["repair", "f.safetensors", "-o", "{}/r.safetensors", "--quiet"], 0),
    (["repair", "{}/r.safetensors"], 0),
    (["repair", "a.safetensors", "--prediction", "v", "--complete-from", "b.safetensors"], 0),
    (["publish", "f.safetensors", "-o", "{}", "--title", "桜", "--dry-run"], 0),
    (["publish", "f.safetensors", "-o", "{}", "--title", "桜", "--name", "さ く", "--quiet"], 0),
    (["publish", "many", "-o", "{}/pub", "--quiet"], 1),
    (["compare", "a.safetensors", "b.safetensors"], 1),
    (["verify", "f.safetensors", "many", "v.safetensors", "--hashes", "list.txt"], 1),
)  # fmt: skip


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("o")


@pytest.mark.parametrize(("arguments", "status"), WALK, ids=[" ".join(line[0][:2]) for line in WALK])
def test_a_walk_over_all_commands(
    japanese: None,
    files: Path,
    outputs: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    status: int,
) -> None:
    """What each says has no two English words beside each other, but for names of tensors, files and formats."""
    monkeypatch.chdir(files)
    assert main([argument.replace("{}", str(outputs)) for argument in arguments]) == status
    told = capsys.readouterr()
    lines = [line for line in (told.out + told.err).splitlines() if line.strip()]
    assert lines
    assert any(re.search("[぀-ヿ一-鿿]", line) for line in lines)
    english = [line for line in lines if re.search(r"\b[a-z]{2,} [a-z]{2,}\b", NAMES.sub("", line))]
    assert not english, "\n".join(english)


def test_the_walk_knows_every_command() -> None:
    commands = {parser.prog for parser in parsers(build_parser())}
    leaves = {prog for prog in commands if not any(other.startswith(prog + " ") for other in commands)}
    walked = {" ".join(["modelsmith", *line[0][: 2 if line[0][0] in ("lora", "vae") else 1]]) for line in WALK}
    assert leaves - walked == {"modelsmith vae fix"}  # too slow here; its words are checked above


def test_reasons_of_loras_have_their_japanese() -> None:
    tree = ast.parse((LIBRARY / "lora" / "match.py").read_text(encoding="utf-8"))
    reasons = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return) and node.value is not None]
    said = [text for node in reasons for text in texts(node)]
    assert len(said) >= 4
    assert all(in_japanese(text) != text for text in [*said, "the checkpoint has no CLIP-L text encoder",
                                                      "no kind of LoRA tensor that is known here"])  # fmt: skip
