"""``fiftyone-rexseek apply``: ask a model expressions about a FiftyOne dataset, or about HumanRef without a database."""

from __future__ import annotations

import click

from ..errors import ConfigError
from ..models.registry import ENTRIES


@click.command()
@click.argument("dataset", required=False)
@click.option("--model", "model_name", type=click.Choice(sorted(ENTRIES)), required=True, help="Model of the zoo.")
@click.option("--weights", type=click.Path(exists=True), help="Local folder or file of weights.")
@click.option("--field", default=None, help="Field of the answers. Default: the model's family (rexseek, rela).")
@click.option("--expression", "texts", multiple=True, help="An expression for all samples; may be repeated.")
@click.option("--expression-field", default="expression", show_default=True, help="Field of the expressions.")
@click.option("--candidates", default=None, help="Field of the candidate boxes. Default: candidates.")
@click.option("--detector", default=None, help="Find candidates: a Grounding DINO folder or hub name, 'grounding-dino', or zoo:NAME for a detector of FiftyOne's zoo.")  # fmt: skip
@click.option("--prompt", default=None, help="What the detector looks for. Default: the nouns of the expression.")
@click.option("--noun-pipeline", default="en_core_web_sm", show_default=True, help="spaCy pipeline, by name or folder.")
@click.option("--box-threshold", type=click.FloatRange(0, 1), default=0.25, show_default=True, help="Of the detector.")
@click.option("--text-threshold", type=click.FloatRange(0, 1), default=0.25, show_default=True, help="Of the detector.")
@click.option("--max-candidates", type=click.IntRange(min=1), default=100, show_default=True, help="Of the detector.")
@click.option("--masks", default=None, help="Masks for the boxes: 'sam', a zoo model's name, or a SAM/SAM2 folder.")
@click.option("--mask-dir", type=click.Path(), help="Write masks as PNG files there.")
@click.option("--label", default=None, help="Label of the predictions. Default: the candidate's, or person.")
@click.option("--decoding", type=click.Choice(["free", "constrained"]), default=None, help="Of RexSeek.")
@click.option("--view", "saved_view", default=None, help="A saved view of the dataset.")
@click.option("--tag", "tags", multiple=True, help="Only samples with one of these tags.")
@click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True, help="Images at once.")
@click.option("--num-workers", type=click.IntRange(min=0), default=2, show_default=True, help="Threads that open images.")
@click.option("--device", default=None, help="cpu, cuda, mps.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default=None)
@click.option("--ray", "num_actors", type=click.IntRange(min=1), default=None, help="Spread over so many Ray processes.")
@click.option("--again", is_flag=True, help="Ask again what has been answered already.")
@click.option("--overwrite", is_flag=True, help="Allow a field that holds labels of no model.")
@click.option("--humanref", type=click.Path(exists=True), help="HumanRef annotations.jsonl: no database is used.")
@click.option("--images", type=click.Path(exists=True, file_okay=False), help="With --humanref: folder of the images.")
@click.option("--out", type=click.Path(), help="With --humanref: prediction file to write.")
def apply(dataset, humanref, **options):
    """Ask a model expressions about the samples of DATASET.

    \b
    fiftyone-rexseek apply humanref --model rexseek-tiny --field rexseek
    fiftyone-rexseek apply photos --model rexseek-3b --detector grounding-dino --expression "the person in red"
    fiftyone-rexseek apply --humanref annotations.jsonl --images images --model rexseek-3b --out predictions.jsonl
    """
    if (dataset is None) == (humanref is None):
        raise click.UsageError("give either a DATASET or --humanref")
    if humanref is not None:
        if not options["images"] or not options["out"]:
            raise click.UsageError("--humanref needs --images and --out")
        _humanref(humanref, **options)
    else:
        _dataset(dataset, **options)


def _call_options(decoding) -> dict:
    return {} if decoding is None else {"decoding": decoding}


def _proposer(detector, box_threshold, text_threshold, max_candidates, device):
    if detector is None:
        return None
    thresholds = {"box_threshold": box_threshold, "text_threshold": text_threshold, "max_candidates": max_candidates}
    if detector.startswith("zoo:"):
        from ..integration.detectors import ZooDetector

        return ZooDetector.load(detector.removeprefix("zoo:"), **thresholds)
    from ..models.proposals.grounding_dino import DEFAULT_CHECKPOINT, GroundingDino

    name = DEFAULT_CHECKPOINT if detector == "grounding-dino" else detector
    return GroundingDino.from_pretrained(name, device=device, **thresholds)


def _masks(name, device):
    from pathlib import Path

    if name is None or name == "sam":
        return None if name is None else True
    if Path(name).exists() or "/" in name:
        from ..models.segmentation import SamSegmenter

        return SamSegmenter.from_pretrained(name, device=device)
    return name


def _humanref(annotations, *, model_name, weights, images, out, detector, prompt, box_threshold, text_threshold, max_candidates,
              decoding, batch_size, num_workers, device, dtype, again, **_):  # fmt: skip
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ..models import registry
    from ..models.humanref_run import run_humanref
    from ..models.proposals import clean_names

    proposer = _proposer(detector, box_threshold, text_threshold, max_candidates, device)
    model = registry.load(model_name, weights, device=device, dtype=dtype)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("rows", total=None)
        summary = run_humanref(
            annotations,
            images,
            out,
            model,
            batch_size=batch_size,
            num_workers=num_workers,
            resume=not again,
            proposer=proposer,
            names=tuple(clean_names(prompt or "person")),
            call_options=_call_options(decoding),
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    counts = ", ".join(f"{n} {name}" for name, n in summary.outcomes.items() if n) or "nothing"
    click.echo(f"{summary.num_asked} rows asked, {summary.num_skipped} were there already: {counts}")
    if summary.problems:
        click.secho(f"annotations: {summary.problems}", fg="yellow", err=True)
    click.echo(f"written: {out}")


def _dataset(name, *, model_name, weights, field, texts, expression_field, candidates, detector, prompt, noun_pipeline,
             box_threshold, text_threshold, max_candidates, masks, mask_dir, label, decoding, saved_view, tags, batch_size,
             num_workers, device, dtype, num_actors, again, overwrite, images, out):  # fmt: skip
    if images or out:
        raise click.UsageError("--images and --out belong to --humanref")
    if candidates is not None and detector is not None:
        raise click.UsageError("give either --candidates or --detector")
    import fiftyone as fo

    from ..integration import apply_plan
    from ..integration.apply import apply_expressions
    from ..integration.fields import flat_images

    if not fo.dataset_exists(name):
        raise ConfigError("there is no such dataset", expected=f"one of {fo.list_datasets()}", found=name)
    samples = fo.load_dataset(name)
    if saved_view is not None:
        if not samples.has_saved_view(saved_view):
            raise ConfigError("there is no such saved view", expected=f"one of {samples.list_saved_views()}", found=saved_view)
        samples = samples.load_saved_view(saved_view)
    if tags:
        samples = samples.match_tags(list(tags))
    expressions = list(texts) if texts else f"field:{expression_field}"
    # before a detector or SAM is loaded; apply_expressions checks the rest before the model is
    samples = flat_images(samples)
    apply_plan.resolve_expressions(samples, expressions)
    summary = apply_expressions(
        samples,
        model_name,
        field or ENTRIES[model_name].family,
        expressions=expressions,
        candidates=_proposer(detector, box_threshold, text_threshold, max_candidates, device) or candidates,
        masks=_masks(masks, device),
        prompt=prompt,
        noun_pipeline=noun_pipeline,
        label=label,
        mask_dir=mask_dir,
        batch_size=batch_size,
        num_workers=num_workers,
        resume=not again,
        overwrite=overwrite,
        progress=True,
        distributed="ray" if num_actors else None,
        num_actors=num_actors or 1,
        weights=weights,
        device=device,
        dtype=dtype,
        call_options=_call_options(decoding),
    )
    click.echo(str(summary))
