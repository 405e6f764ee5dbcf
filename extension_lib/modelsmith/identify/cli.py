"""``modelsmith identify FILE... [--json]``: what each file is, for a person or a program."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from modelsmith.identify.messages import Language
from modelsmith.identify.report import KIND_LABELS, LABELS, Report

_DESCRIPTION = "Say what model files are, from their headers. Exit status 1 when any of them could not be read."


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:  # pyright: ignore[reportPrivateUsage]
    """Add the command to the parser of the command line."""
    parser = subparsers.add_parser("identify", help="say what model files are", description=_DESCRIPTION)
    parser.add_argument("files", nargs="+", metavar="FILE", help="model file, *.index.json or diffusers folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line for each file, in order")
    parser.add_argument("--lang", choices=("en", "ja"), default="en", help="language of warnings and advice")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Identify every file and print the answers; 0 when all could be read, else 1."""
    from modelsmith.identify.identifier import identify

    language: Language = "ja" if arguments.lang == "ja" else "en"
    failed = False
    files: list[str] = arguments.files
    for number, name in enumerate(files):
        report = identify(Path(name))
        failed = failed or report.error is not None
        if arguments.json:
            _write(json.dumps(report.to_json(language), ensure_ascii=False))
        else:
            if number:
                _write("")
            _write("\n".join(lines_of(report, language)))
    return 1 if failed else 0


def _write(text: str) -> None:
    """Print at once, so that a reader at the end of a pipe sees each file as it is done; odd names must not stop it."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def lines_of(report: Report, language: Language) -> list[str]:
    """A report for a person's eyes."""
    lines = [report.file]
    if report.error is not None:
        return [*lines, f"  cannot be read: {report.error_text(language)}"]
    lines.append(f"  {report.badge()}")
    rows = [("kind", KIND_LABELS[report.kind]), ("fits", _fits(report)), ("variant", report.variant or "")]
    if report.lora_type:
        rows.append(("type", report.lora_type))
    rows.append(("layout", report.layout or ""))
    if report.in_channels is not None:
        rows.append(("input channels", str(report.in_channels)))
    rows.append(("size", f"{report.size / 1e9:,.2f} GB, {report.tensors:,} tensors, {report.format}"))
    if report.ema != "none":
        rows.append(("EMA", report.ema))
    lines += [f"  {name:<15}{value}" for name, value in rows if value]
    lines += _prediction_lines(report, language)
    for part in report.components:
        whole = (
            ""
            if part.complete is None
            else "complete"
            if part.complete
            else f"{part.missing} of {part.expected} missing"
        )
        facts = [part.precision, part.quantization or "", whole, part.known_as or ""]
        lines.append(f"  part           {part.name}: " + ", ".join(fact for fact in facts if fact))
    if report.globals and report.forbidden:
        lines.append("  asks for       " + ", ".join(report.forbidden))
    lines += [f"  ! {message.text(language)}" for message in report.warnings]
    lines += [f"  > {message.text(language)}" for message in report.advice]
    return lines


def _fits(report: Report) -> str:
    names = [LABELS.get(name, name) for name in report.candidates]
    return names[0] if len(names) == 1 else "one of " + ", ".join(names) if names else "nothing that is known"


def _prediction_lines(report: Report, language: Language) -> list[str]:
    prediction = report.prediction
    if report.kind not in ("checkpoint", "diffusion_model", "unsafe") or not report.architecture:
        return []
    snr = {True: ", zero terminal SNR", False: "", None: ", zero terminal SNR unknown"}[prediction.zero_terminal_snr]
    conflict = ", the evidence disagrees" if prediction.conflict else ""
    lines = [f"  prediction     {prediction.type}{snr}{conflict}"]
    for piece in prediction.evidence:
        known = f"{piece.source_text(language)}: {piece.detail_text(language)}"
        lines.append(f"                 - {known} -> {piece.says} ({piece.grade})")
    return lines
