"""``modelsmith merge``: merge models from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modelsmith.errors import UsageError
from modelsmith.merge import difference_cli, replay_cli
from modelsmith.speech_cli import Parser, bar, language, say, words, write

if TYPE_CHECKING:
    from modelsmith.merge.guard import Notice
    from modelsmith.merge.request import MergeRequest, MergeResult


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:  # pyright: ignore[reportPrivateUsage]
    """Add the commands ``merge``, ``replay`` and ``difference``."""
    replay_cli.add_parser(subparsers)
    difference_cli.add_parser(subparsers)
    parser = subparsers.add_parser("merge", help="merge checkpoints", description="Merge model files into a new one.")
    parser.add_argument(
        "--method", default="weighted_sum", help="weighted_sum, add_difference, … (default: %(default)s)"
    )
    parser.add_argument("-a", "--model-a", type=Path, required=True, metavar="A", help="the first model")
    parser.add_argument("-b", "--model-b", type=Path, metavar="B", help="the second model")
    parser.add_argument("-c", "--model-c", type=Path, metavar="C", help="the third model")
    parser.add_argument("--more", type=Path, nargs="*", default=[], metavar="MODEL", help="further models")
    _add_weights(parser)
    _add_result(parser)
    parser.set_defaults(run=run)


def _add_weights(parser: Parser) -> None:
    """How strongly which tensors are merged."""
    parser.add_argument("--alpha", type=float, help="the main weight; each method has a default")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any parameter of the method")
    parser.add_argument(
        "--block-weights",
        metavar="WEIGHTS",
        help="alpha by block: numbers in order (26 for SD1 and SD2, 21 for SDXL) and NAME=value, separated by commas",
    )
    parser.add_argument(
        "--preset", metavar="NAME", help="alpha by block from a preset, such as GRAD_V, OUT_FROM_B or one of your own"
    )
    parser.add_argument(
        "--weights-of",
        action="append",
        default=[],
        metavar="PARAMETER=WEIGHTS",
        help="any parameter by block, such as beta=GRAD_A",
    )
    parser.add_argument("--save-preset", metavar="NAME", help="keep --block-weights under this name")
    parser.add_argument(
        "--rule",
        action="append",
        default=[],
        metavar="PARAMETER=RULE",
        help="weights of single tensors, such as alpha='OUT03-OUT05:attn2:0.5' or alpha='/attn2.*to_k/:0.5'",
    )
    parser.add_argument(
        "--finetune",
        default="",
        metavar="NUMBERS",
        help="detail, contrast and colour after the merge: IN, OUT, OUT2, CONT, BRI, COL1-3, or NAME=value",
    )


def _add_result(parser: Parser) -> None:
    """What is written, and how."""
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="the new .safetensors file")
    parser.add_argument(
        "--dtype",
        choices=("fp32", "fp16", "bf16", "fp8_e4m3", "fp8_e5m2", "fp8_scaled"),
        help="precision of the output (default: as in A); fp8 leaves the VAE as it is",
    )
    parser.add_argument(
        "--component-dtype",
        action="append",
        default=[],
        metavar="COMPONENT=PRECISION",
        help="the precision of unet, text_encoder or vae alone, such as vae=fp32",
    )
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:STRENGTH[:BLOCKS]]",
        help="a LoRA to bake into the result; may be given several times",
    )
    parser.add_argument(
        "--missing", choices=("take_a", "skip", "stop"), default="take_a", help="tensors that another model lacks"
    )
    parser.add_argument("--allow-prediction-mix", metavar="TYPE", help="merge across prediction types, marked as TYPE")
    parser.add_argument("--save-recipe", type=Path, metavar="FILE", help="write the recipe as JSON too")
    parser.add_argument("--overwrite", action="store_true", help="replace the output where it exists")
    parser.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu, cuda, cuda:0 or auto (default: cpu)")
    parser.add_argument("--threads", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``merge``: exit status 0 done; errors are raised for the dispatcher to show."""
    from modelsmith.merge.engine import run_merge
    from modelsmith.merge.plan import plan_merge
    from modelsmith.merge.request import EngineOptions, MergeProgress

    plan = plan_merge(_request(arguments))
    write(plan.summary, sys.stderr)
    write_notices(plan.notices)
    with bar(arguments.quiet, total=plan.output_bytes, leave=True) as shown:

        def show(progress: MergeProgress) -> None:
            shown.total = progress.total_bytes
            shown.set_description(words("measuring") if progress.stage == "measuring" else None, refresh=False)
            shown.update(progress.done_bytes - shown.n)

        result = run_merge(plan, show, options=EngineOptions(threads=arguments.threads))
        shown.update((shown.total or 0) - shown.n)
    write_notices(result.notices[len(plan.notices) :])
    write_result(result)
    if arguments.save_recipe:
        _write_text(arguments.save_recipe, result.recipe + "\n")
    return 0


def write_notices(notices: Iterable[Notice]) -> None:
    """What a merge has to say beside its result."""
    for notice in notices:
        write(f"{words(notice.level)}: {notice.said(language())}", sys.stderr)


def write_result(result: MergeResult) -> None:
    """The file that a merge made."""
    say("{} ({} bytes, {} s)", result.path, f"{result.bytes:,}", f"{result.seconds:.1f}")
    if result.sha256:
        write(f"sha256 {result.sha256}")


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror})", "Choose another place") from error


def _request(arguments: argparse.Namespace) -> MergeRequest:
    from modelsmith.lora.spec import parse_spec
    from modelsmith.merge.request import MergeRequest

    models = [arguments.model_a, arguments.model_b, arguments.model_c]
    given = [model for model in models if model is not None]
    if models[: len(given)] != given:
        raise UsageError("a model is given without the one before it", "Give -a, -b and -c in this order")
    parameters = dict(_pair(text) for text in arguments.set)
    if arguments.alpha is not None:
        parameters["alpha"] = arguments.alpha
    block_weights = _texts(arguments.weights_of, "--weights-of beta=GRAD_A")
    weights = _alpha_weights(arguments)
    if weights:
        block_weights["alpha"] = weights
    rules: dict[str, str] = {}
    for text in arguments.rule:
        for name, rule in _texts([text], "--rule alpha=OUT03:attn2:0.5").items():
            rules[name] = f"{rules[name]}\n{rule}" if name in rules else rule
    return MergeRequest(
        models=(*given, *arguments.more),
        method=arguments.method,
        output=arguments.output,
        parameters=parameters,
        block_weights={name: _own_preset(weights) for name, weights in block_weights.items()},
        dtype=arguments.dtype,
        overwrite=arguments.overwrite,
        missing=arguments.missing,
        allow_prediction_mix=arguments.allow_prediction_mix,
        loras=tuple(parse_spec(text) for text in arguments.lora),
        component_dtypes=_texts(arguments.component_dtype, "--component-dtype vae=fp32"),
        rules=rules,
        finetune=arguments.finetune,
        device=arguments.device,
    )


def _alpha_weights(arguments: argparse.Namespace) -> str | None:
    """Alpha by block, as text; kept under a name where that was asked for."""
    if arguments.preset and arguments.block_weights:
        raise UsageError("--preset and --block-weights cannot be given together", "Choose one of them")
    if not arguments.save_preset:
        return arguments.preset or arguments.block_weights
    from modelsmith.files.header import read_header
    from modelsmith.identify import identify_header
    from modelsmith.merge.blocks import layout_for
    from modelsmith.merge.user_presets import UserPresets, default_path

    if not arguments.block_weights:
        raise UsageError("--save-preset keeps what --block-weights gives, which is missing", "Give both")
    header = read_header(arguments.model_a)
    layout = layout_for(identify_header(header).architecture, header.tensors)
    UserPresets(default_path()).save(arguments.save_preset, arguments.block_weights, layout)
    return arguments.block_weights


def _own_preset(text: str) -> str:
    """A name that only the user's own presets have, as its weights; any other text as it is."""
    from modelsmith.merge.presets import BY_GROUP, PRESETS
    from modelsmith.merge.user_presets import UserPresets, default_path

    name = text.strip()
    if name.upper() in PRESETS or name.upper() in BY_GROUP:
        return text
    return UserPresets(default_path()).all().get(name, text)


def _texts(given: Sequence[str], example: str) -> dict[str, str]:
    """``NAME=text`` by name. Raises UsageError with an example."""
    found: dict[str, str] = {}
    for text in given:
        name, mark, rest = text.partition("=")
        if not mark:
            raise UsageError(f"{text!r} is not NAME=…", f"Give for example {example}")
        found[name.strip()] = rest.strip()
    return found


def _pair(text: str) -> tuple[str, float]:
    name, mark, value = text.partition("=")
    try:
        if not mark:
            raise ValueError
        return name.strip(), float(value)
    except ValueError:
        raise UsageError(f"{text!r} is not NAME=VALUE", "Give for example --set beta=0.3") from None
