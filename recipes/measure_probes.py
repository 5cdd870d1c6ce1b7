"""Compare the probes of `bert probe` with scikit-learn on the same vectors and penalty, and with positions alone; measure their memory,
and how well changes of meaning are found that were planted.

    python recipes/measure_probes.py linear TRAIN DEV LABEL MODEL [SENTENCES]
    python recipes/measure_probes.py positions TRAIN DEV [SENTENCES]
    python recipes/measure_probes.py memory WORDS
    python recipes/measure_probes.py change COARSEWSD.jsonl MODEL [SEEDS]

`linear` prints for each layer the C that dev chooses; accuracy, NLL and seconds of both with this C; and the seconds in which each of
them chooses C. SENTENCES limits the training file. `positions` trains structural probes on vectors that have the place of a word in its
sentence alone. `memory` fits and codes one layer of so many random vectors (384 dimensions, 17 classes) and prints the most memory that
the process itself had, without pages of the file of vectors, which the system may take back. `change` divides the rows of each word,
as many of the most frequent sense as of the others, into two periods of equal size at random; in ten words, drawn by a seed, the share of
this sense is higher by a shift in one than in the other. It prints the AUC with which each measure tells these words from the others (mean
and lowest of the seeds), and how far the p-values of the others are from uniform (Kolmogorov-Smirnov).
"""

import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from scipy.stats import kstest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from bert.inference.embeddings import encoder_of, span_tokens, token_vectors, tokenizer_of
from bert.probing import geometry
from bert.probing.change import with_p
from bert.probing.linear import GRID, fit, fit_layers
from bert.probing.mdl import code_length
from bert.probing.rows import Row, read_rows, span_of
from bert.probing.structural import MOST_WORDS, Trees, distance_metrics, fit_structural
from bert.probing.units import read_units
from bert.probing.vectors import vectors_of

LARGEST = 100  # rows of each side in the sense mix of a word, in which a change is planted


def linear(train: str, dev: str, label: str, model: str, sentences: str = "1000000000") -> None:
    """Print both beside each other."""
    units = [read_units(train, label), read_units(dev, label)]
    units[0] = units[0].select(units[0].owners < int(sentences))
    encoder = encoder_of(model)
    x, z = (vectors_of(encoder, one) for one in units)
    names = {name: number for number, name in enumerate(sorted({*units[0].labels, *units[1].labels}))}
    y, w = (np.array([names[one] for one in some.labels]) for some in units)
    print(f"{len(y):,} train units, {len(w):,} dev units, {len(names)} classes")
    seconds = np.zeros((2, 2))
    for layer in range(len(x)):
        at = [time.perf_counter()]
        c = fit_layers(x[layer : layer + 1], y, z[layer : layer + 1], w, len(names))[0].probe.c
        at.append(time.perf_counter())
        ours = fit(x[layer], y, z[layer], w, len(names), c).dev
        at.append(time.perf_counter())
        theirs = SklearnProbe(x[layer], y, z[layer], w)
        accuracy, nll, seen = theirs.fitted(c)
        at.append(time.perf_counter())
        their_c = theirs.chosen()
        at.append(time.perf_counter())
        chosen, alone, their_alone, their_chosen = np.diff(at)
        seconds += [[alone, their_alone], [chosen, their_chosen]]
        print(
            f"layer {layer}  C {c:g}  here {ours.accuracy:.4f}, {ours.nll[seen].mean():.4f}, {alone:.1f} s"
            f"  scikit-learn {accuracy:.4f}, {nll:.4f}, {their_alone:.1f} s, {theirs.iterations} iterations"
            f"  C chosen: {chosen:.1f} s, scikit-learn {their_c:g}, {their_chosen:.1f} s",
            flush=True,
        )
    for what, (own, other) in zip(("with this C", "C chosen"), seconds):
        print(f"all layers, {what}: {own:.1f} s, scikit-learn {other:.1f} s: {other / own:.1f} times")


class SklearnProbe:
    """scikit-learn's logistic regression on one layer."""

    def __init__(self, x: np.ndarray, y: np.ndarray, z: np.ndarray, w: np.ndarray) -> None:
        scaler = StandardScaler().fit(x.astype(np.float32))
        self.x, self.z = (scaler.transform(one.astype(np.float32)) for one in (x, z))
        self.y, self.w = y, w

    def fitted(self, c: float, model: LogisticRegression | None = None) -> tuple[float, float, np.ndarray]:
        """Accuracy, mean NLL of the dev units whose class has train units, and which those are."""
        model = model or LogisticRegression(max_iter=2_000)
        log_p = model.set_params(C=c).fit(self.x, self.y).predict_log_proba(self.z)
        self.iterations = model.n_iter_.max()
        seen = np.isin(self.w, model.classes_)
        nll = -log_p[seen, np.searchsorted(model.classes_, self.w[seen])].mean()
        return float((model.classes_[log_p.argmax(1)] == self.w).mean()), float(nll), seen

    def chosen(self) -> float:
        """The C that dev chooses, tried as `fit_layers` does: each begins with the weights of the one before, until dev is worse."""
        model, best, lowest = LogisticRegression(max_iter=2_000, warm_start=True), 0.0, np.inf
        for c in sorted(GRID):
            _, nll, _ = self.fitted(c, model)
            if nll >= lowest:
                break
            best, lowest = c, nll
        return best


def positions(train: str, dev: str, sentences: str = "1000000000") -> None:
    """Print the metrics of trees on dev, and those of the chain."""
    units = [read_units(train, "head"), read_units(dev, "head")]
    units[0] = units[0].select(units[0].owners < int(sentences))
    trees = []
    for one in units:
        starts = np.flatnonzero(np.diff(one.owners, prepend=-1))
        places = np.arange(len(one.owners)) - np.repeat(starts, np.diff([*starts, len(one.owners)]))
        one_hot = np.eye(MOST_WORDS, dtype=np.float32)[np.minimum(places, MOST_WORDS - 1)]
        trees.append(Trees(one_hot, one.owners, one.heads, one.punctuation))
    chain = (abs(place[:, None] - place) for place in (np.arange(length) for length in trees[1].lengths))
    for seed in range(3):
        print(f"positions, seed {seed}:", fit_structural(*trees, seed=seed).metrics(trees[1]), flush=True)
    print("chain:", distance_metrics(chain, trees[1]))


def memory(words: str) -> None:
    """Print the growth of anonymous memory."""

    def anonymous() -> float:
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) / 1e6

    most, done, before = 0.0, threading.Event(), anonymous()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.05):
            most = max(most, anonymous())

    count, draw = int(words), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        x = np.lib.format.open_memmap(Path(folder) / "x.npy", "w+", np.float16, (2, count, 384))
        for begin in range(0, count, 50_000):
            x[:, begin : begin + 50_000] = draw.normal(size=x[:, begin : begin + 50_000].shape)
        y = draw.integers(0, 17, count)
        watcher = threading.Thread(target=watch)
        watcher.start()
        fit_layers(x, y, x[:, :20_000], y[:20_000], 17)
        print(f"linear probe: {most - before:.2f} GB", flush=True)
        code_length(x[0], y, np.arange(count) // 16, 17)
        done.set()
        watcher.join()
        print(f"and code length: {most - before:.2f} GB")


def change(rows: str, model: str, seeds: str = "10") -> None:
    """Print the AUC of each measure by shift."""
    encoder, layers = encoder_of(model), range(-4, 0)
    layers = [encoder.config.num_layers + 1 + layer for layer in layers]
    by_word: dict[str, list[Row]] = {}
    for row in read_rows(rows):
        by_word.setdefault(str(row.word), []).append(row)
    words = []  # (vectors of the most frequent sense, those of the others), of equal length
    for word, own in sorted(by_word.items()):
        senses = np.array([row.sense for row in own])
        names, counts = np.unique(senses, return_counts=True)
        most = senses == names[counts.argmax()]
        size = min(most.sum(), (~most).sum(), LARGEST) // 2 * 2
        sides = [np.flatnonzero(side)[:size] for side in (most, ~most)]
        some = [own[place] for place in np.concatenate(sides)]
        located = span_tokens(tokenizer_of(encoder), [row.sentence for row in some], [span_of(row) for row in some])
        words.append(np.split(token_vectors(encoder, located, layers, False, word).sum(dim=1).numpy(), 2))
    names = ["APD", "PRT", "JSD", "p APD", "p PRT", "p JSD"]
    for shift in (0.2, 0.5, 0.8):
        areas, unchanged = [], []
        for seed in range(int(seeds)):
            draw = np.random.default_rng([seed, 30])
            changed = draw.permutation(len(words)) < len(words) // 2
            found = [planted(*sides, shift * moved, draw) for sides, moved in zip(words, changed)]
            scores = np.array(found) * [1, 1, 1, -1, -1, -1]  # (words, measures)
            areas.append([roc_auc_score(changed, scores[:, column]) for column in range(len(names))])
            unchanged += np.array(found)[~changed, 3:].tolist()
        uniform = [kstest(values, "uniform").pvalue for values in np.array(unchanged).T]
        for name, own in zip(names, np.array(areas).T):
            print(f"shift {shift}  {name:6} AUC {own.mean():.3f} (lowest {own.min():.2f}, {len(own)} seeds)")
        print(
            f"shift {shift}  p of {len(unchanged)} unchanged, uniform:", *(f"{one:.2f}" for one in uniform), flush=True
        )


def planted(most: np.ndarray, others: np.ndarray, shift: float, draw: np.random.Generator) -> list[float]:
    """Measures and their p-values of a word, two periods of as many rows; `shift` is added to the share of a sense in the second."""
    size = len(most)
    more = round(size * (1 + shift) / 2)
    second = np.concatenate([draw.permutation(size) < more, draw.permutation(size) >= more])
    if not shift:  # equal shares by design would vary less than by chance
        second = draw.permutation(2 * size) < size
    vectors = np.concatenate([most, others])
    values, p = with_p(vectors, second, geometry.cluster(vectors, None, 0), draw)
    return values + p


if __name__ == "__main__":
    {"linear": linear, "positions": positions, "memory": memory, "change": change}[sys.argv[1]](*sys.argv[2:])
