"""RefCOCO, RefCOCO+ and RefCOCOg: one target an expression, published as pickles.

``refs(unc).p`` (RefCOCO, RefCOCO+), ``refs(umd).p`` and ``refs(google).p`` (RefCOCOg) are loaded by a reader that
admits plain containers only; JSON files of the same content are read as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError, ProblemLog
from ..referring import ReferringExample
from .coco import InstancesIndex
from .grefcoco import Counts, open_reader, write_files
from .refs import RefsBuilder, RefsReader


@dataclass(frozen=True)
class Family:
    """One data set of the family.

    Attributes:
        name: ``refcoco``, ``refcoco+`` or ``refcocog``
        partitions: who split it (``unc``, ``umd``, ``google``), the first is the default, with its splits
        published: counts over all splits, by partition
    """

    name: str
    partitions: dict[str, tuple[str, ...]]
    published: dict[str, Counts]


_UNC = {"unc": ("train", "val", "testA", "testB")}

#: Counts are those of the refer API's files (sentences, refs = objects, images).
FAMILY = {
    "refcoco": Family("refcoco", _UNC, {"unc": Counts(expressions=142_210, objects=50_000, images=19_994)}),
    "refcoco+": Family("refcoco+", _UNC, {"unc": Counts(expressions=141_564, objects=49_856, images=19_992)}),
    "refcocog": Family(
        "refcocog",
        {"umd": ("train", "val", "test"), "google": ("train", "val")},
        {
            "umd": Counts(expressions=95_010, objects=49_822, images=25_799),
            "google": Counts(expressions=95_010, objects=49_822, images=25_799),
        },
    ),
}


def family(name: str, partition: str | None = None) -> tuple[Family, str]:
    """The named data set and its partition (the default one when None)."""
    known = FAMILY.get(name)
    if known is None:
        raise ConfigError("unknown data set", expected=", ".join(FAMILY), found=name)
    partition = partition or next(iter(known.partitions))
    if partition not in known.partitions:
        raise ConfigError(f"{name} has no such partition", expected=", ".join(known.partitions), found=partition)
    return known, partition


def read_refcoco(
    refs: str | Path,
    instances: str | Path | InstancesIndex | None = None,
    *,
    name: str = "refcoco",
    partition: str | None = None,
    splits: Sequence[str] | None = None,
    problems: ProblemLog | None = None,
    image_dir: str | Path | None = None,
) -> RefsReader:
    """Streams the examples of RefCOCO, RefCOCO+ or RefCOCOg; arguments as :func:`~.grefcoco.read_grefcoco`.

    Args:
        refs: ``refs(unc).p``, its JSON version, or the folder that holds either
        name: ``refcoco``, ``refcoco+`` or ``refcocog``: which subfolder to look in, and the default partition
        partition: ``unc``, ``umd`` or ``google``, when ``refs`` is a folder
    """
    _, partition = family(name, partition)
    names = (f"refs({partition}).json", f"refs({partition}).p")
    return open_reader(refs, instances, names, (name,), splits, problems, image_dir)


def write_refcoco(
    refs_path: str | Path,
    instances_path: str | Path,
    examples: Iterable[ReferringExample],
    *,
    index: InstancesIndex | None = None,
    without_sentences: Iterable[tuple[int, Mapping[str, Any]]] = (),
) -> int:
    """Writes examples with one target each as the JSON version of ``refs(...).p``, and ``instances.json``.

    Arguments as :func:`~.grefcoco.write_grefcoco`; returns the number of refs.

    Raises:
        DataError: an example has no target or several
    """

    def checked() -> Iterator[ReferringExample]:
        for example in examples:
            if len(example.targets) != 1:
                raise DataError(
                    "RefCOCO's expressions have one target", where=f"expression {example.expression_id!r}", expected=1,
                    found=len(example.targets), advice="Leave it out, or write gRefCOCO's format.",
                )  # fmt: skip
            yield example

    return write_files(RefsBuilder(single=True), refs_path, instances_path, checked(), index, without_sentences)
