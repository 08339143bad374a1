"""Fine-tune a model on the view; the result is a folder that the model zoo loads."""

from __future__ import annotations

from pathlib import Path

from fiftyone import ViewField as F
from fiftyone.operators import types

from fiftyone_rexseek.errors import ReferringError
from fiftyone_rexseek.integration.fields import detections_fields, text_fields
from fiftyone_rexseek.integration.training import family_of, fine_tune
from fiftyone_rexseek.models.registry import ENTRIES

from .base import config, invalid
from .calling import CallableOperator, count_notice, dropdown
from .layout import paragraphs
from .paths import folder_problem
from .targets import target_images

#: Models whose weights are here or on the hub; of others a folder or file is given.
_STARTS = tuple(e.name for e in ENTRIES.values() if e.packaged or e.repo_id)
_DEFAULT = "rexseek-tiny"
_RATES = {"rexseek": "0.0005", "rela": "0.00001 as published, 0.0002 with adapters, 0.0003 for models smaller than the published ones"}
_ADAPTED = {
    "rexseek": "0: no adapters; 16 for RexSeek-3B: its language model keeps its weights and learns by these",
    "rela": "0: no adapters; otherwise BERT and Swin keep their weights and learn by these, the decoders learn as a whole",
}


class FineTune(CallableOperator):
    conditional = ("candidates_field", "tokenizer", "validation", "batch")

    @property
    def config(self):
        return config(
            "fine_tune",
            "Fine-tune on this view",
            "Teaches RexSeek or ReLA the expressions of the samples; the result is a folder of weights",
            dynamic=True,
            allow_immediate_execution=True,
            allow_delegated_execution=True,
            default_choice_to_delegated=True,
            risk_level=types.RiskLevel.MEDIUM,
        )

    def resolve_input(self, ctx):
        inputs = types.Object()
        target = target_images(ctx)
        family = self._start(ctx, inputs)
        self._folder(ctx, inputs)
        gt_field = self._fields(ctx, inputs, family)
        self._validation(ctx, inputs)
        inputs.int("steps", default=300, min=1, required=True, label="Steps")
        prop = inputs.float("lr", label="Learning rate", description=f"Empty: {_RATES[family]}")
        if ctx.params.get("lr") is not None and not _is_rate(ctx.params["lr"]):
            invalid(prop, "Between 0 and 1, such as 0.0005")
        if family == "rela":
            inputs.int("batch", default=8, min=1, label="Expressions per batch", description="Fewer need less memory")
        inputs.int("lora", default=0, min=0, label="Rank of low-rank adapters", description=_ADAPTED[family])
        inputs.bool("bf16", default=False, label="bfloat16 (GPU)")
        inputs.bool("gradient_checkpointing", default=False, label="Less memory, slower")
        if gt_field:
            trainable = target.match(F(gt_field) != None).count()  # noqa: E711 - the database's null
            count_notice(inputs, trainable, "will be trained on", "No sample of the target has ground truth")
        return types.Property(inputs, view=types.View(label="Fine-tune on this view"))

    @staticmethod
    def _start(ctx, inputs: types.Object) -> str:
        """Asks for the weights; returns the family of those chosen."""
        view = types.AutocompleteView(allow_user_input=True)
        for name in _STARTS:
            view.add_choice(name, label=name, description=ENTRIES[name].description)
        prop = inputs.str(
            "start", default=_DEFAULT, required=True, view=view, label="Start from",
            description="A model of this plugin, a folder of RexSeek or ReLA weights, or a file of ReLA weights",
        )  # fmt: skip
        start = ctx.params.get("start") or _DEFAULT
        try:
            family = family_of(start)
        except ReferringError as e:
            invalid(prop, str(e))
            return "rexseek"
        if start in ENTRIES and start not in _STARTS and not Path(start).exists():
            invalid(prop, f"Its checkpoint is at {ENTRIES[start].source}: download it and give the file")
        elif family == "rela" and start not in _STARTS and not _has_tokenizer(Path(start).expanduser()):
            inputs.str(
                "tokenizer", label="Folder of bert-base-uncased",
                description="These weights come without a tokenizer; empty: from the Hugging Face hub",
            )  # fmt: skip
        return family

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
    def _fields(ctx, inputs: types.Object, family: str) -> str | None:
        texts = text_fields(ctx.dataset)
        labels = detections_fields(ctx.dataset)
        wanted = [
            ("expression_field", "Expressions", texts, "expression"),
            ("gt_field", "Who is meant", labels, "ground_truth"),
        ]
        if family == "rexseek":  # ReLA finds objects by itself
            wanted.append(("candidates_field", "Candidates", labels, "candidates"))
        for name, label, names, usual in wanted:
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
        family = family_of(p["start"])
        options = {name: p[name] for name in ("bf16", "gradient_checkpointing", "lora") if p.get(name)}
        options |= {"lr": float(p["lr"])} if p.get("lr") is not None else {}
        if family == "rela":
            options |= {"batch": int(p.get("batch") or 8), "tokenizer": p.get("tokenizer") or None}
        else:
            options |= {"candidates_field": p["candidates_field"]}
        result = fine_tune(
            target_images(ctx),
            p["output_dir"],
            p["start"],
            gt_field=p["gt_field"],
            expression_field=p["expression_field"],
            validation=ctx.dataset.load_saved_view(p["validation"]) if p.get("validation") else None,
            on_progress=(lambda share, text: ctx.set_progress(share, label=text)) if ctx.delegated else None,
            steps=int(p["steps"]),
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


def _has_tokenizer(place: Path) -> bool:
    folder = place if place.is_dir() else place.parent
    return any((folder / name).is_file() for name in ("vocab.txt", "tokenizer.json"))


def _is_rate(value) -> bool:
    return isinstance(value, int | float) and 0 < value < 1
