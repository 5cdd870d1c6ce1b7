"""What tests of readers share: files of any compression, and the error that one gives."""

import gzip
from pathlib import Path

import pytest
import zstandard

from bert.errors import InputError

COMPRESS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def error_of(read, path: Path | str, **options) -> str:
    with pytest.raises(InputError) as caught:
        list(read(path, **options))
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{Path(path).parent}/", "")
