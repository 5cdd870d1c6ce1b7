"""Which columns of a file hold texts, labels and words: named ones, those of training, or those with usual names."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from bert.data.rows import there_are, usual
from bert.errors import InputError, did_you_mean, option

PAIRS = {  # usual names of the text, most likely first → names of a second sentence beside it
    "text": ("pair", "text_pair", "text2"),
    "sentence": ("pair", "sentence_pair", "sentence2"),
    "sentence1": ("sentence2",),
    "text1": ("text2",),
    "question1": ("question2",),
    "premise": ("hypothesis",),
    "review": (),
    "content": (),
}
LABELS = ("label", "labels", "tag", "class", "category", "topic", "sentiment", "sense")
WORDS = ("words", "tokens")
TAGS = ("tags", "ner_tags", "labels", "pos_tags", "upos")
_MOST_NAME = 10_000  # characters of a column name in a model folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Columns:
    """Names of the columns that are read, of CoNLL files their numbers; None for a missing column.

    A model folder holds those of training. Raises ValueError for a value that is no name."""

    text: str | None = None
    pair: str | None = None
    label: str | None = None
    label_columns: list[str] = field(default_factory=list)
    """columns of 0 and 1 in place of `label`"""
    words: str | None = None
    tags: str | None = None

    def __post_init__(self) -> None:
        for name in (self.text, self.pair, self.label, self.words, self.tags, *self.label_columns):
            if name is not None and not (isinstance(name, str) and len(name) <= _MOST_NAME):
                raise ValueError("the name of a column is not text, or too long")

    def __str__(self) -> str:
        """`'premise' and 'hypothesis' → 'label'`."""
        texts = [repr(name) for name in (self.text, self.pair, self.words) if name]
        return f"{' and '.join(texts) or 'the first'} → {(', '.join(self.label_columns) or self.label or self.tags)!r}"


def choose_columns(
    where: str, header: list[str], named: Columns, learned: Columns, labels: Sequence[str], needs: bool, advice: str
) -> Columns:
    """The columns of a file of texts: the `named` ones, which must exist; for the others those of training
    (`learned`), or those with usual names (those of the label are `labels`). `advice` ends the error of a file without
    a text, or without a label that it `needs`.

    Warns of other columns than in training. Raises InputError, also for pairs in place of texts and the other way
    round."""
    for role, name in (("text", named.text), ("pair", named.pair), ("label", named.label)):
        if name and name not in header:
            what = f"no column {name!r} for {option(role)}; {there_are(header)}"
            raise InputError(f"{where}: {what}.{did_you_mean(name, header)}")
    text = named.text or usual(filter(None, (learned.text, *PAIRS)), header)
    label = named.label or usual(filter(None, (learned.label, *labels)), (one for one in header if one != text))
    if text is None or (label is None and needs):
        raise unknown_column(where, "text" if text is None else "label", header, advice)
    pair = named.pair or usual(filter(None, (learned.pair, *PAIRS.get(text.lower(), ()))), header)
    if text in (pair, label):
        role = "pair" if text == pair else "label"
        raise InputError(f"{where}: column {text!r} is the text and also the {role}; name another")
    columns = Columns(text, pair, label)
    check_pair(where, columns, learned)
    for role in ("text", "pair", "label"):
        before, now = getattr(learned, role), getattr(columns, role)
        if before and before != now and not getattr(named, role):
            logger.warning(f"{where}: no column {before!r}, the {role} in training; reading {now!r}")
    return columns


def check_pair(where: str, columns: Columns, learned: Columns) -> None:
    """Raises InputError for a file of single texts if training had pairs, and the other way round."""
    if learned.pair and not columns.pair:
        had = f"training had pairs ({learned.text!r} and {learned.pair!r})"
        fix = f"give a file with a column for it, and name it by {option('pair')}"
        raise InputError(f"{where}: no second text, and {had}; {fix}")
    if learned.text and columns.pair and not learned.pair:
        had = f"training had single texts ({learned.text!r})"
        raise InputError(f"{where}: {columns.pair!r} is a second text, and {had}; remove this column")


def unknown_column(where: str, role: str, header: list[str], advice: str = "") -> InputError:
    """The error of a file without a column for `role`."""
    found = f"no column is known as the {role}; {there_are(header)}"
    return InputError(f"{where}: {found}. Name it by {option(role)}{advice}")
