"""Cases by loader and number: made, run, and told."""

import gc
import importlib
import json
import os
import random
import re
import shutil
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bert.data import packing
from tests.hostile.inputs import make_inputs
from tests.hostile.loaders import LOADERS, Loader
from tests.hostile.mutators import MUTATORS, Mutator
from tests.hostile.sandbox import SECRET, Place, Result, run_case

_NAN = re.compile(r".{,40}\b(?:nan|inf)\b.{,40}", re.IGNORECASE)
_TWICE = 0.15
"""share of the cases in which two files are changed"""


@dataclass(frozen=True)
class Case:
    """A loader and a number, what was changed, and what came of it."""

    loader: Loader
    number: int
    changes: tuple[str, ...]
    result: Result

    @property
    def name(self) -> str:
        """As the command line takes it."""
        return f"{self.loader.name} {self.number}"


@dataclass
class Campaign:
    """A warm process: good inputs, and what each loader imports and starts with them."""

    work: Path
    seed: int = 0
    _starts: dict[str, list[str]] = field(default_factory=dict)

    @property
    def good(self) -> Path:
        """The good inputs."""
        return self.work / "good"

    def warm_up(self, loaders: Sequence[Loader] = LOADERS) -> None:
        """Make the inputs in a child, import what reading them needs, and see that each loader reads them.

        The process must stay free of threads: what starts some runs in children alone. Raises AssertionError, with what was
        printed, for a loader that does not accept its good inputs.
        """
        packing.WORTH_A_FILE = 1  # the smallest store has its rows-*.npy
        self._make_inputs()
        for loader in loaders:
            result = self._run(loader, ())
            _import(result.modules)  # what is imported here once is not imported again in every child
            assert result.kind == "accepted", (
                f"{loader.name}: {result.kind} {result.detail}\n{result.output}{result.errors}"
            )
        gc.collect()
        gc.freeze()  # children share the pages

    def run(self, loader: Loader, number: int) -> Case:
        """Run one case."""
        self._fresh(loader)
        try:
            changes = self._changed(loader, number)
        except RuntimeError as error:
            return Case(loader, number, (), Result("mutator", str(error)))  # a fault of the tests
        return Case(loader, number, tuple(changes), self._judge(loader, self._starts[loader.name]))

    def _changed(self, loader: Loader, number: int) -> list[str]:
        """Change the files of a case, and say how. In a child, so that what grows there does not stay here."""
        said = self.work / "scratch" / "changes"
        child = os.fork()
        if child == 0:
            try:
                warnings.simplefilter("ignore")  # odd tensors are odd
                os.chdir(self._place(loader).case)
                said.write_text(json.dumps(_change(loader, number, _pairs(loader, self.good), self.seed)))
            except BaseException as error:
                said.write_text(json.dumps(repr(error)))
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        changes = json.loads(said.read_text())
        if isinstance(changes, str):
            raise RuntimeError(f"{loader.name} {number}: {changes}")
        said.unlink()
        return list(changes)

    def _run(self, loader: Loader, changes: Iterable[str]) -> Result:
        self._fresh(loader)
        result = self._judge(loader, self._starts.get(loader.name, ()))
        if result.kind == "start":  # of good inputs: `git rev-parse` for environment.json
            self._starts[loader.name] = result.started
            self._fresh(loader)
            result = self._judge(loader, result.started)
        self._starts.setdefault(loader.name, [])
        return result

    def _place(self, loader: Loader) -> Place:
        home = self.work / "home"
        case = home / "projects" / "case"
        return Place(
            home, case, tuple(case / folder for folder in loader.writes), self.work / "scratch", self.work / "caches"
        )

    def _fresh(self, loader: Loader) -> Path:
        """Make home, case and inputs anew; returns the case's folder."""
        place = self._place(loader)
        for folder in (place.home, place.scratch):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        _write_sentinels(place.home)
        (place.case / "in").mkdir(parents=True)
        (place.case / "out").mkdir()
        (place.case / "metrics.csv").write_text("the user's\n")
        (place.case / "evil.py").write_text("import os\nos.system('touch ../../owned')\nRun = Config = Model = print\n")
        for name in sorted(loader.inputs):
            shutil.copytree(self.good / name, place.case / "in" / name, symlinks=True)
        return place.case

    def _judge(self, loader: Loader, starts: Sequence[str]) -> Result:
        place = self._place(loader)
        result = run_case(loader.run, place, starts, loader.whole)
        if result.kind == "accepted" and loader.finite:
            written = (
                path.read_text("utf-8", "replace") for path in (place.case / "out").rglob("*.[tc]*") if path.is_file()
            )
            if found := _NAN.search("\n".join([result.output, *written])):
                result.kind, result.detail = "nan", found[0]
        return result

    def _make_inputs(self) -> None:
        if (self.good / "made").exists():
            return
        self.good.mkdir(parents=True)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                make_inputs(self.good)
                (self.good / "made").touch()
                code = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0, "the good inputs could not be made"


def named(name: str) -> Loader:
    """The loader of that name."""
    return next(loader for loader in LOADERS if loader.name == name)


def dealt(cases: int, loaders: Sequence[Loader] = LOADERS) -> Iterator[tuple[Loader, int]]:
    """So many cases, as many of each loader."""
    for place in range(cases):
        number, loader = divmod(place, len(loaders))
        yield loaders[loader], number


def summary(cases: Sequence[Case]) -> str:
    """A table of loaders and outcomes, and the faults by where they are: how many, and the first to replay."""
    kinds = sorted({case.result.kind for case in cases}, key=lambda kind: (kind not in ("accepted", "refused"), kind))
    counts = Counter((case.loader.name, case.result.kind) for case in cases)
    names = list(dict.fromkeys(case.loader.name for case in cases))
    width = max(map(len, names), default=0)
    lines = [" ".join([" " * width, *(f"{kind:>9}" for kind in kinds)])]
    for name in names:
        lines.append(" ".join([name.ljust(width), *(f"{counts[name, kind] or '':>9}" for kind in kinds)]))
    lines.append(" ".join(["all".ljust(width), *(f"{sum(counts[n, kind] for n in names):>9}" for kind in kinds)]))
    groups: dict[tuple[str, str], list[Case]] = defaultdict(list)
    for case in cases:
        if case.result.is_fault:
            groups[case.result.kind, case.result.where or case.result.detail].append(case)
    for (kind, where), found in sorted(groups.items(), key=lambda group: -len(group[1])):
        first = found[0]
        lines.append(f"{len(found):4} {kind}: {where}")
        lines.append(f"     python -m tests.hostile {first.name}   ({'; '.join(first.changes)})")
        if where != first.result.detail:
            lines.append(f"     {first.result.detail[:200]}")
    return "\n".join(lines)


def _change(loader: Loader, number: int, pairs: Sequence[tuple[str, Mutator]], seed: int) -> list[str]:
    """What was changed in the inputs below the current folder, by the number of the case."""
    draw = random.Random(f"{seed}/{loader.name}/{number}")
    chosen = [pairs[number % len(pairs)]]
    others = [pair for pair in pairs if pair[0] != chosen[0][0]]
    if others and draw.random() < _TWICE:
        chosen.append(draw.choice(others))
    changes: list[str] = []
    for file, mutator in chosen:
        path = Path("in") / file
        if path.is_symlink() or not path.is_file():
            continue  # the first change took it away, with its folder
        try:
            changes.append(f"{file}: {mutator.name}: {mutator.change(path, draw)}")
        except Exception:
            if not changes:
                raise
            # the first changed what the second reads beside its file
    return changes


def _pairs(loader: Loader, good: Path) -> list[tuple[str, Mutator]]:
    """Files and what may be done to them, in an order that no seed changes, so that a case keeps its number."""
    files = sorted(
        {path.relative_to(good).as_posix() for pattern in loader.files for path in good.glob(pattern) if path.is_file()}
    )
    given = {f"in/{file}" for file in files} & {part.partition("=")[2] or part for part in loader.command}
    pairs = [
        (file, mutator)
        for file in files
        for mutator in MUTATORS
        if mutator.fits(Path(file), named=f"in/{file}" in given)
        for _ in range(mutator.weight)
    ]
    random.Random(loader.name).shuffle(pairs)
    return pairs


def _import(modules: Iterable[str]) -> None:
    for name in sorted(modules):
        try:
            importlib.import_module(name)
        except BaseException:  # one that only a part of its package loads
            continue


def _write_sentinels(home: Path) -> None:
    """What the user has beside and above the inputs."""
    for name in (
        ".bashrc",
        "notes/thesis.tex",
        "metrics.csv",
        "projects/metrics.csv",
        "projects/notes.txt",
        ".config/x",
    ):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(f"{name} is the user's\n")
    (home / "notes" / "empty").mkdir()
    (home / "projects" / "private.key").write_text(f"{SECRET}\n")
    (home / "private.json").write_text(json.dumps({"text": SECRET}))
    (home / "notes" / "private.json").write_text(json.dumps({"text": SECRET}))
