"""The pages of the reference that are made from the code, a page for each command and the fields of every recipe: run it to write them."""

import argparse
import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import is_dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from bert import recipe as recipes
from bert.cli import COMMANDS
from bert.commands.benching import MODES
from bert.finetuning.config import FinetuneRecipe
from bert.flags import Parser, documentation, examples
from bert.pretraining.config import PretrainRecipe
from bert.probing.config import SensesProtocol

_RECIPES = {
    "bert pretrain": (PretrainRecipe, ["pretrain", "bench"]),
    "bert finetune": (FinetuneRecipe, ["finetune"]),
    "bert senses": (SensesProtocol, ["senses"]),
}
_FLAG = {
    "pretrain": "bert pretrain --config",
    "model": "bert pretrain --encoder",
    "finetune": "bert finetune --config",
    "probe": "bert senses --config",
}
_NOTES = {  # what to read beside a command; Markdown, seen from reference/commands/
    "pretrain": """The learning rates are for random initialization. **With `--from`, give `--optimizer.lr 1e-4` or less**: the default
damages a trained model ([continue from BERT](../../how-to/from-bert.md)). Tutorial: [Pretrain your language](../../tutorials/pretrain.md);
what the log means: [my loss is flat](../../how-to/flat-loss.md).""",
    "finetune": """The learning rate follows from the width of the encoder, and the epochs from the number of rows, unless they are given.
Tutorial: [Fine-tune, and trust the result](../../tutorials/fine-tune.md); seeds, test and report:
[how to trust a score](../../how-to/trust-a-score.md); formats: [labeled rows](../files.md#labeled-rows).""",
    "evaluate": """What the numbers answer: [how to trust a score](../../how-to/trust-a-score.md); what the report holds:
[reports](../files.md#reports); of a masked LM: [masks and the loss](../../explanation/loss.md).""",
    "predict": """What it reads: [labeled rows](../files.md#labeled-rows); what it writes, and what the probabilities are:
[predictions](../files.md#predictions). Names and their characters: [find the names in my text](../../how-to/names-in-text.md). On the
rows of a service: [put it on a CPU](../../how-to/cpu.md).""",
    "fill": """Several masks are predicted independently: [predictions for masks](../../explanation/probes.md#predictions-for-masks).""",
    "words": """Tutorial: [A word in its contexts](../../tutorials/words.md);
what the numbers mean: [probes](../../explanation/probes.md).""",
    "senses": """What the rows of the table mean: [probes](../../explanation/probes.md).""",
    "score": """Two sentences that differ in one word, of the quickstart's model:

```
score	per token	sentence
-12.76	-2.13	The picker peeled the apple.
-19.03	-3.17	The picker peeled the router.
```

What the numbers mean, and what they are not: [pseudo-log-likelihood](../../explanation/probes.md#pseudo-log-likelihood).""",
    "attend": """One text, and any model folder, also of a classifier or a tagger: for a pair of texts, see
[these lines](../../how-to/short-answers.md#attention-pair). What a weight says, and what it does not:
[attention is not explanation](../../explanation/probes.md#attention-is-not-explanation).
The picture is a PNG; for another format, draw the numbers of [`attention`](../api.md#bert.probing.attention.attention).""",
    "doctor": """What each finding means: [my loss is flat](../../how-to/flat-loss.md#what-it-says). `bert pretrain` and `bert finetune`
log the same findings as warnings.""",
    "export": """[Open it elsewhere](../../how-to/elsewhere.md), [put it on a CPU](../../how-to/cpu.md).""",
    "prepare": """What it writes: [token store](../files.md#token-store).
A store whose text, tokenizer or options have changed is replaced.""",
}
_SOURCE = "https://github.com/bert-kit/bert-kit/blob/main/recipes"


def pages() -> dict[str, str]:
    """Path below docs/ → text of each generated page."""
    commands = {f"reference/commands/{name}.md": command_page(name) for name in COMMANDS}
    return commands | {"reference/recipes.md": recipes_page()}


def command_page(name: str) -> str:
    """The page of a command: what it does, examples, and a table of its options; of bench also the options of each mode."""
    lines = [f"# bert {name}", "", *_command([name])]
    if name in _NOTES:
        lines += [_NOTES[name], ""]
    if name == "bench":
        for mode in MODES:
            lines += [f"## bert bench {mode}", "", *_command([name, mode])]
    return "\n".join(lines)


def _command(arguments: list[str]) -> Iterator[str]:
    parser = parser_of(arguments)
    yield from (parser.description or "", "", '```sh title="needs your own files, or minutes"')
    yield from examples(parser.command)
    yield from ("```", "")
    rows = [
        f"| {_spelling(action)} | {_cell(action.help or '')} |"
        for action in parser._actions
        if action.dest in parser.options or not action.option_strings
    ]
    if rows:
        yield from ("| argument or option | what it is |", "|---|---|", *rows, "")
    if parser.recipe_type is not None:
        yield "`--config RECIPE` reads a recipe, and every field of it is a flag too: see [recipes](../recipes.md)."
        yield "`--print-config` prints the complete recipe that files and flags give."
        yield ""


def parser_of(arguments: list[str]) -> Parser:
    """The command line of a command."""
    with redirect_stdout(io.StringIO()), suppress(SystemExit):
        COMMANDS[arguments[0]]([*arguments[1:], "--help"])
    assert Parser.latest is not None
    return Parser.latest


def _spelling(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{action.metavar}`"
    value = f" {action.metavar}" if action.nargs != 0 and action.metavar else ""
    return f"`{action.option_strings[0]}{value}`" + (" (required)" if action.required else "")


def recipes_page() -> str:
    """Every field of every recipe, group by group."""
    lines = [
        "# Recipes",
        "",
        "A recipe is a YAML file. Every field is also a flag: `data.batch_size` is `--data.batch_size 32`. Later files and flags win over",
        "earlier ones, and a field that is not given has its default. `--config NAME` reads a file, or a recipe of this name that comes",
        "with the package; `--print-config` prints the complete recipe. A group can be a file of its own: `--encoder bert-tiny`.",
        "",
        "An unknown key or a value of the wrong type is an error that names it. Nothing is imported or called because a recipe names it:",
        "see [files from others](../explanation/safety.md).",
        "",
    ]
    lines += ["## Recipes that come with the package", "", "| name | for | what it is |", "|---|---|---|"]
    for folder, flag in _FLAG.items():
        for file in sorted((Path(__file__).parents[1] / "recipes" / folder).glob("*.yaml")):
            lines.append(f"| [{file.stem}]({_SOURCE}/{folder}/{file.name}) | `{flag}` | {_cell(_header(file))} |")
    lines += [
        "",
        "Parameters are those of the encoder with the vocabulary of its recipe; `bert pretrain` takes the tokenizer's.",
        "",
    ]
    for title, (kind, commands) in _RECIPES.items():
        links = " and ".join(f"[bert {name}](commands/{name}.md)" for name in commands)
        lines += [f"## {title}", "", f"The recipe of {links}.", "", *_group(kind, title.split()[1])]
    return "\n".join(lines)


def _group(kind: type, command: str, name: str = "", text: str = "") -> Iterator[str]:
    hints, texts, defaults = recipes.hints_of(kind), documentation(kind), kind()
    inner = [key for key, hint in hints.items() if is_dataclass(hint)]
    if name:
        yield from (f"### `{name}` {{ #{command}-{name} }}", "", f"{_sentence(text)}" if text else "", "")
    if rows := [key for key in hints if key not in inner]:
        yield from ("| field | value | default | what it is |", "|---|---|---|---|")
        for key in rows:
            default = recipes.shown(getattr(defaults, key))
            path = f"{name}.{key}" if name else key
            yield f"| `{path}` | {_cell(recipes.in_words(hints[key]))} | `{default}` | {_cell(texts.get(key, ''))} |"
        yield ""
    for key in inner:
        yield from _group(hints[key], command, key, texts.get(key, ""))


def _header(file: Path) -> str:
    """The first sentence of the comment at the top of a recipe."""
    lines = takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
    return " ".join(line.removeprefix("#").strip() for line in lines).partition(". ")[0].removesuffix(".")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _cell(text: Any) -> str:
    """Text in a cell of a Markdown table. Python-Markdown takes | in code for itself."""
    plain = str(text).replace("%%", "%")
    return plain if "`" in plain else re.sub(r"([|<>*_\[\]])", r"\\\1", plain)


if __name__ == "__main__":
    for path, text in pages().items():
        file = Path(__file__).parent / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
