"""Metrics of translations: BLEU (Papineni et al. 2002) and chrF (Popović 2015) as sacrebleu computes them, and exact matches.

All three are functions of counts that add up over sentences, so that those of resampled sentences, and of several processes, are cheap.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from bert.errors import InputError
from bert.finetuning.evaluation.per_example import Totals, Values, ratio

_WORDS, _CHARACTERS, _BETA = 4, 6, 2  # longest n-grams of BLEU and of chrF; the weight of recall in chrF
_MOST_UNSPACED = 0.3  # share of the letters
COLUMNS = 2 + 2 + 2 * _WORDS + 3 * _CHARACTERS
"""of `statistics`"""


def bleu_tokenizer(texts: Iterable[str]) -> str:
    """sacrebleu's tokenizer for references: `zh` for Chinese, `char` for Japanese and other text without spaces, `13a` for all others."""
    scripts = Counter(unicodedata.name(sign, "").split(" ")[0] for sign in "".join(texts) if sign.isalpha())
    letters, kana = scripts.total() or 1, scripts["HIRAGANA"] + scripts["KATAKANA"]
    unspaced = kana + sum(scripts[name] for name in ("THAI", "LAO", "KHMER", "MYANMAR"))
    if unspaced > _MOST_UNSPACED * letters:
        return "char"
    return "zh" if scripts["CJK"] > _MOST_UNSPACED * letters else "13a"


def sacrebleu() -> Any:
    """The package. Raises InputError if it is not installed."""
    try:
        import sacrebleu
    except ImportError:
        raise InputError(
            "scores of translations need the package sacrebleu: pip install 'bert-kit[translate]'"
        ) from None
    return sacrebleu


def statistics(found: Sequence[str], right: Sequence[str], tokenize: str) -> np.ndarray:
    """(E, COLUMNS): for each of E translations, beside what is right: 1, whether both are equal, the two lengths in words and the matches
    and totals of BLEU, and for n-grams of 1 to 6 characters the numbers of translation, reference and both."""
    bleu = sacrebleu().BLEU(
        tokenize=tokenize, effective_order=True
    )  # of a sentence alone; its counts are those of a corpus
    rows = []
    for one, other in zip(found, right, strict=True):
        score = bleu.sentence_score(one, [other])
        is_exact = one.split() == other.split()
        rows.append([1, is_exact, score.sys_len, score.ref_len, *score.counts, *score.totals, *_ngrams(one, other)])
    return np.array(rows, np.float64).reshape(-1, COLUMNS)


def _ngrams(found: str, right: str) -> list[int]:
    counts = []
    one, other = ("".join(text.split()) for text in (found, right))
    for n in range(1, _CHARACTERS + 1):
        ours, theirs = (Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in (one, other))
        counts += [ours.total() if theirs else 0, theirs.total(), (ours & theirs).total()]
    return counts


def formula(totals: Totals) -> Values:
    """BLEU and chrF, from 0 to 100, and the share of exact matches, from sums of `statistics` (B, COLUMNS)."""
    sums = totals[-1]
    count, exact = sums[:, 0], sums[:, 1]
    bleu = sacrebleu().BLEU.compute_bleu
    lengths, words, characters = np.split(sums[:, 2:], [2, 2 + 2 * _WORDS], axis=1)
    whole = zip(words.astype(int).tolist(), lengths.astype(int).tolist())
    scores = [bleu(some[:_WORDS], some[_WORDS:], *both, smooth_method="exp").score for some, both in whole]
    ours, theirs, matches = characters.reshape(-1, _CHARACTERS, 3).transpose(2, 0, 1)  # (B, 6) each
    known = (ours > 0) & (theirs > 0)
    precision, recall = (
        ratio(np.where(known, np.nan_to_num(ratio(matches, side)), 0).sum(1), known.sum(1)) for side in (ours, theirs)
    )
    chrf = 100 * np.nan_to_num(ratio((1 + _BETA**2) * precision * recall, _BETA**2 * precision + recall))
    return {"bleu": np.where(count > 0, np.array(scores), np.nan), "chrf": chrf, "exact_match": ratio(exact, count)}


class CorpusMetric(Metric):
    """One of the metrics of `formula`, over all processes, from `statistics` of some sentences at a time."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    sums: Tensor  # (COLUMNS,)

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.add_state("sums", torch.zeros(COLUMNS, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, counts: np.ndarray) -> None:
        """Add the statistics (E, COLUMNS) of sentences."""
        self.sums += torch.from_numpy(counts.sum(0)).to(self.sums)

    def compute(self) -> Tensor:
        """The metric, 0 without sentences."""
        values = formula((self.sums.cpu().double().numpy()[None],) * 4)
        return torch.tensor(float(values[self.name][0])).nan_to_num(0.0)
