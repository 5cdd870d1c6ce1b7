"""The figures that LOG.md keeps of the way from text to batches: packing, preparing against `datasets.map`, memory.

    python recipes/measure_data.py batches --tokenizer T --store STORE [--sentences sst2/train_sentences.tsv.gz]
    python recipes/measure_data.py prepare --tokenizer T --corpus train.txt.gz [--documents 1000] [--rounds 5]
    python recipes/measure_data.py memory  --tokenizer T --corpus train.txt.gz [--megabytes 2000]

`prepare` needs transformers. A round is a process of its own; what it times begins with documents in memory and ends with token ids in
Arrow files on disk, on both sides: starting Python and reading text are in neither.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import numpy as np

from bert.data.corpus import find_corpus
from bert.data.files import read_lines
from bert.data.prepare import write_store
from bert.data.store import TokenStore, open_store
from bert.data.tokenizer import Tokenizer

PROCESSES = 2
CHANGED = 7  # one word of so many is another one in each further copy of the corpus


def main() -> None:
    """Measure what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=["batches", "prepare", "memory", "round"], help="round: one of `prepare`")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of a WordPiece tokenizer, or its file")
    parser.add_argument("--store", type=Path, help="batches: a token store made with it")
    parser.add_argument("--sentences", type=Path, help="batches: a table whose first column holds sentences")
    parser.add_argument("--seconds", type=float, default=3.0, help="batches: processor time of a figure")
    parser.add_argument("--corpus", type=Path, help="prepare, memory: text")
    parser.add_argument("--documents", type=int, help="prepare: so many of the corpus; not given: all")
    parser.add_argument("--rounds", type=int, default=5, help="prepare: rounds of each side, which alternate")
    parser.add_argument("--megabytes", type=int, default=2000, help="memory: size of the corpus that is made")
    parser.add_argument("--side", choices=["ours", "datasets"], help="round: whose")
    options = parser.parse_args()
    {"batches": batches, "prepare": prepare, "memory": memory, "round": one_round}[options.what](options)


# ── batches ──


def batches(options: argparse.Namespace) -> None:
    """Share of the places in use; tokens a second of processor time, on one core, of planning, gathering and masking."""
    tokenizer = Tokenizer.load(options.tokenizer)
    stores = {str(options.store): open_store(options.store, tokenizer)}
    if options.sentences:
        texts = [line.split("\t")[0] for line in islice(read_lines(options.sentences), 1, None)]
        values, lengths = tokenizer.encode_documents(texts)
        stores[str(options.sentences)] = TokenStore.from_arrays(values, np.concatenate(([0], np.cumsum(lengths))))
    for name, store in stores.items():
        for sequence_length in (128, 512):
            for batch_size in (32, 256):
                fill, speed = measure_batches(store, tokenizer, sequence_length, batch_size, options.seconds)
                print(
                    f"{name}, {batch_size} rows of {sequence_length}: {fill:.2%} of the places, {speed / 1e6:.1f} M tokens/s"
                )


def measure_batches(
    store: TokenStore, tokenizer: Tokenizer, sequence_length: int, batch_size: int, seconds: float
) -> tuple[float, float]:
    """(share of the positions of an epoch in use, real tokens a second of processor time, the plan of the first epoch included)."""
    from bert.model.config import EncoderConfig
    from bert.pretraining.config import DataConfig, PretrainRecipe
    from bert.pretraining.inputs import make_streams
    from bert.pretraining.phases import resolve_plan

    data = DataConfig(sequence_length=sequence_length, batch_size=batch_size, validation_split=0.0)
    recipe = PretrainRecipe(data=data, encoder=EncoderConfig(max_length=sequence_length))
    stream, _, _ = make_streams(recipe, resolve_plan(recipe), [store], tokenizer)
    tokens, begun = 0, time.process_time()
    for step in count():
        stream.micro_batch(step)
        tokens += stream.batch(step).tokens
        if (used := time.process_time() - begun) >= seconds:
            break
    positions = stream.sequences_at(0).sequences_in_epoch * sequence_length
    return (store.num_tokens + 2 * int((-(-store.lengths // (sequence_length - 2))).sum())) / positions, tokens / used


# ── preparing ──


def prepare(options: argparse.Namespace) -> None:
    """`write_store` against `datasets.map` with the same tokenizer of Hugging Face and two processes, round by round."""
    rows: dict[str, list[dict[str, float]]] = {"ours": [], "datasets": []}
    for number in range(options.rounds):
        for side, found in rows.items():
            command = [sys.executable, __file__, "round", "--side", side, "--tokenizer", str(options.tokenizer)]
            command += ["--corpus", str(options.corpus)]
            command += [] if options.documents is None else ["--documents", str(options.documents)]
            found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            print(f"round {number}, {side}: {found[-1]}")
    assert len({row["tokens"] for found in rows.values() for row in found}) == 1, "both sides must give the same tokens"
    for what in ("seconds", "processor_seconds"):
        ratios = [theirs[what] / ours[what] for ours, theirs in zip(rows["ours"], rows["datasets"])]
        print(f"{what}: datasets / ours = {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def one_round(options: argparse.Namespace) -> None:
    """One round of `prepare`: seconds and tokens as a line of JSON."""
    documents = list(islice(find_corpus(options.corpus).documents(), options.documents))
    with tempfile.TemporaryDirectory() as folder:
        run = (
            ours(documents, options.tokenizer, folder) if options.side == "ours" else theirs(documents, options, folder)
        )
        next(run)  # made ready
        before, begun = os.times(), time.perf_counter()
        tokens = next(run)
        seconds, after = time.perf_counter() - begun, os.times()
    print(json.dumps({
        "seconds": round(seconds, 2), "processor_seconds": round(sum(after[:4]) - sum(before[:4]), 2), "tokens": tokens
    }))  # fmt: skip


def ours(documents: list[str], tokenizer: Path, folder: str) -> Iterator[int]:
    """Ready, then the tokens that were written."""
    loaded = Tokenizer.load(tokenizer)
    yield 0
    yield write_store(documents, loaded, Path(folder) / "store", {}).tokens


def theirs(documents: list[str], options: argparse.Namespace, folder: str) -> Iterator[int]:
    """Ready, then the tokens that were written."""
    import datasets
    from transformers import PreTrainedTokenizerFast

    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes have the cores
    datasets.disable_progress_bars()
    file = options.tokenizer / "tokenizer.json" if options.tokenizer.is_dir() else options.tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file))
    quiet = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
    dataset = datasets.Dataset.from_dict({"text": documents})
    dataset.save_to_disk(f"{folder}/text")
    dataset = datasets.load_from_disk(
        f"{folder}/text"
    )  # as after load_dataset: mapped, and nothing to send to the processes
    yield 0
    mapped = dataset.map(
        lambda batch: tokenizer(batch["text"], **quiet), batched=True, num_proc=PROCESSES, remove_columns=["text"]
    )
    yield sum(len(chunk.flatten()) for chunk in mapped.data.column("input_ids").chunks)


# ── memory ──


def memory(options: argparse.Namespace) -> None:
    """The most anonymous memory of `bert prepare` and of a few steps of `bert pretrain`, on copies of the corpus with changed words."""
    with tempfile.TemporaryDirectory() as folder:
        text, store = Path(folder) / "text.txt", Path(folder) / "store"
        documents = write_copies(options.corpus, text, options.megabytes * 10**6)
        print(f"{text.stat().st_size / 1e6:,.0f} MB, {documents:,} documents")
        tokenizer = ["--tokenizer", str(options.tokenizer)]
        steps = ["--stop.steps", "10", "--compile", "false", "--log.progress_bar", "false"]
        for arguments in (
            ["prepare", str(text), *tokenizer, "--out", str(store)],
            ["pretrain", "--store", str(store), *tokenizer, "--out", f"{folder}/run", *steps],
        ):
            peak, seconds = watch([sys.executable, "-m", "bert", *arguments])
            print(f"bert {arguments[0]}: at most {peak / 1e6:,.0f} MB of anonymous memory, {seconds:.0f} s")


def write_copies(corpus: Path, out: Path, num_bytes: int) -> int:
    """Write the corpus again and again, in every copy with other words exchanged within their document. Returns the documents."""
    documents = written = 0
    with out.open("wb") as file:
        for copy in count():
            draw = random.Random(copy)
            for document in find_corpus(corpus).documents():
                words = document.split(" ")
                if copy:
                    for place in range(draw.randrange(CHANGED), len(words), CHANGED):
                        words[place] = words[draw.randrange(len(words))]
                written += file.write((" ".join(words) + "\n\n").encode())
                documents += 1
                if written >= num_bytes:
                    return documents
    return documents


def watch(command: list[str]) -> tuple[int, float]:
    """(bytes, seconds): the most RssAnon that a command and the processes it starts had together, sampled 20 times a second."""
    begun, most = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        while process.poll() is None:
            most = max(most, sum(map(anonymous, family(process.pid))))
            time.sleep(0.05)
        if process.returncode:
            errors.seek(0)
            raise SystemExit(errors.read())
    return most, time.perf_counter() - begun


def family(pid: int) -> Iterator[int]:
    """A process and all that it and its children started."""
    yield pid
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = file.read_text().split()
        except OSError:  # it has ended
            continue
        for child in children:
            yield from family(int(child))


def anonymous(pid: int) -> int:
    """RssAnon of a process in bytes; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


if __name__ == "__main__":
    main()
