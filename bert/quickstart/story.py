"""The results of `bert quickstart` with their controls, and its report: a small encoder in pictures, as one self-contained file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from bert.model.heads import Candidate
from bert.probing.attention import Attention
from bert.probing.pictures import map_of_words, nearest_contexts
from bert.probing.senses import Senses
from bert.probing.sentences import SentenceScore
from bert.probing.words import Words
from bert.report import page
from bert.report.charts import ScoredText, SpannedText, bars, fill_in, line_chart, side_by_side, spanned
from bert.report.maps import attention_map, layer_map
from bert.report.page import Section
from bert.report.text import render
from bert.sample.make import Prompt

SHOWN_CONTEXTS = 4  # occurrences of each word whose nearest contexts are shown
SHOWN_TEXTS = 5  # of each language, with names
SHOWN_PAIRS = 2  # pairs of sentences of each language
MASK = "[MASK]"
NEXT = """bert pretrain texts/ --out runs/mine
bert finetune classify --model runs/mine/model --train train.csv --dev dev.csv --out runs/topics
bert words apple --sentences lines.txt --model runs/mine/model --html apple.html"""


@dataclass(frozen=True)
class Line:
    """A result and its controls, all from 0 to 1."""

    what: str
    measure: str
    value: float
    baseline: float
    baseline_is: str
    random: float
    """the same with a randomly initialized encoder"""

    def cells(self) -> tuple[str, ...]:
        """The line as a row of the table."""
        numbers = (f"{value:.1%}" for value in (self.value, self.baseline, self.random))
        return (self.what, self.measure, *numbers, self.baseline_is)


@dataclass(frozen=True)
class Filled:
    """The predictions for a masked word."""

    prompt: Prompt
    guesses: tuple[tuple[Candidate, ...], ...]
    """for each mask of the prompt, the most probable first"""


@dataclass(frozen=True)
class Findings:
    """The content of the report."""

    lines: tuple[Line, ...]
    losses: tuple[tuple[float, float], ...]
    """(tokens seen, masked-LM loss)"""
    words: tuple[Words, ...]
    senses: Senses
    tagged: tuple[SpannedText, ...]
    """test sentences with the names that the tagger finds"""
    filled: tuple[Filled, ...]
    attention: Attention
    pairs: tuple[tuple[SentenceScore, SentenceScore], ...]
    """(good, bad)"""
    tokens: float
    """number of tokens seen in pretraining"""
    seconds: float
    """wall time up to the report"""

    def table(self) -> str:
        """The results and their controls, for a terminal."""
        table = Table(title="Pretrained model vs. baselines", title_justify="left")
        for name in ("", "measured as", "pretrained", "baseline", "random init.", "the baseline is"):
            table.add_column(name, justify="right" if name in ("pretrained", "baseline", "random init.") else "left")
        for line in self.lines:
            table.add_row(*line.cells())
        return render(table)


def write_story(findings: Findings, file: Path) -> Path:
    """Write the report."""
    sections = [
        Section("Results", results(findings), "Each result is compared with two baselines."),
        Section(
            "Learning to predict masked words",
            losses(findings),
            "Nearly a third of the tokens is masked, and the model predicts them from the rest. The loss measures how surprised it is.",
        ),
        *(Section(*word_chapter(word)) for word in findings.words),
        Section(
            "Predictions for a masked word",
            "".join(filled(findings)),
            "The word is masked. The rest of the sentence determines which words are probable.",
        ),
        Section(
            "Names in a text",
            spanned(findings.tagged),
            "The tagger has learned from few sentences with names; these are other ones, with names that are in none of those.",
        ),
        Section(
            "A good and a bad sentence",
            right_and_wrong(findings),
            "How probable is a sentence? Answering that is what a language model is for.",
        ),
        Section(
            "Attention",
            attended(findings),
            "Each row shows which tokens contribute to the new vector of a token, in one head.",
        ),
        Section("Senses, layer by layer", senses_by_layer(findings), "Is the nearest sense centroid the right one?"),
        Section("Your own text", page.commands(NEXT), "The same commands on your files."),
    ]
    made = f"Made by bert quickstart in {findings.seconds / 60:.1f} minutes"
    html = page.page(
        "An encoder in three minutes",
        "Pretrained, fine-tuned and probed on this machine, on text that comes with the package.",
        sections,
        metrics=page.key_metrics([_key_metric(line) for line in findings.lines]),
        footer=f"{made}; {findings.tokens / 1e6:.2f} million tokens seen in pretraining.",
    )
    file.write_text(html, encoding="utf-8")
    return file


def _key_metric(line: Line) -> tuple[str, str, str]:
    controls = f"{line.baseline_is} {line.baseline:.0%}, random initialization {line.random:.0%}"
    return line.what, f"{line.value:.0%}", controls


def results(findings: Findings) -> str:
    """The table that the command prints."""
    values = [(line.value, line.baseline, line.random) for line in findings.lines]
    best = [(row, 2 + max(range(3), key=of_line.__getitem__)) for row, of_line in enumerate(values)]
    header = ("task", "measure", "pretrained", "baseline", "random initialization", "the baseline is")
    return page.table(header, [line.cells() for line in findings.lines], best) + page.note(
        "The test sentences share no content words with the labeled training sentences: only a model that has read the unlabeled"
        " text knows which words belong together."
    )


def losses(findings: Findings) -> str:
    """The training loss."""
    curve = [(tokens / 1e6, loss) for tokens, loss in findings.losses]
    return line_chart({"masked-LM loss": curve}, "million tokens seen", "loss in nats")


def word_chapter(word: Words) -> tuple[str, str, str]:
    """(title, body, lead) of one word in its contexts."""
    body = layer_map(map_of_words(word))
    body += page.heading("Nearest contexts", "by cosine in the last layer") + nearest_contexts(word, SHOWN_CONTEXTS)
    meanings = len({one.sense for one in word.occurrences})
    lead = "Every mark is the vector of the word in one sentence. In layer 0 all are equal; move the slider."
    return f"One word, {meanings} meanings: {word.word}", body, lead


def filled(findings: Findings) -> Iterator[str]:
    """The predictions for each prompt, by word."""
    by_word: dict[str, list[Filled]] = {}
    for one in findings.filled:
        by_word.setdefault(one.prompt.word, []).append(one)
    for word, prompts in by_word.items():
        yield page.heading(word)
        yield page.grid([_guess_card(one) for one in prompts])


def _guess_card(one: Filled) -> str:
    """A prompt with masks, and the predictions for each."""
    before, _, after = one.prompt.text.partition(MASK * len(one.guesses))
    sentence = page.Marked(before + one.prompt.word + after, len(before), len(before) + len(one.prompt.word))
    return fill_in(sentence, *([(guess.token, guess.probability) for guess in guesses] for guesses in one.guesses))


def right_and_wrong(findings: Findings) -> str:
    """The scores of sentences: an explanation, one pair token by token, then more pairs of each language."""
    half = len(findings.pairs) // 2
    first = next((pair for pair in findings.pairs[:half] if pair[0].score > pair[1].score), findings.pairs[0])
    others = [pair for pair in findings.pairs[:half] if pair is not first][:SHOWN_PAIRS]
    chosen = first, *others, *findings.pairs[half : half + SHOWN_PAIRS]
    charts = [side_by_side(*(ScoredText(one.tokens, one.log_probabilities) for one in pair)) for pair in chosen]
    parts = [
        page.paragraph(
            "Two sentences differ in one word. Each token is masked in turn, and the model gives the probability of the original"
            " token, given all others. Probabilities multiply, so their logarithms are summed: 0 is certain, −0.7 is one in two,"
            " −2.3 one in ten, −6.9 one in a thousand."
        ),
        charts[0],
        page.note(
            "The longer the bar, the less probable the token. A wrong word is improbable, and makes its neighbors improbable."
            " The sum is a score, not a probability: each token was predicted from all others."
        ),
        page.heading("More pairs", "the same scores"),
        *charts[1:],
    ]
    return "".join(parts)


def attended(findings: Findings) -> str:
    """All heads, the most sharply focused one first."""
    attention = findings.attention
    layers, heads = attention.weights.shape[:2]
    first = attention.telling_head()
    every = [(layer, head) for layer in range(1, layers + 1) for head in range(heads)]
    order = sorted(every, key=lambda one: one != first)
    named = {f"layer {layer}, head {head}": attention.head(layer, head) for layer, head in order}
    limit = "Attention shows what contributes to a token's vector; it does not explain the output of the model."
    return attention_map(attention.labels, named) + page.note(limit)


def senses_by_layer(findings: Findings) -> str:
    """The accuracy of every method, and that of each word in a collapsed table."""
    senses = findings.senses
    overall = bars([(method, share := senses.mean(method), None, f"{share:.1%}") for method in senses.methods])
    rows = []
    for one in senses.words:
        rows.append((one.word, one.senses, one.test, *(f"{one.scores[name].accuracy:.0%}" for name in senses.methods)))
    lead = page.paragraph(f"{len(senses.words)} words; the headline, fixed in advance, is: {senses.headline}.")
    header = ("word", "senses", "test rows", *senses.methods)
    return lead + overall + page.details("word by word", page.table(header, rows))
