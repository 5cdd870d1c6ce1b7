"""`bert words`, `senses`, `score` and `attend`: parse, call, print."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bert.commands.options import output
from bert.errors import InputError
from bert.flags import Parser


def _words(arguments: Sequence[str]) -> None:
    """Compare the vectors of a word from sentence to sentence, layer by layer."""
    columns = "sentence and, where known, word, start and end or index, and sense"
    sentences = f"file: .txt with a sentence a line, or .jsonl, .tsv or .csv with the columns {columns}"
    parser = Parser(_words)
    parser.add("word", "the word, in any case")
    parser.add("--sentences", sentences, required=True)
    parser.add("--model", "model folder", required=True)
    parser.add("--layer", "one layer, 0 is the embeddings; not given: all", int)
    parser.add("--forms", "inflected forms too: plural, past, -ing, by English rules", bool)
    parser.add("--also", "other forms that count as the word, as mice,mousey", default="")
    parser.add("--clusters", "number of clusters; not given: the best silhouette of 2 to 6", int, at_least=1)
    parser.add("--seed", "of clusters, of the random tokens, of a sample", int, 0)
    parser.add("--html", "one offline page with a slider through the layers")
    parser.add("--png", "2-D map of the last layer that was looked at")
    options = parser.parse(arguments)
    html = output("--html", options.html, (".html", ".htm"), inputs=[options.sentences, options.model])
    png = output("--png", options.png, (".png",), inputs=[options.sentences, options.model])
    from bert.probing.occurrences import forms_of
    from bert.probing.words import words

    also = [form.strip() for form in options.also.split(",") if form.strip()]
    forms = [*(forms_of(options.word) if options.forms else []), *also]
    layers = None if options.layer is None else [options.layer]
    chosen: dict[str, Any] = {"layers": layers, "forms": forms, "clusters": options.clusters, "seed": options.seed}
    result = words(options.word, Path(options.sentences), options.model, **chosen)
    print(result)
    from bert.probing.pictures import words_page, words_png

    html(lambda file: file.write_text(words_page(result, options.model, options.sentences), encoding="utf-8"))
    png(lambda file: _say(words_png(result, file)))


def _say(remark: str) -> None:
    """Print a remark, where there is one."""
    if remark:
        print(remark)


def _senses(arguments: Sequence[str]) -> None:
    """Measure how well the vectors of words tell their senses, beside trivial baselines."""
    from bert.probing.config import SensesProtocol

    parser = Parser(_senses, SensesProtocol)
    parser.add("data", ".jsonl, .tsv or .csv with columns word, sentence, sense, and start and end or index")
    parser.add("--model", "model folder", required=True)
    parser.add("--test", "test rows; not given: every fifth of each sense")
    parser.add("--layer", "one layer; not given: all, and the sum of the last 4", int)
    parser.add("--words", "only these, as apple,bank", default="")
    parser.add("--seed", "of the random encoder", int, 0)
    parser.add("--out", "every figure, as .json or .tsv")
    options = parser.parse(arguments)
    protocol = parser.recipe(options)
    out = output("--out", options.out, (".json", ".tsv"), inputs=[options.data, options.test, options.model])
    from bert.probing.senses import senses

    chosen = [word.strip() for word in options.words.split(",") if word.strip()]
    layers = None if options.layer is None else [options.layer]
    result = senses(options.data, options.model, options.test, layers, chosen, options.seed, protocol=protocol)
    print(result)
    out(lambda file: _write_rows(list(result.rows()), result.summary(), file))


def _write_rows(rows: Sequence[dict[str, object]], content: object, file: Path) -> None:
    """The rows as a table, or all the content where the file is to be .json."""
    if file.suffix.lower() == ".json":
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    else:
        from bert.report.text import tabbed

        text = tabbed(list(rows[0]), [list(row.values()) for row in rows])
    file.write_text(text, encoding="utf-8")


def _score(arguments: Sequence[str]) -> None:
    """Say how probable sentences are to a masked LM: the pseudo-log-likelihood of each, and of pairs which one wins."""
    file = "sentences (.txt, .jsonl, .tsv; - for lines of standard input), or pairs: columns good and bad"
    within = "mask the later pieces of a word too while one is guessed, so that long words do not give themselves away"
    pairs_in = "good, bad and, where known, phenomenon, field, paradigm, as in BLiMP"
    parser = Parser(_score)
    parser.add("file", file)
    parser.add("--model", "folder of a masked LM", required=True)
    parser.add("--within-word", within, bool)
    parser.add("--minimal-pairs", f"the file holds pairs ({pairs_in}): accuracy by phenomenon", bool)
    parser.add("--limit", "so many pairs of each paradigm, the first ones", int, at_least=1)
    parser.add("--out", "every sentence or pair with its scores, as .tsv or .json")
    options = parser.parse(arguments)
    out = output("--out", options.out, (".tsv", ".json"), inputs=[options.file, options.model])
    from bert.probing.pairs import minimal_pairs, pairs_of
    from bert.probing.rows import read_pairs, read_rows
    from bert.probing.sentences import listed, score

    asked_for = options.minimal_pairs or options.limit is not None
    pairs = pairs_of(options.file, options.limit) if asked_for else read_pairs(options.file)
    if pairs is None:
        sentences = [row.sentence for row in read_rows(options.file, keep_empty=True)]
        scores = score(sentences, options.model, within_word=options.within_word, progress="scores")
        print(listed(scores))
        rows: list[dict[str, object]] = [one.row() for one in scores]
        tokens = ({"tokens": one.tokens, "log_probabilities": one.log_probabilities} for one in scores)
        content: object = [row | more for row, more in zip(rows, tokens)]
    else:
        result = minimal_pairs(pairs, options.model, within_word=options.within_word, progress="scores")
        print(result if options.minimal_pairs else result.listed())
        rows, content = list(result.rows()), result.summary()
    out(lambda file: _write_rows(rows, content, file))


def _attend(arguments: Sequence[str]) -> None:
    """Show where the tokens of a text look in one attention head."""
    parser = Parser(_attend)
    parser.add("text", 'a sentence, as "The cat sat"')
    parser.add("--model", "model folder", required=True)
    parser.add("--layer", "from 1; not given: where a head looks hardest", int)
    parser.add("--head", "from 0; not given: the one that looks hardest", int)
    parser.add("--png", "the weights of the head as a picture")
    options = parser.parse(arguments)
    png = output("--png", options.png, (".png",), inputs=[options.model])
    from bert.probing.attention import attention

    if _is_file(options.text):
        raise InputError(f"{options.text}: is a file: give one sentence")
    result = attention(options.text, options.model)
    layer, head = result.telling_head(options.layer, options.head)
    print(result.table(layer, head))
    if options.png is not None:  # matplotlib takes a second
        from bert.report.figures import heatmap_png

        weights, title = result.head(layer, head), f"attention: layer {layer}, head {head}"
        png(lambda file: _say(heatmap_png(file, result.tokens, weights, title)))


def _is_file(text: str) -> bool:
    """Whether a text is the name of a file; one that is too long for a name is none."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


COMMANDS = (_words, _senses, _score, _attend)
