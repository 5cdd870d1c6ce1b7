"""`bert words`, `senses`, `score` and `attend`: parse, call, print."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from bert.commands.options import output
from bert.errors import InputError
from bert.flags import Parser


def _words(arguments: Sequence[str]) -> None:
    """Compare the vectors of a word across sentences, layer by layer.

    $ bert words apple --sentences sentences.txt --model runs/mine/model --html apple.html
    $ bert words mouse --also mice --sentences senses.jsonl --model runs/mine/model --layer 4
    """
    columns = "sentence and, optionally, word, start and end or index, and sense"
    sentences = f".txt file with one sentence a line, or .jsonl, .tsv or .csv with the columns {columns}"
    parser = Parser(_words)
    parser.add("word", "the word; case does not matter")
    parser.add("--sentences", sentences, required=True, metavar="FILE")
    parser.add("--model", "model folder", required=True)
    parser.add("--layer", "one layer, where 0 is the embeddings; default: all", int)
    parser.add("--forms", "also find inflected forms by English rules: plural, past, -ing", bool)
    parser.add("--also", "other forms of the word, separated by commas: mice,mousey", default="", metavar="FORMS")
    parser.add("--clusters", "number of clusters; default: the one of 2 to 6 with the best silhouette", int, at_least=1)
    parser.add("--seed", "seed of the clusters, the random tokens and the sample", int, 0)
    parser.add("--html", "offline page to write, with a slider through the layers", metavar="FILE")
    parser.add("--png", "picture to write, with a 2-D map of the last layer", metavar="FILE")
    options = parser.parse(arguments)
    html = output("--html", options.html, (".html", ".htm"), inputs=[options.sentences, options.model])
    png = output("--png", options.png, (".png",), inputs=[options.sentences, options.model])
    from bert.probing.words import words

    also = [form.strip() for form in options.also.split(",") if form.strip()]
    where, more = (Path(options.sentences), options.model), {"clusters": options.clusters, "seed": options.seed}
    result = words(options.word, *where, options.layer, options.forms, also=also, **more)
    print(result)
    from bert.probing.pictures import words_page, words_png

    html(lambda file: file.write_text(words_page(result, options.model, options.sentences), encoding="utf-8"))
    _say(png(lambda file: words_png(result, file)))


def _say(remark: object) -> None:
    """Print a remark if there is one."""
    if remark:
        print(remark)


def _senses(arguments: Sequence[str]) -> None:
    """Measure how well the vectors of words separate their senses, next to trivial baselines.

    $ bert senses train.jsonl --test test.jsonl --model runs/mine/model
    $ bert senses rows.tsv --model runs/mine/model --words apple,bank --out senses.json
    """
    from bert.probing.config import SensesProtocol

    parser = Parser(_senses, SensesProtocol, folder="probe")
    parser.add("data", ".jsonl, .tsv or .csv with the columns word, sentence, sense, and start and end or index")
    parser.add("--model", "model folder", required=True)
    parser.add("--test", "file with the test rows; default: every fifth row of each sense", metavar="FILE")
    parser.add("--layer", "one layer; default: all, and the sum of the last 4", int)
    parser.add("--words", "measure these words only, separated by commas, such as apple,bank", default="")
    parser.add("--seed", "seed of the randomly initialized encoder", int, 0)
    parser.add("--out", "file to write with every metric, .json or .tsv", metavar="FILE")
    options = parser.parse(arguments)
    protocol = parser.recipe(options)
    out = output("--out", options.out, (".json", ".tsv"), inputs=[options.data, options.test, options.model])
    from bert.probing.senses import senses

    chosen = [word.strip() for word in options.words.split(",") if word.strip()]
    inputs = options.data, options.model, options.test
    result = senses(*inputs, options.layer, chosen, options.seed, protocol=protocol)
    print(result)
    out(lambda file: _write_rows(list(result.rows()), result.summary(), file))


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
    parser.add("--model", "folder of a masked LM", required=True)
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
