"""From what a file is to what a host should be told: prediction type, ZTSNR and the config that fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from modelsmith.identify.report import Report

PredictionChoice = Literal["auto", "epsilon", "v_prediction"]
ZtsnrChoice = Literal["auto", "on", "off"]
DiscreteType = Literal["epsilon", "v_prediction"]
ConfigBase = Literal[
    "sd1",
    "sd1-inpainting",
    "sd1-pix2pix",
    "sd2",
    "sd2-inpainting",
    "sd2-depth",
    "sd2-unclip-l",
    "sd2-unclip-h",
    "sdxl",
    "sdxl-inpainting",
    "sdxl-refiner",
]

# The architectures whose prediction type and schedule a host may be told. All others bring their own.
DISCRETE_ARCHITECTURES = frozenset({"sd1", "sd2", "sdxl", "sdxl-refiner"})

_SPECIAL_CONFIGS: dict[tuple[str, str], ConfigBase] = {
    ("sd1", "inpainting"): "sd1-inpainting",
    ("sd1", "instruct-pix2pix"): "sd1-pix2pix",
    ("sd2", "inpainting"): "sd2-inpainting",
    ("sd2", "depth"): "sd2-depth",
    ("sd2", "unclip-l"): "sd2-unclip-l",
    ("sd2", "unclip-h"): "sd2-unclip-h",
    ("sdxl", "inpainting"): "sdxl-inpainting",
}
_PLAIN_CONFIGS: dict[str, ConfigBase] = {"sd1": "sd1", "sd2": "sd2", "sdxl": "sdxl", "sdxl-refiner": "sdxl-refiner"}
# Variants that need another model class than the plain config builds.
_VARIANTS_WITHOUT_CONFIG = frozenset({"x4-upscaler", "unclip", "ssd-1b", "segmind-vega", "instruct-pix2pix"})


def _share(value: object) -> float | None:
    """A number from 0 to 1, also as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if 0.0 <= found <= 1.0 else None


@dataclass(frozen=True)
class Override:
    """What the user set for one file, or for one picture. "auto" leaves the choice to the evidence.

    ``vae`` None means no preference; ``cfg_rescale`` (0 to 1) None means what the settings say.
    """

    prediction: PredictionChoice = "auto"
    ztsnr: ZtsnrChoice = "auto"
    vae: str | None = None
    cfg_rescale: float | None = None

    @property
    def is_auto(self) -> bool:
        return self == Override()

    def to_json(self) -> dict[str, str]:
        """Only what differs from automatic, as it is kept beside the checkpoint."""
        rescale = "auto" if self.cfg_rescale is None else f"{self.cfg_rescale:g}"
        values = {
            "prediction": self.prediction,
            "ztsnr": self.ztsnr,
            "vae": self.vae or "auto",
            "cfg_rescale": rescale,
        }
        return {name: value for name, value in values.items() if value != "auto"}

    @staticmethod
    def from_json(values: object) -> Override:
        """Read what :meth:`to_json` wrote. Anything else counts as automatic: a damaged entry must not stop a load."""
        if not isinstance(values, dict):
            return Override()
        found: dict[object, object] = dict(values)  # pyright: ignore[reportUnknownArgumentType]
        prediction, ztsnr, vae = found.get("prediction"), found.get("ztsnr"), found.get("vae")
        return Override(
            prediction=prediction if prediction in ("epsilon", "v_prediction") else "auto",
            ztsnr=ztsnr if ztsnr in ("on", "off") else "auto",
            vae=vae if isinstance(vae, str) and vae != "auto" else None,
            cfg_rescale=_share(found.get("cfg_rescale")),
        )

    def over(self, other: Override) -> Override:
        """This one where it says something, ``other`` where it does not."""
        return Override(
            prediction=other.prediction if self.prediction == "auto" else self.prediction,
            ztsnr=other.ztsnr if self.ztsnr == "auto" else self.ztsnr,
            vae=other.vae if self.vae is None else self.vae,
            cfg_rescale=other.cfg_rescale if self.cfg_rescale is None else self.cfg_rescale,
        )


@dataclass(frozen=True)
class ConfigKey:
    """Which model config a host that builds from a yaml should use."""

    base: ConfigBase
    v_prediction: bool


@dataclass(frozen=True)
class Decision:
    """What a host is to be told about one file.

    ``prediction`` None means: leave the host alone (flow, EDM, unknown, or switched off); ``ztsnr`` is False then.
    ``source`` names the strongest reason, ``reasons`` are lines for a person. ``ztsnr_said``: a person said it for the
    file or the picture, which goes before an option of the whole webui; what was found in the file does not.
    """

    prediction: DiscreteType | None
    ztsnr: bool
    source: str
    reasons: tuple[str, ...]
    config: ConfigKey | None
    ztsnr_said: bool = False


def _config(report: Report, v_prediction: bool) -> ConfigKey | None:
    architecture, variant = report.architecture or "", report.variant or ""
    if report.kind not in ("checkpoint", "diffusion_model"):
        return None
    special = _SPECIAL_CONFIGS.get((architecture, variant))
    if special is not None:
        return ConfigKey(special, v_prediction)
    if architecture not in _PLAIN_CONFIGS or variant in _VARIANTS_WITHOUT_CONFIG:
        return None
    return ConfigKey(_PLAIN_CONFIGS[architecture], v_prediction)


def _leave_alone(source: str, reason: str) -> Decision:
    return Decision(prediction=None, ztsnr=False, source=source, reasons=(reason,), config=None)


def _prediction(report: Report, override: Override, image: Override) -> tuple[DiscreteType | None, str, str]:
    """The type, its source and a line that says why."""
    if image.prediction != "auto":
        return image.prediction, "image", f"prediction {image.prediction}: set for this picture"
    if override.prediction != "auto":
        return override.prediction, "override", f"prediction {override.prediction}: set by you for this file"
    found = report.prediction
    if found.type not in ("epsilon", "v_prediction"):
        return None, "evidence", f"prediction {found.type}: the webui keeps its own setting"
    best = next((e for e in found.evidence if e.says == found.type), None)
    if best is None:
        return found.type, "default", f"prediction {found.type}: what models of this family are"
    return found.type, best.source, f"prediction {found.type}: {best.detail} ({best.grade})"


def _ztsnr(report: Report, override: Override, image: Override, prediction: DiscreteType) -> tuple[bool, str]:
    if image.ztsnr != "auto":
        return image.ztsnr == "on", f"ZTSNR {image.ztsnr}: set for this picture"
    if override.ztsnr != "auto":
        return override.ztsnr == "on", f"ZTSNR {override.ztsnr}: set by you for this file"
    # ZTSNR on an epsilon model is the worst quiet error, a strong tint on every picture: only the user may ask for it.
    if prediction == "epsilon":
        if report.prediction.zero_terminal_snr:
            return False, "ZTSNR off: the file asks for it, but an epsilon model cannot use it"
        return False, "ZTSNR off: epsilon model"
    if report.prediction.zero_terminal_snr:
        return True, "ZTSNR on: the file says so"
    if report.prediction.zero_terminal_snr is None:
        return False, "ZTSNR off: the file does not say; switch it on for this file if you know that it has it"
    return False, "ZTSNR off: the file says so"


def decide(
    report: Report,
    override: Override | None = None,
    *,
    image: Override | None = None,
    enabled: bool = True,
) -> Decision:
    """What to set for the file behind ``report``.

    What is set for one picture (``image``) goes before the override of the file, that one before the evidence. A
    conflict between pieces of evidence is decided by their order and said in ``reasons``. Nothing is decided for
    families that are not sampled on a discrete schedule.
    """
    override, image = override or Override(), image or Override()
    if not enabled:
        return _leave_alone("off", "automatic handling is switched off")
    if report.error is not None:
        return _leave_alone("unreadable", report.error)
    if report.architecture not in DISCRETE_ARCHITECTURES:
        name = report.architecture or "unknown"
        return _leave_alone("evidence", f"{name}: the webui keeps its own prediction and schedule")
    if report.prediction.type in ("edm", "edm_v_prediction") and image.over(override).prediction == "auto":
        return _leave_alone("evidence", f"{report.prediction.type}: a continuous schedule, which is left to the webui")
    prediction, source, reason = _prediction(report, override, image)
    if prediction is None:
        return Decision(None, False, source, (reason,), None)
    ztsnr, ztsnr_reason = _ztsnr(report, override, image, prediction)
    reasons = [reason, ztsnr_reason]
    if report.prediction.conflict:
        reasons.append("the file contradicts itself about its prediction type; see its report")
    config = _config(report, prediction == "v_prediction")
    return Decision(prediction, ztsnr, source, tuple(reasons), config, image.over(override).ztsnr != "auto")
