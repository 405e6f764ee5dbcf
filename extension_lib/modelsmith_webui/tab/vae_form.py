"""What stands in the VAE view's fields, and the work that it amounts to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from modelsmith.errors import UsageError
from modelsmith_webui.host import Host, ModelFile
from modelsmith_webui.places import output_beside, output_of_kind
from modelsmith_webui.tab.compat import file_path
from modelsmith_webui.tab.convert_words import FAMILIES, NAMINGS, VAE_ACTIONS, VAE_PRECISIONS
from modelsmith_webui.tab.files import find_labelled
from modelsmith_webui.tab.words import id_of

if TYPE_CHECKING:
    from modelsmith.vae.bake import BakeRequest, ExtractRequest
    from modelsmith.vae.calibration import CalibrationOptions
    from modelsmith.vae.families import Hints, Identity
    from modelsmith.vae.fix import FixRequest
    from modelsmith.vae.layout import VaeFile


@dataclass(frozen=True)
class VaeForm:
    """The fields in the order of the view's ``inputs``; texts are those that the page shows."""

    file: str | None = None
    said: str = "what the file says"
    action: str = "Measure"
    checkpoint: str | None = None
    force: bool = False
    precision: str = "as it is"
    naming: str = "original (ldm)"
    name: str = ""
    overwrite: bool = False
    pictures: Any = ()

    @staticmethod
    def from_values(values: Sequence[Any]) -> VaeForm:
        """Take the values in the order of the fields; a field that was cleared gets its default."""
        given = dict(zip((field.name for field in fields(VaeForm)), values, strict=True))
        return VaeForm(**{name: value for name, value in given.items() if value is not None})

    @property
    def what(self) -> str:
        """The action's id."""
        return id_of(VAE_ACTIONS, self.action)

    def chosen(self, host: Host) -> ModelFile:
        """The VAE, or the checkpoint that holds it. Raises UsageError, UnknownNameError."""
        if not self.file:
            raise UsageError("no VAE is chosen", "Choose a VAE, or a checkpoint with one in it")
        return find_labelled(host, self.file)

    def calibration(self) -> CalibrationOptions:
        """What the VAE is run on: made-up latents, and the pictures that were given."""
        from modelsmith.vae.calibration import CalibrationOptions

        given = self.pictures if isinstance(self.pictures, (list, tuple)) else [self.pictures]
        paths = (file_path(one) for one in cast("Sequence[Any]", given))
        return CalibrationOptions(images=tuple(Path(path) for path in paths if path))

    def hints(self, host: Host, file: ModelFile) -> Hints:
        from modelsmith_webui.vae_hints import hints

        return hints(host, file, id_of(FAMILIES, self.said))

    def look(self, host: Host, file: ModelFile) -> tuple[VaeFile, Identity]:
        """The VAE in a file and what it is, from the header. Raises BadFileError for a file without one."""
        from modelsmith.files.header import read_header
        from modelsmith.vae.company import with_company
        from modelsmith.vae.families import identify_vae
        from modelsmith.vae.layout import find_vae

        vae = find_vae(read_header(file.path))
        return vae, identify_vae(vae, with_company(vae, self.hints(host, file)))

    def target(self, host: Host, file: ModelFile) -> Path:
        """The new file. Raises UsageError for a name that is no plain file name, or a missing choice."""
        stem = file.path.stem
        if self.what == "bake":
            checkpoint = self.into(host)
            return output_beside(checkpoint, self.name, f"{checkpoint.path.stem}-{stem}")
        if self.what == "extract" and file.kind != "vae":
            return output_of_kind(host, "vae", self.name, stem, "-vae")
        ending = "fp16-cured" if self.what == "fix" else id_of(NAMINGS, self.naming)
        return output_beside(file, self.name, stem, f"-{ending}")

    def into(self, host: Host) -> ModelFile:
        """The checkpoint that the VAE is put into. Raises UsageError, UnknownNameError."""
        if not self.checkpoint:
            raise UsageError("the checkpoint to put the VAE into is not chosen", "Choose it")
        return find_labelled(host, self.checkpoint)

    def fix(self, host: Host, file: ModelFile) -> FixRequest:
        from modelsmith.vae.fix import FixRequest

        return FixRequest(
            file.path,
            self.target(host, file),
            calibration=self.calibration(),
            hints=self.hints(host, file),
            overwrite=self.overwrite,
            compare_bf16=True,
        )

    def bake(self, host: Host, file: ModelFile) -> BakeRequest:
        from modelsmith.vae.bake import BakeRequest

        return BakeRequest(
            self.into(host).path,
            file.path,
            self.target(host, file),
            dtype=VAE_PRECISIONS.get(self.precision),
            force=self.force,
            hints=self.hints(host, file),
            overwrite=self.overwrite,
        )

    def extract(self, host: Host, file: ModelFile) -> ExtractRequest:
        from modelsmith.vae.bake import ExtractRequest

        return ExtractRequest(
            file.path,
            self.target(host, file),
            naming=cast("Literal['ldm', 'diffusers']", id_of(NAMINGS, self.naming)),
            dtype=VAE_PRECISIONS.get(self.precision),
            hints=self.hints(host, file),
            overwrite=self.overwrite,
        )
