"""One label for each word of a text: names, parts of speech.

If the labels mark spans (B-PER, I-PER, O), the headline is span F1 as computed by conlleval, and predictions are legal in the scheme of
the labels. A text that is not given as words is split as those of the training file are.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, chain
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from bert.data.columns import Columns
from bert.data.examples import Example, Examples
from bert.data.rows import is_number
from bert.data.splitting import Splitter
from bert.data.tagged import TaggedExample, read_tagged
from bert.errors import InputError, option
from bert.finetuning.batches import TaskBatch
from bert.finetuning.config import DataConfig
from bert.finetuning.evaluation.details import Detail, mention, seen_table, types_table
from bert.finetuning.evaluation.label_errors import Suspect, confident_errors
from bert.finetuning.evaluation.per_example import Counts, Totals, Values, f1, ratio
from bert.finetuning.evaluation.scored import Scored
from bert.finetuning.metrics import SpanF1, numbered, percents, span_counts, span_types
from bert.finetuning.tags import SCHEMES, Scheme, Span, Transitions, marks_span, scheme_of, span_tags, spans
from bert.finetuning.tasks.task import Metrics, Names, Prediction, Task, TaskModel, flat
from bert.finetuning.windows import Window, WindowMaker
from bert.model.heads import TokenClassifier

if TYPE_CHECKING:
    from bert.report.charts import SpannedText

_MOST_LEARNED = 20_000  # sentences that the splitter of words learns from


@dataclass(frozen=True, slots=True)
class TextSpan:
    """A span of a text."""

    start: int
    end: int
    """`text[start:end]`, in characters"""
    type: str
    """`PER`, or the label of a single word"""
    score: float
    """the mean probability of the labels of its words"""
    text: str


@dataclass(frozen=True)
class TagPrediction(Prediction):
    """The labels of the words of a text, and the spans that they mark."""

    text: str
    """as given; of words the text that they make"""
    offsets: Sequence[tuple[int, int]]
    """the first character and the end of each word"""
    tags: Sequence[str]
    """the label of each word"""
    probabilities: Sequence[float]
    """of these labels, from 0 to 1"""
    spans: Sequence[TextSpan]
    """what the tags mark, in order; each word if they mark no spans"""

    def record(self, top: int | None) -> dict[str, Any]:
        return {"spans": [asdict(span) for span in self.spans]}

    def spanned(self, most: int = 5_000) -> "SpannedText":
        """The first characters of the text with its spans, for a page."""
        from bert.report.charts import SpannedText  # imports matplotlib

        return SpannedText(self.text, [(span.start, span.end, span.type) for span in self.spans]).part(0, most)

    def lines(self) -> str:
        """A line for each word, with its label and probability, and an empty line."""
        words = (self.text[start:end] for start, end in self.offsets)
        rows = zip(words, self.tags, self.probabilities, strict=True)
        return "".join(f"{word}\t{tag}\t{p:.4f}\n" for word, tag, p in rows) + "\n"


class Tag(Task):
    """The label of a word is predicted at its first token, in the window that labels the word."""

    def __init__(self, tags: Names = (), scheme: Scheme | None = None, splitter: Splitter | None = None) -> None:
        """`tags`: those that the labels stand for (`span_tags`); `scheme`: none allows any sequence."""
        self.scheme, self.splitter = scheme, splitter or Splitter()
        self.transitions = Transitions(tags, scheme) if tags and scheme else None

    name = "tag"
    explains = False
    model = TokenClassifier
    pipeline = "token-classification"
    output = "tags.conll"
    options = ("text", "words", "tags")
    formats = ("jsonl", "csv", "conll", "text")
    has_top = False
    rate = 5e-5  # twice that of texts: a batch has many more labels
    probe_examples = 0  # parts of speech lose half a point by a probe, names neither lose nor win
    scales = percents("span F1", "strict span F1", "accuracy")

    def read(self, file: str, data: DataConfig, labeled: bool = True, learned: Columns = Columns()) -> Examples:
        if labeled and data.text:
            raise InputError(f"{option('text')} is a column to predict on, and labeled examples are words; remove it")
        read = read_tagged(file, data.words, data.tags, labeled, data.file_format, learned, data.text)
        return Examples(read.columns, _with_words(file, read.rows) if labeled else map(self._split, read.rows))

    def example(self, text: Any, pair: str | None = None) -> TaggedExample:
        if pair is not None:
            raise InputError("predict: a tagger takes no second texts; leave them out")
        if isinstance(text, str):
            return self._split(Example(text))
        words = tuple(text) if isinstance(text, list | tuple) else ("",)
        if not all(isinstance(word, str) and word for word in words):
            raise InputError(f"predict: {text!r} is neither a text nor a list of words; give one of them")
        return TaggedExample(words)

    def _split(self, example: Example | TaggedExample) -> TaggedExample:
        if isinstance(example, TaggedExample):
            return example
        offsets, text = self.splitter.words(example.text), example.text
        known: dict[str, str] = {}  # one object for equal words: a text may be long
        words = tuple(known.setdefault(word := text[start:end], word) for start, end in offsets)
        return TaggedExample(words, None, example.where, row=example.row, text=text, offsets=offsets)

    def names(self, example: TaggedExample) -> tuple[str, ...]:
        return example.tags or ()

    def counted(self, sizes: Sequence[int]) -> str:
        return f"{numbered(len(sizes), 'sentence')}, {numbered(sum(sizes), 'word')}"

    def described(self, train: Sequence[TaggedExample], dev: Sequence[TaggedExample]) -> str:
        located = [example.located() for example in dev]
        found = sum(len({*offsets}.intersection(self.splitter.words(text))) for text, offsets in located)
        share = f"{found / max(1, sum(len(offsets) for _, offsets in located)):.1%} of those of dev are found"
        return f"{super().described(train, dev)}\nrunning text is split into words: {share}"

    def fitted(self, labels: Names, examples: Sequence[TaggedExample]) -> "Tag":
        some = examples[:: len(examples) // _MOST_LEARNED + 1]
        words = Splitter.learn([(example.words, example.joined) for example in some])
        return Tag(span_tags(labels), self._scheme(labels, examples), words)

    def settings(self) -> dict[str, Any]:
        return {"scheme": self.scheme, "words": self.splitter.contexts, "separated": self.splitter.separated}

    def restored(self, settings: Mapping[str, Any], labels: Names) -> "Tag":
        tags = span_tags(labels)
        # of IOB1 and IOB2 the labels are the same: without the scheme any sequence is allowed
        found = scheme_of((tag,) for tag in tags)
        scheme = settings["scheme"] if settings else None if found in ("IOB1", "IOB2") else found
        if scheme not in (None, *SCHEMES):
            raise ValueError(f"the scheme {scheme!r} is not known")
        separated = settings.get("separated", False)
        if not isinstance(separated, bool):
            raise ValueError(f"separated is {separated!r}, not true or false")
        return Tag(tags, scheme, Splitter(settings.get("words", {}), separated))

    def tables(self, labels: Names) -> dict[str, Any]:
        return {"labels": [*labels]} | self.transitions.written() if self.transitions else {}

    @staticmethod
    def _scheme(labels: Names, examples: Sequence[TaggedExample]) -> Scheme | None:
        """The scheme of the tags of examples; of the labels if the examples have none."""
        tag_of = dict(zip(labels, span_tags(labels)))
        in_text = scheme_of([tag_of.get(name, "O") for name in example.tags or ()] for example in examples)
        return in_text or scheme_of((tag,) for tag in tag_of.values())

    def windows(self, examples: Sequence[TaggedExample], maker: WindowMaker) -> list[list[Window]]:
        return maker.from_sentences([example.words for example in examples])

    def scores(self, model: TaskModel, batch: TaskBatch) -> Tensor:
        return self.logits(model, batch).flatten(0, 1)[batch["word_positions"]]

    def kept(self, logits: Tensor, window: Window) -> Tensor:
        return logits[list(window.starts)]

    def of_example(self, logits: Sequence[Tensor], windows: Sequence[Window]) -> Tensor:
        words = torch.tensor([word for window in windows for word in window.words], dtype=torch.long)
        return torch.cat(list(logits))[words.argsort()]

    def metrics(self, labels: Names, examples: Sequence[TaggedExample]) -> dict[str, Metric]:
        accuracy: dict[str, Metric] = {"accuracy": MulticlassAccuracy(len(labels), average="micro")}
        tags = span_tags(labels)
        if not tags:
            return accuracy
        scheme = self._scheme(labels, examples) or "IOB2"
        return {"span_f1": SpanF1(tags), "strict_span_f1": SpanF1(tags, "strict", scheme), **accuracy}

    def doubts(self, places: Mapping[str, str]) -> Iterator[str]:
        yield from super().doubts(places)
        if all(map(is_number, places)):
            yield f"{next(iter(places.values()))}: tags are numbers, so that there is no span F1; write their names"
        strays = [tag for tag in places if tag != "O" and not marks_span(tag)]
        if span_tags([*places]) or any(len(tag) > 1 for tag in places.keys() - strays):
            told = "counts as O in span F1" if span_tags([*places]) else "there is no span F1"
            yield from (f"{places[tag]}: the tag {tag!r} marks no span, as B-PER does; {told}" for tag in strays)

    def update(self, metrics: Metrics, scores: Tensor, labels: Tensor, sizes: Sequence[int]) -> None:
        decided = self.decide(scores, sizes)
        metrics["accuracy"].update(decided, labels)
        for metric in metrics.values():
            if isinstance(metric, SpanF1):
                sides = (side.split(list(sizes)) for side in (decided, labels))
                metric.update(*([[metric.tags[i] for i in one.tolist()] for one in side] for side in sides))

    def decide(self, scores: Tensor, sizes: Sequence[int]) -> Tensor:
        """The legal labels with the largest sum of scores: the most probable ones, if these are legal."""
        classes = scores.argmax(-1)
        if self.transitions is not None and len(classes):
            ends = [*accumulate(sizes, initial=0)]
            for number in self.transitions.illegal(classes.cpu().numpy(), sizes):
                of_one = slice(ends[number], ends[number + 1])
                best = self.transitions.best(scores[of_one].detach().float().cpu().numpy())
                classes[of_one] = torch.from_numpy(best).to(classes)
        return classes

    def per_example(self, scored: Scored, decided: np.ndarray) -> Counts:
        right = scored.right.numpy()
        if not (tags := span_tags(scored.labels)):
            return Counts.of_classes(scored.labels, decided, right, scored.sizes, _accuracy)
        types, ends = span_types(tags), np.cumsum(scored.sizes)[:-1]
        strict = self._scheme(scored.labels, scored.examples) or "IOB2"
        rows = []
        for found, gold in zip(np.split(decided, ends), np.split(right, ends)):
            said, there = ([tags[number] for number in side] for side in (found, gold))
            loose, counted = (span_counts(said, there, types, scheme) for scheme in (None, strict))
            rows.append([*loose.flat, *counted.sum(1), (found == gold).sum(), len(gold)])
        return Counts(types, csr_array(np.array(rows, float)), _span_metrics)

    def baseline(self, learned: Sequence[Any], asked: Sequence[Any], labels: Names) -> list[Tensor]:
        """The most frequent tag of a word; for an unknown word the most frequent tag of all."""
        found = defaultdict(list)
        classes = flat(self, learned, labels)
        for word, number in zip((word for example in learned for word in example.words), classes.tolist(), strict=True):
            found[word].append(number)
        of_word = {word: self.constant(torch.tensor(ids), len(labels)) for word, ids in found.items()}
        overall = self.constant(classes, len(labels))
        return [torch.stack([of_word.get(word, overall) for word in one.words]) for one in asked if one.words]

    def details(self, scored: Scored, training: Sequence[TaggedExample] = ()) -> Sequence[Detail]:
        if not (tags := span_tags(scored.labels)):
            return super().details(scored)
        parts = (side.split(list(scored.sizes)) for side in (scored.decided, scored.right))
        sides = [*zip(*([[tags[number] for number in one.tolist()] for one in side] for side in parts))]
        found: list[Detail] = [types_table(sides, tags, self._scheme(scored.labels, scored.examples) or "IOB2")]
        if training:
            tag_of = dict(zip(scored.labels, tags))
            marked = ((one.words, spans([tag_of.get(tag, "O") for tag in self.names(one)])) for one in training)
            learned = {mention(words, span) for words, of_one in marked for span in of_one}
            found.append(seen_table([example.words for example in scored.examples], sides, learned))
        return found

    def prediction(self, example: TaggedExample, scores: Tensor, labels: Names) -> TagPrediction:
        text, offsets = example.located()
        classes = self.decide(scores, [len(scores)])
        probabilities = self.probabilities(scores).gather(1, classes[:, None])[:, 0].tolist()
        tags = [labels[number] for number in classes.tolist()]
        return TagPrediction(text, offsets, tags, probabilities, _text_spans(example, tags, labels, probabilities))

    def gold(self, example: TaggedExample, labels: Names) -> Any:
        tags = example.tags or ()
        return [asdict(span) for span in _text_spans(example, tags, labels, [1.0] * len(tags))]

    def suspects(self, examples: list[Any], scores: Sequence[Tensor], labels: Names) -> list[Suspect]:
        """Spans: each part of a sentence in which given and predicted spans overlap and differ, if confident learning finds one of its
        words. Wrong types, missing spans and wrong boundaries have one scale: the mean probability of the given labels of the words whose
        predicted labels differ."""
        joined, given = torch.cat([*scores]), flat(self, examples, labels).numpy()
        decided, probabilities = self.decide(joined, [*map(len, scores)]).numpy(), joined.double().softmax(-1).numpy()
        errors, own = confident_errors(given, probabilities), probabilities[range(len(given)), given]
        tags, found, begin = span_tags(labels), list[Suspect](), 0
        for number, example in enumerate(examples):
            words, (text, offsets) = slice(begin, begin := begin + len(example.words)), example.located()
            sides = [_marked([labels[i] for i in side[words]], tags, labels) for side in (given, decided)]
            for start, end in _overlapping([*chain(*sides)]):
                gold, guess = (_in_part(side, start, end, text, offsets) for side in sides)
                part = slice(words.start + start, words.start + end)
                if gold != guess and errors[part].any():
                    score = float(own[part][given[part] != decided[part]].mean())
                    place = offsets[start][0], offsets[end - 1][1]
                    found.append(Suspect(number, example.at(start), text, gold, guess, score, *place))
        return found

    def given(self, example: TaggedExample) -> dict[str, Any]:
        """With the text that offsets count in as `text`."""
        row, (text, _) = example.row or {}, example.located()
        return row if row.get("text") == text else row | {"predicted_text" if "text" in row else "text": text}

    def texts(self, example: TaggedExample) -> list[str]:
        return [example.located()[0]]

    def page(self, predictions: Sequence[TagPrediction], source: str, count: int) -> str:
        from bert.report.charts import spanned
        from bert.report.page import Section, key_metrics, page

        kinds = Counter(span.type for one in predictions for span in one.spans)
        found = [(kind, f"{number:,}", "spans") for kind, number in kinds.most_common(8)]
        texts = f"{len(predictions):,} of " * (len(predictions) < count) + numbered(count, "text")
        section = Section("Texts", spanned([one.spanned() for one in predictions]), "The type follows each span.")
        return page("Spans in texts", f"{texts}, {source}", [section], metrics=key_metrics(found))

    def usual_format(self, example: TaggedExample, on_terminal: bool) -> str:
        return "conll" if example.text is None else "text" if on_terminal else "jsonl"


def _text_spans(example: TaggedExample, tags: Names, labels: Names, probabilities: Sequence[float]) -> list[TextSpan]:
    """The spans that the tags of an example mark, with the mean of the probabilities of their words."""
    text, offsets = example.located()
    found = []
    for kind, first, last in _marked(tags, span_tags(labels), labels):
        start, end = offsets[first][0], offsets[last - 1][1]
        found.append(TextSpan(start, end, kind, round(fmean(probabilities[first:last]), 6), text[start:end]))
    return found


def _accuracy(totals: Totals) -> Values:
    correct, _, gold, _ = totals
    return {"accuracy": ratio(correct.sum(1), gold.sum(1))}


def _span_metrics(totals: Totals) -> Values:
    """Span F1 in both modes, and the accuracy of words."""
    *spans, rest = totals
    loose, strict = f1(*(part.sum(1) for part in spans)), f1(*rest.T[:3])
    return {"span_f1": loose, "strict_span_f1": strict, "accuracy": ratio(rest[:, 3], rest[:, 4])}


def _marked(tags: Sequence[str], span_tags: Sequence[str], labels: Names) -> list[Span]:
    """The spans of the words of a text. Without prefixes, neighboring words with the same label are a span if O is a label,
    and each word is one otherwise."""
    if span_tags:
        tag_of = dict(zip(labels, span_tags))
        return spans([tag_of[tag] for tag in tags])
    if "O" in labels:
        return spans([tag if tag == "O" else f"I-{tag}" for tag in tags])
    return [Span(tag, number, number + 1) for number, tag in enumerate(tags)]


def _overlapping(found: Sequence[Span]) -> list[list[int]]:
    """[start, end] of the parts of a sentence that are covered by spans, those that overlap in one part."""
    parts: list[list[int]] = []
    for _, start, end in sorted(found, key=lambda span: span.start):
        if not parts or start >= parts[-1][1]:
            parts.append([start, end])
        parts[-1][1] = max(end, parts[-1][1])
    return parts


def _in_part(found: Sequence[Span], begin: int, stop: int, text: str, offsets: Sequence[tuple[int, int]]) -> str:
    """The spans in the words from `begin` to before `stop`, as `PER: Ann Lee`, or O."""
    inside = [span for span in found if begin <= span.start < stop]
    return "; ".join(f"{kind}: {text[offsets[a][0] : offsets[b - 1][1]]}" for kind, a, b in inside) or "O"


def _with_words(file: str, examples: Iterator[TaggedExample]) -> Iterator[TaggedExample]:
    any_word = False
    for example in examples:
        any_word |= bool(example.words)
        yield example
    if not any_word:
        raise InputError(f"{file}: no words: give at least one sentence with a word")


TASK = Tag()
