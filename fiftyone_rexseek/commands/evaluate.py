"""``fiftyone-rexseek evaluate``: scores prediction files; no database, no FiftyOne, no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..cli import LazyGroup
from ..errors import ConfigError, ProblemLog

_GREFCOCO = "fiftyone_rexseek.commands.evaluate_grefcoco"


class ManyValues(click.Command):
    """A command whose repeatable options also take several values at once: ``--pred a b`` is ``--pred a --pred b``."""

    def parse_args(self, ctx, args):
        repeatable = {o for p in self.params if isinstance(p, click.Option) and p.multiple for o in p.opts}
        expanded: list[str] = []
        current, given = None, 0
        for token in args:
            if token.startswith("-") and token != "-":
                current, given = (token if token in repeatable else None), 0
                expanded.append(token)
            elif current is not None and given:
                expanded += [current, token]
            else:
                expanded.append(token)
                given += 1
        return super().parse_args(ctx, expanded)


@click.group(
    cls=LazyGroup,
    lazy={
        "humanref": (f"{__name__}:humanref", "Recall, precision, DensityF1 and rejection on HumanRef."),
        "grec": (f"{_GREFCOCO}:grec", "Pr@F1, N-acc and T-acc of boxes on gRefCOCO."),
        "gres": (f"{_GREFCOCO}:gres", "gIoU, cIoU, N-acc and T-acc of masks on gRefCOCO."),
        "greg": (f"{_GREFCOCO}:greg", "METEOR and CIDEr of generated expressions."),
    },
)
def evaluate():
    """Score prediction files; needs no database."""


@click.command(cls=ManyValues)
@click.option("--gt", required=True, type=click.Path(), help="HumanRef annotations.jsonl.")
@click.option("--pred", required=True, multiple=True, type=click.Path(), help="Prediction files, one or several.")
@click.option("--names", multiple=True, help="A name for each file, same order. Default: the file names.")
@click.option("--dump", type=click.Path(), help="Folder for comparison.json and comparison.md.")
@click.option("--json", "json_file", type=click.Path(), help="File for the unrounded numbers.")
@click.option("--protocol", type=click.Choice(["official", "paper"]), default="official", show_default=True,
              help="What the published script computes, or the README's formula.")  # fmt: skip
@click.option("--missing", type=click.Choice(["official", "wrong", "error"]), default="official", show_default=True,
              help="Samples without an answer: credited on rejection samples as by the published script, wrong, or an error.")  # fmt: skip
@click.option("--baselines/--no-baselines", default=True, help="Also show trivial answers, in a table of their own.")
@click.option("--random-k", type=click.IntRange(min=0), default=1, show_default=True, help="Boxes of the random baseline.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random baseline and the intervals.")
@click.option("--strict", is_flag=True, help="Stop at the first bad row instead of counting it.")
def humanref(gt, pred, names, dump, json_file, protocol, missing, baselines, random_k, seed, strict):
    """Score HumanRef prediction files side by side.

    Prints the tables of the published script and, with --dump, writes its comparison.json and comparison.md.
    """
    from ..datasets.humanref import read_humanref
    from ..datasets.predictions import PredictionSet
    from ..metrics.humanref_evaluation import HumanRefColumns, evaluate, evaluate_baseline
    from ..metrics.humanref_tables import comparison_text, write_comparison

    labels = _names(pred, names)
    gt_log = ProblemLog(strict)
    columns = HumanRefColumns.from_examples(read_humanref(gt, gt_log, keep_odd=True, check_masks=strict))
    _report(gt, gt_log)
    results = []
    for label, path in zip(labels, pred):
        log = ProblemLog(strict)
        predictions = PredictionSet.load(path, log)
        predictions.check_ids(columns.ids, log)
        results.append(evaluate(columns, predictions, name=label, protocol=protocol, missing=missing, log=log))
        _report(path, log)
        if doubt := predictions.doubt():
            _note(doubt)
        _report_missing(label, results[-1].summary)
    summaries = {r.name: r.summary for r in results}
    owner = columns.sub_domain_owner
    click.echo(comparison_text(summaries, owner))
    if protocol != "official":
        click.echo(f"\nProtocol: {protocol} (not comparable with published tables)")
    if baselines:
        trivial = [
            evaluate_baseline(columns, kind, k=random_k, seed=seed, protocol=protocol)
            for kind in ("all", "none", "random")
        ]
        click.echo(_headline([*results, *trivial], columns.image_ids, protocol, seed))
    if dump:
        try:
            written = write_comparison(dump, summaries, owner)
        except OSError as e:
            raise ConfigError("cannot write the comparison", where=dump, expected="a folder", found=e.strerror) from e
        for path in written:
            _note(f"wrote {path}")
    if json_file:
        write_json(json_file, summaries)


def _names(files: Sequence[str], names: Sequence[str]) -> list[str]:
    """One distinct name per file."""
    if not names:
        stems = [Path(f).stem for f in files]
        # runs often differ only in their folder
        names = [s if stems.count(s) == 1 else f"{Path(f).parent.name}/{s}" for f, s in zip(files, stems)]
    if len(names) != len(files):
        raise ConfigError(
            "names and prediction files do not pair up",
            expected=f"{len(files)} names, one for each --pred",
            found=f"{len(names)}: {', '.join(names)}",
        )
    broken = [n for n in names if n.splitlines() not in ([n], [])]
    if broken:
        raise ConfigError("a name does not fit into a table", expected="one line", found=repr(broken[0]), advice="Give --names")
    if len(set(names)) != len(names):
        raise ConfigError("two prediction files have the same name", found=", ".join(names), advice="Give --names")
    return list(names)


def _note(text: str) -> None:
    click.secho(text, fg="yellow", err=True)


def _report(path: Any, log: ProblemLog) -> None:
    if len(log):
        _note(f"{path}: {log.summary()}")


def _report_missing(name: str, summary: dict[str, Any]) -> None:
    missing = summary["missing"]
    if not missing["count"]:
        return
    text = f"{name}: {missing['count']} samples have no answer, {missing['rejection_count']} of them rejection samples"
    if missing["policy"] == "official":
        text += (
            f"; the official rejection score {summary['rejection_correct']} of {summary['rejection_count']} credits these,"
            f" without them it is {missing['rejection_correct_without_credit']}"
        )
    _note(text)


def _headline(results, image_ids, protocol: str, seed: int) -> str:
    """The main numbers of models and trivial answers, with intervals over resampled images."""
    from ..metrics.significance import bootstrap_interval
    from ..metrics.tables import grid

    rows = []
    for r in results:
        interval = bootstrap_interval(r.scores.density_f1_mean, image_ids, n_resamples=1000, seed=seed)
        overall = r.summary["overall"]
        values = [overall.get(f"{k}_mean", overall.get(k)) for k in ("recall", "precision", "density_f1")]
        cells = ["" if v is None else f"{v:.3f}" for v in values]
        span = "" if values[2] is None else f"{interval.low:.3f} to {interval.high:.3f}"
        total = r.summary["rejection_count"]
        rejection = f"{r.summary['rejection_correct']} of {total}" if total else ""
        rows.append([r.name, *cells, span, rejection, r.summary["missing"]["count"] or ""])
    headers = ("Model", "Recall", "Precision", "DensityF1", "95% interval\nover images", "Rejections\ncorrect", "No answer")
    return f"\nWith trivial answers in parentheses (protocol: {protocol}):\n{grid(headers, rows)}"


def write_json(path: str | Path, content: Any) -> None:
    """Writes unrounded results; what could not be computed has to be None already (JSON has no NaN)."""
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
    except OSError as e:
        raise ConfigError("cannot write the results", where=target, expected="a file", found=e.strerror) from e
    _note(f"wrote {target}")
