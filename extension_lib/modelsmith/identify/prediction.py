"""What a model predicts and whether it was trained with zero terminal SNR: all evidence, in a fixed order.

The order: a yaml beside the file (what the host obeys), marker tensors, metadata, values read from the file, the
step count, the name of the file, and last what models of the family are. The first piece that is no mere hint
decides; any other that disagrees makes a conflict, which is said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from modelsmith.errors import BadFileError
from modelsmith.files.header import FileHeader
from modelsmith.files.ranges import read_values, standard_deviation
from modelsmith.identify.architectures import Architecture, Variant
from modelsmith.identify.messages import say
from modelsmith.identify.report import Evidence, Prediction, PredictionType, evidence
from modelsmith.markers import LAST_ALPHA

OTHER_MARKERS = ("__index_timestep_zero__", "__x0__", "scaled_fp8", "lora_controlnet")
_DISCRETE = ("sd1", "sd2", "sdxl", "sdxl-refiner", "kolors")
_SD2_BIAS = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
_SD2_BIAS_DIFFUSERS = "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias"
# Above it the bias of SD2's last block is that of the v models (ComfyUI supported_models.py, SD20.model_type).
_SD2_BIAS_LIMIT = 0.09
# Last value of alphas_cumprod: 0.00466 by the default schedule (computed), 0 or 4.9e-8 after a ZTSNR rescale.
_ZTSNR_LIMIT = 1e-4

_SPELLINGS: Mapping[str, str] = {
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "v-prediction": "v_prediction",
    "vpred": "v_prediction",
    "epsilon": "epsilon",
    "eps": "epsilon",
    "e": "epsilon",
}


def judge(
    header: FileHeader,
    architecture: Architecture,
    variant: Variant,
    place: tuple[str, frozenset[str]],
    yaml_text: str | None,
) -> Prediction:
    """Weigh all evidence for one diffusion model.

    ``place`` is what stands before its tensors' names in the file, and the names of the file's marker tensors.
    """
    prefix, markers = place
    family = variant.prediction or architecture.prediction
    pieces: list[Evidence] = []
    if architecture.id in _DISCRETE:
        beside, metadata = from_yaml(yaml_text), _from_metadata(header.metadata)
        stated = any(piece.says == "v_prediction" for piece in (*beside, *metadata))
        pieces += [*beside, *_from_markers(architecture.id, markers, stated), *metadata]
        pieces += _from_schedule(header)
        if family == "undetermined":
            pieces += _from_bias(header, prefix)
            pieces += _from_steps(header.scalars)
        pieces += _from_name(header.path.stem)
    else:
        pieces += _foreign_markers(architecture.id, markers)
    if family != "undetermined":
        why = say("why-family", label=architecture.label, variant=variant.id.replace("-or-", " / "))
        pieces.append(evidence("family", why, "default", family))
    return _weigh(pieces, family)


def _weigh(evidence: list[Evidence], family: PredictionType) -> Prediction:
    types = [piece for piece in evidence if piece.says in _TYPES]
    deciding = [piece for piece in types if piece.grade in ("proof", "strong") or piece.source == "bias values"]
    if not deciding:
        deciding = [piece for piece in types if piece.source == "global_step"]
    found: PredictionType = _TYPES[deciding[0].says] if deciding else family
    stray = any(piece.says == "v_prediction" and piece.source == "marker tensor" for piece in types)
    says = {piece.says for piece in deciding}
    conflict = len(says) > 1 or (not deciding and stray)
    return Prediction(found, _ztsnr(evidence, found, bool(deciding)), conflict, tuple(evidence))


_TYPES: Mapping[str, PredictionType] = {
    "epsilon": "epsilon",
    "v_prediction": "v_prediction",
    "flow": "flow",
    "edm": "edm",
    "edm_v_prediction": "edm_v_prediction",
    "cascade": "cascade",
}


def _ztsnr(evidence: list[Evidence], found: PredictionType, decided: bool) -> bool | None:
    """True by evidence, None where a v model does not say or a lone marker raises a doubt, else False."""
    if found not in ("epsilon", "v_prediction", "undetermined"):
        return False
    yes = [piece for piece in evidence if piece.says == "ztsnr" and piece.source != "file name"]
    no = [piece for piece in evidence if piece.says == "no_ztsnr"]
    if any(piece.grade == "strong" for piece in yes):
        return True
    if yes:
        return None
    if found == "v_prediction" and decided and not no:
        return None
    return False


# ---- sources


def from_yaml(text: str | None) -> list[Evidence]:
    """What a config beside the file says, without a yaml parser: two facts are all that is needed.

    ``parameterization: v`` under the model's parameters, or a scaling whose target ends in ``VScaling``.
    """
    if not text:
        return []
    found: list[Evidence] = []
    lines = [line.split("#", 1)[0].rstrip() for line in text[:200_000].splitlines()]
    clean = "\n".join(lines)
    match = re.search(r"""^[ \t-]*["']?parameterization["']?[ \t]*:[ \t]*["']?(\w+)""", clean, re.MULTILINE)
    if match and match.group(1).lower() in _SPELLINGS:
        said = _SPELLINGS[match.group(1).lower()]
        found.append(Evidence("yaml", f"parameterization: {match.group(1)}", "strong", said))
    match = re.search(r"""target["']?[ \t]*:[ \t]*["']?([\w.]*\.)?(EDM|Eps|V|VWithEDMcNoise)Scaling\b""", clean)
    if match:
        kind = match.group(2)
        said = {"Eps": "epsilon", "V": "v_prediction", "EDM": "edm"}.get(kind, "edm_v_prediction")
        found.append(evidence("yaml", say("why-scaling", kind=kind), "strong", said))
    if re.search(
        r"""^[ \t-]*["']?(zsnr|ztsnr|rescale_betas_zero_snr|zero_terminal_snr)["']?[ \t]*:[ \t]*[Tt]rue""", clean, re.M
    ):
        found.append(evidence("yaml", say("why-yaml-ztsnr"), "strong", "ztsnr"))
    return found


def _from_markers(architecture: str, markers: frozenset[str], stated: bool) -> list[Evidence]:
    """``stated``: a yaml or the metadata say v-prediction, so that ``ztsnr`` is no stray where ``v_pred`` counts for
    nothing. Forge and reForge read it on every family."""
    found: list[Evidence] = []
    sdxl = architecture == "sdxl"
    if "edm_vpred.sigma_max" in markers:
        grade = "proof" if sdxl else "weak"
        found.append(Evidence("marker tensor", "edm_vpred.sigma_max (CosXL)", grade, "edm_v_prediction"))
    if "edm_mean" in markers and "edm_std" in markers:
        grade = "proof" if sdxl else "weak"
        found.append(evidence("marker tensor", say("why-edm"), grade, "edm"))
    if "v_pred" in markers:
        # Readers obey it on SDXL, and ComfyUI writes it for SD2; elsewhere it was copied by a merge.
        grade = "strong" if architecture in ("sdxl", "sd2") else "weak"
        found.append(Evidence("marker tensor", "v_pred", grade, "v_prediction"))
    if "ztsnr" in markers:
        with_v = stated or ("v_pred" in markers and architecture in ("sdxl", "sd2"))
        why = say("why-ztsnr" if with_v else "why-ztsnr-alone")
        found.append(evidence("marker tensor", why, "strong" if with_v else "weak", "ztsnr"))
    return found


def _foreign_markers(architecture: str, markers: frozenset[str]) -> list[Evidence]:
    """Markers on a family that has no use for them: shown, and of no effect."""
    names = [name for name in ("v_pred", "ztsnr", "edm_vpred.sigma_max", "edm_mean") if name in markers]
    return [
        evidence("marker tensor", say("why-foreign", name=name, architecture=architecture), "weak", "nothing")
        for name in names
    ]


def _from_metadata(metadata: Mapping[str, str]) -> list[Evidence]:
    found: list[Evidence] = []
    for name in ("modelspec.prediction_type", "modelspec.predict_key", "diffusers.scheduler.prediction_type"):
        said = _SPELLINGS.get(metadata.get(name, "").strip().lower())
        if said:
            found.append(Evidence("metadata", f"{name}: {metadata[name].strip()}", "strong", said))
    architecture = metadata.get("modelspec.architecture", "").lower()
    for ending, said in (("stable-diffusion-v2-768-v", "v_prediction"), ("stable-diffusion-v2-512", "epsilon")):
        if architecture.split("/")[0] == ending:
            found.append(Evidence("metadata", f"modelspec.architecture: {architecture[:80]}", "strong", said))
    for name in ("ss_zero_terminal_snr", "diffusers.scheduler.rescale_betas_zero_snr"):
        if metadata.get(name, "").strip().lower() == "true":
            found.append(Evidence("metadata", f"{name}: True", "strong", "ztsnr"))
    return found


def _from_schedule(header: FileHeader) -> list[Evidence]:
    """The noise schedule that training files keep. It must look like one: a hole in a sparse file is all zeros."""
    name = "alphas_cumprod"
    info = header.tensors.get(name)
    if info is None and LAST_ALPHA in header.metadata:
        return _from_last_alpha(header.metadata[LAST_ALPHA], "why-kept-schedule")
    if info is None or len(info.shape) != 1 or not 10 <= info.shape[0] <= 4096:
        return []
    try:
        values = read_values(header, name, 40_000)
    except BadFileError:
        return []
    if len(values) < 10 or not 0.9 < values[0] <= 1 or any(values[i] < values[i + 1] for i in range(len(values) - 1)):
        return []
    return _from_last_alpha(str(values[-1]), "why-schedule")


def _from_last_alpha(text: str, message_id: str) -> list[Evidence]:
    try:
        last = float(text)
    except ValueError:
        return []
    why = say(message_id, name="alphas_cumprod", last=f"{last:.3g}")
    if 0 <= last < _ZTSNR_LIMIT:
        return [evidence("schedule", why, "strong", "ztsnr")]
    if _ZTSNR_LIMIT <= last < 1:
        return [evidence("schedule", why, "weak", "no_ztsnr")]
    return []


def _from_bias(header: FileHeader, prefix: str) -> list[Evidence]:
    for name in (prefix + _SD2_BIAS, prefix + _SD2_BIAS_DIFFUSERS):
        if name not in header.tensors:
            continue
        try:
            spread = standard_deviation(read_values(header, name))
        except BadFileError:
            return []
        if spread is None or spread < 1e-6:  # all alike: not the weights of a trained model
            return []
        said = "v_prediction" if spread > _SD2_BIAS_LIMIT else "epsilon"
        return [evidence("bias values", say("why-bias", spread=f"{spread:.3f}"), "weak", said)]
    return []


def _from_steps(scalars: Mapping[str, object]) -> list[Evidence]:
    steps = scalars.get("global_step")
    if steps == 875_000:  # SD 2.0 base (diffusers single_file_utils.py)
        return [evidence("global_step", say("why-steps", steps=steps, name="SD 2.0 base"), "weak", "epsilon")]
    if steps == 110_000:  # SD 2.1 768 (diffusers convert_from_ckpt.py)
        return [evidence("global_step", say("why-steps", steps=steps, name="SD 2.1 768-v"), "weak", "v_prediction")]
    return []


_NAME_HINTS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"cos[-_ ]?xl", re.I), "edm_v_prediction"),
    (re.compile(r"v[-_ ]?pred|(?<![a-z])v[-_ ]?prediction|768[-_]?v(?![a-z0-9])", re.I), "v_prediction"),
    (re.compile(r"(?<![a-z])(eps|epsilon)([-_ ]?pred)?(?![a-z])", re.I), "epsilon"),
    (re.compile(r"(?<![a-z])(zt?snr|zero[-_ ]?(terminal[-_ ]?)?snr)(?![a-z])", re.I), "ztsnr"),
    (re.compile(r"rectified|(?<![a-z])rf(?![a-z])", re.I), "flow"),
)


def _from_name(stem: str) -> list[Evidence]:
    return [Evidence("file name", stem[:120], "weak", said) for pattern, said in _NAME_HINTS if pattern.search(stem)]
