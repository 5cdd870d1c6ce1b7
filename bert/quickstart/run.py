"""`bert quickstart`: the whole workflow on the bundled sample, as one page of plain calls.

    sample → tokenizer, store, masked LM → classifier, tagger → words, senses, sentences, attention → one table, report.html

Each result is compared with a baseline that needs no training, and with the same head on a randomly initialized encoder. The output
folder holds everything: the text, the runs, the models and the report.
"""

import csv
import dataclasses
import json
import logging
import time
from pathlib import Path

import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from bert.data.examples import read_examples
from bert.data.tagged import read_tagged
from bert.errors import InterruptedRun
from bert.finetuning.config import DataConfig as LabeledData
from bert.finetuning.config import FinetuneOptimizer, FinetuneRecipe
from bert.finetuning.evaluate import evaluate
from bert.finetuning.run import finetune
from bert.finetuning.tasks.tag import TASK as TAG
from bert.model.heads import MaskedLM
from bert.pretraining.config import DataConfig, PretrainRecipe
from bert.pretraining.run import pretrain
from bert.pretraining.score import score_validation
from bert.probing.attention import attention
from bert.probing.pairs import minimal_pairs
from bert.probing.rows import Pair, read_rows
from bert.probing.senses import BAG, RANDOM, senses
from bert.probing.words import words
from bert.quickstart.story import SHOWN_TEXTS, Filled, Findings, Line, write_story
from bert.recipe import write_yaml
from bert.report.charts import SpannedText
from bert.sample.files import SHOWN, write_sample
from bert.sample.grammar import LANGUAGES, read_language
from bert.sample.make import make_sample
from bert.signals import handled
from bert.terminal import quiet
from bert.training import folder as run_folder
from bert.training.config import LogConfig, StopConfig

logger = logging.getLogger(__name__)

STEPS, MINUTES = 450, 1.75
"""of pretraining, whichever ends first; the rest takes less than another minute on 2 CPU cores"""
EPOCHS = 6.0
LEARNING_RATE = 5e-4  # of fine-tuning
_RUNS = ("pretrained", "random", "topics", "tags", "random/topics", "random/tags")
_SAMPLE = "corpus.txt topics-*.tsv tags-*.conll translations-*.tsv".split()
_SAMPLE += "senses-*.jsonl pairs.jsonl prompts.jsonl sentences-*.txt".split()
_OURS = (*run_folder.OURS, "report.html", "metrics.json", *(f"sample/{name}" for name in _SAMPLE))
_OURS += tuple(f"{run}/{name}" for run in _RUNS for name in run_folder.OURS)
_UNITS = r"[a-z]+|[\u4e00-\u9fff]"  # units of the bag of words: English words, Chinese characters


def quickstart(out: Path, overwrite: bool = False, minutes: float = MINUTES) -> Path:
    """Run everything in the folder `out` and return the report. Raises InputError if the folder is in use."""
    began = time.monotonic()
    out = run_folder.named(out)
    given = quickstart_recipe(out, minutes)
    with handled(), run_folder.owned(out), run_folder.claimed(out, overwrite, given, ours=_OURS, keeps=False) as folder:
        try:
            findings = collect(folder, minutes, began)
        except InterruptedRun as error:  # whose message names a run that will not be kept
            raise InterruptedRun("stopped; start again with bert quickstart", error.exit_code - 128) from error
        write_story(findings, folder / "report.html")
        results = [dataclasses.asdict(line) for line in findings.lines]
        (folder / "metrics.json").write_text(json.dumps(results, indent=2) + "\n")
        header = f"Pretraining of bert quickstart. To repeat it: bert pretrain --config {out}/recipe.yaml --out …"
        write_yaml(given, folder / "recipe.yaml", header)
    logger.info(findings.table())
    report = out / "report.html"
    _log_part(began, f"done: everything is in {out}. Open {report} in a browser")
    return report


def collect(out: Path, minutes: float, began: float) -> Findings:
    """Every part in turn; `began` is the monotonic clock at the start."""
    _log_part(began, f"sample: text from our own grammar, English and Chinese, in {out / 'sample'}")
    write_sample(out / "sample")
    budget = f"{STEPS} steps of masked language modeling, at most {60 * minutes:.0f} seconds"
    _log_part(began, f"pretraining: tokenizer, token store, {budget}")
    model = pretrain(quickstart_recipe(out, minutes), out / "pretrained")
    random = randomly_initialized(model, out / "random" / "model")
    lines = [masked_words(out / "pretrained", model, random)]
    _log_part(began, "fine-tuning: the topic of a text, with this encoder and with a randomly initialized one")
    lines.append(topics(out, model, random))
    _log_part(began, "fine-tuning: names in a sentence, with both")
    lines.append(names(out, model, random))
    _log_part(began, "probing: words in their contexts, sentences, attention")
    return probe(out, model, random, lines, began)


def _log_part(began: float, message: str) -> None:
    logger.info(f"[{time.monotonic() - began:3.0f} s] {message}")


def quickstart_recipe(out: Path, minutes: float) -> PretrainRecipe:
    """The default encoder and optimizer on the sample. Small batches are best in so short a run; after more steps than these the model
    memorizes the sentence templates, and the vectors of a word cluster by template instead of meaning."""
    data = DataConfig(corpus=[str(out / "sample" / "corpus.txt")], layout="blank-lines", batch_size=16)
    return PretrainRecipe(data=data, stop=StopConfig(steps=STEPS, minutes=minutes))


def randomly_initialized(model: Path, folder: Path) -> Path:
    """A randomly initialized model with the same shape and tokenizer: the control of every result."""
    trained = MaskedLM.load(model)
    torch.manual_seed(0)
    twin = MaskedLM(trained.config, trained.head_config)
    twin.tokenizer = trained.tokenizer
    twin.save(folder)
    return folder


def masked_words(run: Path, model: Path, random: Path) -> Line:
    """Accuracy on the masked tokens of the validation split."""
    trained, untrained = (score_validation(run, MaskedLM.load(folder)) for folder in (model, random))
    controls = trained.most_frequent, "the most frequent token", untrained.accuracy
    return Line("masked words guessed", "accuracy", trained.accuracy, *controls)


def topics(out: Path, model: Path, random: Path) -> Line:
    """A topic classifier, on texts whose words are not in the training texts, and a bag of words."""
    train, test = (list(read_examples(out / "sample" / f"topics-{part}.tsv")) for part in ("train", "test"))
    bag = make_pipeline(CountVectorizer(token_pattern=_UNITS), LogisticRegression(max_iter=1000))
    bag.fit([example.text for example in train], [example.label for example in train])
    baseline = bag.score([example.text for example in test], [example.label for example in test])
    values = [tuned(out, "classify", "topics-train.tsv", folder)["accuracy"] for folder in (model, random)]
    return Line("topic of a text", "accuracy", values[0], float(baseline), "a bag of words", values[1])


def names(out: Path, model: Path, random: Path) -> Line:
    """A tagger of people, organizations and places, and the most frequent tag of each word."""
    train, test = (list(read_tagged(out / "sample" / f"tags-{part}.conll")) for part in ("train", "test"))
    without = TAG.without_model(train, test, TAG.labels([*train, *test]))["span_f1"]
    values = [tuned(out, "tag", "tags-train.conll", folder)["span_f1"] for folder in (model, random)]
    return Line("names in a sentence", "span F1", values[0], without, "the word's most frequent tag", values[1])


def tagged_texts(out: Path) -> tuple[SpannedText, ...]:
    """Test sentences as running text, the first ones in English and the last ones in Chinese, with the names that are found."""
    examples = list(read_tagged(out / "sample" / "tags-test.conll"))
    chosen = (*examples[:SHOWN_TEXTS], *examples[-SHOWN_TEXTS:])
    texts = [example.located()[0].replace(" .", ".").replace(" ,", ",") for example in chosen]
    return tuple(one.spanned() for one in TAG.model.load(out / "tags" / "model").predict(texts))


def tuned(out: Path, task: str, file: str, model: Path) -> dict[str, float]:
    """The metrics on the test rows after fine-tuning `model` on a file of the sample."""
    data, train = file.partition("-")[0], out / "sample" / file
    recipe = FinetuneRecipe(
        model=str(model),
        data=LabeledData(train=str(train)),
        optimizer=FinetuneOptimizer(lr=LEARNING_RATE),
        epochs=EPOCHS,
        log=LogConfig(progress_bar=False),
    )
    run = out / (data if model.parent.name == "pretrained" else f"random/{data}")
    with quiet():
        best = finetune(task, recipe, run)
    test = train.with_name(file.replace("-train.", "-test."))
    return evaluate(best, str(test), LabeledData()).metrics


def probe(out: Path, model: Path, random: Path, lines: list[Line], began: float) -> Findings:
    """Senses, words, predictions, sentences and attention of the pretrained model; adds to `lines`."""
    trained, untrained = MaskedLM.load(model), MaskedLM.load(random)
    sample = out / "sample"
    rows = [read_rows(sample / f"senses-{part}.jsonl") for part in ("train", "test")]
    found = senses(rows[0], trained, rows[1])
    for code in LANGUAGES:
        ours = read_language(code).words
        known = dataclasses.replace(found, words=tuple(one for one in found.words if one.word in ours))
        what = f"senses of {len(known.words)} {'English' if code == 'en' else 'Chinese'} words"
        controls = known.mean(BAG), "a bag of words", known.mean(RANDOM)
        lines.append(Line(what, "accuracy", known.mean(known.headline), *controls))
    samples = [make_sample(code) for code in LANGUAGES]
    pairs = [Pair(pair.good, pair.bad) for one in samples for pair in one.pairs]
    scored, by_random = (minimal_pairs(pairs, one) for one in (trained, untrained))
    shares = scored.overall.accuracy, 0.5, "a coin", by_random.overall.accuracy
    lines.append(Line("good sentence of a pair", "accuracy", *shares))
    prompts = [prompt for one in samples for prompt in one.prompts if prompt.word in SHOWN]
    with (out / "pretrained" / "metrics.csv").open(newline="") as stream:
        log = [row for row in csv.DictReader(stream) if row["loss"]]
    return Findings(
        lines=tuple(lines),
        losses=tuple((float(row["tokens"]), float(row["loss"])) for row in log),
        words=tuple(words(word, [row for row in rows[1] if row.word == word], trained) for word in SHOWN),
        senses=found,
        tagged=tagged_texts(out),
        filled=tuple(Filled(prompt, tuple(map(tuple, trained.fill(prompt.text)))) for prompt in prompts),
        attention=attention(samples[0].pairs[0].good, trained),
        pairs=tuple((one.good, one.bad) for one in scored.pairs),
        tokens=float(log[-1]["tokens"]),
        seconds=time.monotonic() - began,
    )
