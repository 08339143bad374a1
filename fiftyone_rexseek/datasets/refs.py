"""Refs files of the gRefCOCO and RefCOCO family: a list of refs, each with sentences, to :class:`ReferringExample`.

A sample is a (ref, sentence) pair. What decides, where the file says a thing twice: ``image_id`` finds the image
(file names may carry a RefCOCO suffix), ``ann_id`` finds the targets and says whether there are any, and the
instances file says what category they are of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError, ProblemLog
from ..referring import ReferringExample, Target
from . import plain_pickle
from .coco import InstancesIndex, is_id, is_text, read_json

#: Every split that the family publishes.
SPLITS = ("train", "val", "testA", "testB", "test")
NO_TARGET = -1


def load_refs(path: str | Path) -> list[Any]:
    """The list of refs in a ``.json`` or (plain containers only) ``.p`` / ``.pkl`` file."""
    path = Path(path)
    if not path.is_file():
        raise DataError("no such refs file", where=path, advice="Check the path.")
    refs = plain_pickle.load(path) if path.suffix in (".p", ".pkl", ".pickle") else read_json(path)
    if not isinstance(refs, list):
        raise DataError("is not a refs file", where=path, expected="a list of refs", found=type(refs).__name__)
    return refs


@dataclass
class RefsReader:
    """Streams the examples of a refs file; iterate it as often as you like.

    Attributes:
        refs: the loaded refs (see :func:`load_refs`)
        index: the instances beside them
        splits: only these splits; None for all
        problems: where bad refs are logged; each pass logs again
        image_dir: folder of the images, when their presence is to be checked (missing ones are skipped)
        where: name of the refs file, for messages
        without_sentences: filled by a pass: (position, ref) of the refs that have no sentence, so that a writer can
            give them back

    Kinds of problems. Skipped: ``bad-ref``, ``unknown-split``, ``no-sentences``, ``unknown-image``,
    ``unknown-annotation``, ``other-image`` (a target of another image), ``mixed-no-target``, ``bad-sentence``,
    ``duplicate-expression``, ``missing-image`` (not on disk). Tolerated, and named in ``problem_kinds`` of the
    examples: ``unequal-ids`` (``ann_id`` and ``category_id`` differ in length; all targets stay),
    ``category-mismatch``, ``repeated-target``, ``no-target-flag`` (disagrees with ``ann_id``).
    """

    refs: Sequence[Any]
    index: InstancesIndex
    splits: Sequence[str] | None = None
    problems: ProblemLog = field(default_factory=ProblemLog)
    image_dir: Path | None = None
    where: str = "refs"
    without_sentences: list[tuple[int, Mapping[str, Any]]] = field(default_factory=list)

    def __post_init__(self):
        unknown = [s for s in self.splits or () if s not in SPLITS]
        if unknown:
            raise ConfigError("unknown split", expected=", ".join(SPLITS), found=", ".join(map(str, unknown)))

    def __iter__(self) -> Iterator[ReferringExample]:
        self.without_sentences.clear()
        wanted = None if self.splits is None else set(self.splits)
        seen: set[str] = set()
        on_disk: dict[Any, bool] = {}
        for position, ref in enumerate(self.refs):
            place = f"{self.where}: ref {ref.get('ref_id', position) if isinstance(ref, Mapping) else position}"
            if not isinstance(ref, Mapping) or "image_id" not in ref or "ann_id" not in ref:
                self.problems.add("bad-ref", place, "lacks fields", expected="image_id, ann_id, sentences, split", found=ref)
                continue
            split = ref.get("split")
            if split not in SPLITS:
                self.problems.add("unknown-split", place, "has an unknown split", expected=", ".join(SPLITS), found=split)
                continue
            if wanted is not None and split not in wanted:
                continue
            sentences = ref.get("sentences")
            if not sentences or not isinstance(sentences, list):
                self.without_sentences.append((position, ref))
                self.problems.add("no-sentences", place, "has no sentence and is skipped")
                continue
            kinds: list[str] = []
            targets = self._targets(ref, place, kinds)
            if targets is None or not self._on_disk(ref["image_id"], place, on_disk):
                continue
            yield from self._examples(ref, position, sentences, targets, tuple(kinds), place, seen)

    def _targets(self, ref: Mapping, place: str, kinds: list[str]) -> tuple[Target, ...] | None:
        """Targets of a ref, or None (logged) when they cannot be known."""
        image_id = ref["image_id"]
        try:
            known = image_id in self.index.images
            ids = _as_list(ref["ann_id"])
            categories = _as_list(ref.get("category_id"))
            distinct = list(dict.fromkeys(ids))
        except TypeError as e:
            self.problems.add("bad-ref", place, "has ids that are not numbers", found=repr(e))
            return None
        if not is_id(ref.get("ref_id", 0)):
            self.problems.add("bad-ref", place, "has an unusable ref_id", expected="a whole number", found=repr(ref["ref_id"]))
            return None
        if not known:
            self.problems.add("unknown-image", place, "names an image that the instances file lacks", found=image_id)
            return None

        def tolerate(kind: str, what: str, **details) -> None:
            self.problems.add(kind, place, what, **details)
            kinds.append(kind)

        empty = distinct in ([NO_TARGET], [])
        if not empty and NO_TARGET in distinct:
            self.problems.add("mixed-no-target", place, "says both no target and some targets", found=ids)
            return None
        if not ids and not ref.get("no_target"):
            self.problems.add("bad-ref", place, "has no annotation id", expected="ids, or [-1] for no target", found=ids)
            return None
        if "no_target" in ref and bool(ref["no_target"]) != empty:
            tolerate("no-target-flag", "no_target disagrees with ann_id, which decides", found=ref["no_target"])
        if len(ids) != len(categories):
            tolerate("unequal-ids", "ann_id and category_id differ in length", expected=len(ids), found=len(categories))
        if empty:
            return ()
        if len(distinct) != len(ids):
            tolerate("repeated-target", "lists a target twice; it counts once", found=ids)
        targets = []
        for ann_id in distinct:
            annotation = self.index.annotations.get(ann_id)
            if annotation is None:
                self.problems.add(
                    "unknown-annotation", place, "names an annotation that the instances file lacks", found=ann_id
                )
                return None
            if annotation.image_id != image_id:
                self.problems.add(
                    "other-image", place, f"annotation {ann_id} is of another image", expected=image_id,
                    found=annotation.image_id,
                )  # fmt: skip
                return None
            targets.append(annotation.target)
        if len(ids) == len(categories):
            wrong = [a for a, c in zip(ids, categories) if self.index.annotations[a].category_id != c]
            if wrong:
                tolerate("category-mismatch", "category_id differs from the annotation's, which decides", found=wrong)
        return tuple(targets)

    def _on_disk(self, image_id: Any, place: str, known: dict[Any, bool]) -> bool:
        if self.image_dir is None:
            return True
        if image_id not in known:
            known[image_id] = (Path(self.image_dir) / self.index.images[image_id].file_name).is_file()
        if not known[image_id]:
            self.problems.add("missing-image", place, "its image is not on disk", found=self.index.images[image_id].file_name)
        return known[image_id]

    def _examples(self, ref, position, sentences, targets, kinds, place, seen) -> Iterator[ReferringExample]:
        image = self.index.images[ref["image_id"]]
        candidates = self.index.candidates_of(image.image_id)
        shared = {k: v for k, v in ref.items() if k not in ("sentences", "image_id", "split")}
        shared.setdefault("ref_id", position)
        shared["ref_position"] = position
        for number, sentence in enumerate(sentences):
            text = _text(sentence)
            if text is None:
                self.problems.add("bad-sentence", place, f"sentence {number} has no text", expected="raw or sent", found=sentence)
                continue
            sent_id = sentence.get("sent_id", number)
            if not is_id(sent_id):
                self.problems.add(
                    "bad-sentence", place, f"sentence {number} has an unusable sent_id", expected="a whole number",
                    found=repr(sent_id),
                )  # fmt: skip
                continue
            key = f"{shared['ref_id']}_{sent_id}"
            if key in seen:
                self.problems.add("duplicate-expression", place, "repeats a ref_id and sent_id; the first is kept", found=key)
                continue
            seen.add(key)
            yield ReferringExample(
                image_id=image.image_id,
                expression_id=key,
                expression=text,
                file_name=image.file_name,
                targets=targets,
                candidates=candidates,
                width=image.width,
                height=image.height,
                split=ref["split"],
                extra={**shared, "sentence": sentence},
                problem_kinds=kinds,
            )


def _as_list(ids: Any) -> list:
    if ids is None:
        return []
    return list(ids) if isinstance(ids, list | tuple) else [ids]


def _text(sentence: Any) -> str | None:
    """The expression: ``raw`` (what GRES models are given), else ``sent``, else the tokens."""
    if not isinstance(sentence, Mapping):
        return None
    for key in ("raw", "sent"):
        if isinstance(sentence.get(key), str):
            return sentence[key] if is_text(sentence[key]) else None
    tokens = sentence.get("tokens")
    return " ".join(tokens) if isinstance(tokens, list) and all(is_text(t) for t in tokens) and tokens else None


class RefsBuilder:
    """Collects examples into refs, one at a time; see :func:`to_refs`.

    Args:
        single: write refs as RefCOCO has them: ids as plain numbers, since there is one target, and ``sent_ids``
    """

    def __init__(self, single: bool = False):
        self.single = single
        self._refs: dict[Any, dict[str, Any]] = {}
        self._positions: dict[Any, int] = {}

    def add(self, example: ReferringExample) -> None:
        """Adds an example as a sentence of its ref."""
        extra = dict(example.extra)
        sentence = extra.pop("sentence", None)
        position = extra.pop("ref_position", None)
        targets = tuple(t.object_id for t in example.targets)
        key = (example.split, extra.get("ref_id", example.expression_id), targets)
        if key not in self._refs:
            self._positions[key] = len(self._refs) if position is None else position
            self._refs[key] = _new_ref(example, extra, targets)
        self._refs[key]["sentences"].append(_sentence(example, sentence))

    def refs(
        self,
        without_sentences: Iterable[tuple[int, Mapping[str, Any]]] = (),
        category_ids: Mapping[Any, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """All refs so far, and those of a file that had no sentences, in the order of the file.

        Args:
            category_ids: category by annotation id, for refs whose targets are not those of their source
        """
        for (*_, targets), ref in self._refs.items():
            if ref.get("category_id", 0) is None:
                del ref["category_id"]
                if category_ids is not None:
                    ref["category_id"] = [category_ids[i] for i in targets] or [NO_TARGET]
            if self.single:
                _make_single(ref, targets)
        rows = [(self._positions[key], ref) for key, ref in self._refs.items()]
        rows += [(position, dict(ref)) for position, ref in without_sentences]
        return [ref for _, ref in sorted(rows, key=lambda row: row[0])]


def to_refs(
    examples: Iterable[ReferringExample], without_sentences: Iterable[tuple[int, Mapping[str, Any]]] = ()
) -> list[dict[str, Any]]:
    """Examples back to the list of refs they came from, sentences and refs in the order of the file.

    The fields of the source (``extra``) come back as they were, except where the example has since changed: other
    targets give another ``ann_id``, another expression another ``raw``. Examples of another origin become refs of one
    sentence each. Sentences of one ref whose targets now differ are written as separate refs.
    """
    builder = RefsBuilder()
    for example in examples:
        builder.add(example)
    return builder.refs(without_sentences)


def _new_ref(example: ReferringExample, extra: dict[str, Any], targets: tuple) -> dict[str, Any]:
    ref = {
        "ref_id": example.expression_id,
        "file_name": example.file_name,
        **extra,
        "image_id": example.image_id,
        "split": example.split or "train",
        "sentences": [],
    }
    source = tuple(i for i in dict.fromkeys(_as_list(extra.get("ann_id"))) if i != NO_TARGET)
    if "ann_id" not in extra or source != targets:
        ref["ann_id"] = list(targets) or [NO_TARGET]
        ref["category_id"] = None  # which it is, RefsBuilder.refs is told
        ref["no_target"] = not targets
    return ref


def _make_single(ref: dict[str, Any], targets: tuple) -> None:
    [ref["ann_id"]] = targets
    if isinstance(ref.get("category_id"), list) and ref["category_id"]:
        ref["category_id"] = ref["category_id"][0]
    ref.pop("no_target", None)
    sent_ids = ref.get("sent_ids")
    if not isinstance(sent_ids, list) or len(sent_ids) != len(ref["sentences"]):
        ref["sent_ids"] = [sentence.get("sent_id") for sentence in ref["sentences"]]


def _sentence(example: ReferringExample, source: Mapping[str, Any] | None) -> dict[str, Any]:
    if source is not None and _text(source) == example.expression:
        return dict(source)
    sent = example.expression.strip().lower()
    new = {"sent_id": example.expression_id, "raw": example.expression, "sent": sent, "tokens": sent.split()}
    return new if source is None else {**new, "sent_id": source.get("sent_id", example.expression_id)}
