"""Fine-tune a model on the view; the result is a folder that the model zoo loads."""

from __future__ import annotations

from pathlib import Path

import fiftyone as fo
from fiftyone import ViewField as F
from fiftyone.operators import types

from fiftyone_rexseek.integration.fields import detections_fields
from fiftyone_rexseek.integration.training import fine_tune
from fiftyone_rexseek.models.registry import ENTRIES

from .base import config, invalid
from .calling import CallableOperator, count_notice, dropdown
from .layout import paragraphs
from .paths import folder_problem
from .targets import target_images

_STARTS = tuple(e.name for e in ENTRIES.values() if e.family == "rexseek")


class FineTune(CallableOperator):
    @property
    def config(self):
        return config(
            "fine_tune",
            "Fine-tune on this view",
            "Teaches RexSeek the expressions of the samples; the result is a folder of weights",
            dynamic=True,
            allow_immediate_execution=True,
            allow_delegated_execution=True,
            default_choice_to_delegated=True,
            risk_level=types.RiskLevel.MEDIUM,
        )

    def resolve_input(self, ctx):
        inputs = types.Object()
        target = target_images(ctx)
        self._start(ctx, inputs)
        self._folder(ctx, inputs)
        gt_field = self._fields(ctx, inputs)
        self._validation(ctx, inputs)
        inputs.int("steps", default=300, min=1, required=True, label="Steps")
        prop = inputs.float("lr", default=5e-4, required=True, label="Learning rate")
        if not _is_rate(ctx.params.get("lr", 5e-4)):
            invalid(prop, "Between 0 and 1, such as 0.0005")
        inputs.int("lora", default=0, min=0, label="Rank of low-rank adapters", description="0: no adapters; 16 for RexSeek-3B")
        inputs.bool("bf16", default=False, label="bfloat16 (GPU)")
        if gt_field:
            trainable = target.match(F(gt_field) != None).count()  # noqa: E711 - the database's null
            count_notice(inputs, trainable, "will be trained on", "No sample of the target has ground truth")
        return types.Property(inputs, view=types.View(label="Fine-tune on this view"))

    @staticmethod
    def _start(ctx, inputs: types.Object) -> None:
        view = types.AutocompleteView(allow_user_input=True)
        for name in _STARTS:
            view.add_choice(name, label=name, description=ENTRIES[name].description)
        prop = inputs.str(
            "start", default=_STARTS[-1], required=True, view=view, label="Start from",
            description="A model of this plugin, or a folder of RexSeek weights",
        )  # fmt: skip
        start = ctx.params.get("start")
        if start and start not in _STARTS and not (Path(start).expanduser() / "config.json").is_file():
            invalid(prop, f"Neither a model ({', '.join(_STARTS)}) nor a folder with a config.json")

    @staticmethod
    def _folder(ctx, inputs: types.Object) -> None:
        prop = inputs.str("output_dir", required=True, label="Folder for the result", description="On the machine that trains")
        text = ctx.params.get("output_dir")
        problem = folder_problem(text) if text else None
        if problem:
            invalid(prop, problem)
        elif text and (Path(text).expanduser() / "checkpoint.pt").exists():
            inputs.view(
                "resumes",
                types.Warning(label="There is a run in this folder: it goes on", description="Another folder starts afresh"),
            )

    @staticmethod
    def _fields(ctx, inputs: types.Object) -> str | None:
        texts = [name for name in ctx.dataset.get_field_schema(ftype=fo.StringField) if name != "filepath"]
        labels = detections_fields(ctx.dataset)
        for name, label, names, usual in (
            ("expression_field", "Expressions", texts, "expression"),
            ("gt_field", "Who is meant", labels, "ground_truth"),
            ("candidates_field", "Candidates", labels, "candidates"),
        ):
            default = usual if usual in names else None
            prop = inputs.enum(name, names, required=True, default=default, label=label, view=dropdown(names))
            if not names:
                invalid(prop, "This dataset has no such field")
        name = ctx.params.get("gt_field") or "ground_truth"
        return name if name in labels else None

    @staticmethod
    def _validation(ctx, inputs: types.Object) -> None:
        names = ctx.dataset.list_saved_views()
        if names:
            inputs.enum(
                "validation", names, view=dropdown(names), label="Choose the best checkpoint by a saved view",
                description="Empty: by a tenth of the images",
            )  # fmt: skip

    def resolve_run_name(self, ctx):
        return f"Fine-tune {ctx.params.get('start')}"

    def execute(self, ctx):
        p = ctx.params
        options = {"steps": int(p["steps"]), "lr": float(p["lr"]), "bf16": bool(p.get("bf16"))}
        if p.get("lora"):
            from fiftyone_rexseek.training.lora import LoraOptions

            options["lora"] = LoraOptions(rank=int(p["lora"]), alpha=2.0 * int(p["lora"]))
            options["train"] = ("projectors", "convnext")
        result = fine_tune(
            target_images(ctx),
            p["output_dir"],
            p["start"],
            gt_field=p["gt_field"],
            candidates_field=p["candidates_field"],
            expression_field=p["expression_field"],
            validation=ctx.dataset.load_saved_view(p["validation"]) if p.get("validation") else None,
            on_progress=(lambda share, text: ctx.set_progress(share, label=text)) if ctx.delegated else None,
            **options,
        )
        load = f'foz.load_zoo_model("{result.zoo_name}", weights="{result.model}")'
        return {
            "summary": paragraphs(f"{result}\n`{load}`"), "model": str(result.model), "zoo_name": result.zoo_name, "steps": result.steps,
            "best_score": result.best_score,
        }  # fmt: skip

    def resolve_output(self, ctx):
        outputs = types.Object()
        outputs.str("summary", label="Result", view=types.MarkdownView(read_only=True))
        return types.Property(outputs, view=types.View(label="Fine-tuned"))


def _is_rate(value) -> bool:
    return isinstance(value, int | float) and 0 < value < 1
