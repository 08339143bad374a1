"""``fiftyone-rexseek evaluate grec | gres | greg``: gRefCOCO's three tasks, from files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import click

from ..datasets.refs import SPLITS
from ..errors import ConfigError, ProblemLog
from .evaluate import write_json

_ORDER = ("train", "val", "testA", "testB", "test")


def _data_options(command):
    options = [
        click.option("--refs", required=True, type=click.Path(), help="grefs(unc).json, refs(unc).p ..., or their folder."),
        click.option("--instances", type=click.Path(), help="instances.json. Default: beside the refs."),
        click.option("--pred", required=True, type=click.Path(), help="Prediction file (JSON list)."),
        click.option("--split", "splits", multiple=True, type=click.Choice(SPLITS), help="Repeatable. Default: all splits of the refs that the predictions name."),
        click.option("--missing", type=click.Choice(["wrong", "skip", "error"]), default="wrong", show_default=True,
                     help="What an expression without a usable answer is."),
        click.option("--baselines/--no-baselines", default=True, help="Also score trivial answers."),
        click.option("--random-k", type=click.IntRange(min=0), default=1, show_default=True, help="Boxes of the random baseline."),
        click.option("--seed", type=int, default=0, show_default=True, help="Of the random baseline."),
        click.option("--strict", is_flag=True, help="Stop at the first bad row instead of counting it."),
        click.option("--per-sample", type=click.Path(), help="File for the verdict on every expression."),
        click.option("--json", "json_file", type=click.Path(), help="File for the unrounded numbers."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@_data_options
@click.option("--protocol", type=click.Choice(["official", "paper"]), default="official", show_default=True,
              help="Generalized IoU as the authors' script computes it, or plain IoU as the paper says.")  # fmt: skip
@click.option("--output", type=click.Choice(["threshold", "top-k", "count", "all"]), default="threshold", show_default=True,
              help="Which boxes are the answer: by score, the k best, as many as the model counts, or all.")  # fmt: skip
@click.option("--score-threshold", type=float, default=0.7, show_default=True)
@click.option("-k", "k", type=click.IntRange(min=1), default=1, show_default=True, help="For --output top-k.")
@click.option("--ap/--no-ap", default=True, help="Also COCO average precision over all boxes (slow on whole splits).")
def grec(refs, instances, pred, splits, missing, baselines, random_k, seed, strict, per_sample, json_file,
         protocol, output, score_threshold, k, ap):  # fmt: skip
    """Score predicted boxes: Pr@(F1=1, IoU>=0.5), T-acc, N-acc, AP."""
    from ..datasets.grefcoco_predictions import box_rows, load_rows, pair_rows
    from ..metrics.coco_ap import coco_average_precision
    from ..metrics.grec import Answer, GrecConfig, evaluate_grec
    from ..metrics.referring_baselines import TITLES, grec_baselines

    config = GrecConfig(protocol, output, score_threshold, k, missing=missing)
    log = ProblemLog(strict)
    rows = load_rows(pred, log)
    report, dump = {}, {}
    by_split = _examples(refs, instances, splits, rows.splits, log)
    for split, examples in by_split.items():
        targets = [[t.box_xyxy for t in e.targets] for e in examples]
        answers = [
            None if r is None else Answer(r.boxes_xyxy, r.scores, r.count_class)
            for r in box_rows(pair_rows(examples, rows, log), log)
        ]
        result = evaluate_grec(targets, answers, config)
        content = result.as_dict()
        counted = list(compress(examples, result.counted))
        if ap:
            content["coco_stats_all_boxes"] = coco_average_precision(
                [[t.box_xyxy for t in e.targets] for e in counted], list(compress(answers, result.counted)),
                areas=[[t.area for t in e.targets] for e in counted],
                iscrowd=[[t.iscrowd for t in e.targets] for e in counted],
                protocol=protocol,
            )  # fmt: skip
        if baselines:
            trivial = grec_baselines(counted, config, k=random_k, seed=seed)
            content["baselines"] = {TITLES[name]: r.summary() for name, r in trivial.items()}
        report[split] = content
        c = result.columns
        dump[split] = [
            {**_key(e), "num_gt": int(c.num_targets[i]), "num_pred": int(c.num_predicted[i]), "tp": int(c.tp[i]),
             "f1": float(c.f1[i]), "correct": int(c.success[i]), "answered": bool(c.answered[i])}
            for i, e in enumerate(examples)
        ]  # fmt: skip
    _warn(pred, log)
    columns = ("F1_score", "T_acc", "N_acc", *(("AP",) if ap else ()))
    click.echo(_table("GREC", report, columns, extra="coco_stats_all_boxes"))
    _write(json_file, report, per_sample, dump)


@click.command()
@_data_options
@click.option("--protocol", type=click.Choice(["official", "original-size", "paper"]), default="official", show_default=True,
              help="480x480 and the head decides; the same at image size; or the mask decides, as the paper says.")  # fmt: skip
@click.option("--size", type=click.Choice(["480", "original"]), help="Masks of this size, whatever the protocol says.")
@click.option("--no-target", type=click.Choice(["head", "mask", "head-clears-mask"]),
              help="What says that there is no target, whatever the protocol says.")  # fmt: skip
@click.option("--min-pixels", type=click.IntRange(min=0), default=0, show_default=True,
              help="Clear masks with fewer pixels (50 in the paper, for models without a no-target head).")  # fmt: skip
@click.option("--refcoco-refs", type=click.Path(), help="Single-target companion, pooled with the above as 'full'.")
@click.option("--refcoco-instances", type=click.Path(), help="Its instances.json. Default: beside its refs.")
@click.option("--refcoco-pred", type=click.Path(), help="Its prediction file.")
def gres(refs, instances, pred, splits, missing, baselines, random_k, seed, strict, per_sample, json_file,
         protocol, size, no_target, min_pixels, refcoco_refs, refcoco_instances, refcoco_pred):  # fmt: skip
    """Score predicted masks: gIoU, cIoU, Pr@X, T-acc, N-acc."""
    from ..metrics.gres import GresConfig, pooled_summary

    if bool(refcoco_refs) != bool(refcoco_pred):
        raise ConfigError("the companion is incomplete", expected="--refcoco-refs and --refcoco-pred together")
    config = GresConfig(protocol, size, no_target, min_pixels, missing)
    options = {"strict": strict, "config": config, "baselines": baselines, "k": random_k, "seed": seed}
    report, dump, results = _score_masks(refs, instances, pred, splits, **options)
    if refcoco_refs:
        splits = splits or tuple(report)
        other_report, other_dump, other = _score_masks(refcoco_refs, refcoco_instances, refcoco_pred, splits, **options)
        for split in [s for s in report if s in other_report]:
            report[split] = {
                "refcoco": other_report[split],
                "grefcoco": report[split],
                "full": pooled_summary([other[split], results[split]]),
            }
            dump[split] = {"refcoco": other_dump[split], "grefcoco": dump[split]}
    flat = {}
    for split, content in report.items():
        sources = content if "full" in content else {"": content}
        flat.update({f"{split} {name}".strip(): part for name, part in sources.items()})
    columns = ("gIoU", "cIoU", "T_acc", "N_acc", "Pr@0.7", "Pr@0.8", "Pr@0.9")
    click.echo(_table("GRES", flat, columns, settings=f"{config.size}, {config.no_target}, {config.min_pixels} px"))
    _write(json_file, report, per_sample, dump)


def _score_masks(refs, instances, pred, splits, *, strict, config, baselines, k, seed):
    from ..datasets.grefcoco_predictions import load_rows, mask_rows, pair_rows
    from ..metrics.gres import MaskAnswer, evaluate_gres, truths
    from ..metrics.referring_baselines import TITLES, gres_baselines

    log = ProblemLog(strict)
    rows = load_rows(pred, log)
    report, dump, results = {}, {}, {}
    by_split = _examples(refs, instances, splits, rows.splits, log)
    for split, examples in by_split.items():
        answers = (
            None if r is None else MaskAnswer(r.mask, r.no_target)
            for r in mask_rows(pair_rows(examples, rows, log), log)
        )
        # a truth that cannot be made is left out, with its answer
        truth = list(truths(examples, config, log))
        result = results[split] = evaluate_gres(zip(truth, answers), config, log)
        for _ in answers:  # lets the pairing report what is left over
            continue
        content = result.as_dict()
        if baselines:
            trivial = gres_baselines(examples, result.counted_truths(truth), config, k=k, seed=seed)
            content["baselines"] = {TITLES[name]: r.summary() for name, r in trivial.items()}
        report[split] = content
        c = result.columns
        graded = [e for e, t in zip(examples, truth) if t is not None]
        dump[split] = [
            {**_key(e), "gt_nt": bool(c.num_targets[i] == 0), "pred_nt": bool(c.predicted_no_target[i]),
             "I": int(c.intersection[i]), "U": int(c.union[i]), "IoU": float(c.iou[i]), "answered": bool(c.answered[i])}
            for i, e in enumerate(graded)
        ]  # fmt: skip
    _warn(pred, log)
    return report, dump, results


@click.command()
@click.option("--items", required=True, type=click.Path(), help="JSON list of id, subset (S or M), references, hypothesis.")
@click.option("--per-sample", type=click.Path(), help="File for the scores of every item.")
@click.option("--json", "json_file", type=click.Path(), help="File for the unrounded numbers.")
@click.option("--strict", is_flag=True, help="Stop at the first bad item instead of counting it.")
def greg(items, per_sample, json_file, strict):
    """Score generated expressions: METEOR and CIDEr (needs Java)."""
    from ..metrics.greg import evaluate_greg, read_items
    from ..metrics.tables import grid

    log = ProblemLog(strict)
    result = evaluate_greg(read_items(items, log))
    _warn(items, log)
    summary = result.summary()
    rows = [
        [name, f"{100 * s['METEOR']:.1f}", f"{100 * s['CIDEr']:.1f}"]
        for name, s in summary.items()
        if "mean" not in name
    ]
    click.echo("GREG, values times 100 as in the paper")
    click.echo(grid(("Items", "METEOR", "CIDEr"), rows))
    per_item = [
        {"id": item.key, "subset": item.subset, "METEOR": result.overall.meteor_per_item[i],
         "CIDEr": result.overall.cider_per_item[i], "hyp_tokens": result.hypothesis_tokens[i],
         "ref_tokens": list(result.reference_tokens[i])}
        for i, item in enumerate(result.items)
    ]  # fmt: skip
    _write(json_file, summary, per_sample, per_item)


def _examples(refs, instances, splits: Sequence[str], named: frozenset[str], log: ProblemLog):
    """Examples by split, in the usual order."""
    from ..datasets.grefcoco import REFS_NAMES, open_reader

    names = (*REFS_NAMES, *(f"refs({by}).{end}" for by in ("unc", "umd", "google") for end in ("json", "p")))
    subfolders = ("grefcoco", "refcoco", "refcoco+", "refcocog")
    reader = open_reader(refs, instances, names, subfolders, list(splits) or None, log, None)
    by_split: dict[str, list] = {}
    for example in reader:
        by_split.setdefault(example.split, []).append(example)
    if not splits and named:
        by_split = {s: e for s, e in by_split.items() if s in named}
    missing = [s for s in splits if s not in by_split]
    if missing or not by_split:
        raise ConfigError(
            "the refs file has no expression of the split", where=refs, expected=", ".join(splits or sorted(named)),
            found=", ".join(by_split) or "nothing", advice="Is this the refs file that the predictions are about?",
        )  # fmt: skip
    return {s: by_split[s] for s in _ORDER if s in by_split}


def _key(example) -> dict[str, Any]:
    sentence = example.extra.get("sentence") or {}
    return {"ref_id": example.extra.get("ref_id"), "sent_id": sentence.get("sent_id")}


def _warn(path: Any, log: ProblemLog) -> None:
    if len(log):
        click.secho(f"{path}: {log.summary()}", fg="yellow", err=True)


def _table(title: str, report: Mapping[str, Any], columns: Sequence[str], extra: str = "", settings: str = "") -> str:
    from ..metrics.tables import grid

    def cells(figures: Mapping[str, Any]) -> list[str]:
        values = [figures.get(c) for c in columns]
        return ["" if v is None or math.isnan(v) else f"{v:.4f}" if abs(v) <= 1 else f"{v:.2f}" for v in values]

    rows, protocol = [], ""
    for name, content in report.items():
        protocol = content.get("protocol", protocol)
        figures = {**content, **(content.get(extra) or {})}
        unanswered = content.get("num_unanswered")
        rows.append([name, content.get("num_samples", ""), *cells(figures), unanswered or ""])
        rows += [[f"({t})", "", *cells(s), ""] for t, s in (content.get("baselines") or {}).items()]
    head = f"{title}, protocol: {protocol}" + (f" ({settings})" if settings else "")
    return head + "\n" + grid(("Split", "Expressions", *columns, "No answer"), rows)


def _write(json_file, report, per_sample, dump) -> None:
    if json_file:
        write_json(json_file, _without_nan(report))
    if per_sample:
        write_json(per_sample, _without_nan(dump))


def _without_nan(value: Any) -> Any:
    """Figures that do not exist become null: JSON has no NaN."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
