"""``modelsmith vae check | fix | bake | extract``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from modelsmith.japanese import GRADES
from modelsmith.speech_cli import Parser, language, say, told, words, write

if TYPE_CHECKING:
    from modelsmith.vae.calibration import CalibrationOptions
    from modelsmith.vae.families import Clue, Hints, Identity
    from modelsmith.vae.fix import FixResult
    from modelsmith.vae.health import HeaderHealth, Measurement
    from modelsmith.vae.layout import Side, VaeFile
    from modelsmith.vae.measure import Watch

_FAMILIES = ("sd", "sdxl", "x4-upscaler", "sd3", "flux1", "flux2")


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:  # pyright: ignore[reportPrivateUsage]
    """Add ``vae`` with its four actions."""
    parser = subparsers.add_parser("vae", help="check a VAE, make it run in fp16, bake it in, take it out")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    check = actions.add_parser("check", help="say what a VAE is and whether it runs in fp16")
    check.add_argument("file", type=Path, help="a VAE, or a checkpoint with one in it")
    check.add_argument("--measure", action="store_true", help="run it and report each layer's largest activation")
    _add_calibration(check)
    _add_common(check)
    check.set_defaults(run=_check)

    fix = actions.add_parser("fix", help="write a VAE that runs in fp16 with the same output")
    fix.add_argument("source", type=Path, metavar="IN", help="a VAE, or a checkpoint with one in it")
    fix.add_argument("target", type=Path, metavar="OUT", help="the new .safetensors file")
    fix.add_argument("--headroom", type=float, default=4.0, help="factor to leave below 65,504 (default: 4)")
    fix.add_argument("--part", choices=("both", "decoder", "encoder"), default="both", help="what to cure")
    fix.add_argument("--compare-bf16", action="store_true", help="also report the original's error in bf16")
    _add_calibration(fix)
    _add_common(fix, writes=True)
    fix.set_defaults(run=_fix)

    bake = actions.add_parser("bake", help="put a VAE into a checkpoint")
    bake.add_argument("checkpoint", type=Path, help="the checkpoint to put it into")
    bake.add_argument("vae", type=Path, help="a VAE, or a checkpoint with one in it")
    bake.add_argument("target", type=Path, metavar="OUT", help="the new .safetensors file")
    bake.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), help="write the VAE so (default: as it is)")
    bake.add_argument("--force", action="store_true", help="bake a VAE of another family too")
    _add_common(bake, writes=True)
    bake.set_defaults(run=_bake)

    extract = actions.add_parser("extract", help="take the VAE out of a checkpoint, or respell a VAE")
    extract.add_argument("source", type=Path, metavar="IN", help="a VAE, or a checkpoint with one in it")
    extract.add_argument("target", type=Path, metavar="OUT", help="the new .safetensors file")
    extract.add_argument("--naming", choices=("ldm", "diffusers"), default="ldm", help="spelling (default: ldm)")
    extract.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), help="write it so (default: as it is)")
    _add_common(extract, writes=True)
    extract.set_defaults(run=_extract)


def _add_common(parser: Parser, writes: bool = False) -> None:
    parser.add_argument("--family", choices=_FAMILIES, help="what the VAE belongs to, where you know it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    if writes:
        parser.add_argument("--overwrite", action="store_true", help="replace OUT where it exists")


def _add_calibration(parser: Parser) -> None:
    parser.add_argument("--latents", type=int, default=3, help="how many Gaussian latents to decode (default: 3)")
    parser.add_argument("--size", type=int, default=32, help="their side in latent pixels (default: 32)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the latents (default: 0)")
    parser.add_argument("--images", nargs="+", default=[], metavar="PATH", help="pictures to run as well, or folders")


def _calibration(arguments: argparse.Namespace) -> CalibrationOptions:
    from modelsmith.vae.calibration import CalibrationOptions, image_paths

    images = image_paths(arguments.images)
    return CalibrationOptions(arguments.latents, arguments.size, arguments.seed, images)


def _hints(arguments: argparse.Namespace, path: Path) -> Hints:
    from modelsmith.vae.families import Hints, published_hash

    return Hints(said=arguments.family, sha256=published_hash(path))


def _watch(arguments: argparse.Namespace) -> Watch:
    from modelsmith.vae.measure import Watch

    last = ""

    def show(stage: str, done: float) -> None:
        nonlocal last
        if stage != last:
            last = stage
            write(words("{} …", words(stage)), sys.stderr)

    return Watch() if arguments.json or not sys.stderr.isatty() else Watch(show)


def _check(arguments: argparse.Namespace) -> int:
    from modelsmith.files.header import read_header
    from modelsmith.vae.company import with_company
    from modelsmith.vae.families import identify_vae
    from modelsmith.vae.health import check_header, measure
    from modelsmith.vae.layout import find_vae
    from modelsmith.vae.report import check_json

    vae = find_vae(read_header(arguments.file))
    identity = identify_vae(vae, with_company(vae, _hints(arguments, arguments.file)))
    health = check_header(vae, identity)
    found = measure(vae, identity, _calibration(arguments), watch=_watch(arguments)) if arguments.measure else None
    if arguments.json:
        write(json.dumps(check_json(vae, identity, health, found), ensure_ascii=False))
    else:
        write("\n".join(_check_text(vae, identity, health, found)))
    return 0


def _check_text(vae: VaeFile, identity: Identity, health: HeaderHealth, found: Measurement | None) -> list[str]:
    where = words("under {}", vae.prefix) if vae.prefix else words("a file of its own")
    lines = [
        f"{vae.header.path}",
        words("  VAE       {} ({}), {} latent channels", _label(identity), _grade(identity.grade),
              vae.layout.latent_channels),
        words("  stored    {}, {} naming, {}", ", ".join(vae.dtypes), vae.naming, where),
        words("  fp16      {}: {}. {}", words(health.verdict.replace("_", " ")), told(health.reason),
              told(health.advice)),
        *(
            words("  evidence  {}: {} ({}, says {})", _source(clue), told(clue.detail), _grade(clue.grade), clue.says)
            for clue in identity.clues
        ),
    ]  # fmt: skip
    return lines if found is None else [*lines, "", *_measured_text(found)]


def _measured_text(found: Measurement) -> list[str]:
    lines = [f"  {words('layer'):<42}{words('largest'):>14}{words('of 65,504'):>12}"]
    for layer in found.layers:
        mark = words("  overflows") if layer.overflows else ""
        lines.append(f"  {layer.layer:<42}{layer.value:>14,.1f}{layer.value / 65504:>12.1%}{mark}")
    verdict = words("It overflows in fp16" if found.overflows else "It stays within fp16")
    peak = f"{found.peak.value:,.0f}", found.peak.layer
    return [*lines, "", words("  {} on {} inputs; largest {} ({}).", verdict, len(found.inputs), *peak)]


def _label(identity: Identity) -> str:
    """The families by name."""
    from modelsmith.vae.families import FAMILIES

    return words(" or ").join(FAMILIES[family].label for family in identity.families) or words("unknown")


def _grade(grade: str) -> str:
    return GRADES[grade] if language() == "ja" else grade


def _source(clue: Clue) -> str:
    from modelsmith.vae.sentences import SOURCES

    return SOURCES[clue.source] if language() == "ja" else clue.source


def _fix(arguments: argparse.Namespace) -> int:
    from modelsmith.vae.fix import FixRequest, run_fix
    from modelsmith.vae.report import fix_json

    sides: tuple[Side, ...] = ("decoder", "encoder") if arguments.part == "both" else (arguments.part,)
    request = FixRequest(
        source=arguments.source,
        target=arguments.target,
        sides=sides,
        headroom=arguments.headroom,
        calibration=_calibration(arguments),
        hints=_hints(arguments, arguments.source),
        overwrite=arguments.overwrite,
        compare_bf16=arguments.compare_bf16,
    )
    result = run_fix(request, _watch(arguments))
    if arguments.json:
        write(json.dumps(fix_json(result), ensure_ascii=False))
    else:
        write("\n".join(_fix_text(result)))
    return 0


def _fix_text(result: FixResult) -> list[str]:
    before = {layer.layer: layer.value for layer in result.before.layers}
    changed = [layer for layer in result.after.layers if layer.value < 0.75 * before[layer.layer]]
    lines = [f"  {words('layer'):<42}{words('before'):>14}{words('after'):>14}"]
    lines += [f"  {layer.layer:<42}{before[layer.layer]:>14,.1f}{layer.value:>14,.1f}" for layer in changed]
    proof = result.proof
    how = words("calculated in fp16" if proof.native else "every stored value rounded to fp16")
    if proof.small is not None:
        how += words("; calculated in fp16 itself on a small part, largest error {}", f"{proof.small.largest:.1e}")
    peaks = f"{result.before.peak.value:,.0f}", f"{result.after.peak.value:,.0f}"
    error = words("mean error {}", f"{proof.fp16.mean:.1e}")
    if proof.bf16:
        error += words(", the original's in bf16 {}", f"{proof.bf16.mean:.1e}")
    lines += [
        "",
        words("{}: {} tensors scaled by powers of two, headroom {}", result.path, len(result.exponents),
              f"{result.headroom:g}"),
        words("  largest activation {} -> {} (fp16 ends at 65,504)", *peaks),
        words("  fp32 output differs from the original's by {} of its size", f"{proof.fp32.largest:.1e}"),
        words("  fp16 output is finite on all {} inputs ({}); {}", len(result.after.inputs), how, error),
        words("  sha256 {}, {} s", result.sha256, f"{result.seconds:.1f}"),
    ]  # fmt: skip
    if result.inexact:
        lines.append(words("  {} values lost bits below fp16's smallest normal number", result.inexact))
    return lines


def _bake(arguments: argparse.Namespace) -> int:
    from modelsmith.vae.bake import BakeRequest, run_bake
    from modelsmith.vae.report import move_json

    request = BakeRequest(
        checkpoint=arguments.checkpoint,
        vae=arguments.vae,
        target=arguments.target,
        dtype=arguments.dtype,
        force=arguments.force,
        hints=_hints(arguments, arguments.vae),
        overwrite=arguments.overwrite,
    )
    result = run_bake(request, _watch(arguments))
    if arguments.json:
        write(json.dumps(move_json(result), ensure_ascii=False))
    else:
        doubt = "" if result.fit == "fits" else words("; whether it fits cannot be told from the files")
        say("{}: {} tensors of {} baked in{}", result.path, result.tensors, _label(result.identity), doubt)
    return 0


def _extract(arguments: argparse.Namespace) -> int:
    from modelsmith.vae.bake import ExtractRequest, run_extract
    from modelsmith.vae.report import move_json

    request = ExtractRequest(
        source=arguments.source,
        target=arguments.target,
        naming=arguments.naming,
        dtype=arguments.dtype,
        hints=_hints(arguments, arguments.source),
        overwrite=arguments.overwrite,
    )
    result = run_extract(request, _watch(arguments))
    if arguments.json:
        write(json.dumps(move_json(result), ensure_ascii=False))
    else:
        naming = _label(result.identity), arguments.naming
        say("{}: {} tensors of {} in {} naming", result.path, result.tensors, *naming)
    return 0
