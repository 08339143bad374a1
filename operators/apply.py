"""Apply expressions: ask a model about the view, the selection or the whole dataset."""

from __future__ import annotations

from dataclasses import fields
from functools import partial

from fiftyone.operators import types

from fiftyone_rexseek.integration import apply_plan as plan
from fiftyone_rexseek.integration import ask as asking
from fiftyone_rexseek.integration.apply import apply_expressions
from fiftyone_rexseek.integration.fields import detections_fields, text_fields
from fiftyone_rexseek.models.registry import ENTRIES
from fiftyone_rexseek.referring import Outcome

from .base import config, invalid, reload
from .calling import CallableOperator, count_notice, perform, plural, summary_output
from .choices import choose_one, output_field
from .layout import paragraphs
from .targets import target_images


class ApplyExpressions(CallableOperator):
    conditional = ("expression_field", "text", "weights", "candidates", "prompt", *asking.THRESHOLDS, "masks", "overwrite")

    @property
    def config(self):
        return config(
            "apply_expressions",
            "Apply expressions",
            "Ask a model who is meant: on the current view, the selection or the dataset",
            dynamic=True,
            execute_as_generator=True,
            allow_immediate_execution=True,
            allow_delegated_execution=True,
        )

    def resolve_placement(self, ctx):
        button = types.Button(label="Apply expressions", icon="person_search", prompt=True)
        return types.Placement(types.Places.SAMPLES_GRID_SECONDARY_ACTIONS, button)

    def resolve_input(self, ctx):
        inputs = types.Object()
        target = target_images(ctx)
        choice = self._expressions(ctx, inputs)
        models = types.DropdownView()
        for entry in ENTRIES.values():
            models.add_choice(entry.name, label=entry.name, description=f"{entry.description}. {entry.license}")
        inputs.enum("model", models.values(), default="rexseek-tiny", required=True, label="Model", view=models)
        model = ctx.params.get("model") or "rexseek-tiny"
        if model in ENTRIES:
            options = _options(ctx, model)
            problems = asking.problems(ctx.dataset, options)
            weights = inputs.str("weights", label="Local weights", description="A folder or file; empty: the model's own")
            if "weights" in problems:
                invalid(weights, problems["weights"])
            if ENTRIES[model].needs_candidates:
                self._candidates(ctx, inputs, problems)
        output_field(
            ctx, inputs, "label_field", model.replace("-", "_"), "Output field", partial(plan.check_output, target),
            did="answered", replace="Replace labels that no model made",
        )  # fmt: skip
        count_notice(inputs, len(target), f"will be asked {choice}" if choice else "in the target")
        return types.Property(inputs, view=types.View(label="Apply expressions"))

    @staticmethod
    def _expressions(ctx, inputs) -> str | None:
        names = text_fields(ctx.dataset)
        kinds = types.RadioGroup()
        kinds.add_choice("field", label="The expression of each sample (a field)")
        kinds.add_choice("text", label="The same expressions for all samples")
        default = "field" if "expression" in names else "text"
        inputs.enum("expressions_from", kinds.values(), default=default, required=True, label="Expressions", view=kinds)
        if (ctx.params.get("expressions_from") or default) == "field":
            nothing = "This dataset has no field of texts: type the expressions instead"
            _, name = choose_one(ctx, inputs, "expression_field", names, "Field", usual="expression", nothing=nothing)
            return f"what their field '{name}' says" if name else None
        box = types.TextFieldView(placeholder="everyone except the kid in white", multiline=True, rows=3)
        prop = inputs.str("text", label="Expressions, one a line", required=True, view=box)
        lines = asking.split_lines(ctx.params.get("text"))
        if ctx.params.get("text") is not None and not lines:
            invalid(prop, "Type at least one expression")
        return plural(len(lines), "expression") if lines else None

    @staticmethod
    def _candidates(ctx, inputs, problems: dict[str, str]) -> None:
        known = detections_fields(ctx.dataset)
        sources = types.AutocompleteView(allow_user_input=True)
        for name in known:
            sources.add_choice(name, label=name, description="boxes of this field")
        sources.add_choice(asking.GROUNDING_DINO, label=asking.GROUNDING_DINO, description="boxes found by a detector")
        default = asking.default_candidates(ctx.dataset)
        prop = inputs.str(
            "candidates", default=default, required=True, view=sources, label="Candidates",
            description="A field of boxes, grounding-dino, or the name of a FiftyOne zoo detector",
        )  # fmt: skip
        if "candidates" in problems:
            invalid(prop, problems["candidates"])
        elif (ctx.params.get("candidates") or default) not in known:
            inputs.str("prompt", label="The detector looks for", description="Empty: the nouns of the expressions (spaCy)")
            for name, label in asking.THRESHOLDS.items():
                prop = inputs.float(name, label=label, default=0.25, min=0, max=1)
                if name in problems:
                    invalid(prop, problems[name])
        inputs.bool("masks", label="Masks for the selected boxes (SAM)", default=False)

    def execute(self, ctx):
        p = ctx.params
        options = _options(ctx, p["model"])
        needs = ENTRIES[options.model].needs_candidates
        from_field = p.get("expressions_from") == "field"
        expressions = f"field:{p['expression_field']}" if from_field else asking.split_lines(p.get("text"))
        target = target_images(ctx)
        label_field = p.get("label_field") or options.model.replace("-", "_")

        def work(progress):
            source = options.candidates if needs else None
            if needs and not target.has_sample_field(source):
                source = asking.make_proposer(options)
            summary = apply_expressions(
                target,
                options.model,
                label_field,
                expressions,
                source,
                weights=options.weights,
                prompt=options.prompt or None,
                masks=options.masks or None,
                overwrite=bool(p.get("overwrite")),
                num_workers=0 if not ctx.delegated else 2,
                progress=progress,
            )
            return {"summary": paragraphs(str(summary)), "num_skipped": summary.num_skipped, **summary.outcomes}

        def then(result):
            yield from reload(ctx)
            yield ctx.ops.set_active_fields(list(dict.fromkeys([*ctx.active_fields, label_field])))

        return perform(ctx, self, "Asking", work, then)

    def resolve_run_name(self, ctx):
        return f"Ask {ctx.params.get('model')} about the expressions"

    def resolve_output(self, ctx):
        return summary_output(ctx, "Asked", *((o.value, o.value.capitalize()) for o in Outcome))


def _options(ctx, model: str) -> asking.AskOptions:
    """What the form says beside the expressions; what it leaves out has the form's defaults."""
    names = [f.name for f in fields(asking.AskOptions)]
    given = {name: ctx.params[name] for name in names if ctx.params.get(name) not in (None, "")}
    return asking.AskOptions(**{"candidates": asking.default_candidates(ctx.dataset), **given, "model": model})
