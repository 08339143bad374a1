"""Evaluate: score a prediction field with a benchmark's own metric."""

from __future__ import annotations

import fiftyone as fo
from fiftyone.operators import types

from fiftyone_rexseek.errors import ReferringError
from fiftyone_rexseek.integration import presentation
from fiftyone_rexseek.integration.columns import label_fields
from fiftyone_rexseek.integration.evaluation import (
    METHODS,
    MethodSpec,
    can_replace,
    config_class,
    evaluate_referring,
)
from fiftyone_rexseek.integration.fields import generated_text_fields, prediction_fields
from fiftyone_rexseek.integration.report import number
from fiftyone_rexseek.integration.selections import COUNT
from fiftyone_rexseek.metrics.greg import require_tools

from .base import invalid, long_work, reload
from .calling import CallableOperator, count_notice, dropdown, perform, summary_output
from .choices import choose_one
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
    conditional = ("pred_field", "text_field", "missing", "output")

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
        spec = self._metric(ctx, inputs)
        pred_field = self._fields(ctx, inputs, spec)
        self._rules(ctx, inputs, spec, pred_field)
        self._key(ctx, inputs, pred_field, spec.name)
        count_notice(inputs, count, "will be scored")
        return types.Property(inputs, view=types.View(label="Evaluate referring expressions"))

    @staticmethod
    def _metric(ctx, inputs) -> MethodSpec:
        specs = {name: config_class(name).spec for name in METHODS}
        labels = {name: spec.label for name, spec in specs.items()}
        prop, name = choose_one(ctx, inputs, "method", list(specs), "Metric", descriptions=labels)
        spec = specs.get(name) or next(iter(specs.values()))
        if spec.scores_texts:
            try:
                require_tools()
            except ReferringError as e:
                invalid(prop, str(e))
        return spec

    @staticmethod
    def _fields(ctx, inputs, spec: MethodSpec) -> str | None:
        truths = label_fields(ctx.dataset)
        if spec.scores_texts:
            # a parameter of its own: the form keeps what was chosen for another metric
            _, chosen = choose_one(
                ctx, inputs, "text_field", generated_text_fields(ctx.dataset), "Generated expressions",
                nothing="No generated expressions yet: use 'Describe objects' first",
            )  # fmt: skip
        else:
            _, chosen = choose_one(
                ctx, inputs, "pred_field", prediction_fields(ctx.dataset, (fo.Detections, fo.Keypoints)), "Predictions",
                nothing="No predictions yet: use 'Apply expressions' or 'Import predictions' first",
            )  # fmt: skip
        prop, truth = choose_one(
            ctx, inputs, "gt_field", truths, "Ground truth", usual="ground_truth", nothing="This dataset has no labels to compare with"
        )
        if chosen is not None and truth == chosen:
            invalid(prop, "A field cannot be compared with itself")
        return chosen

    @staticmethod
    def _rules(ctx, inputs, spec: MethodSpec, pred_field: str | None) -> None:
        choose_one(
            ctx, inputs, "protocol", spec.protocols, "Protocol",
            description="official: what the authors' script computes; paper: what the text says",
        )  # fmt: skip
        if "missing" in spec.options:
            default = spec.options["missing"]
            choices = [name for name in _MISSING if name != ("skip" if default == "official" else "official")]
            # no default value: not every metric has the same one
            inputs.enum(
                "missing", choices, label="Missing answers", description=f"Nothing chosen: {_MISSING[default]}",
                view=dropdown(choices, _MISSING),
            )  # fmt: skip
        if "output" in spec.options:
            counts = pred_field is not None and ctx.dataset.has_sample_field(pred_field + COUNT)
            rules = [name for name in _OUTPUTS if name != "count" or counts]
            inputs.enum(
                "output", rules, default=spec.options["output"], label="Which boxes are the answer",
                view=dropdown(rules, _OUTPUTS),
            )  # fmt: skip

    @staticmethod
    def _key(ctx, inputs, pred_field: str | None, method: str) -> None:
        # no default value: the form would keep it when another field or metric is chosen
        prop = inputs.str(
            "eval_key", label="Name of the run",
            description=f"Also the prefix of the fields that are written. Empty: {_run_name(pred_field, method)}",
        )  # fmt: skip
        key = ctx.params.get("eval_key") or _run_name(pred_field, method)
        if key and not (key.isascii() and key.isidentifier()):
            invalid(prop, "Letters, digits and _ only, not starting with a digit")
        elif key and key in ctx.dataset.list_evaluations():
            if can_replace(ctx.dataset, key, config_class(method)(pred_field, ctx.params.get("gt_field") or "ground_truth")):
                inputs.view("exists", types.Warning(label=f"Run '{key}' exists and will be replaced"))
            else:
                invalid(prop, f"Run '{key}' scored another field, or with another metric: choose another name")
        elif key and ctx.dataset.has_sample_field(key):
            invalid(prop, f"There is a field '{key}'")

    def execute(self, ctx):
        p = ctx.params
        target = target_images(ctx)
        spec = config_class(p["method"]).spec
        pred_field = p["text_field"] if spec.scores_texts else p["pred_field"]
        key = p.get("eval_key") or _run_name(pred_field, spec.name)
        options = {name: p[name] for name in ("missing", "output") if name in spec.options and p.get(name)}

        def work(progress):
            results = evaluate_referring(
                target,
                pred_field,
                gt_field=p["gt_field"],
                eval_key=key,
                method=p["method"],
                protocol=p.get("protocol"),
                **options,
            )
            if results.worst_field:
                presentation.save_worst_first(ctx.dataset, key, f"{key}_{results.worst_field}")
            lines = [f"| {h['label']} | {number(h['value'])} |" for h in results.headlines[:SHOWN]]
            table = "\n".join([f"| {spec.label}, {results.config.protocol} | |", "|---|---|", *lines])
            table = "\n\n".join([table, *results.summary.get("notes", ())])
            return {"summary": table, "count": len(results.samples), "eval_key": key}

        def then(result):
            yield from reload(ctx)
            yield ctx.ops.notify(f"'{key}' is in the Model Evaluation panel", variant="success")

        return perform(ctx, self, "Scoring", work, then)

    def resolve_output(self, ctx):
        return summary_output(ctx, "Evaluated", ("eval_key", "Run"), ("count", "Samples"))


def _run_name(pred_field: str | None, method: str) -> str:
    return f"{pred_field or 'predictions'}_{method}"
