"""Choices that several forms offer: one or several names of a list, such as the fields of the dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fiftyone.operators import types

from fiftyone_rexseek.errors import ReferringError

from .base import invalid
from .calling import dropdown


def choose_one(
    ctx,
    inputs: types.Object,
    name: str,
    names: Sequence[str],
    label: str,
    *,
    usual: str | None = None,
    nothing: str = "This dataset has no such field",
    descriptions: Mapping[str, str] | None = None,
    **options: Any,
) -> tuple[types.Property, str | None]:
    """A required choice of one name.

    Args:
        ctx, inputs: of the form
        name: of the parameter
        names: what is offered
        label: of the choice
        usual: chosen at first where it is offered; by default the first one is
        nothing: what the form says where there is nothing to choose from
        descriptions: of the names
        **options: of the property

    Returns:
        the property, and what is chosen now
    """
    names = list(names)
    default = (usual if usual in names else None) if usual else next(iter(names), None)
    view = dropdown(names, dict(descriptions or {}))
    prop = inputs.enum(name, names, required=True, default=default, label=label, view=view, **options)
    chosen = ctx.params.get(name) or default
    if not names:
        invalid(prop, nothing)
    elif chosen is not None and chosen not in names:
        # chosen before, when other names were offered: a form keeps it
        invalid(prop, f"Choose one of {', '.join(names)}")
    return prop, chosen


def choose_several(
    ctx,
    inputs: types.Object,
    name: str,
    names: Sequence[str],
    label: str,
    *,
    default: Sequence[str] = (),
    least: int = 0,
    allowed: Sequence[str] | None = None,
    unknown: str = "Not there",
    descriptions: Mapping[str, str] | None = None,
    **options: Any,
) -> tuple[types.Property, list[str]]:
    """A choice of several names.

    Args:
        ctx, inputs: of the form
        name: of the parameter
        names: what is offered
        label: of the choice
        default: chosen at first
        least: how many must be chosen
        allowed: what Python code may choose as well; by default nothing but ``names``
        unknown: what the form says before names that are not allowed
        descriptions: of the names
        **options: of the property

    Returns:
        the property, and what is chosen now, each once
    """
    view = dropdown(names, dict(descriptions or {}), multiple=True)
    prop = inputs.list(name, types.String(), default=list(default), label=label, view=view, **options)
    chosen = ctx.params.get(name)
    chosen = list(default) if chosen is None else [chosen] if isinstance(chosen, str) else list(dict.fromkeys(chosen))
    strange = [value for value in chosen if value not in (names if allowed is None else allowed)]
    if strange:
        invalid(prop, f"{unknown}: {', '.join(map(str, strange))}")
    elif len(chosen) < least:
        invalid(prop, f"Choose at least {least}")
    return prop, chosen


def output_field(
    ctx, inputs: types.Object, name: str, default: str, label: str, check: Callable[[str, bool], None], *, did: str, replace: str
) -> None:
    """A required name of an output field; the form says what is wrong with it, and warns that the field exists.

    Args:
        ctx, inputs: of the form
        name: of the parameter
        default: the field's usual name
        label: of the choice
        check: called with the field and whether anything in it may be replaced; raises what is wrong
        did: what an earlier run did to samples, such as "answered"
        replace: label of the choice to replace what no run wrote
    """
    prop = inputs.str(name, default=default, required=True, label=label)
    field = ctx.params.get(name) or default
    if problem := _problem(check, field, True):
        invalid(prop, f"{problem}: choose another name")
        return
    if not ctx.params.get("overwrite") and (problem := _problem(check, field, False)):
        invalid(prop, f"{problem}: choose another name, or tick '{replace}'")
    if ctx.dataset.has_sample_field(field):
        text = f"Samples that the same run {did} before are left out; what another run wrote there goes at the start"
        inputs.view("exists", types.Warning(label=f"Field '{field}' exists", description=text))
        inputs.bool("overwrite", default=False, label=replace)


def _problem(check: Callable[[str, bool], None], field: str, overwrite: bool) -> str | None:
    """What happened, without the error's advice, which speaks of arguments in Python."""
    try:
        check(field, overwrite)
    except ReferringError as e:
        return e.what[0].upper() + e.what[1:]
    return None
