"""``modelsmith vae check | fix | bake | extract``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelsmith.vae.calibration import CalibrationOptions
    from modelsmith.vae.families import Hints, Identity
    from modelsmith.vae.fix import FixResult
    from modelsmith.vae.health import HeaderHealth, Measurement
    from modelsmith.vae.layout import Side, VaeFile
    from modelsmith.vae.measure import Watch

_FAMILIES = ("sd", "sdxl", "x4-upscaler", "sd3", "flux1", "flux2")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:  # pyright: ignore[reportPrivateUsage]
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
    bake.add_argument("checkpoint", type=Path)
    bake.add_argument("vae", type=Path)
    bake.add_argument("target", type=Path, metavar="OUT", help="the new .safetensors file")
    bake.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), help="write the VAE so (default: as it is)")
    bake.add_argument("--force", action="store_true", help="bake a VAE of another family too")
    _add_common(bake, writes=True)
    bake.set_defaults(run=_bake)

    extract = actions.add_parser("extract", help="take the VAE out of a checkpoint, or respell a VAE")
    extract.add_argument("source", type=Path, metavar="IN")
    extract.add_argument("target", type=Path, metavar="OUT", help="the new .safetensors file")
    extract.add_argument("--naming", choices=("ldm", "diffusers"), default="ldm", help="spelling (default: ldm)")
    extract.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), help="write it so (default: as it is)")
    _add_common(extract, writes=True)
    extract.set_defaults(run=_extract)


def _add_common(parser: argparse.ArgumentParser, writes: bool = False) -> None:
    parser.add_argument("--family", choices=_FAMILIES, help="what the VAE belongs to, where you know it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    if writes:
        parser.add_argument("--overwrite", action="store_true", help="replace OUT where it exists")


def _add_calibration(parser: argparse.ArgumentParser) -> None:
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
            print(f"{stage} …", file=sys.stderr, flush=True)

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
        print(json.dumps(check_json(vae, identity, health, found), ensure_ascii=False))
    else:
        print("\n".join(_check_text(vae, identity, health, found)))
    return 0


def _check_text(vae: VaeFile, identity: Identity, health: HeaderHealth, found: Measurement | None) -> list[str]:
    where = f"under {vae.prefix}" if vae.prefix else "a file of its own"
    lines = [
        f"{vae.header.path}",
        f"  VAE       {identity.label()} ({identity.grade}), {vae.layout.latent_channels} latent channels",
        f"  stored    {', '.join(vae.dtypes)}, {vae.naming} naming, {where}",
        f"  fp16      {health.verdict.replace('_', ' ')}: {health.reason}. {health.advice}",
    ]
    lines += [f"  evidence  {clue.source}: {clue.detail} ({clue.grade}, says {clue.says})" for clue in identity.clues]
    if found is not None:
        lines += ["", f"  {'layer':<42}{'largest':>14}{'of 65,504':>12}"]
        for layer in found.layers:
            mark = "  overflows" if layer.overflows else ""
            lines.append(f"  {layer.layer:<42}{layer.value:>14,.1f}{layer.value / 65504:>12.1%}{mark}")
        verdict = "It overflows in fp16" if found.overflows else "It stays within fp16"
        lines += [
            "",
            f"  {verdict} on {len(found.inputs)} inputs; largest {found.peak.value:,.0f} ({found.peak.layer}).",
        ]
    return lines


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
        print(json.dumps(fix_json(result), ensure_ascii=False))
    else:
        print("\n".join(_fix_text(result)))
    return 0


def _fix_text(result: FixResult) -> list[str]:
    before = {layer.layer: layer.value for layer in result.before.layers}
    changed = [layer for layer in result.after.layers if layer.value < 0.75 * before[layer.layer]]
    lines = [f"  {'layer':<42}{'before':>14}{'after':>14}"]
    lines += [f"  {layer.layer:<42}{before[layer.layer]:>14,.1f}{layer.value:>14,.1f}" for layer in changed]
    proof = result.proof
    how = "calculated in fp16" if proof.native else "every stored value rounded to fp16"
    if proof.small is not None:
        how += f"; calculated in fp16 itself on a small part, largest error {proof.small.largest:.1e}"
    lines += [
        "",
        f"{result.path}: {len(result.exponents)} tensors scaled by powers of two, headroom {result.headroom:g}",
        f"  largest activation {result.before.peak.value:,.0f} -> {result.after.peak.value:,.0f} (fp16 ends at 65,504)",
        f"  fp32 output differs from the original's by {proof.fp32.largest:.1e} of its size",
        f"  fp16 output is finite on all {len(result.after.inputs)} inputs ({how}); "
        f"mean error {proof.fp16.mean:.1e}" + (f", the original's in bf16 {proof.bf16.mean:.1e}" if proof.bf16 else ""),
        f"  sha256 {result.sha256}, {result.seconds:.1f} s",
    ]
    if result.inexact:
        lines.append(f"  {result.inexact} values lost bits below fp16's smallest normal number")
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
        print(json.dumps(move_json(result), ensure_ascii=False))
    else:
        doubt = "" if result.fit == "fits" else "; whether it fits cannot be told from the files"
        print(f"{result.path}: {result.tensors} tensors of {result.identity.label()} baked in{doubt}")
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
        print(json.dumps(move_json(result), ensure_ascii=False))
    else:
        print(f"{result.path}: {result.tensors} tensors of {result.identity.label()} in {arguments.naming} naming")
    return 0
