"""What stands in the Convert view's fields, and the work that it amounts to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from modelsmith.errors import UsageError
from modelsmith.files.names import made_name
from modelsmith_webui.host import Host, ModelFile
from modelsmith_webui.places import output_beside, output_folder, output_of_kind
from modelsmith_webui.tab.compat import file_path
from modelsmith_webui.tab.convert_files import chosen_files
from modelsmith_webui.tab.convert_words import (
    ACTIONS,
    EMA_CHOICES,
    LAYOUTS,
    PART_ACTIONS,
    PART_CHOICES,
    PART_PRECISIONS,
    TOLD,
)
from modelsmith_webui.tab.files import find_labelled
from modelsmith_webui.tab.words import id_of

if TYPE_CHECKING:
    from modelsmith.convert.components import Layout
    from modelsmith.convert.jobs import ConvertJob
    from modelsmith.convert.publish import PublishOptions
    from modelsmith.convert.repair import RepairOptions

MANY = ("convert", "prune", "repair", "share", "verify")
"""The actions that work on several files at once."""

WRITES = ("convert", "prune", "repair", "parts", "share")
_SUFFIX = {"convert": "converted", "prune": "pruned", "repair": "repaired", "share": "shared"}
_FOLDER_OF_PART = {"unet": "checkpoint", "vae": "vae"}


@dataclass(frozen=True)
class ConvertForm:
    """The fields in the order of the view's ``inputs``; texts are those that the page shows."""

    file: str | None = None
    only: str = ""
    action: str = "Convert"
    unet: str = "as it is"
    encoders: str = "as it is"
    vae: str = "as it is"
    clip: bool = False
    pruning: bool = False
    ema: str = "leave them out"
    keep_schedule: bool = False
    told: str = "what the file says"
    donor: str | None = None
    part_action: str = "take one out"
    part: str = "VAE"
    part_donor: str | None = None
    layout: str = "as it is"
    title: str = ""
    author: str = ""
    license: str = ""
    resolution: str = ""
    thumbnail: Any = None
    remove_private: bool = False
    other: str | None = None
    check_values: bool = True
    check_hash: bool = False
    hash_list: str = ""
    name: str = ""
    overwrite: bool = False

    @staticmethod
    def from_values(values: Sequence[Any]) -> ConvertForm:
        """Take the values in the order of the fields; a field that was cleared gets its default."""
        names = [field.name for field in fields(ConvertForm)]
        given = dict(zip(names, values, strict=True))
        return ConvertForm(**{name: value for name, value in given.items() if value is not None})

    @property
    def what(self) -> str:
        """The action's id."""
        return id_of(ACTIONS, self.action)

    def chosen(self, host: Host) -> list[ModelFile]:
        """The files to work on. Raises UnknownNameError, and UsageError for several where one is wanted."""
        found = chosen_files(host, self.file, self.only) if self.file else []
        if len(found) > 1 and self.what not in MANY:
            raise UsageError(f"{len(found)} files are chosen, and this is done one file at a time", "Choose one")
        return found

    @property
    def lacks_a_file(self) -> bool:
        """Whether the second file, which some actions need, is still to be chosen."""
        putting = self.what == "parts" and self.part_work == "put" and not self.part_donor
        return bool(self.file) and (putting or (self.what == "compare" and not self.other))

    def precision(self) -> str:
        """As :func:`modelsmith.convert.precision.parse_precision` reads it; empty where all stays as it is."""
        chosen = {"unet": self.unet, "te": self.encoders, "vae": self.vae}
        known = {part: id_of(PART_PRECISIONS, word) for part, word in chosen.items()}
        return ",".join(f"{part}={label}" for part, label in known.items() if label != "keep")

    def job(self, host: Host) -> ConvertJob:
        """The conversion for Convert, Prune and Parts. Raises UsageError where a choice is missing."""
        from modelsmith.convert.jobs import ConvertJob
        from modelsmith.convert.prune import Ema, PruneOptions

        if self.what == "prune":
            ema = cast(Ema, id_of(EMA_CHOICES, self.ema))
            return ConvertJob(prune=PruneOptions(ema=ema, schedule=not self.keep_schedule))
        if self.what == "parts":
            return self._parts(host)
        return ConvertJob(precision=self.precision(), clip=self.clip, prune=PruneOptions() if self.pruning else None)

    @property
    def part_work(self) -> str:
        """What Parts does: only, drop, put or names."""
        return id_of(PART_ACTIONS, self.part_action)

    @property
    def part_id(self) -> str:
        return id_of(PART_CHOICES, self.part)

    def _parts(self, host: Host) -> ConvertJob:
        from modelsmith.convert.jobs import ConvertJob

        layout = cast("Layout | None", id_of(LAYOUTS, self.layout) or None)
        if self.part_work == "names":
            if layout is None:
                raise UsageError("no spelling is chosen", "Choose the original names or those of diffusers")
            return ConvertJob(layout=layout)
        if self.part_work == "only":
            return ConvertJob(only=self.part_id, layout=layout)
        if self.part_work == "drop":
            return ConvertJob(drop=(self.part_id,))
        if not self.part_donor:
            raise UsageError("the file that gives the part is not chosen", "Choose it")
        return ConvertJob(put=((self.part_id, find_labelled(host, self.part_donor).path),))

    def repair_options(self, host: Host) -> RepairOptions:
        from modelsmith.convert.repair import RepairOptions

        donor = find_labelled(host, self.donor).path if self.donor else None
        return RepairOptions(id_of(TOLD, self.told) or None, donor)

    def publish_options(self, file: ModelFile) -> PublishOptions:
        """What the author decided about one file."""
        from modelsmith.convert.publish import PublishOptions

        def text(value: str) -> str | None:
            return value.strip() or None

        return PublishOptions(
            name=text(self.name) or self.suggestion(file),
            title=text(self.title),
            author=text(self.author),
            license=text(self.license),
            resolution=text(self.resolution),
            thumbnail=Path(picture) if (picture := file_path(self.thumbnail)) else None,
            remove_private=self.remove_private,
        )

    def shared_options(self) -> PublishOptions:
        """What the author decided about several files. Raises UsageError for what only one file can have."""
        from modelsmith.convert.publish import PublishOptions

        if self.title.strip() or self.thumbnail is not None:
            raise UsageError("a title and a picture are for one file", "Leave them empty for several")
        author, license, size = (text.strip() or None for text in (self.author, self.license, self.resolution))
        return PublishOptions(author=author, license=license, resolution=size, remove_private=self.remove_private)

    def suggestion(self, file: ModelFile) -> str:
        """A name for the new file that says what was done."""
        from modelsmith.convert.publish import suggest_name

        stem = file.path.stem
        if self.what == "share":
            name = suggest_name(file.path, self.title.strip() or None)
            return made_name(name, "-fp16") if name == stem else name
        if self.what == "convert":
            kinds = {item.partition("=")[2] for item in self.precision().split(",") if item}
            return made_name(stem, f"-{kinds.pop() if len(kinds) == 1 else 'converted'}")
        if self.what == "parts":
            words = {"only": self.part_id, "drop": f"no-{self.part_id}", "put": f"with-{self.part_id}"}
            return made_name(stem, f"-{words.get(self.part_work) or id_of(LAYOUTS, self.layout) or 'names'}")
        return made_name(stem, f"-{_SUFFIX.get(self.what, 'new')}")

    def target(self, host: Host, file: ModelFile) -> Path:
        """The new file of one input. Raises UsageError for a name that is no plain file name."""
        if self.what == "parts" and self.part_work == "only":
            kind = _FOLDER_OF_PART.get(self.part_id, "text_encoder")
            return output_of_kind(host, kind, self.name, self.suggestion(file))
        return output_beside(file, self.name, self.suggestion(file))

    def target_folder(self, host: Host) -> Path:
        """The folder for the results of several inputs. Raises UsageError."""
        return output_folder(host, self.name, _SUFFIX.get(self.what, "new"))
