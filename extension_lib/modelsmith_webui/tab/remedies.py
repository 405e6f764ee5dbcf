"""What would make a merge work that the guard refuses, or keep what it would lose: each as a form that a click puts in.

Nothing is offered that was not planned first and found to pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from modelsmith.errors import BadFileError, ModelsmithError, UnknownNameError, UsageError
from modelsmith_webui.host import Host
from modelsmith_webui.tab.block_editor import weights_text
from modelsmith_webui.tab.files import short_name
from modelsmith_webui.tab.merge_form import MergeForm, layout_of, methods
from modelsmith_webui.tab.texts import Texts

if TYPE_CHECKING:
    from modelsmith.merge.blocks import BlockLayout
    from modelsmith.merge.plan import MergePlan

PRESET_TEXTS = {
    "OUT_FROM_A": "Take the output blocks from A alone",
    "OUT_FROM_B": "Take the output blocks from B alone",
    "PARTS_ONLY": "Mix only text encoders and VAE",
}
ADD_DIFFERENCE = "add_difference"
# What the page asks for with the button that makes a file of a recipe checkpoint, before the checkpoint's name.
SAVE_FIRST = "save "


@dataclass(frozen=True)
class Remedy:
    """One way out: an id by which the page asks for it, what the button says, and the fields as they would be."""

    id: str
    label: str
    form: MergeForm


class Remedies:
    """Finds the remedies for a form."""

    def __init__(self, host: Host, tr: Texts) -> None:
        self.host, self.tr = host, tr

    def for_error(self, form: MergeForm, error: ModelsmithError) -> list[Remedy]:
        """The ways out of what stands in the way of a merge."""
        from modelsmith.merge.guard import PredictionMixError

        if isinstance(error, PredictionMixError):
            found = [*self._difference(form), *self._presets(form, error.preset)]
            return [remedy for remedy in found if self._passes(remedy.form)]
        return [*self._saved_first(form, error), *self._name_taken(form), *self._cleared(form, error)]

    def for_plan(self, form: MergeForm, plan: MergePlan) -> list[Remedy]:
        """What keeps whole what a merge that may be done would lose."""
        wanted = dict.fromkeys(notice.preset for notice in plan.notices if notice.preset)
        found = [remedy for preset in wanted for remedy in self._preset(form, plan.layout, preset)]
        return [remedy for remedy in found if self._passes(remedy.form)]

    def find(self, form: MergeForm, wanted: str) -> Remedy | None:
        """The remedy with this id, as it is for the form as it is now."""
        from modelsmith.merge.plan import plan_merge

        try:
            found = self.for_plan(form, plan_merge(form.request(self.host)))
        except ModelsmithError as error:
            found = self.for_error(form, error)
        return next((remedy for remedy in found if remedy.id == wanted), None)

    def _passes(self, form: MergeForm) -> bool:
        from modelsmith.merge.plan import plan_merge

        if form.missing():
            return form.spec.id == ADD_DIFFERENCE  # C is left to choose
        try:
            plan_merge(form.request(self.host))
        except ModelsmithError:
            return False
        return True

    def _difference(self, form: MergeForm) -> Iterator[Remedy]:
        """Carry B − C over, where a v-prediction model was to be mixed with an epsilon model."""
        from modelsmith.identify import identify

        files = form.chosen(self.host)
        if form.spec.effect != "sum" or len(files) < 2:
            return
        kinds = {file.name: identify(file.path) for file in files}
        epsilon = [name for name, report in kinds.items() if report.prediction.type == "epsilon"]
        v = [name for name, report in kinds.items() if report.prediction.type == "v_prediction"]
        if not epsilon or not v:
            return
        label = next(label for label, spec in methods().items() if spec.id == ADD_DIFFERENCE)
        parent = self._parent(kinds[v[0]].architecture, {epsilon[0], v[0]}, epsilon[1:])
        changed = replace(
            form, models=(epsilon[0], v[0], parent), method=label, parameters={"alpha": 1.0}, block_texts={}, rules={}
        )
        if parent:
            text = self.tr("Add difference with C = {c}", c=short_name(parent))
        else:
            of = short_name(v[0])
            text = self.tr("Switch to add difference, then choose C: the epsilon model that {v} was made from", v=of)
        yield Remedy("difference", text, changed)

    def _parent(self, architecture: str | None, taken: set[str], first: Sequence[str]) -> str | None:
        """The only other epsilon model of the architecture that is known; with several, the user has to say."""
        from modelsmith_webui.library import library_of

        if first:
            return first[0]
        rows = [row for row in library_of(self.host).rows() if row.report]
        names = [
            row.file.name
            for row in rows
            if row.report is not None
            and row.file.kind == "checkpoint"
            and row.file.name not in taken
            and row.report.get("architecture") == architecture
            and (row.report.get("prediction") or {}).get("type") == "epsilon"
        ]
        return names[0] if len(names) == 1 else None

    def _saved_first(self, form: MergeForm, error: ModelsmithError) -> Iterator[Remedy]:
        """A recipe checkpoint among the models: made into a file, it can be merged."""
        from modelsmith_webui.recipe_loading import is_recipe

        if not isinstance(error, BadFileError):
            return
        for file in form.chosen(self.host):
            if str(file.path) == error.path and is_recipe(file.path):
                name = short_name(file.name)
                yield Remedy(SAVE_FIRST + file.name, self.tr("Save {name} as a file", name=name), form)

    def _presets(self, form: MergeForm, offered: str | None) -> Iterator[Remedy]:
        layout, _ = layout_of(form.chosen(self.host)[0])
        names = ([offered] if offered else []) + ["PARTS_ONLY"]
        for preset in dict.fromkeys(names):
            yield from self._preset(form, layout, preset)

    def _preset(self, form: MergeForm, layout: BlockLayout, preset: str) -> Iterator[Remedy]:
        """The weights as they are, with those of a preset over them."""
        from modelsmith.merge.blocks import parse_weights, preset_weights

        first = next((parameter for parameter in form.spec.parameters if parameter.per_block), None)
        if first is None:
            return
        base = form.parameters.get(first.id, first.default)
        try:
            text = form.block_texts.get(first.id, "").strip()
            weights = (parse_weights(text, layout) if text else {}) | preset_weights(preset, layout)
        except ModelsmithError:
            return
        texts = {**form.block_texts, first.id: weights_text(layout, weights, base)}
        label = (
            self.tr(PRESET_TEXTS[preset]) if preset in PRESET_TEXTS else self.tr("Use the preset {name}", name=preset)
        )
        yield Remedy(f"preset:{preset}", label, replace(form, block_texts=texts))

    def _cleared(self, form: MergeForm, error: ModelsmithError) -> Iterator[Remedy]:
        """Without weights that were made for the blocks of another architecture."""
        changed = replace(form, block_texts={})
        if (
            isinstance(error, (UsageError, UnknownNameError))
            and any(form.block_texts.values())
            and self._passes(changed)
        ):
            yield Remedy("clear", self.tr("Clear the block weights"), changed)

    def _name_taken(self, form: MergeForm) -> Iterator[Remedy]:
        if form.missing() or form.overwrite:
            return
        try:
            path = form.output(self.host, form.chosen(self.host))
        except ModelsmithError:
            return
        if not path.exists():
            return
        free = next(name for name in _numbered(path.stem) if not path.with_name(f"{name}{path.suffix}").exists())
        yield Remedy("another", self.tr("Call it {name}", name=free), replace(form, name=free))
        yield Remedy("replace", self.tr("Replace the old file"), replace(form, overwrite=True))


def _numbered(stem: str) -> Iterator[str]:
    number = 2
    while True:
        yield f"{stem}-{number}"
        number += 1
