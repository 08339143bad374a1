"""What the commands of ``fiftyone-rexseek train`` share: options, where to start, what is reported."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..errors import ConfigError

#: Said where a run had nothing to choose its best checkpoint by.
NOT_VALIDATED = "Not validated: a tenth of so few images is none. The model is that of the last step."

_DATA = (
    click.option("--data", required=True, type=click.Path(), help="annotations.jsonl, grefs(unc).json, or their folder."),
    click.option("--format", "kind", type=click.Choice(["humanref", "grefcoco", "scenes"]), default="humanref",
                 show_default=True, help="Of the data; drawn scenes are written in HumanRef's."),
    click.option("--images", "image_folder", type=click.Path(), help="Folder of the images. Default: images beside the data."),
    click.option("--validation", type=click.Path(), help="Data to choose the best checkpoint by. Default: a tenth of the images."),
    click.option("--split", help="Split of gRefCOCO.  [default: train]"),
    click.option("--validation-split", help="Split of gRefCOCO to choose the best checkpoint by; without --validation, of the data.  [default: val where --validation is the data, else that of --split]"),
    click.option("--out", required=True, type=click.Path(), help="Folder for the result, log and plot; goes on with a run found there."),
)  # fmt: skip

_RUN = (
    click.option("--steps", type=click.IntRange(1), default=300, show_default=True),
    click.option("--accumulate", type=click.IntRange(1), default=1, show_default=True, help="Batches per step."),
    click.option("--bf16/--no-bf16", default=False, help="bfloat16 autocast."),
    click.option("--gradient-checkpointing/--no-gradient-checkpointing", default=False, help="Less memory, slower."),
    click.option("--validate-every", type=click.IntRange(1), default=100, show_default=True, help="Steps."),
    click.option("--device", help="Default: a GPU where there is one."),
    click.option("--seed", type=click.IntRange(-(2**63), 2**63 - 1), default=0, show_default=True),
)


def _all_of(options) -> Callable:
    def decorate(command):
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


#: Options that say what to train on.
data_options = _all_of(_DATA)
#: Options that say how.
run_options = _all_of(_RUN)


def part_names(text: str) -> tuple[str, ...]:
    """Names between commas.

    Example::

        >>> part_names("language, clip,")
        ('language', 'clip')
    """
    return tuple(name.strip() for name in text.split(",") if name.strip())


def validation_of(
    data: str, kind: str, validation: str | None, split: str | None, validation_split: str | None
) -> tuple[str | None, str | None]:
    """Where the validation examples are, and their split: not those that are trained on, unless it is said.

    Raises:
        ConfigError: nothing says what else to validate on, or data without splits

    Example::

        >>> validation_of("grefs(unc).json", "grefcoco", "grefs(unc).json", None, None)
        ('grefs(unc).json', 'val')
        >>> validation_of("a.jsonl", "humanref", None, None, None)
        (None, None)
    """
    if validation is None and validation_split is None:
        return None, None
    if validation_split and kind != "grefcoco":
        raise ConfigError("these data have no splits", expected="--validation with a file", found=f"--validation-split {validation_split}")
    validation = validation or data
    # gRefCOCO keeps all splits in one file
    same = kind == "grefcoco" and _refs_file(validation) == _refs_file(data)
    if same and split == "val" and not validation_split:
        raise ConfigError("the split val would be trained on and validated on", expected="--validation-split with another")
    return validation, validation_split or ("val" if same else split)


def _refs_file(source: str) -> Path:
    from ..datasets.grefcoco import REFS_NAMES, find_file

    path = Path(source)
    return (find_file(path, REFS_NAMES, ("grefcoco",)) if path.is_dir() else path).resolve()


def start_of(weights: str, family: str) -> str:
    """A checkpoint's place; the name of a model that ships with the package stands for its folder.

    Args:
        weights: as the user gave it
        family: ``"rexseek"`` or ``"rela"``: what is trained

    Raises:
        ConfigError: there is no such thing, or it belongs to the other family
    """
    from ..models.registry import ENTRIES, find_weights

    names = " or ".join(name for name, e in ENTRIES.items() if e.family == family and (e.packaged or e.repo_id))
    expected = f"{names}, or a place of {_FAMILIES[family]} weights"
    known = ENTRIES.get(weights)
    if Path(weights).exists():
        if (found := _family_in(Path(weights))) not in (None, family):
            raise ConfigError("these are weights of another model", where=weights, expected=expected, found=f"{_FAMILIES[found]} weights")
        return weights
    if known is None:
        if weights.count("/") == 1 and not weights.startswith((".", "~", "/")):
            return weights  # on the hub
        raise ConfigError("there is no model to start from", where=weights, expected=expected, found="no such name, file or folder")
    if known.family != family:
        advice = f"fiftyone-rexseek train {known.family}"
        raise ConfigError("this is another model", where=weights, expected=expected, found=_FAMILIES[known.family], advice=advice)
    return known.repo_id if known.repo_id else str(find_weights(known))


_FAMILIES = {"rexseek": "RexSeek", "rela": "ReLA"}


def _family_in(folder: Path) -> str | None:
    """What the weights in a folder say they are, where they do."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return ("rela" if config.get("model_type") == "rela" else "rexseek") if isinstance(config, dict) else None


def several_gpus(bf16: bool = False) -> Any:
    """An ``Accelerator`` when started by ``accelerate launch`` on several processes, else None.

    It decides about mixed precision: bfloat16 when asked for, else what ``accelerate launch`` says.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    from accelerate import Accelerator

    return Accelerator(mixed_precision="bf16" if bf16 else None)


def report(out: str, result: Any, log: Any) -> None:
    """Prints problems on the error stream, and one line of JSON with the outcome."""
    if summary := log.summary():
        click.echo(summary, err=True)
    if result.best_score is None:
        click.echo(f"{NOT_VALIDATED} --validation names data for that.", err=True)
    click.echo(
        json.dumps(
            {
                "model": str(Path(out) / "model"),
                "steps": result.step,
                "minutes": round(result.seconds / 60, 2),
                "best_score": result.best_score,
                "best_step": result.best_step,
            }
        )
    )
