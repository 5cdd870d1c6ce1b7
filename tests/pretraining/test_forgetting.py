"""Losses before and after: computed again by hand, on the same positions, a token and a byte."""

import numpy as np
import pytest
import torch

from bert.data.corpus import find_corpus
from bert.data.packing import Documents
from bert.data.store import TokenStore, open_store
from bert.data.tokenizer import Tokenizer
from bert.data.vocabulary import train_tokenizer
from bert.model.heads import MaskedLM
from bert.pretraining.config import PretrainRecipe, ValidationConfig
from bert.pretraining.forgetting import (
    AFTER,
    BEFORE,
    BUNDLED,
    GENERAL,
    NEW,
    START,
    Loss,
    card_lines,
    general_sample,
    read_losses,
    report,
    table,
)
from bert.pretraining.inputs import fixed_sequences, make_streams
from bert.pretraining.phases import resolve_plan
from bert.recipe import read_recipe
from bert.sample.make import make_sample

from ..conftest import TINY, make_text, run_quietly

FLAGS = [flag for flag in TINY if not flag.startswith(("--encoder", "--vocabulary", "--stop"))]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_run):
    """Two runs from one model, with its vocabulary and with words added, on enough documents to hold whole ones out."""
    folder = tmp_path_factory.mktemp("forgetting")
    (folder / "text.txt").write_text(make_text(300, seed=3).replace("the hill", "the foothill"))
    (folder / "general.txt").write_text(make_text(40, seed=9))
    (folder / "words.txt").write_text("foothill\n")
    command = ["pretrain", str(folder / "text.txt"), "--from", str(tiny_run / "model"), *FLAGS]
    command += ["--general", str(folder / "general.txt"), "--data.validation_split=0.2", "--stop.steps=3"]
    run_quietly([*command, "--out", str(folder / "plain")])
    run_quietly([*command, "--out", str(folder / "words"), "--add-words", str(folder / "words.txt")])
    return folder


def by_hand(model, stream):
    """(loss, masked positions) densely, sequence by sequence."""
    loss, masked = 0.0, []
    stream = stream.dealt(10**6)
    for step in range(-(-stream.last_sequence // stream.plan.at(0).batch_size)):
        batch = stream.micro_batch(step)
        with torch.no_grad():
            logits = model(batch["input_ids"], document_ids=batch["document_ids"]).logits
        for scores, positions, labels in zip(logits, batch["masked_positions"].tolist(), batch["labels"].tolist()):
            for position, label in zip(positions, labels):
                if label >= 0:
                    loss -= float(scores[position].log_softmax(-1)[label])
                    masked.append((step, position, label))
    return loss / len(masked), masked


def measured(run):
    return {(loss.text, loss.when): loss for loss in read_losses(run)}


def general_rows(recipe, file, tokenizer):
    texts = file.read_text().strip().split("\n\n")
    values, lengths = tokenizer.encode_documents(texts)
    store = TokenStore.from_arrays(values, np.concatenate(([0], np.cumsum(lengths))))
    return (
        fixed_sequences(recipe, resolve_plan(recipe), [store], [Documents(store.starts, store.lengths)], tokenizer),
        texts,
        len(values),
    )


def test_with_the_same_vocabulary_both_models_are_measured_on_the_same_positions(runs, tiny_run):
    run = runs / "plain"
    recipe = read_recipe(run / "recipe.yaml", PretrainRecipe)
    before, after = MaskedLM.load(tiny_run / "model"), MaskedLM.load(run / "model")
    tokenizer = after.tokenizer
    validation_split = make_streams(recipe, resolve_plan(recipe), [open_store(run / "store")], tokenizer)[1]
    general = general_rows(recipe, runs / "general.txt", tokenizer)[0]
    figures = measured(run)
    assert set(figures) == {(text, when) for text in (NEW, GENERAL) for when in (BEFORE, AFTER)}
    for text, stream in ((NEW, validation_split), (GENERAL, general)):
        for when, model in ((BEFORE, before), (AFTER, after)):
            loss, hidden = by_hand(model, stream)
            assert figures[text, when].loss == pytest.approx(loss, rel=1e-4)
            assert figures[text, when].targets == len(hidden)
    assert figures[NEW, AFTER].loss < figures[NEW, BEFORE].loss


def test_with_added_words_the_model_as_it_came_is_measured_with_its_own_tokenizer(runs, tiny_run):
    run = runs / "words"
    recipe = read_recipe(run / "recipe.yaml", PretrainRecipe)
    before, after = MaskedLM.load(tiny_run / "model"), MaskedLM.load(run / "model")
    figures = measured(run)
    assert set(figures) == {(text, when) for text in (NEW, GENERAL) for when in (BEFORE, START, AFTER)}
    for when, model in ((BEFORE, before), (AFTER, after)):
        stream, texts, tokens = general_rows(recipe, runs / "general.txt", model.tokenizer)
        loss, _ = by_hand(model, stream)
        assert figures[GENERAL, when].loss == pytest.approx(loss, rel=1e-4)
        size = len("".join(texts).encode())
        assert figures[GENERAL, when].nats_per_byte == pytest.approx(loss * tokens / size, rel=1e-4)
        assert figures[GENERAL, when].tokenizer == model.tokenizer.hash[:8]
    # the word stands in the new text alone: there it takes fewer tokens
    assert figures[GENERAL, START].targets == figures[GENERAL, BEFORE].targets
    ratio = {when: figures[NEW, when].loss / figures[NEW, when].nats_per_byte for when in (BEFORE, START)}
    assert ratio[START] > ratio[BEFORE]  # bytes of a token


def test_documents_of_the_validation_split_are_the_same_under_both_tokenizers(runs):
    run = runs / "words"
    recipe = read_recipe(run / "recipe.yaml", PretrainRecipe)
    tokenizer = Tokenizer.load(run / "tokenizer")
    store = open_store(run / "store")
    documents = make_streams(recipe, resolve_plan(recipe), [store], tokenizer)[1].sequences_at(0).index.documents
    expected = sorted(store.values[start : start + n].tolist() for start, n in zip(documents.starts, documents.lengths))
    with np.load(run / "before-after" / "validation-text.npz") as arrays:
        kept = TokenStore.from_arrays(arrays["values"], arrays["offsets"])
    assert sorted(kept.document(i).tolist() for i in range(len(kept))) == expected


def test_table_and_card_say_what_was_measured(runs):
    losses = read_losses(runs / "words")
    lines = report(losses)
    assert lines[0].split() == ["masked-LM", "loss", "as", "it", "came", "at", "the", "start", "after"]
    assert len(lines) == 6
    assert "compare nats per byte" in lines[-1]
    assert len(report(read_losses(runs / "plain"))) == 3
    card = (runs / "words" / "model" / "README.md").read_text()
    for line in card_lines(losses):
        assert line in card
    assert f"| {losses[0].loss:.3f} ({losses[0].accuracy:.1%}) |" in card


def test_a_figure_that_is_not_there_is_a_dash():
    losses = [
        Loss(NEW, START, "b", 2.0, 0.5, 10, None),
        Loss(GENERAL, BEFORE, "a", 3.0, 0.25, 10, 0.75),
        Loss(GENERAL, START, "b", 3.5, 0.25, 10, 0.875),
    ]
    assert table(losses) == [
        ["masked-LM loss", BEFORE, START],
        [f"{NEW}, nats per token", "–", "2.000 (50.0%)"],
        [f"{NEW}, nats per byte", "–", "–"],
        [f"{GENERAL}, nats per token", "3.000 (25.0%)", "3.500 (25.0%)"],
        [f"{GENERAL}, nats per byte", "0.750", "0.875"],
    ]


@pytest.mark.parametrize(("language", "name"), [("en", "English"), ("zh", "Chinese")])
def test_the_bundled_sample_is_taken_in_the_language_of_the_model(language, name):
    corpus = make_sample(language).corpus
    tokenizer = train_tokenizer(corpus[:200])
    recipe = PretrainRecipe(initialize_from="folder", validation=ValidationConfig(sequences=4))
    assert tuple(find_corpus(BUNDLED[name], "blank-lines").documents()) == corpus
    texts, line = general_sample(recipe, tokenizer)
    assert f"{name} sentences of the bundled sample" in line
    assert texts
    assert set(texts) <= set(corpus)
    assert sum(map(len, texts)) <= 4 * recipe.data.sequence_length * 8
