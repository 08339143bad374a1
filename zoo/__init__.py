"""RexSeek and ReLA as a remote model source of FiftyOne: thin stubs around the installed package."""

from fiftyone.operators import types


def download_model(model_name, model_path):
    """Writes the marker file. Weights are fetched at loading, when it is known whether ``weights=`` gives local ones."""
    from fiftyone_rexseek.integration.zoo_source import write_marker

    write_marker(model_name, model_path)


def load_model(model_name, model_path, **kwargs):
    """Loads a model; keyword arguments are those of ``fiftyone_rexseek.integration.zoo_models``."""
    from fiftyone_rexseek.integration.zoo_models import load

    return load(model_name, model_path, **kwargs)


def resolve_input(model_name, ctx):
    """The form that the App shows for ``@voxel51/zoo/apply_zoo_model``."""
    from fiftyone_rexseek.integration.zoo_source import input_fields

    inputs = types.Object()
    for name, kind, options in input_fields(model_name, ctx):
        getattr(inputs, kind)(name, **options)
    return types.Property(inputs)


def parse_parameters(model_name, ctx, params):
    """Turns the form's values into keyword arguments of :func:`load_model`, in place."""
    from fiftyone_rexseek.integration.zoo_source import parse_form

    parse_form(model_name, params)
