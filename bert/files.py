"""What was written stays written, should the machine stop the moment after."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Have the disk hold what was written to the file, or which entries the folder has."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
