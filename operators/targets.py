"""The samples that an operator works on, whatever the App shows: also a grid grouped by image."""

from __future__ import annotations

from fiftyone.core import media as fom
from fiftyone.core.collections import SampleCollection

from fiftyone_rexseek.integration.fields import flat_images


def target_images(ctx) -> SampleCollection:
    """The image samples of the chosen target; a grouped view stands for all samples of its groups.

    FiftyOne's own ``ctx.target_view(require_flat=True)`` knows only the slices of grouped datasets and fails on views that
    are grouped by a field. Called in ``resolve_input`` it makes the form offer the choice of the target, as that does.

    Raises:
        ConfigError: the target holds patches, frames, videos or slices; :class:`.calling.CallableOperator` shows that in
            the form
    """
    slices = ctx.dataset.media_type == fom.GROUP
    return flat_images(ctx.target_view(require_flat=slices))


def open_sample(ctx) -> str | None:
    """Id of the dataset's sample that is open in the modal; in a view of patches or frames, the one it was made of."""
    if ctx.current_sample and ctx.view is not None and ctx.view._is_generated:
        return ctx.view[ctx.current_sample].sample_id
    return ctx.current_sample
