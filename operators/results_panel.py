"""The Results panel: what an evaluation found, and the samples behind every number."""

from __future__ import annotations

import fiftyone.operators as foo
from fiftyone import ViewField as F
from fiftyone.operators import types
from fiftyone.operators.categories import Categories

from fiftyone_rexseek.errors import ReferringError
from fiftyone_rexseek.integration import comparison, failures, results
from fiftyone_rexseek.integration.results_content import comparison_content, content

from .layout import COLUMN, NARROW_TABLE, show

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
        self._show(ctx, ctx.panel.get_state("run"), ctx.panel.get_state("other"))

    def on_change_dataset(self, ctx):
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

        def view(run):
            kept = (F("confidence") >= cut) | (F("confidence") == None)  # noqa: E711 - an expression
            return results.evaluated_view(ctx.dataset, run).filter_labels(run.pred_field, kept, only_matches=False)

        self._view(ctx, view)

    def worst_first(self, ctx):
        """Sorts the run's samples by score."""
        self._view(ctx, lambda run: results.worst_view(ctx.dataset, run))

    def all_samples(self, ctx):
        """Leaves the view that a click opened."""
        ctx.ops.clear_view()

    def save_views(self, ctx):
        """Saves a view per cause."""
        names = failures.save_cause_views(ctx.dataset, ctx.panel.get_state("run"))
        ctx.ops.notify(f"{len(names)} views saved: {', '.join(names)}", variant="success")
        ctx.ops.reload_dataset()

    def color(self, ctx):
        """Colours samples by cause, and boxes by whether they are right."""
        failures.color_by_cause(ctx.dataset, ctx.panel.get_state("run"))
        ctx.ops.set_active_fields(ctx.dataset.app_config.active_fields.paths)
        self._repaint(ctx, "Samples are coloured by cause, boxes by whether they are right")

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
            key, other = next(iter(runs), None), None
        state, data = {"runs": runs, "run": key, "other": other, "shown": None, "error": None}, {}
        if key is not None:
            try:
                shown = content(ctx.dataset, results.get_run(ctx.dataset, key), compute)
            except ReferringError as e:
                state["error"] = str(e)
            else:
                # rows and traces are data, which stays in the browser; state comes back with every event
                figures, table = shown.pop("figures"), shown.pop("headlines")
                data |= {name: figure["data"] for name, figure in figures.items()}
                shown["layouts"] = {name: figure["layout"] for name, figure in figures.items()}
                shown["columns"] = table["columns"] if table else None
                if table:
                    data["headlines"] = table["rows"]
                state["shown"] = shown
        compared, rows = self._compared(ctx.dataset, key, other) if state["shown"] else ({}, {})
        show(ctx, state | compared, data | rows)

    @staticmethod
    def _compared(dataset, key, other) -> tuple[dict, dict]:
        """State and data of the comparison."""
        state = {"compared": None, "compare_error": None}
        if not key or not other or key == other:
            return state, {}
        try:
            compared = comparison_content(comparison.cached_comparison(dataset, key, other))
        except ReferringError as e:
            return state | {"compare_error": str(e)}, {}
        rows = compared.pop("rows")
        return state | {"compared": compared}, {"comparison": rows}

    def _click(self, ctx, names, make_view):
        clicked, index = ctx.panel.get_state(f"shown.{names}") or [], int(ctx.params["idx"])
        if 0 <= index < len(clicked):
            self._view(ctx, lambda run: make_view(ctx.dataset, run, clicked[index]))

    @staticmethod
    def _view(ctx, make_view):
        try:
            ctx.ops.set_view(make_view(results.get_run(ctx.dataset, ctx.panel.get_state("run"))))
        except ReferringError as e:
            ctx.ops.notify(str(e), variant="error")

    @staticmethod
    def _right_wrong(ctx, right, wrong):
        try:
            ctx.ops.set_view(comparison.right_wrong_view(ctx.dataset, right, wrong))
        except ReferringError as e:
            ctx.ops.notify(str(e), variant="error")

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
            return types.Property(panel, view=types.GridView(**COLUMN))
        choice = types.DropdownView(label="Evaluation")
        for key, title in runs.items():
            choice.add_choice(key, label=title)
        panel.enum("run", list(runs), view=choice, label="Evaluation", default=ctx.panel.get_state("run"), on_change=self.choose_run)
        if error:
            panel.view("error_message", types.Error(label="This run cannot be shown", description=error))
        if shown:
            self._results(ctx, panel, runs, shown)
        return types.Property(panel, view=types.GridView(**COLUMN))

    def _results(self, ctx, panel, runs, shown):
        panel.md(f"#### {shown['title']}\n\n{shown['facts']}", name="title")
        buttons = panel.h_stack("views", gap=1, align_x="left")
        buttons.btn("worst", label="Worst first", on_click=self.worst_first, variant="outlined", icon="sort")
        buttons.btn("all", label="All samples", on_click=self.all_samples, variant="outlined", icon="apps")
        others = {key: title for key, title in runs.items() if key != ctx.panel.get_state("run")}
        tabs = [name for name, (_, plots) in _TABS.items() if not plots or any(plot in shown["layouts"] for plot in plots)]
        if not others:
            tabs.remove("compare")
        tab = ctx.panel.get_state("tab")
        tab = tab if tab in tabs else tabs[0]
        bar = panel.h_stack("tabs", gap=1, align_x="left")
        for name in tabs:
            variant = "contained" if name == tab else "text"
            bar.btn(name, label=_TABS[name][0], on_click=self.choose_tab, params={"tab": name}, variant=variant)
        if tab == "overview":
            self._overview(panel, shown)
        elif tab == "compare":
            self._comparison(ctx, panel, others)
        else:
            self._plots(panel, shown, tab)

    def _overview(self, panel, shown):
        if shown["columns"]:
            _table(panel, "headlines", shown["columns"])
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
                panel.plot(name, layout=shown["layouts"][name], config=_CONFIG, on_click=clicks[name])
        if tab == "failures":
            causes = panel.h_stack("cause_buttons", gap=1, align_x="left")
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
            buttons = panel.h_stack("right_wrong", gap=1, align_x="left")
            for name, right, wrong in (("only_a", key, other), ("only_b", other, key)):
                label = f"{right} right, {wrong} wrong ({compared[name]:,})"
                buttons.btn(name, label=label, on_click=getattr(self, name), variant="outlined")
        _table(panel, "comparison", compared["columns"])


def _table(panel, name, columns):
    table = types.TableView(componentsProps=NARROW_TABLE)
    for key, label in columns.items():
        table.add_column(key, label=label)
    panel.list(name, types.Object(), view=table)


PANELS = (ResultsPanel,)
