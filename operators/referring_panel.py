"""The Referring panel: type expressions, see who is meant.

On an open sample the answers come at once, as a picture, in words and as the model's raw text, and are kept in the field
``asked``. On the grid the same form starts the "Apply expressions" operator on the view, the selection or the dataset.
"""

from __future__ import annotations

import re
from dataclasses import asdict, fields

import fiftyone.operators as foo
from fiftyone.core import media as fom
from fiftyone.operators import types

from fiftyone_rexseek.errors import ReferringError
from fiftyone_rexseek.integration import ask as asking
from fiftyone_rexseek.integration.fields import detections_fields
from fiftyone_rexseek.models.registry import ENTRIES

from .base import PLUGIN, invalid
from .calling import plural
from .layout import COLUMN, NARROW_TABLE, show
from .targets import open_sample

#: Questions kept per dataset.
HISTORY_LENGTH = 30
STORE = "rexseek_referring"
#: Of the twelve columns of a form, for fields that stand side by side.
_COLUMNS = 4
#: Characters shown of an expression, a raw answer or a line of the history.
_LONGEST = 300
_LABELS = {"weights": "Local weights", "candidates": "Candidates", **asking.THRESHOLDS}
_VIDEOS = "Use fiftyone_rexseek.integration.video.apply_to_video in Python."


class ReferringPanel(foo.Panel):
    @property
    def config(self):
        return foo.PanelConfig(
            name="referring_panel",
            label="Referring",
            icon="person_search",
            surfaces="grid modal",
            allow_multiple=False,
            help_markdown="Type one or more referring expressions, one a line, and ask a model who is meant.",
        )

    # -- events ---------------------------------------------------------------------------------------------------------

    def on_load(self, ctx):
        if ctx.panel.get_state("form.model") is None:
            ctx.panel.set_state("form", self._defaults(ctx))
        self._show_history(ctx)
        self._clear_answer(ctx)

    def on_change_current_sample(self, ctx):
        self._clear_answer(ctx)

    def ask(self, ctx):
        """Answers the expressions about the open sample."""
        expressions = asking.split_lines(ctx.panel.get_state("form.expressions"))
        self._ask(ctx, expressions, self._options(ctx))

    def _ask(self, ctx, expressions, options):
        ctx.panel.set_state("error", None)
        sample_id = open_sample(ctx)
        if not sample_id:
            ctx.panel.set_state("error", "Open a sample first, or use **Apply to the grid**.")
            return
        try:
            asked = asking.ask(ctx.dataset, sample_id, expressions, options)
            new = not ctx.dataset.has_sample_field(asking.ASKED_FIELD)
            asking.store_answers(ctx.dataset, asked)
        except ReferringError as e:
            ctx.panel.set_state("error", str(e))
            return
        self._remember(ctx, asked)
        self._show(ctx, asked)
        # reload_samples leaves tiles that have been drawn as they are
        ctx.ops.reload_dataset()
        if new:
            ctx.ops.set_active_fields([*ctx.active_fields, asking.ASKED_FIELD])

    def save_samples(self, ctx):
        """Makes samples of the questions last asked: the answer is computed again, from the warm model."""
        entry = ctx.panel.get_state("last")
        if not entry or entry["sample_id"] != open_sample(ctx):
            ctx.panel.set_state("error", "Ask something about this sample first.")
            return
        options = asking.AskOptions(**entry["options"])
        field = options.model.replace("-", "_")
        try:
            asked = asking.ask(ctx.dataset, entry["sample_id"], entry["expressions"], options)
            for n in range(len(asked.selections)):
                asking.save_as_sample(ctx.dataset, asked, n, field)
        except ReferringError as e:
            ctx.panel.set_state("error", str(e))
            return
        ctx.ops.notify(f"{plural(len(asked.selections), 'question')} saved as samples tagged 'asked'", variant="success")
        ctx.ops.reload_dataset()
        # otherwise the new tiles show neither the question nor the answer
        ctx.ops.set_active_fields(list(dict.fromkeys([*ctx.active_fields, "expression", field])))

    def check(self, ctx):
        """Draws the form again, which says what is wrong with it; what went wrong before was about another form."""
        ctx.panel.set_state("error", None)

    def repeat(self, ctx):
        """Fills the form with a line of the history and asks it again, about the open sample."""
        # a panel beside the grid and one in the modal share the history, and what one adds the other does not show
        asked_at = ctx.panel.get_state("history_times")[int(ctx.params["row"])]
        entry = next((e for e in self._history(ctx) if e["asked_at"] == asked_at), None)
        if entry is None:
            ctx.panel.set_state("error", "This line is no longer in the history.")
            self._show_history(ctx)
            return
        options = asking.AskOptions(**entry["options"])
        ctx.panel.set_state("form", {"expressions": "\n".join(entry["expressions"]), **entry["options"]})
        self._ask(ctx, entry["expressions"], options)

    def forget(self, ctx):
        """Empties the history."""
        ctx.store(STORE).delete("history")
        self._show_history(ctx)

    def apply_to_grid(self, ctx):
        """Opens the operator with what the panel's form says."""
        expressions = ctx.panel.get_state("form.expressions") or ""
        params = {k: v for k, v in asdict(self._options(ctx)).items() if v is not None}
        if expressions.strip():
            params |= {"expressions_from": "text", "text": expressions}
        ctx.prompt(f"{PLUGIN}/apply_expressions", params=params)

    # -- state ----------------------------------------------------------------------------------------------------------

    @staticmethod
    def _defaults(ctx) -> dict:
        source = asking.default_candidates(ctx.dataset)
        return {"expressions": "", **asdict(asking.AskOptions(candidates=source))}

    def _options(self, ctx) -> asking.AskOptions:
        form = ctx.panel.get_state("form") or {}
        names = {f.name for f in fields(asking.AskOptions)}
        # a text that was typed and taken back is as good as none
        values = {**self._defaults(ctx), **{k: v for k, v in form.items() if v not in (None, "")}}
        return asking.AskOptions(**{k: v for k, v in values.items() if k in names})

    @staticmethod
    def _clear_answer(ctx):
        ctx.panel.set_state(dict.fromkeys(("answers", "status", "error", "last", "has_picture")))

    def _show(self, ctx, asked):
        lines = []
        for n, selection in enumerate(asked.selections):
            # Markdown in the App knows no colours
            number = f"{n + 1} ({asking.color_name(n)}). " if len(asked.selections) > 1 else ""
            raw = f"\n\n`{_short(selection.answer)}`" if selection.answer else ""
            dropped = f"\n\n{selection.dropped_candidates} candidates left out" if selection.dropped_candidates else ""
            lines.append(f"**{number}{_plain(_short(selection.expression))}**: {_plain(asking.in_words(selection))}{raw}{dropped}")
        candidates = asked.result.candidates_xyxy
        among = f" among {len(candidates)} candidates" if candidates is not None else ""
        took = f"{asked.options.model} on {asked.device}{among}, {asked.seconds:.2f} s."
        entry, url = asdict(asking.HistoryEntry.of(asked)), asking.picture_url(ctx.dataset, asked)
        state = {
            "answers": "\n\n".join(lines),
            # FiftyOne reads an open sample once
            "status": f"{took} Kept in field `{asking.ASKED_FIELD}`: the grid shows it now, the *Sample* tab when the page is loaded again.",
            "has_picture": url is not None,
            "last": {k: entry[k] for k in ("sample_id", "expressions", "options")},
        }
        show(ctx, state, {"picture": url} if url is not None else {})

    @staticmethod
    def _history(ctx) -> list[dict]:
        return ctx.store(STORE).get("history") or []

    def _remember(self, ctx, asked):
        entries = [asdict(asking.HistoryEntry.of(asked)), *self._history(ctx)][:HISTORY_LENGTH]
        ctx.store(STORE).set("history", entries)
        self._show_history(ctx)

    def _show_history(self, ctx):
        entries = self._history(ctx)
        rows = [
            {
                "expression": _short(" | ".join(e["expressions"])),
                "outcome": _short(" | ".join(e["outcomes"])),
                "model": e["options"]["model"],
            }
            for e in entries
        ]
        show(ctx, {"history_times": [e["asked_at"] for e in entries]}, {"history": rows})

    # -- layout ---------------------------------------------------------------------------------------------------------

    def render(self, ctx):
        panel = types.Object()
        if ctx.dataset.media_type == fom.VIDEO:
            panel.view("videos", types.Warning(label="Videos cannot be asked here", description=_VIDEOS))
            return types.Property(panel, view=types.GridView(**COLUMN))
        panel.define_property("form", self._form(ctx))
        # panels do not show what is wrong with a field
        problems = asking.problems(ctx.dataset, self._options(ctx))
        for name, problem in problems.items():
            panel.view(f"{name}_problem", types.Warning(label=f"{_LABELS[name]}: {problem}"))
        buttons = panel.h_stack("buttons", align_x="left", gap=1)
        on_sample = bool(ctx.current_sample)
        if on_sample:
            buttons.btn("ask", label="Ask", on_click=self.ask, variant="contained", icon="person_search")
            buttons.btn("save", label="Save as samples", on_click=self.save_samples, variant="outlined", icon="add_to_photos")
        buttons.btn(
            "apply", label="Apply to the grid", on_click=self.apply_to_grid,
            variant="outlined" if on_sample else "contained", icon="grid_view",
        )  # fmt: skip
        error = ctx.panel.get_state("error")
        if error:
            panel.view("error_message", types.Error(label="This did not work", description=error))
        if ctx.panel.get_state("answers"):
            panel.md(ctx.panel.get_state("answers"), name="answers_text")
            panel.md(ctx.panel.get_state("status"), name="status_text")
            if ctx.panel.get_state("has_picture"):
                panel.str("picture", view=types.ImageView(width="min(100%, 720px)"))
        elif on_sample:
            warm = asking.is_warm(self._options(ctx))
            panel.md("*The model is loaded.*" if warm else "*The first question loads the model.*", name="warm")
        if ctx.panel.get_state("history_times"):
            table = types.TableView(componentsProps=NARROW_TABLE)
            table.add_column("expression", label="Asked before")
            table.add_column("outcome", label="Answer")
            table.add_column("model", label="Model")
            table.add_row_action("repeat", self.repeat, label="Ask again", icon="replay")
            panel.list("history", types.Object(), view=table, label="History")
            panel.btn("forget", label="Clear history", on_click=self.forget, icon="delete_sweep")
        return types.Property(panel, view=types.GridView(**COLUMN))

    def _form(self, ctx):
        form = types.Object()
        form.str(
            "expressions",
            label="Expressions, one a line",
            view=types.TextFieldView(placeholder="everyone except the kid in white", multiline=True, rows=3),
        )
        options = self._options(ctx)
        models = types.DropdownView(space=_COLUMNS)
        for entry in ENTRIES.values():
            models.add_choice(entry.name, label=entry.name, description=entry.description)
        form.enum("model", models.values(), view=models, default=options.model, label="Model", on_change=self.check)
        problems = asking.problems(ctx.dataset, options)
        weights = form.str(
            "weights", label=_LABELS["weights"], default=options.weights, on_change=self.check,
            view=types.TextFieldView(space=_COLUMNS, placeholder="the model's own"),
        )  # fmt: skip
        _mark(weights, problems.get("weights"))
        if not ENTRIES[options.model].needs_candidates:
            return form
        known = detections_fields(ctx.dataset)
        sources = types.AutocompleteView(allow_user_input=True, space=_COLUMNS)
        for name in known:
            sources.add_choice(name, label=name, description="boxes of this field")
        sources.add_choice(asking.GROUNDING_DINO, label=asking.GROUNDING_DINO, description="boxes found by a detector")
        candidates = form.str(
            "candidates", view=sources, default=options.candidates, label=_LABELS["candidates"], on_change=self.check
        )
        _mark(candidates, problems.get("candidates"))
        if options.candidates not in known:
            prompt = types.TextFieldView(space=_COLUMNS, placeholder="the nouns of the expressions")
            form.str("prompt", label="The detector looks for", default="", view=prompt)
            for name, label in asking.THRESHOLDS.items():
                prop = form.float(
                    name, label=label, default=getattr(options, name), min=0, max=1, on_change=self.check,
                    view=types.FieldView(space=_COLUMNS),
                )  # fmt: skip
                _mark(prop, problems.get(name))
        form.bool("masks", label="Masks (SAM)", default=False, view=types.CheckboxView())
        return form


def _mark(prop: types.Property, problem: str | None) -> None:
    if problem:
        invalid(prop, problem)


def _short(text: str) -> str:
    """The beginning of a text that would push everything else out of sight; the field ``asked`` has all of it."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST].rstrip()} ..."


def _plain(text: str) -> str:
    """A text whose characters mean nothing to Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", text)
