"""Compare the linear probes of `bert probe` with scikit-learn on the same vectors and penalty, and measure their memory.

    python recipes/measure_probes.py linear TRAIN DEV LABEL MODEL [SENTENCES]
    python recipes/measure_probes.py memory WORDS

`linear` prints for each layer the C that dev chooses, and accuracy, NLL and seconds of both, alone and for all layers; SENTENCES limits
the training file. `memory` fits and codes one layer of so many random vectors (384 dimensions, 17 classes) and prints the most memory
that the process itself had, without pages of the file of vectors, which the system may take back.
"""

import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from bert.inference.embeddings import encoder_of
from bert.probing.linear import fit, fit_layers
from bert.probing.mdl import code_length
from bert.probing.units import read_units
from bert.probing.vectors import vectors_of


def linear(train: str, dev: str, label: str, model: str, sentences: str = "1000000000") -> None:
    """Print both beside each other."""
    units = [read_units(train, label), read_units(dev, label)]
    units[0] = units[0].select(units[0].owners < int(sentences))
    encoder = encoder_of(model)
    x, z = (vectors_of(encoder, one) for one in units)
    names = {name: number for number, name in enumerate(sorted({*units[0].labels, *units[1].labels}))}
    y, w = (np.array([names[one] for one in some.labels]) for some in units)
    print(f"{len(y):,} train units, {len(w):,} dev units, {len(names)} classes")
    seconds = [0.0, 0.0]
    for layer in range(len(x)):
        c = fit_layers(x[layer : layer + 1], y, z[layer : layer + 1], w, len(names))[0].probe.c
        begin = time.perf_counter()
        ours = fit(x[layer], y, z[layer], w, len(names), c).dev
        middle = time.perf_counter()
        scaler = StandardScaler().fit(x[layer].astype(np.float32))
        theirs = LogisticRegression(C=c, max_iter=2_000).fit(scaler.transform(x[layer].astype(np.float32)), y)
        log_p = theirs.predict_log_proba(scaler.transform(z[layer].astype(np.float32)))
        end = time.perf_counter()
        place = {int(name): column for column, name in enumerate(theirs.classes_)}
        seen = np.isin(w, theirs.classes_)
        nll = -np.mean([log_p[row, place[int(one)]] for row, one in enumerate(w) if seen[row]])
        accuracy = (theirs.classes_[log_p.argmax(1)] == w).mean()
        seconds = [seconds[0] + middle - begin, seconds[1] + end - middle]
        print(
            f"layer {layer}  C {c:g}  here {ours.accuracy:.4f}, {ours.nll[seen].mean():.4f}, {middle - begin:.1f} s"
            f"  scikit-learn {accuracy:.4f}, {nll:.4f}, {end - middle:.1f} s, {theirs.n_iter_.max()} iterations",
            flush=True,
        )
    print(f"all layers: {seconds[0]:.1f} s, scikit-learn {seconds[1]:.1f} s: {seconds[1] / seconds[0]:.1f} times")


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


if __name__ == "__main__":
    {"linear": linear, "memory": memory}[sys.argv[1]](*sys.argv[2:])
