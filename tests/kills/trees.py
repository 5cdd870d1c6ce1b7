"""Trees of a user's files: made at random, listed, and compared."""

import hashlib
import os
import random
import stat
from pathlib import Path

NAMES = (
    "notes.txt",
    ".hidden",
    "my file",
    "苹果.md",
    "config.json.bak",
    "model.safetensors.old",
    "tokenizer",
    "model.new",
    ".model.partial",
    "-rf",
    "a'b",
    "line\nbreak",
)


def make_tree(folder: Path, seed: int, files: int = 6, prefix: str = "") -> None:
    """Write files, folders (empty ones and read-only ones among them), links and a pipe of a user's into `folder`."""
    draw = random.Random(seed)
    folders = [folder]
    for number in range(draw.randint(1, 3)):
        parent = draw.choice(folders)
        folders.append(parent / f"{prefix}{draw.choice(('drafts', 'my things', '.cache', '草稿'))}{number}")
        folders[-1].mkdir(parents=True)
    for number in range(files):
        path = draw.choice(folders) / f"{prefix}{number}{draw.choice(NAMES)}"
        kind = draw.choice(("file", "file", "file", "private", "link", "dangling", "twin", "empty folder", "pipe"))
        if kind == "link":
            path.symlink_to(draw.choice(folders))
        elif kind == "dangling":
            path.symlink_to("nowhere")
        elif kind == "empty folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.write_bytes(draw.randbytes(draw.choice((0, 10, 5000))))
            path.chmod(0o400 if kind == "private" else draw.choice((0o644, 0o755)))
            if kind == "twin":
                path.with_name(path.name + "twin").hardlink_to(path)
    for path in folders[1:]:
        if draw.random() < 0.3:
            path.chmod(0o555)


def listed(folder: Path) -> dict[str, str]:
    """Every path below `folder`, with what it is: the hash and rights of a file, the target of a link."""
    found = {}
    for above, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(above, name)
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                what = f"link to {os.readlink(path)}"
            elif stat.S_ISREG(mode):
                what = f"{stat.S_IMODE(mode):o} {hashlib.sha256(path.read_bytes()).hexdigest()}"
            else:
                what = "folder" if stat.S_ISDIR(mode) else "pipe"
            found[path.relative_to(folder).as_posix()] = what
    return found


def lost(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What of `before` is no longer there, or no longer the same."""
    return [
        f"{path!r}: {what} -> {after.get(path, 'gone')}" for path, what in before.items() if after.get(path) != what
    ]
