"""Evaluate: score a prediction field with a benchmark's own metric."""

from __future__ import annotations

import importlib.util

import fiftyone as fo
from fiftyone.operators import types

from fiftyone_rexseek.integration import presentation
from fiftyone_rexseek.integration.columns import label_fields
from fiftyone_rexseek.integration.evaluation import METHODS, config_class, evaluate_referring
from fiftyone_rexseek.integration.fields import prediction_fields
from fiftyone_rexseek.integration.report import number
from fiftyone_rexseek.integration.selections import COUNT

from .base import invalid, long_work, reload
from .calling import CallableOperator, count_notice, dropdown, perform, summary_output
from .targets import target_images

#: Headline numbers shown when the run is done; all of them are in the Model Evaluation panel.
SHOWN = 8
_MISSING = {
    "official": "As the authors' script: a missing answer to a rejection question counts as right",
    "wrong": "A missing answer is wrong",
    "skip": "A sample without an answer is left out",
    "error": "Refuse when an answer is missing",
}
#: Output rules of GREC that need no further number.
_OUTPUTS = {
    "threshold": "As the authors' script: the boxes with a confidence of at least 0.7",
    "count": "As many boxes as the model itself counts",
    "all": "Every box of the field",
}


class EvaluateReferring(CallableOperator):
    @property
    def config(self):
        return long_work(
            "evaluate_referring",
            "Evaluate referring expressions",
            "Score predictions with a benchmark's own metric; per sample, per object and in the Model Evaluation panel",
        )

    def resolve_placement(self, ctx):
        button = types.Button(label="Evaluate referring expressions", icon="grading", prompt=True)
        return types.Placement(types.Places.SAMPLES_GRID_SECONDARY_ACTIONS, button)

    def resolve_input(self, ctx):
        inputs = types.Object()
        count = len(target_images(ctx))
        pred_field = self._fields(ctx, inputs)
        spec = self._method(ctx, inputs, pred_field)
        self._key(ctx, inputs, pred_field, spec.name)
        count_notice(inputs, count, "will be scored")
        return types.Property(inputs, view=types.View(label="Evaluate referring expressions"))

    @staticmethod
    def _fields(ctx, inputs) -> str | None:
        truths = label_fields(ctx.dataset)
        predicted = prediction_fields(ctx.dataset, (fo.Detections, fo.Keypoints))
        default = predicted[0] if predicted else None
        prop = inputs.enum("pred_field", predicted, required=True, default=default, label="Predictions", view=dropdown(predicted))
        if not predicted:
            invalid(prop, "No predictions yet: use 'Apply expressions' or 'Import predictions' first")
        chosen = ctx.params.get("pred_field") or default
        start = "ground_truth" if "ground_truth" in truths else None
        truth = inputs.enum("gt_field", truths, required=True, default=start, label="Ground truth", view=dropdown(truths))
        if chosen is not None and (ctx.params.get("gt_field") or start) == chosen:
            invalid(truth, "A field cannot be compared with itself")
        return chosen

    @staticmethod
    def _method(ctx, inputs, pred_field: str | None):
        methods = available_methods()
        names = {name: config_class(name).spec.label for name in methods}
        inputs.enum("method", methods, required=True, default=methods[0], label="Metric", view=dropdown(methods, names))
        name = ctx.params.get("method")
        spec = config_class(name if name in methods else methods[0]).spec
        inputs.enum(
            "protocol", spec.protocols, required=True, default=spec.protocols[0], label="Protocol",
            description="official: what the authors' script computes; paper: what the text says", view=dropdown(spec.protocols),
        )  # fmt: skip
        if "missing" in spec.options:
            default = spec.options["missing"]
            choices = [name for name in _MISSING if name != ("skip" if default == "official" else "official")]
            inputs.enum("missing", choices, default=default, label="Missing answers", view=dropdown(choices, _MISSING))
        if "output" in spec.options:
            counts = pred_field is not None and ctx.dataset.has_sample_field(pred_field + COUNT)
            rules = [name for name in _OUTPUTS if name != "count" or counts]
            inputs.enum(
                "output", rules, default=spec.options["output"], label="Which boxes are the answer",
                view=dropdown(rules, _OUTPUTS),
            )  # fmt: skip
        return spec

    @staticmethod
    def _key(ctx, inputs, pred_field: str | None, method: str) -> None:
        default = f"{pred_field}_{method}" if pred_field else None
        prop = inputs.str("eval_key", required=True, default=default, label="Name of the run", description="Also the prefix of the fields that are written")  # fmt: skip
        key = ctx.params.get("eval_key") or default
        if key and not (key.isascii() and key.isidentifier()):
            invalid(prop, "Letters, digits and _ only, not starting with a digit")
        elif key and key in ctx.dataset.list_evaluations():
            inputs.view("exists", types.Warning(label=f"Run '{key}' exists and will be replaced"))
        elif key and ctx.dataset.has_sample_field(key):
            invalid(prop, f"There is a field '{key}'")

    def execute(self, ctx):
        p = ctx.params
        target = target_images(ctx)
        spec = config_class(p["method"]).spec
        options = {name: p[name] for name in ("missing", "output") if name in spec.options and p.get(name)}

        def work(progress):
            results = evaluate_referring(
                target,
                p["pred_field"],
                gt_field=p["gt_field"],
                eval_key=p["eval_key"],
                method=p["method"],
                protocol=p.get("protocol"),
                **options,
            )
            if results.worst_field:
                presentation.save_worst_first(ctx.dataset, p["eval_key"], f"{p['eval_key']}_{results.worst_field}")
            lines = [f"| {h['label']} | {number(h['value'])} |" for h in results.headlines[:SHOWN]]
            table = "\n".join([f"| {spec.label}, {results.config.protocol} | |", "|---|---|", *lines])
            table = "\n\n".join([table, *results.summary.get("notes", ())])
            return {"summary": table, "count": len(results.samples), "eval_key": p["eval_key"]}

        def then(result):
            yield from reload(ctx)
            yield ctx.ops.notify(f"'{p['eval_key']}' is in the Model Evaluation panel", variant="success")

        return perform(ctx, self, "Scoring", work, then)

    def resolve_output(self, ctx):
        return summary_output(ctx, "Evaluated", ("eval_key", "Run"), ("count", "Samples"))


def available_methods() -> list[str]:
    """The metrics that score boxes or masks of a field; generated text (greg) has no prediction field."""
    there = {name: importlib.util.find_spec(where.partition(":")[0]) for name, where in METHODS.items()}
    return [name for name, spec in there.items() if spec is not None and name != "greg"]
