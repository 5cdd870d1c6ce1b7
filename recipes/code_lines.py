"""Count the lines of code of the package without blank lines, comments and docstrings; `bert/sample` is excluded.

    python recipes/code_lines.py [FOLDER ...]

Prints the lines of each folder of `bert/` and their sum. A statement on three lines counts as three.
"""

import ast
import sys
import tokenize
from collections import Counter
from pathlib import Path

EXCLUDED = {"sample"}
_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def code_lines(file: Path) -> int:
    """The number of lines of `file` that contain code."""
    with tokenize.open(file) as stream:
        lines = {
            line
            for token in tokenize.generate_tokens(stream.readline)
            if token.type not in _NO_CODE
            for line in range(token.start[0], token.end[0] + 1)
        }
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        for statement in getattr(node, "body", None) or [] if not isinstance(node, ast.Lambda | ast.IfExp) else []:
            # A bare string is the docstring of a module, class, function or attribute.
            if isinstance(statement, ast.Expr) and isinstance(getattr(statement.value, "value", None), str):
                lines -= set(range(statement.lineno, (statement.end_lineno or statement.lineno) + 1))
    return len(lines)


def main() -> None:
    """Count the lines and print a table."""
    for root in map(Path, sys.argv[1:] or ["bert"]):
        counts: Counter[str] = Counter()
        for file in root.rglob("*.py"):
            parts = file.relative_to(root).parts
            if parts[0] not in EXCLUDED:
                counts[parts[0] if len(parts) > 1 else "."] += code_lines(file)
        for folder, count in sorted(counts.items()):
            print(f"{folder:<12}{count:>8,}")
        print(f"{root.name:<12}{counts.total():>8,}")


if __name__ == "__main__":
    main()
