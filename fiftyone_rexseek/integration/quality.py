"""Quality checks on samples, as tags and a saved view. Nothing is changed or deleted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import fiftyone.core.utils as fou
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection

from ..datasets.quality import CHECKS, QualityConfig, check_examples, counts
from ..errors import ConfigError
from ..referring import ReferringExample
from .examples import examples_of
from .fields import flat_images

#: Tag of every sample with a problem; ``quality:<kind>`` says which.
QUALITY_TAG = "quality"
VIEW = "quality problems"


@dataclass(frozen=True)
class QualityReport:
    """What was found.

    Attributes:
        checked: samples looked at
        flagged: samples with some problem
        counts: samples by kind of problem
    """

    checked: int
    flagged: int
    counts: dict[str, int]

    def summary(self) -> str:
        """One line for a person.

        Example::

            >>> QualityReport(10, 1, {"empty-expression": 1}).summary()
            '1 of 10 samples flagged (empty-expression: 1)'
        """
        kinds = ", ".join(f"{kind}: {n}" for kind, n in self.counts.items())
        return f"{self.flagged} of {self.checked} samples flagged" + (f" ({kinds})" if kinds else "")


def check_quality(
    samples: SampleCollection,
    *,
    gt_field: str = "ground_truth",
    expression_field: str = "expression",
    checks: Sequence[str] = tuple(CHECKS),
    same_image: str = "path",
) -> QualityReport:
    """Tags samples with ``quality`` and ``quality:<kind>`` and saves a view of them; see :data:`~fiftyone_rexseek.datasets.quality.CHECKS`.

    Tags of an earlier check are taken off first, on the same samples and for the same kinds, so that mended samples lose them.
    Samples whose ground truth is None are not looked at.

    Args:
        samples: a dataset or view of images; a view grouped by a field stands for all its samples
        gt_field, expression_field: which fields to check
        checks: kinds to look for
        same_image: what makes two images the same: "path", or "content" (reads every file; finds copies)
    """
    samples = flat_images(samples)
    if same_image not in ("path", "content"):
        raise ConfigError("unknown same_image", expected="'path' or 'content'", found=same_image)
    config = QualityConfig(checks=tuple(checks))
    known = samples.match(F(gt_field) != None)  # noqa: E711 - the database's null, not Python's
    ids = known.values("id")
    kinds = check_examples(_examples(known, gt_field, expression_field, same_image), config)
    if len(kinds) != len(ids):
        raise ConfigError("the samples changed while they were checked", expected=len(ids), found=len(kinds))

    dataset = samples._dataset
    flagged = [i for i, found in zip(ids, kinds) if found]
    names = [f"{QUALITY_TAG}:{c}" for c in config.checks]
    known.match_tags([*names, QUALITY_TAG]).untag_samples([*names, QUALITY_TAG])
    for kind in config.checks:
        mine = [i for i, found in zip(ids, kinds) if kind in found]
        if mine:
            dataset.select(mine).tag_samples(f"{QUALITY_TAG}:{kind}")
    if flagged:
        dataset.select(flagged).tag_samples(QUALITY_TAG)
    # kinds that were not looked at this time keep their tags
    others = [f"{QUALITY_TAG}:{c}" for c in CHECKS if c not in config.checks]
    if others:
        dataset.match_tags(others).tag_samples(QUALITY_TAG)
    if VIEW in dataset.list_saved_views():
        dataset.delete_saved_view(VIEW)
    dataset.save_view(VIEW, dataset.match_tags(QUALITY_TAG), description="Samples that a quality check named")
    return QualityReport(len(ids), len(flagged), counts(kinds))


def _examples(samples, gt_field: str, expression_field: str, same_image: str) -> Iterator[ReferringExample]:
    """Examples whose ``image_id`` says which image file they are about."""
    hashes: dict[str, str] = {}
    for example, path in examples_of(samples, gt_field, expression_field=expression_field):
        key = path
        if same_image == "content":
            if path not in hashes:
                hashes[path] = _content(path)
            key = hashes[path]
        yield replace(example, image_id=key, split=example.split or _split_of(example))


def _split_of(example: ReferringExample) -> str | None:
    split = example.extra.get("split")
    return split if isinstance(split, str) else None


def _content(path: str) -> str:
    try:
        return str(fou.compute_filehash(path, method="md5"))
    except OSError:
        return path  # a file that is not there is no copy of another


__all__ = ["QUALITY_TAG", "VIEW", "QualityReport", "check_quality"]
