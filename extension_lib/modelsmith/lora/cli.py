"""``modelsmith lora bake|extract|merge|info``."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from modelsmith.errors import MergeError, UsageError
from modelsmith.speech_cli import Parser, say, told, words, write

if TYPE_CHECKING:
    from modelsmith.lora.extract import Components
    from modelsmith.lora.factorise import Method, RankChoice
    from modelsmith.lora.info import LoraInfo
    from modelsmith.lora.match import MatchReport

_SPEC_HELP = (
    "LoRA file, with its strength (1) and block weights (1) if wanted: FILE, FILE:0.8, FILE:0.8:GRAD_V or "
    "FILE:1:BASE=0.5,IN04=0"
)
_LISTED = 10


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:  # pyright: ignore[reportPrivateUsage]
    """Add the command and its four subcommands."""
    parser = subparsers.add_parser("lora", help="bake, extract, merge and describe LoRAs")
    commands = parser.add_subparsers(dest="lora_command", required=True, metavar="COMMAND")
    _add_bake(commands.add_parser("bake", help="write a checkpoint with LoRAs in it"))
    _add_extract(commands.add_parser("extract", help="make a LoRA of what two checkpoints differ in"))
    _add_merge(commands.add_parser("merge", help="make one LoRA of several, or change the rank of one"))
    _add_info(commands.add_parser("info", help="say what a LoRA holds and how it fits a checkpoint"))


def _common(parser: Parser) -> None:
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the output where it exists")


def _add_bake(parser: Parser) -> None:
    parser.add_argument("-m", "--model", required=True, type=Path, metavar="CHECKPOINT", help="the checkpoint")
    parser.add_argument("-l", "--lora", required=True, action="append", metavar="LORA", help=_SPEC_HELP)
    _common(parser)
    parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), help="precision of the output (as the checkpoint)")
    parser.add_argument("--strict", action="store_true", help="stop where any module of a LoRA matches nothing")
    parser.add_argument("--any-architecture", action="store_true", help="let the shapes alone decide what fits")
    _add_json(parser)
    parser.set_defaults(run=run_bake)


def _add_extract(parser: Parser) -> None:
    parser.add_argument("-b", "--base", required=True, type=Path, metavar="CHECKPOINT", help="the model to start from")
    parser.add_argument("-t", "--tuned", required=True, type=Path, metavar="CHECKPOINT", help="the model to come to")
    _common(parser)
    _add_rank(parser, 32)
    parser.add_argument("--conv-rank", type=int, metavar="N", help="rank of larger kernels (as --rank; 0 leaves out)")
    parser.add_argument("--clamp", type=float, metavar="Q", help="clamp factors beyond this quantile (kohya: 0.99)")
    parser.add_argument("--method", choices=("auto", "exact", "random"), default="auto", help="how factors are found")
    parser.add_argument("--only", choices=("unet", "text"), help="one part instead of all")
    parser.add_argument("--differences", action="store_true", help="keep biases and norms too, as full differences")
    parser.add_argument("--threshold", type=float, default=0.0, metavar="X", help="leave out tensors that change less")
    _add_device(parser)
    _add_json(parser)
    parser.set_defaults(run=run_extract)


def _add_merge(parser: Parser) -> None:
    parser.add_argument("-l", "--lora", required=True, action="append", metavar="LORA", help="FILE or FILE:STRENGTH")
    _common(parser)
    _add_rank(parser, None)
    _add_device(parser)
    _add_json(parser)
    parser.set_defaults(run=run_merge)


def _add_rank(parser: Parser, default: int | None) -> None:
    parser.add_argument("-r", "--rank", type=int, default=default, metavar="N", help="rank (the most, with --energy)")
    parser.add_argument("--energy", type=float, metavar="E", help="keep this share (0 to 1) of the sum of squares")
    parser.add_argument("--seed", type=int, default=0, help="of the random basis")
    parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), default="fp16", help="precision of the LoRA")


def _add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def _add_device(parser: Parser) -> None:
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="DEVICE",
        help="where singular values are found: cpu, cuda, cuda:0 or auto (default: cpu)",
    )


def _add_info(parser: Parser) -> None:
    parser.add_argument("files", nargs="+", type=Path, metavar="LORA", help="LoRA files")
    parser.add_argument("-m", "--model", type=Path, metavar="CHECKPOINT", help="say what of it matches this model")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.set_defaults(run=run_info)


def _progress() -> Callable[[int, int], None] | None:
    """A bar where somebody watches, nothing otherwise."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        print(f"\r{100 * done // max(total, 1):3d} %", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show


def run_bake(arguments: argparse.Namespace) -> int:
    """Bake and say what matched and what did not."""
    from modelsmith.lora.bake import BakeRequest, bake
    from modelsmith.lora.match import OtherArchitectureError
    from modelsmith.lora.report import bake_json
    from modelsmith.lora.spec import parse_spec

    request = BakeRequest(
        arguments.model,
        tuple(parse_spec(text) for text in cast("list[str]", arguments.lora)),
        arguments.output,
        arguments.dtype,
        arguments.overwrite,
        arguments.any_architecture,
        arguments.strict,
    )
    try:
        result = bake(request, _progress())
    except OtherArchitectureError as error:
        remedy = "Choose a LoRA for this architecture, or let the shapes alone decide (--any-architecture)"
        raise MergeError(error.message, remedy) from error
    if arguments.json:
        write(json.dumps(bake_json(result), ensure_ascii=False))
        return 0
    for report in result.reports:
        _write_match(report)
    size = f"{result.bytes:,}", f"{result.seconds:.1f}"
    say("{}: {} tensors changed, {} bytes in {} s", result.path, result.changed, *size)
    write(f"sha256 {result.sha256}")
    return 0


def _write_match(report: MatchReport) -> None:
    """How much matched, and every name that did not."""
    say("{}: {} modules matched, {} not", report.path.name, report.modules, len(report.unmatched))
    for name, reason in report.unmatched.items():
        say("  not applied: {} ({})", name, told(reason))


def _choice(arguments: argparse.Namespace, rank: int | None, clamp: float | None = None) -> RankChoice:
    from modelsmith.lora.factorise import RankChoice

    if rank is None and arguments.energy is None:
        raise UsageError("neither --rank nor --energy was given")
    most = rank if rank is not None else 1 << 30
    method = cast("Method", getattr(arguments, "method", "auto"))
    return RankChoice(most, arguments.energy, method, clamp, arguments.seed)


def run_extract(arguments: argparse.Namespace) -> int:
    """Extract and say how much of the difference is in it."""
    from modelsmith.lora.extract import ExtractRequest, extract
    from modelsmith.lora.report import extract_json

    linear = _choice(arguments, arguments.rank, arguments.clamp)
    conv_rank = arguments.rank if arguments.conv_rank is None else arguments.conv_rank
    request = ExtractRequest(
        arguments.base,
        arguments.tuned,
        arguments.output,
        linear,
        _choice(arguments, conv_rank, arguments.clamp) if conv_rank else None,
        cast("Components", arguments.only or "all"),
        arguments.differences,
        arguments.threshold,
        arguments.dtype,
        arguments.overwrite,
        arguments.device,
    )
    result = extract(request, _progress())
    if arguments.json:
        write(json.dumps(extract_json(result), ensure_ascii=False))
        return 0
    energy, size = f"{100 * result.energy:.2f}", (f"{result.bytes:,}", f"{result.seconds:.1f}")
    say("{}: {} modules, rank {}, {} % of the difference's energy, {} bytes in {} s",
        result.path, result.modules, _ranks(result.ranks), energy, *size)  # fmt: skip
    _write_list("  {} tensors differ, but are not in the LoRA: {}", result.left_out)
    _write_list("  {} tensors are in one checkpoint only: {}", result.missing)
    return 0


def run_merge(arguments: argparse.Namespace) -> int:
    """Merge LoRAs; exactly unless a rank or an energy was given."""
    from modelsmith.lora.combine import CombineRequest, combine
    from modelsmith.lora.report import combine_json
    from modelsmith.lora.spec import parse_spec

    exact = arguments.rank is None and arguments.energy is None
    request = CombineRequest(
        tuple(parse_spec(text) for text in cast("list[str]", arguments.lora)),
        arguments.output,
        None if exact else _choice(arguments, arguments.rank),
        arguments.dtype,
        arguments.overwrite,
        arguments.device,
    )
    result = combine(request, _progress())
    if arguments.json:
        write(json.dumps(combine_json(result), ensure_ascii=False))
        return 0
    kept = words("exact") if exact else words("{} % of the energy", f"{100 * result.energy:.2f}")
    size = f"{result.bytes:,}", f"{result.seconds:.1f}"
    say("{}: {} modules, rank {}, {}, {} bytes in {} s", result.path, result.modules, _ranks(result.ranks), kept, *size)
    _write_list("  {} tensors were no kind of LoRA tensor that is known and are left out: {}", result.leftover)
    return 0


def _ranks(ranks: Sequence[int]) -> str:
    if not ranks:
        return words("none")
    low, high = min(ranks), max(ranks)
    return str(low) if low == high else words("{} to {}", low, high)


def _write_list(what: str, names: Sequence[str]) -> None:
    """what: a sentence for how many there are and which."""
    if names:
        shown = ", ".join(names[:_LISTED])
        say(what, len(names), words("{} and {} more", shown, len(names) - _LISTED) if len(names) > _LISTED else shown)


def run_info(arguments: argparse.Namespace) -> int:
    """Describe every file."""
    from modelsmith.lora.info import describe

    for path in cast("list[Path]", arguments.files):
        info = describe(path, arguments.model)
        if arguments.json:
            write(json.dumps(info.to_json(), ensure_ascii=False))
        else:
            _write_info(path, info)
    return 0


def _write_info(path: Path, info: LoraInfo) -> None:
    kinds = ", ".join(f"{number} × {kind}" for kind, number in info.kinds.items())
    write(f"{path}")
    say("  fits      {}", words(" or ").join(info.architectures) or words("cannot be told"))
    say("  modules   {}", kinds)
    say("  parts     {} in the diffusion model, {} in text encoders", info.diffusion, info.text)
    if info.ranks:
        say("  ranks     {}", ", ".join(f"{rank} ({number})" for rank, number in info.ranks.items()))
    for key, value in cast("dict[str, str]", info.to_json()["metadata"]).items():
        write(f"  {key} = {value}")
    _write_list("  {} tensors of no kind that is known here: {}", info.file.leftover)
    if info.match is not None:
        reasons = Counter(info.match.unmatched.values())
        say("  matches   {} modules; {}", info.match.modules, _reasons(reasons) or words("nothing is left over"))


def _reasons(reasons: Counter[str]) -> str:
    return ", ".join(words("{} not: {}", number, told(reason)) for reason, number in reasons.items())
