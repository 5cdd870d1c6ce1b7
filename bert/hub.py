"""A model folder, or a name on the Hugging Face Hub → a local folder.

Models of the Hub are in the cache of huggingface_hub, with its usual variables (`HF_HOME`, `HF_HUB_OFFLINE`, …).
"""

import logging
import os
import re
from functools import lru_cache
from pathlib import Path

from bert.errors import InputError, first_line
from bert.files import completed

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_TEXTS = (
    "config.json",
    "*token*.json",
    "vocab.*",
    "merges.txt",
    "windows.json",
    "generation_config.json",
    "*.spm",
    "*.index.json",
)
_SAFE = ("model.safetensors", "model-*-of-*.safetensors")
_PICKLED = ("pytorch_model.bin", "pytorch_model-*-of-*.bin")


def local_folder(name: str | Path) -> Path:
    """The folder `name` or, if there is none, the folder of that model of the Hub in its cache.

    Weights are downloaded as safetensors if the model has them. Raises InputError if there is neither, or the Hub cannot be
    reached and its cache has no such model.
    """
    folder = Path(name).expanduser()
    if folder.is_file():
        raise InputError(f"{name}: is a file: give the folder of a model, the one that holds config.json")
    completed(Path(os.path.realpath(folder)))
    text = str(name)
    is_path = folder.is_dir() or (folder.parent != Path(".") and folder.parent.is_dir())
    if is_path or not _NAME.fullmatch(text) or folder.exists():
        return folder
    return _from_hub(text)


@lru_cache(maxsize=16)
def _from_hub(name: str) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=[*_TEXTS, *_SAFE]))
        if not any(file.suffix == ".safetensors" for file in folder.iterdir()):
            folder = Path(snapshot_download(name, allow_patterns=[*_TEXTS, *_PICKLED]))
        logger.warning(f"{name}: no such folder; using the model of this name on the Hugging Face Hub")
        return folder
    except errors.RepositoryNotFoundError:
        why = "the Hugging Face Hub has no model of this name (or it is not public)"
    except (errors.LocalEntryNotFoundError, ConnectionError):
        why = "the Hugging Face Hub cannot be reached and its cache on this machine has no model of this name"
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        why = f"the Hugging Face Hub says: {first_line(error)}"
    raise InputError(f"{name}: no such folder, and {why}: give the folder of a model, the one that holds config.json")
