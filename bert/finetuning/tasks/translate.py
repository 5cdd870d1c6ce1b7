"""A text for each text, such as its translation, by a sequence-to-sequence model: a new one, one on two encoders, or a translator.

Training predicts each token of the target from those before it (teacher forcing); the dev set is translated greedily, and everything else
by beam search, up to one and a half times the longest target of training.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchmetrics import Metric

from bert.data.columns import Columns
from bert.data.examples import Example, Examples
from bert.data.tokenizer import Tokenizer
from bert.data.vocabulary import train_tokenizer
from bert.errors import InputError, option
from bert.finetuning.batches import Item, TaskBatch, collate
from bert.finetuning.config import DataConfig, FinetuneRecipe
from bert.finetuning.evaluation.details import Detail
from bert.finetuning.evaluation.per_example import Counts
from bert.finetuning.evaluation.scored import Scored, first
from bert.finetuning.evaluation.translation import CorpusMetric, bleu_tokenizer, formula, statistics
from bert.finetuning.metrics import Scale, numbered
from bert.finetuning.tasks.task import Metrics, Names, Prediction, Task
from bert.finetuning.windows import Settings, Window, WindowMaker
from bert.hf.folder import TARGETS, Source, head_of, open_folder, start_seq2seq
from bert.hub import local_folder
from bert.inference.generation import Hypothesis, generate
from bert.model.config import EncoderConfig, Seq2SeqConfig
from bert.model.decoder import Seq2Seq
from bert.model.encoder import evaluating
from bert.model.loss import IGNORED, cross_entropy

logger = logging.getLogger(__name__)

_AT_ONCE = 32  # sources that are translated at once
_CJK = "\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef"
_SPACE = re.compile(f"(?<=[{_CJK}]) | (?=[{_CJK}])")


@dataclass(frozen=True)
class TranslationPrediction(Prediction):
    """The target that a search has found, and others."""

    translation: str
    score: float
    """its log-probability, divided by the length penalty"""
    alternatives: list[tuple[str, float]]
    """further targets with their scores, the best first"""

    def record(self, top: int | None) -> dict[str, Any]:
        others = [{"translation": text, "score": score} for text, score in self.alternatives[: (top or 1) - 1]]
        found: dict[str, Any] = {"translation": self.translation, "score": self.score}
        return found | ({"alternatives": others} if others else {})

    def cells(self, top: int | None) -> dict[str, str]:
        columns = {"translation": self.translation, "score": f"{self.score:.4f}"}
        for number, (text, score) in enumerate(self.alternatives[: (top or 1) - 1], start=2):
            columns |= {f"translation_{number}": text, f"score_{number}": f"{score:.4f}"}
        return columns


@dataclass(frozen=True)
class Translation:
    """What a model computes for a text."""

    hypotheses: list[tuple[str, float]]
    """targets with their scores, the best first"""
    loss: float
    """the mean cross-entropy of the tokens of the right target, NaN if it is not known"""


@dataclass(frozen=True, slots=True)
class Pair(Item):
    """A source, and its target as tokens and as text."""

    target: str


class PairBatch(TaskBatch):
    """`sizes` are the numbers of tokens of the targets, their ends included."""

    targets: list[str]


@dataclass(frozen=True)
class ScoredTranslations(Scored):
    """Labeled texts with their translations."""

    task: "Translate"
    outputs: Sequence[Translation]

    @property
    def references(self) -> list[str]:
        """The right targets."""
        return [str(example.label) for example in self.examples]

    @property
    def decided(self) -> list[str]:  # type: ignore[override]
        """The best target of each text."""
        return [one.hypotheses[0][0] for one in self.outputs]

    @property
    def right(self) -> Tensor:
        return torch.zeros(0)

    def deciding(self, decided: Sequence[str]) -> Counts:  # type: ignore[override]
        counts = statistics(decided, self.references, self.task.bleu or bleu_tokenizer(self.references))
        return Counts((), csr_array(counts), formula)

    @property
    def is_wrong(self) -> np.ndarray:
        return np.array([one.split() != other.split() for one, other in zip(self.decided, self.references)])

    @property
    def losses(self) -> np.ndarray:
        return np.array([one.loss for one in self.outputs])

    def choices(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.zeros((0, 0)), np.zeros(0, int), np.zeros(0, int)

    def constant(self) -> dict[str, float]:
        """The metrics of the texts themselves."""
        return self.measured([example.text for example in self.examples])  # type: ignore[arg-type]

    def of_examples(self) -> Sequence[Translation]:
        return self.outputs


@dataclass(frozen=True)
class Translate(Task):
    """The headline is BLEU."""

    tokenizer: Tokenizer | None = None
    """of targets"""
    end_id: int = 0
    """the id of the token after a target"""
    room: int = 0
    """tokens of a target that the model takes, its end included"""
    longest: int = 0
    """tokens of the longest target of training, its end included"""
    bleu: str = ""
    """sacrebleu's tokenizer for the targets of training"""

    name = "translate"
    model = Seq2Seq
    problem_type = Seq2SeqConfig.problem_type
    pipeline = "translation"
    output = "translations.tsv"
    scales: ClassVar = {
        "bleu": Scale("BLEU", percent=False, is_share=False),
        "chrf": Scale("chrF", percent=False, is_share=False),
        "exact_match": Scale("exact match"),
    }
    baseline_words = "the texts themselves, not translated"
    label_names = ("translation", "target", "reference", "summary")
    explains = False
    bf16 = False
    rate = 1e-4
    steps = 1_000
    probe_examples = 0
    options = ("text", "label")
    recipe_options = ("loss.label_smoothing", "encoder", "head.decoder", "head.vocab_size")

    # ── examples ──

    def read(self, file: str, data: DataConfig, labeled: bool = True, learned: Columns = Columns()) -> Examples:
        found = super().read(file, data, labeled, learned)
        if found.columns.pair:
            fix = f"name the column of the translations by {option('label')}, and remove this one"
            raise InputError(f"{file}: {found.columns.pair!r} is a second text: {fix}")
        return found

    def names(self, example: Example) -> tuple[str, ...]:
        return ()

    def outcomes(self, examples: Sequence[Example]) -> set[Any]:
        return {example.label for example in examples}

    def labels(self, examples: Sequence[Example]) -> tuple[str, ...]:
        return ()

    def classes(self, labels: Names) -> int:
        return 1 if self.tokenizer is None else self.tokenizer.vocab_size

    def numbers(self, example: Example, ids: Mapping[str, int]) -> tuple[int, ...]:
        """The tokens of the target and its end; empty before the task is `bound`."""
        if self.tokenizer is None:
            return ()
        tokens, _ = self.tokenizer.encode_documents([str(example.label)])
        return (*tokens[: self.room - 1].tolist(), self.end_id)

    def item(self, example: Example, windows: list[Window], ids: Mapping[str, int]) -> Pair:
        return Pair(windows, self.numbers(example, ids), str(example.label))

    def described(self, train: Sequence[Example], dev: Sequence[Example]) -> str:
        return f"targets: at most {numbered(self.longest, 'token')}; BLEU with sacrebleu's tokenizer {self.bleu}"

    # ── what is learned besides the weights ──

    def prepared(self, recipe: FinetuneRecipe, maker: WindowMaker) -> Self:
        assert recipe.model is not None
        _, head = head_of(recipe.model)
        if isinstance(head, Seq2SeqConfig):
            own = local_folder(recipe.model) / TARGETS
            tokenizer = Tokenizer.load(own) if Tokenizer.has_files(own) else maker.tokenizer
            if recipe.head.decoder:
                raise InputError(f"head.decoder: {recipe.model} has a decoder: leave it out")
            return self._bound(tokenizer, head.end_id, min(maker.sequence_length, head.decoder.max_length))
        decoder = local_folder(recipe.head.decoder or recipe.model)
        if not Tokenizer.has_files(decoder):
            raise InputError(f"{decoder}: no tokenizer: add the tokenizer.json that it was trained with")
        tokenizer, (_, config, _) = Tokenizer.load(decoder), open_folder(decoder).config("Encoder")
        return self._bound(tokenizer, tokenizer.sep_id, min(maker.sequence_length, config.max_length))

    def bound(self, model: Seq2Seq) -> Self:
        return self._bound(model.target_tokenizer, model.head_config.end_id, model.head_config.decoder.max_length)

    def _bound(self, tokenizer: Tokenizer | None, end_id: int, room: int) -> Self:
        return replace(self, tokenizer=tokenizer, end_id=end_id, room=room)

    def fitted(self, labels: Names, examples: Sequence[Example]) -> Self:
        lengths = [len(replace(self, room=2**31).numbers(example, {})) for example in examples]
        if long := sum(length > self.room for length in lengths):
            logger.warning(f"{long:,} of {len(lengths):,} targets are longer than {self.room} tokens and are truncated")
        bleu = bleu_tokenizer(str(example.label) for example in examples)
        return replace(self, longest=min(max(lengths), self.room), bleu=bleu)

    def settings(self) -> dict[str, Any]:
        return {"bleu": self.bleu}

    def restored(self, settings: Mapping[str, Any], labels: Names) -> Self:
        if (bleu := str(settings.get("bleu", ""))) not in ("", "zh", "char", "13a"):
            raise ValueError(f"bleu is {bleu[:40]!r}")
        return replace(self, bleu=bleu)

    # ── model ──

    def begin(self, recipe: FinetuneRecipe, folder: Path) -> None:
        data = recipe.data
        assert data.train is not None
        texts = chain.from_iterable((one.text, str(one.label)) for one in self.read(data.train, data))
        try:
            tokenizer = train_tokenizer(texts, "bpe", recipe.head.vocab_size, ideographs=True)
        except InputError as error:
            raise InputError(f"{option('head.vocab_size')}: {error}") from error
        of_tokenizer = {"vocab_size": tokenizer.vocab_size, "pad_id": tokenizer.pad_id}
        config = EncoderConfig(**vars(recipe.encoder) | of_tokenizer)
        model = Seq2Seq(config, Seq2SeqConfig(config, start_id=tokenizer.cls_id, end_id=tokenizer.sep_id))
        model.tokenizer, model.settings = tokenizer, Settings(task={"untrained": True}).written()
        model.save(folder)
        logger.info(f"no --model: a new encoder and decoder, with a vocabulary of {tokenizer.vocab_size:,} entries")

    def start(self, source: Source, labels: Names, recipe: FinetuneRecipe, items: Sequence[Item]) -> Seq2Seq:
        if head_of(source.folder)[0] != "Seq2Seq":
            model = start_seq2seq(source.folder, recipe.head.decoder or source.folder)
        elif Settings.read((model := Seq2Seq.load(source.folder)).settings).task.get("untrained"):
            untrained = Seq2Seq(model.config, model.head_config)  # by the seed of this run
            model.load_state_dict(untrained.state_dict())
        most = min(2 + self.longest * 3 // 2, model.head_config.decoder.max_length)
        model.generation = replace(model.generation, max_length=most)
        return model

    def windows(self, examples: Sequence[Example], maker: WindowMaker) -> list[list[Window]]:
        """One window for each text: the rest of a longer one is left out, with a warning."""
        found = maker.from_texts([example.text for example in examples], [None] * len(examples))
        if any(len(windows) > 1 for windows in found):
            _warn_of_longer(maker)
        return [windows[:1] for windows in found]

    def collate(self, items: Sequence[Pair], pad_id: int, at_once: int | None = None) -> PairBatch:  # type: ignore[override]
        batch = collate(items, pad_id, at_once)
        targets = [item.target for item in items]
        return PairBatch(**{**batch, "sizes": [len(item.labels) for item in items], "targets": targets})

    def scores(self, model: Any, batch: TaskBatch) -> Tensor:
        """(N, V): the scores of each token of the targets, given those before it."""
        sizes, labels = batch["sizes"], batch["labels"]
        if not len(labels):  # a dummy example, whose scores are not used
            sizes, labels = [1] * len(sizes), labels.new_full((len(sizes),), self.end_id)
        targets = pad_sequence([*labels.long().split(sizes)], batch_first=True, padding_value=IGNORED)  # (B, T)
        inputs = batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]
        return model(*inputs, decoder_input_ids=model.shifted(targets)).logits[targets != IGNORED]

    def outputs(
        self, model: Any, examples: Sequence[Example], maker: WindowMaker, bf16: bool | None
    ) -> list[Translation]:
        windows, device = self.windows(examples, maker), next(model.parameters()).device
        items = [self.item(example, some, {}) for example, some in zip(examples, windows)]
        order = sorted(range(len(items)), key=lambda number: -len(items[number].windows[0].ids))
        found: dict[int, Translation] = {}
        for begin in range(0, len(order), _AT_ONCE):
            some = order[begin : begin + _AT_ONCE]
            batch = self.collate([items[number] for number in some], model.config.pad_id)
            moved: Any = {name: one.to(device) if isinstance(one, Tensor) else one for name, one in batch.items()}
            losses = [float("nan")] * len(some)
            if all(examples[number].label is not None for number in some):
                with evaluating(model), torch.inference_mode():
                    scores = self.scores(model, moved).float()
                both = zip(scores.split(batch["sizes"]), moved["labels"].split(batch["sizes"]))
                losses = [float(cross_entropy(one, right)[0]) / len(right) for one, right in both]
            for number, hypotheses, loss in zip(some, self._search(model, moved, greedy=False), losses):
                texts = [(self.text_of(one), round(one.score, 6)) for one in hypotheses]
                found[number] = Translation(texts, loss)
        return [found[number] for number in range(len(examples))]

    def _search(self, model: Any, batch: Mapping[str, Any], greedy: bool) -> list[list[Hypothesis]]:
        beams, mask = 1 if greedy else model.generation.num_beams, batch["attention_mask"]
        config = replace(model.generation, num_beams=beams, num_return=beams)
        found = generate(model, batch["input_ids"], None if mask.all() else mask, config)
        if not all(found):
            raise InputError("bad_words_ids in generation_config.json forbid every target: remove some")
        return found

    def text_of(self, hypothesis: Hypothesis) -> str:
        """The text of a target, without the spaces that some tokenizers put between Chinese characters."""
        assert self.tokenizer is not None
        text = self.tokenizer.decode(hypothesis.ids)
        return (text if self.tokenizer.kind == "bpe" else _SPACE.sub("", text)).strip()

    # ── metrics ──

    def metrics(self, labels: Names, examples: Sequence[Any]) -> dict[str, Metric]:
        return {name: CorpusMetric(name) for name in self.scales}

    def measure(self, metrics: Metrics, model: Any, batch: PairBatch, scores: Tensor) -> None:  # type: ignore[override]
        found = [self.text_of(hypotheses[0]) for hypotheses in self._search(model, batch, greedy=True)]
        counts = statistics(found, batch["targets"], self.bleu)
        for metric in metrics.values():
            metric.update(counts)

    def without_model(self, learned: Sequence[Example], asked: Sequence[Example], labels: Names) -> dict[str, float]:
        """The metrics of the texts themselves."""
        right = [str(example.label) for example in asked]
        counts = statistics([example.text for example in asked], right, bleu_tokenizer(right))
        return first(formula((counts.sum(0, keepdims=True),) * 4))

    def scored(self, labels: Names, examples: Sequence[Any], outputs: Sequence[Translation]) -> ScoredTranslations:
        return ScoredTranslations(self, labels, examples, torch.zeros(0), [1] * len(examples), outputs)

    def details(self, scored: Any, training: Sequence[Any] = ()) -> Sequence[Detail]:
        return []

    # ── predictions ──

    def prediction(self, example: Example, scores: Any, labels: Names) -> TranslationPrediction:
        (text, score), *others = scores.hypotheses
        return TranslationPrediction(text, score, others)


@lru_cache(maxsize=1)
def _warn_of_longer(maker: WindowMaker) -> None:
    """Once, although the texts of a file come in many parts."""
    logger.warning(f"texts of more than {maker.sequence_length} tokens are truncated: split them into sentences")


TASK = Translate()
