"""Operators that Python code can call, and one way to run long work for a browser, a queue or a script.

FiftyOne drops what a generator operator returns when nobody listens to it: in a delegated run and in Python. So
:func:`perform` streams progress only to the App, and gives everybody else the result.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from typing import Any

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.operators import types
from fiftyone.operators.executor import ExecutionContext, _parse_ctx

from fiftyone_rexseek.errors import ConfigError, ReferringError
from fiftyone_rexseek.integration.report import plural

from .base import invalid, progress_callback, run

logger = logging.getLogger(__name__)

#: What a work function gets to report its progress, and the result it makes for ``resolve_output``.
Work = Callable[[Any], dict[str, Any]]


class CallableOperator(foo.Operator):
    """An operator that is also a function of samples::

        op = foo.get_operator("@fiftyone-rexseek/rexseek/most_uncertain")
        op(dataset, pred_field="rexseek", limit=50)            # what the form would do
        op(dataset, delegate=True, pred_field="rexseek")       # queued for "fiftyone delegated launch"

    Attributes:
        conditional: parameters that the form shows only where others have certain values
    """

    conditional: tuple[str, ...] = ()

    def __call__(
        self,
        samples: fo.core.collections.SampleCollection,
        *,
        delegate: bool = False,
        selected_labels: list[dict] | None = None,
        **params: Any,
    ) -> dict[str, Any] | None:
        """Executes the operator on a dataset or view; also within a notebook's event loop.

        Args:
            samples: what the form calls the target
            delegate: queue it instead
            selected_labels: as ``session.selected_labels``; only these labels are worked on
            **params: the form's fields; those left out have the form's defaults, and one text stands for a list of one

        Returns:
            the operator's result; when delegated, the queued operation with its ``id``

        Raises:
            ConfigError: the form has no such parameter
            fiftyone.operators.executor.ExecutionError: a parameter is wrong, or the work failed; the message says why
        """
        ctx: dict[str, Any] = {"view": samples.view(), "request_delegation": delegate}
        if selected_labels:
            ctx["selected_labels"] = selected_labels
            # FiftyOne carries the target beside the parameters
            ctx["view_target"] = "SELECTED_LABELS"
        ctx["params"] = self._with_defaults(ctx, params)
        with ThreadPoolExecutor(1) as pool:
            # in a thread there is no running event loop, so the call waits for its result in a notebook as well
            return pool.submit(foo.execute_operator, self.uri, ctx=ctx).result().result

    def resolve_type(self, ctx, type):
        """The form, or what stands in the way of one: a target of patches, say; another target may still be chosen."""
        try:
            return super().resolve_type(ctx, type)
        except ReferringError as e:
            if type != "inputs":
                raise
            return self._ensure_view_target(ctx, _refusal(str(e), self.config.label))

    def _with_defaults(self, ctx: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        """What a browser does: the form's defaults for what was left out; they may bring further fields."""
        while True:
            # a copy: the context takes the target out of its parameters
            request = _parse_ctx(ctx={**ctx, "params": dict(params)})
            form = self.resolve_input(ExecutionContext(request, operator_uri=self.uri))
            fields = form.type.properties if form is not None else {}
            added = {
                name: prop.default
                for name, prop in fields.items()
                if prop.default is not None and name not in params and name != "view_target"
            }
            lists = [name for name, prop in fields.items() if isinstance(prop.type, types.List)]
            added |= {name: [params[name]] for name in lists if isinstance(params.get(name), str)}
            if not added:
                self._refuse_unknown(params, fields)
                return params
            params = {**params, **added}

    def _refuse_unknown(self, params: dict[str, Any], fields: dict[str, types.Property]) -> None:
        """Raises for a name that would be ignored, with the default of the one that was meant in its place."""
        notes = (types.Notice, types.Warning, types.Error)
        known = sorted({*(name for name, prop in fields.items() if not isinstance(prop.view, notes)), *self.conditional})
        for name in params:
            if name not in known and name != "view_target":
                near = get_close_matches(name, known, 1)
                raise ConfigError(
                    f"{self.name} has no parameter {name!r}", expected=f"one of {', '.join(known)}",
                    advice=f"Did you mean {near[0]!r}?" if near else None,
                )  # fmt: skip


def from_app(ctx) -> bool:
    """Whether a browser waits for the operator's messages."""
    return not ctx.delegated and "operator_uri" in ctx.request_params


def perform(ctx, operator: foo.Operator, label: str, work: Work, then: Callable[[dict], Iterator[Any]] | None = None):
    """What a long operator's ``execute`` returns: messages for the App, or the result for everybody else.

    Args:
        ctx: of the operator
        operator: its ``resolve_output`` shows the result
        label: of the progress bar
        work: called with a value for FiftyOne's ``progress=``; returns the result
        then: instructions for the App that follow the work, such as :func:`operators.base.reload`
    """
    if from_app(ctx):
        return _stream(ctx, operator, label, work, then)
    if ctx.delegated:
        return work(progress_callback(lambda fraction, text: ctx.set_progress(fraction, label=f"{label}: {text}")))
    return work(None)


def _stream(ctx, operator, label, work, then) -> Iterator[Any]:
    result = None
    try:
        for event in run(ctx, label, work):
            if isinstance(event, dict):
                result = event
            else:
                yield event
    except Exception as e:
        # the answer has begun, so the App can no longer be given an error of the request; a notice would vanish
        expected = isinstance(e, ReferringError)
        if not expected:
            logger.exception("%s failed", operator.name)
        text = str(e) if expected else f"{type(e).__name__}: {e}"
        yield ctx.ops.show_output(outputs=_failure(text).to_json(), results={})
        return
    if result is None:
        return
    if then is not None:
        yield from then(result)
    ctx.request_params["results"] = result
    outputs = operator.resolve_output(ctx)
    if outputs is not None:
        yield ctx.ops.show_output(outputs=outputs.to_json(), results=result)


def _failure(message: str) -> types.Property:
    outputs = types.Object()
    outputs.view("error", types.Error(label="This did not work", description=message))
    return types.Property(outputs, view=types.View(label="This did not work"))


def _refusal(message: str, label: str) -> types.Property:
    inputs = types.Object()
    invalid(inputs.view("refusal", types.Error(label="This cannot be done here", description=message)), message)
    return types.Property(inputs, view=types.View(label=label))


def summary_output(ctx, label: str, *fields: tuple[str, str]) -> types.Property:
    """An output with a summary text and further numbers, ``(name, label)``, of which absent ones are left out."""
    outputs = types.Object()
    outputs.str("summary", label="Summary", view=types.MarkdownView(read_only=True))
    for name, text in fields:
        if ctx.results.get(name) is not None:
            outputs.str(name, label=text, view=types.LabelValueView(read_only=True))
    return types.Property(outputs, view=types.View(label=label))


def count_notice(inputs: types.Object, count: int, what: str, empty: str = "No samples: choose another target") -> None:
    """Says in the form how many samples are concerned; a form that concerns none cannot be executed."""
    if count:
        inputs.view("note", types.Notice(label=f"{plural(count)} {what}"))
        return
    prop = inputs.view("note", types.Warning(label=empty))
    prop.invalid, prop.error_message = True, empty


def dropdown(names, descriptions: dict[str, str] | None = None, **options: Any) -> types.DropdownView:
    """A choice among names."""
    view = types.DropdownView(**options)
    for name in names:
        view.add_choice(name, label=name, description=(descriptions or {}).get(name))
    return view
