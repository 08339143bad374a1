"""The Results panel: what an evaluation found, and the samples behind every number."""

from __future__ import annotations

import fiftyone.operators as foo
from fiftyone.operators import types
from fiftyone.operators.categories import Categories

from fiftyone_rexseek.errors import ReferringError
from fiftyone_rexseek.integration import comparison, failures, results
from fiftyone_rexseek.integration.results_content import comparison_content, content

from .base import PLUGIN
from .calling import plural
from .layout import COLUMN, NARROW_TABLE, WRAPPED, show

#: Tabs and their plots. The first has none, so that a panel is complete without the App's plot library, which is large and
#: which a page loads with its first plot.
_TABS = {
    "overview": ("Overview", ()),
    "scores": ("Scores", ("domain", "targets", "histogram")),
    "failures": ("Failures", ("causes",)),
    "thresholds": ("Thresholds", ("precision_recall", "sweep")),
    "compare": ("Compare", ()),
}
#: Plots scroll with the panel and are clicked, not zoomed.
_CONFIG = {"displayModeBar": False, "responsive": True, "scrollZoom": False, "doubleClick": False}


class ResultsPanel(foo.Panel):
    @property
    def config(self):
        return foo.PanelConfig(
            name="results_panel",
            label="Referring results",
            icon="leaderboard",
            surfaces="grid",
            allow_multiple=False,
            category=Categories.ANALYZE,
            help_markdown="Numbers of an evaluation with confidence intervals. Click a bar to see its samples.",
        )

    # -- events ---------------------------------------------------------------------------------------------------------

    def on_load(self, ctx):
        self.refresh(ctx)

    def on_change_dataset(self, ctx):
        self.show_latest(ctx)

    def refresh(self, ctx):
        """Shows what there is now: nothing tells a panel of runs that are made or deleted while it is open."""
        self._show(ctx, ctx.panel.get_state("run"), ctx.panel.get_state("other"))

    def evaluate(self, ctx):
        """Opens the form that makes a run, which is then shown."""
        ctx.prompt(f"{PLUGIN}/evaluate_referring", on_success=self.show_latest)

    def show_latest(self, ctx):
        """Shows the run that was made last."""
        self._show(ctx, None, None)

    def choose_run(self, ctx):
        """Shows another run."""
        self._show(ctx, ctx.params.get("value"), ctx.panel.get_state("other"))

    def choose_tab(self, ctx):
        """Shows another part of what is already there."""
        ctx.panel.set_state("tab", ctx.params.get("tab"))

    def choose_other(self, ctx):
        """Compares the run with another one."""
        other = ctx.params.get("value") or None
        state, data = self._compared(ctx.dataset, ctx.panel.get_state("run"), other)
        show(ctx, {"other": other, **state}, data)

    def compute(self, ctx):
        """Computes intervals and sweep of a run that has none."""
        self._show(ctx, ctx.panel.get_state("run"), ctx.panel.get_state("other"), compute=True)

    def click_domain(self, ctx):
        """Shows the samples of a bar."""
        self._click(ctx, "domains", results.domain_view)

    def click_targets(self, ctx):
        self._click(ctx, "targets", results.targets_view)

    def click_causes(self, ctx):
        self._click(ctx, "causes", failures.cause_view)

    def click_histogram(self, ctx):
        self._view(ctx, lambda run: results.score_view(ctx.dataset, run, int(ctx.params["idx"])))

    def click_sweep(self, ctx):
        """Shows the boxes that a threshold keeps."""
        thresholds = ctx.panel.get_state("shown.thresholds") or []
        if ctx.params.get("trace_idx", 0) != 0 or not 0 <= int(ctx.params["idx"]) < len(thresholds):
            return
        cut = thresholds[int(ctx.params["idx"])]

        def keep(run):
            ctx.ops.set_view(results.confident_view(ctx.dataset, run, cut))
            # the number of samples stays, and the grid may not draw these boxes
            ctx.ops.notify(f"'{run.pred_field}' keeps the boxes with a confidence of at least {cut:.2f}")

        self._with_run(ctx, keep)

    def worst_first(self, ctx):
        """Sorts the run's samples by score."""
        self._view(ctx, lambda run: results.worst_view(ctx.dataset, run))

    def all_samples(self, ctx):
        """Leaves the view that a click opened."""
        ctx.ops.clear_view()

    def save_views(self, ctx):
        """Saves a view per cause."""

        def save(run):
            names = failures.save_cause_views(ctx.dataset, run)
            ctx.ops.notify(f"{plural(len(names), 'view')} saved: {', '.join(names)}", variant="success")
            ctx.ops.reload_dataset()

        self._with_run(ctx, save)

    def color(self, ctx):
        """Colours samples by cause, and boxes by whether they are right."""

        def paint(run):
            failures.color_by_cause(ctx.dataset, run)
            ctx.ops.set_active_fields(ctx.dataset.app_config.active_fields.paths)
            self._repaint(ctx, "Samples are coloured by cause, boxes by whether they are right")

        self._with_run(ctx, paint)

    def uncolor(self, ctx):
        """Gives fields their own colours again."""
        failures.color_by_field(ctx.dataset)
        self._repaint(ctx, "Every field has its own colour")

    @staticmethod
    def _repaint(ctx, message):
        """An App that is open has read the dataset's colours before, and tiles that are drawn keep theirs."""
        scheme = ctx.dataset.app_config.color_scheme
        pool = {"color_pool": scheme.color_pool} if scheme.color_pool else {"color_pool_preset": "default"}
        ctx.trigger("set_color_scheme", {"color_by": scheme.color_by, "fields": scheme.fields, **pool})
        ctx.ops.reload_samples()
        ctx.ops.notify(message, variant="success")

    def only_a(self, ctx):
        """Shows what the run answered right and the other one wrong."""
        self._right_wrong(ctx, ctx.panel.get_state("run"), ctx.panel.get_state("other"))

    def only_b(self, ctx):
        self._right_wrong(ctx, ctx.panel.get_state("other"), ctx.panel.get_state("run"))

    # -- state ----------------------------------------------------------------------------------------------------------

    def _show(self, ctx, key, other, compute=None):
        """Shows a run (the first where there is no ``key``), compared with another."""
        runs = {r.eval_key: r.title for r in results.list_runs(ctx.dataset)}
        if key not in runs:
            key = next(iter(runs), None)
        if other == key or other not in runs:
            other = None
        state, data = {"runs": runs, "run": key, "other": other, "shown": None, "error": None}, {}
        if key is not None:
            try:
                shown = content(ctx.dataset, results.get_run(ctx.dataset, key), compute)
            except ReferringError as e:
                state["error"] = str(e)
            else:
                # rows and traces are data, which stays in the browser; state comes back with every event
                figures, table = shown.pop("figures"), shown.pop("headlines")
                data |= {_name(name, shown): figure["data"] for name, figure in figures.items()}
                shown["layouts"] = {name: figure["layout"] for name, figure in figures.items()}
                shown["columns"] = table["columns"] if table else None
                if table:
                    data[_name("headlines", shown)] = table["rows"]
                state["shown"] = shown
        compared, rows = self._compared(ctx.dataset, key, other) if state["shown"] else ({}, {})
        show(ctx, state | compared, data | rows)

    @staticmethod
    def _compared(dataset, key, other) -> tuple[dict, dict]:
        """State and data of the comparison."""
        state = {"compared": None, "compare_error": None}
        if not key or not other:
            return state, {}
        try:
            compared = comparison_content(comparison.cached_comparison(dataset, key, other))
            compared["id"] = "_".join(results.get_run(dataset, of).run_id for of in (key, other))
        except ReferringError as e:
            return state | {"compare_error": str(e)}, {}
        rows = compared.pop("rows")
        return state | {"compared": compared}, {_name("comparison", compared): rows}

    def _click(self, ctx, names, make_view):
        clicked, index = ctx.panel.get_state(f"shown.{names}") or [], int(ctx.params["idx"])
        if 0 <= index < len(clicked):
            self._view(ctx, lambda run: make_view(ctx.dataset, run, clicked[index]))

    def _view(self, ctx, make_view):
        self._with_run(ctx, lambda run: ctx.ops.set_view(make_view(run)))

    def _right_wrong(self, ctx, right, wrong):
        self._view(ctx, lambda run: comparison.right_wrong_view(ctx.dataset, right, wrong))

    def _with_run(self, ctx, action):
        """Does what was clicked with the run that is shown, or says why not: it may have been deleted, or a field of it."""
        try:
            action(results.get_run(ctx.dataset, ctx.panel.get_state("run")))
        except ReferringError as e:
            ctx.ops.notify(str(e), variant="error")
            self.refresh(ctx)

    # -- layout ---------------------------------------------------------------------------------------------------------

    def render(self, ctx):
        panel = types.Object()
        runs = ctx.panel.get_state("runs") or {}
        error, shown = ctx.panel.get_state("error"), ctx.panel.get_state("shown")
        if not runs:
            panel.md(
                "#### No evaluation yet\n\nEvaluate predictions with the operator *Evaluate referring expressions*, or in Python"
                " with `fiftyone_rexseek.evaluate_referring(...)`; this panel then shows what came out.",
                name="nothing",
            )
            self._run_buttons(_row(panel, "views"))
            return types.Property(panel, view=types.GridView(**COLUMN))
        choice = types.DropdownView(label="Evaluation")
        for key, title in runs.items():
            choice.add_choice(key, label=title)
        panel.enum("run", list(runs), view=choice, label="Evaluation", default=ctx.panel.get_state("run"), on_change=self.choose_run)
        if error:
            panel.view("error_message", types.Error(label="This run cannot be shown", description=error))
            self._run_buttons(_row(panel, "views"))
        if shown:
            self._results(ctx, panel, runs, shown)
        return types.Property(panel, view=types.GridView(**COLUMN))

    def _results(self, ctx, panel, runs, shown):
        panel.md(f"#### {shown['title']}\n\n{shown['facts']}", name="title")
        buttons = _row(panel, "views")
        buttons.btn("worst", label="Worst first", on_click=self.worst_first, variant="outlined", icon="sort")
        buttons.btn("all", label="All samples", on_click=self.all_samples, variant="outlined", icon="apps")
        self._run_buttons(buttons)
        others = {key: title for key, title in runs.items() if key != ctx.panel.get_state("run")}
        tabs = [name for name, (_, plots) in _TABS.items() if not plots or any(plot in shown["layouts"] for plot in plots)]
        if not others:
            tabs.remove("compare")
        tab = ctx.panel.get_state("tab")
        tab = tab if tab in tabs else tabs[0]
        bar = _row(panel, "tabs")
        for name in tabs:
            variant = "contained" if name == tab else "text"
            bar.btn(name, label=_TABS[name][0], on_click=self.choose_tab, params={"tab": name}, variant=variant)
        if tab == "overview":
            self._overview(panel, shown)
        elif tab == "compare":
            self._comparison(ctx, panel, others)
        else:
            self._plots(panel, shown, tab)

    def _run_buttons(self, buttons):
        buttons.btn("evaluate", label="Evaluate", on_click=self.evaluate, variant="outlined", icon="grading")
        buttons.btn("refresh", label="Refresh", on_click=self.refresh, variant="outlined", icon="refresh")

    def _overview(self, panel, shown):
        if shown["columns"]:
            _table(panel, _name("headlines", shown), shown["columns"])
        if shown["notes"]:
            panel.md("\n\n".join(shown["notes"]), name="notes")
        if not shown["columns"]:
            panel.btn("compute", label="Compute them now", on_click=self.compute, variant="contained", icon="calculate")

    def _plots(self, panel, shown, tab):
        clicks = {
            "domain": self.click_domain, "targets": self.click_targets, "histogram": self.click_histogram,
            "causes": self.click_causes, "precision_recall": self.click_sweep, "sweep": self.click_sweep,
        }  # fmt: skip
        for name in _TABS[tab][1]:
            if name in shown["layouts"]:
                panel.plot(_name(name, shown), layout=shown["layouts"][name], config=_CONFIG, on_click=clicks[name])
        if tab == "failures":
            causes = _row(panel, "cause_buttons")
            causes.btn("save_views", label="Save a view per cause", on_click=self.save_views, variant="outlined", icon="bookmark_add")
            causes.btn("color", label="Colour by cause", on_click=self.color, variant="outlined", icon="palette")
            causes.btn("uncolor", label="Colour by field", on_click=self.uncolor, variant="outlined", icon="format_color_reset")

    def _comparison(self, ctx, panel, others):
        key, other = ctx.panel.get_state("run"), ctx.panel.get_state("other")
        choice = types.DropdownView(label="Compare with")
        for name, title in others.items():
            choice.add_choice(name, label=title)
        panel.enum("other", list(others), view=choice, label="Compare with", on_change=self.choose_other)
        error, compared = ctx.panel.get_state("compare_error"), ctx.panel.get_state("compared")
        if error:
            panel.view("compare_message", types.Warning(label="These runs cannot be compared", description=error))
        if not compared:
            return
        panel.md(compared["text"], name="compare_text")
        if compared["only_a"] is not None:
            buttons = _row(panel, "right_wrong")
            for name, right, wrong in (("only_a", key, other), ("only_b", other, key)):
                label = f"{right} right, {wrong} wrong ({compared[name]:,})"
                buttons.btn(name, label=label, on_click=getattr(self, name), variant="outlined")
        _table(panel, _name("comparison", compared), compared["columns"])


def _name(name, content):
    """Name of the data behind a table or plot: another one for each run.

    The App merges the data of a name element by element with what it showed under it before, where the table or plot is on a
    tab that is not open: of a longer list, the tail would shine through.
    """
    return f"{name}_{content['id']}"


def _row(panel, name):
    """A row for buttons."""
    return panel.h_stack(name, gap=1, align_x="left", componentsProps=WRAPPED)


def _table(panel, name, columns):
    table = types.TableView(componentsProps=NARROW_TABLE)
    for key, label in columns.items():
        table.add_column(key, label=label)
    panel.list(name, types.Object(), view=table)


PANELS = (ResultsPanel,)
