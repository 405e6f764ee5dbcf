"""``modelsmith convert | repair | publish | compare | verify``: the parsers. The work is imported when one runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelsmith.speech_cli import Parser

    Subparsers = argparse._SubParsersAction[Parser]  # pyright: ignore[reportPrivateUsage]


def add_parser(subparsers: Subparsers) -> None:
    """Add the five commands."""
    _convert(subparsers)
    _repair(subparsers)
    _publish(subparsers)
    _compare(subparsers)
    _verify(subparsers)


def _common(parser: Parser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and write nothing")
    parser.add_argument("--overwrite", action="store_true", help="replace an output that exists")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


def _hashing(parser: Parser) -> None:
    parser.add_argument("--no-hash", action="store_true", help="do not compute the SHA-256 of the new file")


def _convert(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "convert",
        help="change format, precision, parts or names",
        description="Write a model anew as .safetensors: from .ckpt (nothing in it is executed), GGUF or a diffusers"
        " folder, in another precision, pruned, with parts taken out or put in. A folder of models is done file by"
        " file and goes on where it stopped.",
    )
    parser.add_argument("source", type=Path, help="a model, a diffusers folder, or a folder of models")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="new file, or a folder for many"
    )
    parser.add_argument(
        "-p",
        "--precision",
        default="",
        help="fp32, fp16, bf16, fp8_e4m3, fp8_e5m2 or fp8_scaled, for all or as unet=fp8_e4m3,te=fp16,vae=fp32"
        " (default: as it is; packed GGUF becomes fp16)",
    )
    parser.add_argument("--clip", action="store_true", help="in fp16, 65504 instead of infinity for what lies beyond")
    parser.add_argument("--prune", action="store_true", help="drop averages, schedule buffers and training leftovers")
    parser.add_argument("--ema", choices=("drop", "use", "keep"), help="with --prune: what becomes of EMA weights")
    parser.add_argument("--keep-schedule", action="store_true", help="with --prune: keep the schedule buffers")
    parser.add_argument("--layout", choices=("ldm", "diffusers"), help="the spelling of names (SD1, SD2, SDXL)")
    parser.add_argument("--only", metavar="PART", help="take one part out: unet, te, vae, clip_l, clip_g, clip_h")
    parser.add_argument("--drop", action="append", default=[], metavar="PART", help="leave unet, te or vae out")
    parser.add_argument("--put", action="append", default=[], metavar="PART=FILE", help="put a part of another file in")
    _common(parser)
    _hashing(parser)
    parser.set_defaults(run=_run_convert)


def _repair(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "repair",
        help="find and mend what is wrong with a model",
        description="Find damaged position_ids, missing or stray markers, contradicting metadata, early key names,"
        " doubled or missing parts. With --output the mended model is written.",
    )
    parser.add_argument("source", type=Path, help="a model, or a folder of models")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="new file, or a folder for many")
    parser.add_argument(
        "--prediction", choices=("epsilon", "v", "v+ztsnr"), help="what you know: markers and metadata follow it"
    )
    parser.add_argument("--complete-from", type=Path, metavar="FILE", help="take missing parts from this file")
    _common(parser)
    _hashing(parser)
    parser.set_defaults(run=_run_repair)


def _publish(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "publish",
        help="make a model ready for others",
        description="Write a model in fp16, pruned, under an ASCII name, with clean metadata, hashes and a model card"
        " in English and Japanese. A folder of models is done file by file and goes on where it stopped.",
    )
    parser.add_argument("source", type=Path, help="a model, a diffusers folder, or a folder of models")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder for all that is made"
    )
    parser.add_argument("--name", help="file name without ending (default: made from the title)")
    for name, text in (("title", "title"), ("author", "author"), ("license", "licence, as CC0-1.0")):
        parser.add_argument(f"--{name}", help=text)
    parser.add_argument("--resolution", help="as 1024x1024 (default: the family's)")
    parser.add_argument(
        "--thumbnail", type=Path, metavar="PICTURE", help="JPEG, PNG or WebP; one of more than 256 KiB is made smaller"
    )
    parser.add_argument("-p", "--precision", default="fp16", help="as for convert (default: %(default)s)")
    parser.add_argument("--remove-private", action="store_true", help="drop training metadata (data sets, paths)")
    parser.add_argument("--no-repair", action="store_true", help="mend nothing on the way")
    _common(parser)
    parser.set_defaults(run=_run_publish)


def _compare(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "compare",
        help="compare two models tensor by tensor",
        description="Exit status 0 where they are equal, if need be after rounding to the narrower type; 1 otherwise.",
    )
    parser.add_argument("first", type=Path, help="the first model")
    parser.add_argument("second", type=Path, help="the second model")
    parser.add_argument("--all", action="store_true", help="list equal tensors too, also those equal after rounding")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run_compare)


def _verify(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "verify",
        help="check models for damage",
        description="Check header, sizes and values (NaN), and hashes against a list. Exit status 1 where one is bad.",
    )
    parser.add_argument("paths", type=Path, nargs="+", help="models, or folders of models")
    parser.add_argument("--hashes", type=Path, metavar="LIST", help="a text with HASH  NAME on each line")
    parser.add_argument("--no-values", action="store_true", help="do not read the values")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run_verify)


def _run_convert(arguments: argparse.Namespace) -> int:
    from modelsmith.convert.commands_cli import run_convert

    return run_convert(arguments)


def _run_repair(arguments: argparse.Namespace) -> int:
    from modelsmith.convert.commands_cli import run_repair

    return run_repair(arguments)


def _run_publish(arguments: argparse.Namespace) -> int:
    from modelsmith.convert.publish_cli import run_publish

    return run_publish(arguments)


def _run_compare(arguments: argparse.Namespace) -> int:
    from modelsmith.convert.compare_cli import run_compare

    return run_compare(arguments)


def _run_verify(arguments: argparse.Namespace) -> int:
    from modelsmith.convert.compare_cli import run_verify

    return run_verify(arguments)
