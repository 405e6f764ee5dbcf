"""``modelsmith identify FILE... [--json]``: what each file is, for a person or a program."""

from __future__ import annotations

import argparse
import json
import unicodedata
from pathlib import Path

from modelsmith.identify.messages import Language
from modelsmith.identify.report import KIND_LABELS, LABELS, Component, Report
from modelsmith.japanese import GRADES
from modelsmith.speech_cli import Parser, language, words, write

_DESCRIPTION = "Say what model files are, from their headers. Exit status 1 when any of them could not be read."


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:  # pyright: ignore[reportPrivateUsage]
    """Add the command to the parser of the command line."""
    parser = subparsers.add_parser("identify", help="say what model files are", description=_DESCRIPTION)
    parser.add_argument("files", nargs="+", metavar="FILE", help="model file, *.index.json or diffusers folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line for each file, in order")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Identify every file and print the answers; 0 when all could be read, else 1.

    JSON is for programs: it is in English unless a language is asked for.
    """
    from modelsmith.identify.identifier import identify

    asked: Language = "ja" if getattr(arguments, "lang", None) == "ja" else "en"
    failed = False
    files: list[str] = arguments.files
    for number, name in enumerate(files):
        report = identify(Path(name))
        failed = failed or report.error is not None
        if arguments.json:
            write(json.dumps(report.to_json(asked), ensure_ascii=False))
        else:
            if number:
                write("")
            write("\n".join(lines_of(report)))
    return 1 if failed else 0


def lines_of(report: Report) -> list[str]:
    """A report for a person's eyes."""
    lines = [report.file]
    if report.error is not None:
        return [*lines, "  " + words("cannot be read: {}", report.error_text(language()))]
    lines.append(f"  {badge(report)}")
    rows = [("kind", words(KIND_LABELS[report.kind])), ("fits", _fits(report)), ("variant", report.variant or "")]
    if report.lora_type:
        rows.append(("type", report.lora_type))
    rows.append(("layout", report.layout or ""))
    if report.in_channels is not None:
        rows.append(("input channels", str(report.in_channels)))
    size = f"{report.size / 1e9:,.2f}", f"{report.tensors:,}", report.format
    rows.append(("size", words("{} GB, {} tensors, {}", *size)))
    if report.ema != "none":
        rows.append(("EMA", words({"both": "beside the weights", "only": "instead of the weights"}[report.ema])))
    lines += [_row(name, value) for name, value in rows if value]
    lines += _prediction_lines(report)
    lines += [_row("part", f"{part.name}: {_part(part)}") for part in report.components]
    if report.globals and report.forbidden:
        lines.append(_row("asks for", ", ".join(report.forbidden)))
    lines += [f"  ! {message.text(language())}" for message in report.warnings]
    lines += [f"  > {message.text(language())}" for message in report.advice]
    return lines


def badge(report: Report) -> str:
    """The short line of a report, its words in the user's language."""
    return " · ".join(map(words, report.badge().split(" · ")))


def _row(name: str, value: str) -> str:
    """A line of two columns; letters of Japanese take two places."""
    title = words(name)
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in title)
    return f"  {title}{' ' * max(1, 15 - len(title) - wide)}{value}"


def _part(part: Component) -> str:
    whole = ""
    if part.complete is not None:
        whole = words("complete") if part.complete else words("{} of {} missing", part.missing, part.expected)
    scheme = part.quantization if part.quantization != part.precision else None
    return ", ".join(fact for fact in (part.precision, scheme, whole, part.known_as) if fact)


def _fits(report: Report) -> str:
    names = [LABELS.get(name, name) for name in report.candidates]
    if not names:
        return words("nothing that is known")
    return names[0] if len(names) == 1 else words("one of {}", ", ".join(names))


def _prediction_lines(report: Report) -> list[str]:
    prediction = report.prediction
    if report.kind not in ("checkpoint", "diffusion_model", "unsafe") or not report.architecture:
        return []
    facts = [words(prediction.type)]
    if prediction.zero_terminal_snr is not False:
        facts.append(words("zero terminal SNR" if prediction.zero_terminal_snr else "zero terminal SNR unknown"))
    if prediction.conflict:
        facts.append(words("the evidence disagrees"))
    lines = [_row("prediction", ", ".join(facts))]
    for piece in prediction.evidence:
        known = f"{piece.source_text(language())}: {piece.detail_text(language())}"
        grade = GRADES[piece.grade] if language() == "ja" else piece.grade
        lines.append(f"                 - {known} -> {piece.says} ({grade})")
    return lines
