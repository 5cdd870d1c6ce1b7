"""`bert words`, `senses`, `score` and `attend`: parse, call, print."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bert.commands.embedding import write_vectors
from bert.commands.options import counts, kept_milestones, names, output
from bert.errors import InputError
from bert.flags import Parser


def _words(arguments: Sequence[str]) -> None:
    """Compare the vectors of a word across sentences, layer by layer.

    $ bert words apple --sentences sentences.txt --model runs/mine/model --html apple.html
    $ bert words all --change year --sentences rows.jsonl --model runs/mine/model --out change.tsv
    """
    columns = "sentence and, optionally, word, start and end or index, and sense"
    sentences = f".txt file with one sentence a line, or .jsonl, .tsv or .csv with the columns {columns}"
    parser = Parser(_words)
    parser.add("word", "the word; case does not matter; with --change also several, separated by commas, or all")
    parser.add("--sentences", sentences, required=True, metavar="FILE")
    parser.add("--model", "model folder", required=True)
    parser.add(
        "--layer", "one layer, where 0 is the embeddings; default: all, with --change the sum of the last four", int
    )
    parser.add("--forms", "also find inflected forms by English rules: plural, past, -ing", bool)
    parser.add("--also", "other forms of the word, separated by commas: mice,mousey", default="", metavar="FORMS")
    parser.add("--clusters", "number of clusters; default: the one of 2 to 6 with the best silhouette", int, at_least=1)
    parser.add("--seed", "seed of the clusters, the random tokens and the sample", int, 0)
    change = "rank words by how their use differs between the two periods, or corpora, in this column, with p-values"
    parser.add("--change", change, metavar="COLUMN")
    parser.add("--html", "offline page to write, with a slider through the layers", metavar="FILE")
    parser.add("--png", "picture to write, with a 2-D map of the last layer", metavar="FILE")
    parser.add("--out", "file to write, .tsv with each occurrence, or .npz with its vectors too", metavar="FILE")
    options = parser.parse(arguments)
    html = output("--html", options.html, (".html", ".htm"), inputs=[options.sentences, options.model])
    png = output("--png", options.png, (".png",), inputs=[options.sentences, options.model])
    out = output(
        "--out", options.out, (".tsv", ".npz")[: 1 if options.change else 2], inputs=[options.sentences, options.model]
    )
    if options.change is not None:
        from bert.probing.change import change as measure_change

        if given := [name for name in ("html", "png", "also", "forms", "clusters") if getattr(options, name)]:
            raise InputError(f"--{given[0]} is not used with --change: leave it out")
        if not (chosen := names(options.word)):
            raise InputError("WORD is empty: give words, separated by commas, or all")
        chosen = [] if chosen == ["all"] else chosen
        inputs = options.sentences, options.model, options.change, options.layer, chosen, options.seed
        print(changes := measure_change(*inputs))
        out(lambda file: _write_rows(changes.table(), None, file))
        return
    from bert.probing.words import words

    where, more = (Path(options.sentences), options.model), {"clusters": options.clusters, "seed": options.seed}
    result = words(options.word, *where, options.layer, options.forms, also=names(options.also), **more)
    print(result)
    from bert.probing.pictures import words_page, words_png

    html(lambda file: file.write_text(words_page(result, options.model, options.sentences), encoding="utf-8"))
    _say(png(lambda file: words_png(result, file)))
    out(lambda file: write_vectors(file, result.columns(), result.vectors))


def _say(remark: object) -> None:
    """Print a remark if there is one."""
    if remark:
        print(remark)


def _add_models(parser: Parser, model: str) -> None:
    """Add the options for a model, or for the milestones of a run."""
    parser.add("--model", f"{model}; or give --checkpoints")
    parser.add("--checkpoints", "instead of a model: a run, each of whose milestones is measured", metavar="RUN")


def _over_training(options: Any, measure: Callable[[str], dict[str, float]]) -> list[dict[str, object]]:
    """Measure and print the milestones of the run in `options`, one row each; none with a model. InputError without either."""
    from bert.report.text import render, tables

    run = options.checkpoints
    if (options.model is None) == (run is None):
        raise InputError("give --model or --checkpoints, one of them")
    if run is None:
        return []
    measured = [(one.tokens, {"loss": one.loss, **measure(str(one.folder))}) for one in kept_milestones(run)]
    cells = [[f"{tokens:,}", *(f"{value:.3f}" for value in values.values())] for tokens, values in measured]
    header = ["tokens", *(name.replace(", ", ",\n") for name in measured[0][1])]
    print(render(*tables(header, cells, left=0)))
    return [{"tokens": tokens, **values} for tokens, values in measured]


def _senses(arguments: Sequence[str]) -> None:
    """Measure how well the vectors of words separate their senses, next to trivial baselines.

    $ bert senses train.jsonl --test test.jsonl --model runs/mine/model
    $ bert senses wic.jsonl --model runs/mine/model
    """
    from bert.probing.config import SensesProtocol

    parser = Parser(_senses, SensesProtocol, folder="probe")
    columns = "word, sentence, sense, and start and end or index; or those of WiC"
    parser.add("data", f".jsonl, .tsv or .csv with the columns {columns}")
    _add_models(parser, "model folder")
    parser.add("--test", "file with the test rows; default: every fifth row of each sense", metavar="FILE")
    parser.add("--layer", "one layer; default: all, and the sum of the last 4", int)
    parser.add("--words", "measure these words only, separated by commas, such as apple,bank", default="")
    parser.add("--examples", "also learn from so many rows of each sense, such as 1,3,10,100", default="")
    parser.add("--seeds", "number of samples of these rows", int, 1, at_least=1)
    parser.add("--seed", "seed of the randomly initialized encoder and of the samples", int, 0)
    parser.add("--out", "file to write with every metric, .json or .tsv", metavar="FILE")
    options = parser.parse(arguments)
    protocol = parser.recipe(options)
    out = output("--out", options.out, (".json", ".tsv"), inputs=[options.data, options.test, options.model])
    from bert.probing.rows import read_contexts
    from bert.probing.senses import Senses, senses
    from bert.probing.wic import Wic, wic

    contexts = read_contexts(options.data)
    of_senses = {"words": options.words, "examples": options.examples, "seeds": options.seeds > 1}
    if contexts and (given := [name for name, value in of_senses.items() if value]):
        raise InputError(f"--{given[0]} is not used with a file of words in context: leave it out")
    how: dict[str, Any] = {
        "protocol": protocol,
        "examples": counts("--examples", options.examples),
        "seeds": options.seeds,
    }

    def measure(model: str) -> Senses | Wic:
        if contexts:
            return wic(contexts, model, options.test, options.layer, options.seed)
        return senses(options.data, model, options.test, options.layer, names(options.words), options.seed, **how)

    content: object = (rows := _over_training(options, lambda model: measure(model).headlines()))
    if not rows:
        print(result := measure(options.model))
        rows, content = result.table(), result.summary()
    out(lambda file: _write_rows(rows, content, file))


def _write_rows(rows: Sequence[dict[str, object]], content: object, file: Path) -> None:
    """Write the rows as a table, or all of the content as JSON to a .json file."""
    if file.suffix.lower() == ".json":
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    else:
        from bert.report.text import tabbed

        text = tabbed(list(rows[0]), [list(row.values()) for row in rows])
    file.write_text(text, encoding="utf-8")


def _score(arguments: Sequence[str]) -> None:
    """Score sentences with a masked LM: the pseudo-log-likelihood of each, and which of a pair is more probable.

    $ bert score sentences.txt --model runs/mine/model --within-word
    $ bert score pairs.jsonl --model runs/mine/model --minimal-pairs --out pairs.tsv
    """
    file = "sentences (.txt, .jsonl, .tsv; - for lines of standard input), or pairs with the columns good and bad"
    within = "also mask the later tokens of the word that a predicted token belongs to, which would give it away"
    pairs_in = "good, bad and, optionally, phenomenon, field, paradigm, as in BLiMP"
    parser = Parser(_score)
    parser.add("file", file)
    _add_models(parser, "folder of a masked LM")
    parser.add("--within-word", within, bool)
    parser.add("--minimal-pairs", f"print the accuracy by phenomenon; the file holds pairs ({pairs_in})", bool)
    parser.add("--limit", "use only the first N pairs of each paradigm", int, metavar="N", at_least=1)
    parser.add("--out", "file to write with the scores of every sentence or pair, .tsv or .json", metavar="FILE")
    options = parser.parse(arguments)
    out = output("--out", options.out, (".tsv", ".json"), inputs=[options.file, options.model])
    from bert.probing.pairs import minimal_pairs, pairs_of
    from bert.probing.rows import read_pairs, read_rows
    from bert.probing.sentences import listed, score

    asked_for = options.minimal_pairs or options.limit is not None
    pairs = pairs_of(options.file, options.limit) if asked_for else read_pairs(options.file)
    sentences = [row.sentence for row in read_rows(options.file, keep_empty=True)] if pairs is None else []

    def headline(model: str) -> dict[str, float]:
        if pairs is not None:
            found = minimal_pairs(pairs, model, within_word=options.within_word)
            groups = found.groups("phenomenon") if options.minimal_pairs else []
            by_group = {f"{one.name} ({one.pairs:,})": one.accuracy for one in groups}
            return {"accuracy": found.overall.accuracy, **by_group}
        scores = score(sentences, model, within_word=options.within_word)
        values = [value for one in scores for value in one.log_probabilities]
        return {"per token": sum(values) / len(values) if values else float("nan")}

    content: object = (rows := _over_training(options, headline))
    if pairs is None and not rows:
        scores = score(sentences, options.model, within_word=options.within_word, progress="scores")
        print(listed(scores))
        rows = [one.row() for one in scores]
        tokens = ({"tokens": one.tokens, "log_probabilities": one.log_probabilities} for one in scores)
        content = [row | more for row, more in zip(rows, tokens)]
    elif pairs is not None and not rows:
        result = minimal_pairs(pairs, options.model, within_word=options.within_word, progress="scores")
        print(result if options.minimal_pairs else result.listed())
        rows, content = list(result.rows()), result.summary()
    out(lambda file: _write_rows(rows, content, file))


def _attend(arguments: Sequence[str]) -> None:
    """Show which tokens each token of a text attends to in one head.

    $ bert attend "The cat sat on the mat." --model runs/mine/model
    $ bert attend "The cat sat on the mat." --model runs/mine/model --layer 2 --head 0 --png attention.png
    """
    parser = Parser(_attend)
    parser.add("text", 'a sentence, such as "The cat sat"')
    parser.add("--model", "model folder", required=True)
    parser.add("--layer", "layer, from 1; default: that of the most sharply focused head", int)
    parser.add("--head", "head, from 0; default: the most sharply focused one", int)
    parser.add("--png", "picture to write, with the weights of the head", metavar="FILE")
    options = parser.parse(arguments)
    png = output("--png", options.png, (".png",), inputs=[options.model])
    from bert.probing.attention import attention

    if os.path.isfile(options.text):
        raise InputError(f"{options.text}: is a file: give one sentence")
    result = attention(options.text, options.model)
    layer, head = result.telling_head(options.layer, options.head)
    print(result.table(layer, head))
    if options.png is not None:  # matplotlib takes a second
        from bert.report.figures import heatmap_png

        weights, title = result.head(layer, head), f"attention: layer {layer}, head {head}"
        _say(png(lambda file: heatmap_png(file, result.labels, weights, title)))


COMMANDS = (_words, _senses, _score, _attend)
