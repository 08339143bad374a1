"""Comparing evaluation runs from the operator browser and from Python."""

from __future__ import annotations

from fiftyone.operators import types

from fiftyone_rexseek.integration import comparison, results

from .base import config, invalid, reload
from .calling import CallableOperator, count_notice, dropdown, perform, plural
from .targets import target_images


class CompareRuns(CallableOperator):
    """Two or more evaluations side by side, with paired intervals and p-values."""

    @property
    def config(self):
        return config(
            "compare_runs",
            "Compare evaluations",
            "Two or more evaluation runs side by side, with the samples where one is right and the other wrong",
            dynamic=True,
            execute_as_generator=True,
        )

    def resolve_input(self, ctx):
        inputs = types.Object()
        runs = results.list_runs(ctx.dataset)
        keys = [r.eval_key for r in runs]
        titles = {r.eval_key: r.title for r in runs}
        default = keys[:2]
        chosen = ctx.params.get("eval_keys")
        chosen = default if chosen is None else list(dict.fromkeys(chosen))
        prop = inputs.list(
            "eval_keys", types.String(), required=True, default=default, label="Evaluations",
            description="Differences are the first minus the second", view=dropdown(keys, titles, multiple=True),
        )  # fmt: skip
        unknown = [k for k in chosen if k not in keys]
        kinds = {(r.method, r.protocol, r.gt_field) for r in runs if r.eval_key in chosen}
        if len(keys) < 2:
            invalid(prop, "This dataset needs two evaluations: use 'Evaluate referring expressions' first")
        elif unknown:
            invalid(prop, f"No evaluation of this dataset: {', '.join(map(str, unknown))}")
        elif len(chosen) < 2:
            invalid(prop, "Choose at least 2")
        elif len(kinds) > 1:
            invalid(prop, "These were evaluated by different methods, protocols or ground truths")
        inputs.bool(
            "save_views", default=False, label="Save views",
            description="'A right, B wrong' and the reverse, of every pair", view=types.CheckboxView(),
        )  # fmt: skip
        target = target_images(ctx)
        if not prop.invalid:
            common = comparison.common_view(target, chosen).count()
            count_notice(inputs, common, "scored by all of them will be compared", "No sample of the target was scored by all of them")
        return types.Property(inputs, view=types.View(label="Compare evaluations"))

    def execute(self, ctx):
        target, p = target_images(ctx), ctx.params

        def work(progress):
            compared = comparison.compare_runs(target, p["eval_keys"])
            views = comparison.save_pair_views(target, compared) if p.get("save_views") else []
            summary = compared.to_markdown()
            if views:
                summary += f"\n\n{plural(len(views), 'view')} saved: " + ", ".join(f"`{name}`" for name in views)
            return {"summary": summary, "comparison": compared.to_dict(), "views": views}

        return perform(ctx, self, "Comparing", work, lambda result: reload(ctx) if result["views"] else iter(()))

    def resolve_output(self, ctx):
        outputs = types.Object()
        outputs.str("summary", view=types.MarkdownView(read_only=True))
        return types.Property(outputs, view=types.View(label="Comparison"))
