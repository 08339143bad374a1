"""Comparing evaluation runs from the operator browser and from Python."""

from __future__ import annotations

from itertools import combinations

from fiftyone.operators import types

from fiftyone_rexseek.integration import comparison, results

from .base import config, invalid, reload
from .calling import CallableOperator, count_notice, perform, plural
from .choices import choose_several
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
        kinds = {r.eval_key: (r.method, r.protocol, r.gt_field) for r in runs}
        default = next((pair for pair in combinations(keys, 2) if kinds[pair[0]] == kinds[pair[1]]), keys[:2])
        prop, chosen = choose_several(
            ctx, inputs, "eval_keys", keys, "Evaluations", default=default, least=2, unknown="No evaluation of this dataset",
            descriptions=titles, required=True, description="Differences are the first minus the second",
        )  # fmt: skip
        if len(keys) < 2:
            invalid(prop, "This dataset needs two evaluations: use 'Evaluate referring expressions' first")
        elif not prop.invalid and len({kinds[key] for key in chosen}) > 1:
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
