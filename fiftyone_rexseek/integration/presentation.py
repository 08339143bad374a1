"""How a referring dataset looks in the App: schema, descriptions, indexes, sidebar, colours, saved views."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import fiftyone as fo
from fiftyone import ViewField as F

from .schema import add_sample_fields
from .selections import COMPANIONS

logger = logging.getLogger(__name__)

BY_IMAGE = "by image"

#: name, field type, description - in the order of the sidebar
_FIELDS = (
    ("expression", fo.StringField, "The referring expression: a question about the image"),
    ("target_summary", fo.StringField, "How many objects the expression refers to, in words, for the tiles: 'no target', '2 targets'"),
    ("num_targets", fo.IntField, "How many objects the expression refers to; 0 = nobody matches"),
    ("domain", fo.StringField, "Kind of expression in the benchmark"),
    ("sub_domain", fo.StringField, "Finer kind of expression in the benchmark"),
    ("image_id", None, "Key of the image in its source; samples of one image share it"),
    ("expression_id", None, "Key of the expression in its source"),
    ("import_key", fo.StringField, "source/split/id; unique, makes importing again harmless"),
    ("extra", fo.DictField, "Other fields of the source row; exports give them back"),
)
_LABELS = (
    ("ground_truth", "The objects the expression refers to; empty = nobody matches"),
    ("candidates", "The objects a selector may choose from"),
)
_COLORS = {"ground_truth": "#16A34A", "candidates": "#94A3B8", "expression": "#3F5F8F", "target_summary": "#64748B"}
#: Colours for prediction fields, in order of appearance.
PREDICTION_COLORS = ("#FF6D04", "#2563EB", "#C026D3", "#0891B2", "#CA8A04", "#DC2626")


def targets_in_words(num_targets: int) -> str:
    """What the field ``target_summary`` says; an empty ground truth draws nothing, so a tile has to say it.

    Example::

        >>> [targets_in_words(n) for n in range(3)]
        ['no target', '1 target', '2 targets']
    """
    return "no target" if not num_targets else "1 target" if num_targets == 1 else f"{num_targets} targets"


def declare_fields(dataset: fo.Dataset, id_type: type = str, image_id_type: type = str) -> None:
    """Declares the fields and indexes of a referring dataset; does nothing where they exist."""
    if dataset.media_type is None:
        dataset.media_type = fo.core.media.IMAGE
    by_type = {"expression_id": id_type, "image_id": image_id_type}
    fields = {}
    for name, ftype, description in _FIELDS:
        ftype = ftype or (fo.IntField if by_type[name] is int else fo.StringField)
        fields[name] = {"ftype": ftype, "description": description}
    for name, description in _LABELS:
        fields[name] = {"ftype": fo.EmbeddedDocumentField, "embedded_doc_type": fo.Detections, "description": description}
    add_sample_fields(dataset, {name: options for name, options in fields.items() if not dataset.has_sample_field(name)})
    indexed = dataset.list_indexes()
    for name in ("image_id", "expression_id", "domain", "num_targets"):
        if name not in indexed:
            dataset.create_index(name)
    if "import_key" not in indexed:
        # samples that came another way have no key, and none is not a duplicate of none
        only_keys = {"import_key": {"$type": "string"}}
        dataset.create_index("import_key", unique=True, partialFilterExpression=only_keys)


def present(dataset: fo.Dataset) -> None:
    """Sets sidebar groups, colours, active fields and saved views once; later changes by the user stay."""
    _save_views(dataset)
    if dataset.app_config.sidebar_groups is None:
        # gRefCOCO has no domains, and two fields that are None everywhere belong where nobody looks first
        domains = ["domain", "sub_domain"]
        source = ["image_id", "expression_id", "import_key", "extra"]
        has_domains = bool(dataset.distinct("domain"))
        dataset.app_config.sidebar_groups = [
            fo.SidebarGroupDocument(name="tags", paths=["tags", "_label_tags"]),
            fo.SidebarGroupDocument(name="referring", paths=["expression", "target_summary", "num_targets", *domains * has_domains]),
            fo.SidebarGroupDocument(name="labels", paths=[name for name, _ in _LABELS]),
            fo.SidebarGroupDocument(name="source", paths=[*domains * (not has_domains), *source], expanded=False),
            fo.SidebarGroupDocument(
                name="metadata",
                paths=["id", "filepath", "created_at", "last_modified_at", *_metadata_paths(dataset)],
                expanded=False,
            ),
        ]
        dataset.app_config.active_fields = fo.ActiveFields(paths=["expression", "target_summary", "ground_truth"])
    if dataset.app_config.color_scheme is None:
        dataset.app_config.color_scheme = fo.ColorScheme(
            color_by="field",
            fields=[{"path": path, "fieldColor": color} for path, color in _COLORS.items()],
        )
    dataset.save()


def present_prediction(dataset: fo.Dataset, field: str) -> None:
    """Gives a prediction field a colour of its own, shows it, and puts it with its companions in one group."""
    scheme = dataset.app_config.color_scheme
    if scheme is not None and not any(f.get("path") == field for f in scheme.fields or ()):
        used = {f.get("fieldColor") for f in scheme.fields or ()}
        color = next((c for c in PREDICTION_COLORS if c not in used), PREDICTION_COLORS[0])
        scheme.fields = [*(scheme.fields or ()), {"path": field, "fieldColor": color}]
    active = dataset.app_config.active_fields
    if active is not None and active.paths is not None and not active.exclude and field not in active.paths:
        active.paths = [*active.paths, field]
    dataset.save()
    paths = [f"{field}{suffix}" for suffix in COMPANIONS]
    paths = [path for path in paths if dataset.has_sample_field(path)]
    if paths:
        dataset._add_paths_to_sidebar_group(paths, f"answers of {field}")


def show(dataset: fo.Dataset, fields: Sequence[str]) -> None:
    """Lets the grid show the expression, how many targets it has and these fields, and nothing else, when the dataset is opened."""
    dataset.app_config.active_fields = fo.ActiveFields(paths=["expression", "target_summary", *fields])
    dataset.save()


def _metadata_paths(dataset: fo.Dataset) -> list[str]:
    return [path for path in dataset.get_field_schema(flat=True) if path.startswith("metadata.")]


def _save_views(dataset: fo.Dataset) -> None:
    saved = set(dataset.list_saved_views())
    if BY_IMAGE not in saved:
        view = dataset.group_by("image_id", order_by="expression_id")
        dataset.save_view(BY_IMAGE, view, description="One tile per image; open it to step through its expressions")
    if "nobody matches" not in saved:
        view = dataset.match(F("num_targets") == 0)
        dataset.save_view("nobody matches", view, description="Expressions without a target")
    domains = [d for d in dataset.distinct("domain") if d]
    if len(domains) <= 20:
        for domain in domains:
            name = f"domain: {domain}"
            if name not in saved:
                dataset.save_view(name, dataset.match(F("domain") == domain))


def save_worst_first(dataset: fo.Dataset, eval_key: str, score_field: str) -> str:
    """Saves (or replaces) the view of an evaluation's samples sorted worst first; returns its name."""
    name = f"{eval_key}: worst first"
    view = dataset.exists(score_field).sort_by(score_field)
    if name in dataset.list_saved_views():
        dataset.delete_saved_view(name)
    dataset.save_view(name, view, description=f"Samples sorted by {score_field}, lowest first")
    return name
