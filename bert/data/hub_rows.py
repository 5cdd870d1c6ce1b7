"""Data sets on the Hugging Face Hub: their revision, and the rows of one of their splits as JSON lines."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bert.data.files import read_lines
from bert.errors import InputError, first_line


def is_split(name: str | Path) -> bool:
    """Whether a name is that of a split, `owner/name:configuration:split`, and not of an existing file. The configuration may be empty."""
    return re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?:[\w.-]*:\w+", str(name)) is not None and not Path(name).exists()


def title_of(name: str | Path) -> str:
    """The name of a file without its folder, or the whole name of a split."""
    return str(name) if is_split(name) else Path(name).name


def lines_of(name: str | Path, exact: bool = False) -> Iterator[str]:
    """The lines of a file, see `read_lines`, or the rows of a split as JSON lines: class labels are names, null if they are unknown.
    Raises InputError."""
    return _split_lines(str(name)) if is_split(name) else read_lines(Path(name).expanduser(), exact)


def _split_lines(name: str) -> Iterator[str]:
    import datasets

    repo, configuration, split = name.split(":")
    cached = Path(datasets.config.HF_DATASETS_CACHE, repo.replace("/", "___"))
    try:
        if not Path(repo).is_dir() and not cached.is_dir():  # `load_dataset` retries for half a minute before it fails
            hub_revision(name)
        rows = datasets.load_dataset(repo, configuration or None, split=split)
        for row in rows:
            yield json.dumps({key: _named(rows.features[key], value) for key, value in row.items()}, default=str)
    except Exception as error:  # of any of the libraries between here and the Hub
        raise error if isinstance(error, InputError) else hub_error(name, error) from None


def _named(feature: Any, value: Any) -> Any:
    """A value with the names of class labels in place of their numbers; null for -1, an unknown label."""
    if isinstance(value, list):
        return [_named(getattr(feature, "feature", None), one) for one in value]
    return dict(enumerate(feature.names)).get(value) if hasattr(feature, "names") else value


def hub_revision(name: str) -> str:
    """The commit of a data set. Requested before its rows, which are retried for half a minute. Raises InputError."""
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(name.partition(":")[0], timeout=10).sha)
    except Exception as error:
        raise hub_error(name, error) from None


def hub_error(name: str, error: Exception) -> InputError:
    """The error of a data set that cannot be read, in one line."""
    why = f"as a Hub data set it cannot be read ({type(error).__name__}: {first_line(error).rstrip('.')})"
    return InputError(f"{name}: no such file or folder, and {why}; check the path, the name or the network")
