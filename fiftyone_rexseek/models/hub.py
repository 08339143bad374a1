"""From a folder or a Hugging Face repository name to a local folder, or one error that says everything."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import DownloadError, MissingDependencyError


def local_folder(
    folder_or_repo: str | os.PathLike,
    *,
    revision: str | None = None,
    license: str | None = None,
    option: str = "weights",
    allow_patterns: list[str] | None = None,
) -> Path:
    """The folder itself when it exists, else the snapshot of the hub repository (from the cache, or downloaded).

    Args:
        folder_or_repo: an existing folder or file, or ``"owner/name"`` on the hub
        revision: branch, tag or commit of the repository
        license: name of the licence of the weights, repeated in the error
        option: the name of the option with which the user can give a local folder, for the error
        allow_patterns: files to fetch; all by default

    Raises:
        DownloadError: no network, no such repository, or a repository that asks for a login

    Example::

        >>> local_folder(".")
        PosixPath('.')
    """
    path = Path(folder_or_repo).expanduser()
    if path.exists():
        return path
    repo_id = str(folder_or_repo)
    terms = f" The weights come under: {license}." if license else ""
    advice = f"Give a local copy with {option}=<folder>, or run once with network access to huggingface.co.{terms}"
    if repo_id.count("/") != 1 or repo_id.startswith((".", "/", "~")):
        raise DownloadError(
            "no such file or folder", where=repo_id, expected="a local folder or 'owner/name' on the hub", advice=advice
        )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as e:
        raise MissingDependencyError(
            "downloads need huggingface_hub", advice="pip install 'fiftyone-rexseek[models]'"
        ) from e
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=allow_patterns))
    except (OSError, LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, ValueError) as e:
        at = f" at revision {revision!r}" if revision else ""
        raise DownloadError(
            f"repository {repo_id!r}{at} could not be fetched from the Hugging Face hub ({type(e).__name__})",
            advice=advice,
        ) from e
