"""Vectors of units: against `token_vectors` and `embed`, and a cache that is believed only if it is whole and of the same model."""

import copy
import logging
import os
import resource
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bert.data.splitting import Splitter
from bert.errors import InputError
from bert.inference import embeddings
from bert.model.encoder import weights_hash
from bert.probing import vectors as module
from bert.probing.units import Units
from bert.probing.vectors import embedded, has_tokens, vectors_of
from tests.encoders import ENCODERS, TEXTS, make_encoder, span_vectors

ENCODER = ENCODERS["wordpiece"]  # of 24 tokens, fewer than the longest texts have
ROOMY = {kind: make_encoder(kind, max_length=512) for kind in ENCODERS}


def units_of(sentences: list[str], words: bool = True) -> Units:
    """The words of the sentences between spaces, or the sentences."""
    places = [(n, n) for n in range(len(sentences))]
    spans = None
    if words:
        places = [(n, span) for n, text in enumerate(sentences) for span in _spans(text)]
        spans = tuple(span for _, span in places)
    labels = tuple("ab"[n % 2] for n in range(len(places)))
    owners = np.array([n for n, _ in places], np.int64)
    return Units(tuple(sentences), owners, spans, labels, labels, None, np.zeros(len(places), np.bool_))


def _spans(text: str) -> list[tuple[int, int]]:
    ends = np.cumsum([len(word) + 1 for word in text.split(" ")]).tolist()
    return [(end - 1 - len(word), end - 1) for word, end in zip(text.split(" "), ends, strict=True) if word]


WORDS = units_of(TEXTS[:4])
FORMS = "a dog the cat 苹果 sees ẹ́ 👍 running,".split()


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many inputs the encoder has got, each time it was run."""
    seen: list[int] = []
    real = embeddings.run_batches

    def counted(model: object, inputs: list[object], *rest: object, **options: object) -> object:
        seen.append(len(inputs))
        return real(model, inputs, *rest, **options)

    monkeypatch.setattr(embeddings, "run_batches", counted)
    return seen


# ── what they are ──


def close(got: np.ndarray, expected: torch.Tensor) -> None:
    """(L + 1, N, D) fp16 and (N, L + 1, D) fp32, within half a unit of the last place, and what batches of other shapes change."""
    assert got.dtype == np.float16
    np.testing.assert_allclose(got.swapaxes(0, 1).astype(np.float32), expected.numpy(), rtol=2**-10, atol=2e-5)


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.lists(st.sampled_from(FORMS), min_size=1, max_size=6), min_size=1, max_size=5),
    st.sampled_from([*ENCODERS]),
)
def test_words_have_the_vectors_of_token_vectors(words: list[list[str]], kind: str) -> None:
    units = units_of([" ".join(row) for row in words])
    assert units.spans is not None
    got = vectors_of(ROOMY[kind], units, bf16=False)
    assert not np.isnan(got).any()
    sentences = [units.sentences[owner] for owner in units.owners]
    close(got, span_vectors(ROOMY[kind], sentences, [*units.spans], bf16=False))


@pytest.mark.parametrize(("pooling", "which"), [("first", 0), ("last", -1)])
def test_a_word_may_have_the_vector_of_one_of_its_tokens(pooling: str, which: int) -> None:
    assert WORDS.spans is not None
    got = vectors_of(ROOMY["bpe"], WORDS, pooling, bf16=False)
    sentences = [WORDS.sentences[owner] for owner in WORDS.owners]
    located = embeddings.span_tokens(ROOMY["bpe"].tokenizer, sentences, WORDS.spans)
    assert max(len(positions) for _, positions in located) > 1
    one = [(ids, [positions[which]]) for ids, positions in located]
    close(got, embeddings.token_vectors(ROOMY["bpe"], one, bf16=False))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_texts_have_the_vectors_of_embed_in_every_layer_however_long(pooling: str) -> None:
    texts = [*TEXTS[:3], "", "\u200b", " ".join(TEXTS)]
    got = vectors_of(ENCODER, units_of(texts, words=False), pooling, bf16=False)
    assert not np.isnan(got).any()
    close(got, torch.stack([embeddings.embed(ENCODER, texts, pooling, n, bf16=False) for n in range(3)], dim=1))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    together = vectors_of(ENCODER, WORDS, bf16=False)
    monkeypatch.setattr(module, "_CHUNK", 4 * 3 * 16 * 5)  # five words
    np.testing.assert_allclose(vectors_of(ENCODER, WORDS, bf16=False), together, rtol=2**-9, atol=2e-5)


def test_words_of_a_long_sentence_share_windows_and_each_is_well_inside_its_own(runs: list[int]) -> None:
    sentence = " ".join(TEXTS)  # of a model that takes 24 tokens
    units = units_of([sentence])
    assert units.spans is not None
    ids, offsets = ENCODER.tokenizer.encode_with_offsets(sentence)
    got = vectors_of(ENCODER, units, bf16=False)
    assert not np.isnan(got).any()
    assert runs[0] <= len(ids) / 5 + 2  # a window begins at each fifth token at most
    for word in range(0, len(units.spans), 40):
        (positions,) = embeddings.overlapping(offsets, [units.spans[word]])
        begins = [n for n in range(0, len(ids) - 2, 5) if n < positions[0] and positions[-1] <= n + 22]
        windows = [[2, *ids[n + 1 : n + 23], 3] for n in [*begins, len(ids) - 24]]
        states = [ENCODER(torch.tensor([window])).last_hidden_state[0].detach() for window in windows]
        places = [[place - n for place in positions] for n in [*begins, len(ids) - 24]]
        means = [state[own].mean(0).numpy() for state, own in zip(states, places, strict=True) if own[0] > 0]
        assert min(np.abs(got[-1, word] - mean).max() for mean in means) < 2e-3


def test_a_word_without_a_token_is_known_and_its_vector_is_nan() -> None:
    units = units_of(["a \u200b dog", "the cat"])
    got, known = vectors_of(ENCODER, units, bf16=False), has_tokens(ENCODER.tokenizer, units)
    assert known.tolist() == [True, False, True, True, True]
    assert np.isnan(got[:, 1]).all()
    assert np.isfinite(got[:, known]).all()


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=4),
)
def test_tokens_of_a_span_are_those_that_overlap_it_in_any_order(
    offsets: list[tuple[int, int]], spans: list[tuple[int, int]]
) -> None:
    shared = [[n for n, own in enumerate(offsets) if {*range(*own)} & {*range(*span)}] for span in spans]
    assert list(embeddings.overlapping(offsets, spans)) == shared


# ── the cache ──


def test_the_second_time_the_encoder_is_not_run(tmp_path: Path, runs: list[int]) -> None:
    first = vectors_of(ENCODER, WORDS, folder=tmp_path / "new" / "folder")
    ran = list(runs)
    second = vectors_of(ENCODER, replace(WORDS, labels=WORDS.labels[::-1]), folder=tmp_path / "new" / "folder")
    assert runs == ran != []
    assert np.array_equal(first, second)
    assert not second.flags.writeable
    assert sorted(path.suffix for path in (tmp_path / "new" / "folder").iterdir()) == [".blake2b", ".npy"]


def _other_weights() -> module.Encoder:
    other = copy.deepcopy(ENCODER)
    with torch.no_grad():
        next(reversed([*other.parameters()])).flatten()[-1] += 1e-3
    return other


def _other_tokenizer() -> module.Encoder:
    other = copy.copy(ENCODER)
    other.tokenizer = ENCODERS["unigram"].tokenizer
    return other


CHANGES: dict[str, Callable[[], tuple[object, ...]]] = {
    "weights": lambda: (_other_weights(), WORDS),
    "config": lambda: (make_encoder(norm_eps=1e-3), WORDS),
    "tokenizer": lambda: (_other_tokenizer(), WORDS),
    "pooling": lambda: (ENCODER, WORDS, "first"),
    "text": lambda: (ENCODER, replace(WORDS, sentences=(WORDS.sentences[0][:-1] + "?", *WORDS.sentences[1:]))),
    "spans": lambda: (ENCODER, replace(WORDS, spans=((0, 2), *WORDS.spans[1:]))),  # type: ignore[index]
    "owners": lambda: (ENCODER, replace(WORDS, owners=WORDS.owners[::-1].copy())),
    "texts": lambda: (ENCODER, replace(WORDS, spans=None)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_the_vectors_depend_on_is_part_of_the_key(what: str, tmp_path: Path) -> None:
    encoder, units, *pooling = CHANGES[what]()
    keys = [module._key(ENCODER, WORDS, "mean", False), module._key(encoder, units, *(pooling or ["mean"]), False)]
    assert keys[0] != keys[1]
    assert (
        module._key(copy.deepcopy(ENCODER), replace(WORDS), "mean", False)
        == keys[0]
        != module._key(ENCODER, WORDS, "mean", True)
    )


def test_the_hash_of_weights_is_that_of_their_bytes() -> None:
    whole = b"".join(one.numpy().tobytes() for one in ENCODER.state_dict().values())
    assert weights_hash(ENCODER) == blake2b(whole, digest_size=16).hexdigest()


@pytest.mark.parametrize("damage", ["flipped", "truncated", "foreign", "empty", "pickle", "no hash"])
def test_a_damaged_file_is_computed_again_and_said(
    damage: str, tmp_path: Path, said: list[str], runs: list[int]
) -> None:
    before = np.array(vectors_of(ENCODER, WORDS, folder=tmp_path))
    (file,) = tmp_path.glob("*.npy")
    content = file.read_bytes()
    if damage == "foreign":
        np.save(file, np.zeros((2, 2), np.float16))
        file.with_suffix(".blake2b").write_text(blake2b(file.read_bytes()).hexdigest())
    elif damage == "pickle":
        np.save(file, np.array([{}]), allow_pickle=True)
    elif damage == "no hash":
        file.with_suffix(".blake2b").unlink()
    else:
        flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
        file.write_bytes({"flipped": flipped, "truncated": content[:-2], "empty": b""}[damage])
    ran = len(runs)
    assert np.array_equal(vectors_of(ENCODER, WORDS, folder=tmp_path), before)
    assert len(runs) > ran
    assert said[-1] == f"{file}: damaged, or not a file of these vectors; they are computed again"
    assert file.read_bytes() == content


@pytest.mark.slow
def test_a_kill_between_chunks_leaves_nothing_that_is_believed(tmp_path: Path, runs: list[int]) -> None:
    script = f"""
import os, signal
from pathlib import Path
from bert.probing import vectors as module
from tests.probing.test_vectors import ENCODER, WORDS
module._CHUNK = 4 * 3 * 16 * 5
real = module.embeddings.token_vectors
def killed(*given, calls=[], **more):
    calls.append(0)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*given, **more)
module.embeddings.token_vectors = killed
module.vectors_of(ENCODER, WORDS, folder=Path({str(tmp_path)!r}))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True)
    assert done.returncode == -9, done.stderr[-2000:]
    assert not [*tmp_path.glob("[!.]*.npy")]
    left = [*tmp_path.glob(".*.npy")]
    assert left  # the kill was between chunks
    got = vectors_of(ENCODER, WORDS, folder=tmp_path)
    assert runs
    assert np.array_equal(got, vectors_of(ENCODER, WORDS))
    assert not [path for path in left if path.exists()]


def test_an_error_between_chunks_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object, **more: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(embeddings, "token_vectors", full)
    with pytest.raises(
        InputError, match=r"cannot be written .No space left on device.; make room, or give another folder"
    ):
        vectors_of(ENCODER, WORDS, folder=tmp_path)
    assert not [*tmp_path.iterdir()]


def test_a_file_limit_of_the_system_is_one_line_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system itself refuses to write on: what a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = 2 * 3 * 16 * len(WORDS.labels)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))
    try:
        with pytest.raises(InputError, match="cannot be written"):
            vectors_of(ENCODER, WORDS, folder=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [*tmp_path.iterdir()]


def test_a_disk_without_room_is_said_before_the_encoder_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: list[int]
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: usage(100, 90, 10))
    needed = 2 * 3 * len(WORDS.labels) * 16
    with pytest.raises(InputError, match=f"vectors need {needed:,} bytes and 10 are free; make room"):
        vectors_of(ENCODER, WORDS, folder=tmp_path)
    assert runs == []
    assert not [*tmp_path.iterdir()]


def test_values_too_large_for_fp16_are_refused_with_their_layer(tmp_path: Path) -> None:
    huge = copy.deepcopy(ENCODER)
    with torch.no_grad():
        for parameter in huge.layers[0].parameters():
            parameter.mul_(100)
    with pytest.raises(InputError, match="layer 1 has values beyond ±65,504"):
        vectors_of(huge, WORDS, folder=tmp_path, bf16=False)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("units", "pooling", "message"),
    [
        (WORDS, "cls", "pooling is cls; must be mean or first or last for words"),
        (units_of(TEXTS[:2], words=False), "last", "pooling is last: give mean or cls"),
    ],
)
def test_a_pooling_of_the_other_kind_is_refused(units: Units, pooling: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        vectors_of(ENCODER, units, pooling)


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    file = tmp_path / f"{module._key(ENCODER, WORDS, 'mean', False)}.npy"
    with (
        module.locked(file.with_suffix(".lock"), "other"),
        pytest.raises(InputError, match="in use by process"),
    ):
        vectors_of(ENCODER, WORDS, folder=tmp_path, bf16=False)


def test_hostile_text_has_vectors(caplog: pytest.LogCaptureFixture) -> None:
    words = ["\x1b[31m", "\u202eevil", "a" * 100_000, "<script>", "👩‍👩‍👧", "\x01", "\ud800", "dog"]
    with caplog.at_level(logging.INFO):
        for kind, encoder in ENCODERS.items():
            units = units_of([" ".join(words), "a dog"])
            known = has_tokens(encoder.tokenizer, units)
            assert np.isfinite(vectors_of(encoder, units)[:, known]).all(), kind
            assert known[[2, -1]].all()


# ── rows for other programs ──


def test_running_words_have_the_vectors_of_their_places() -> None:
    texts = ["a dog, the cat.", "", "\u200b", "苹果"]
    columns, vectors = embedded(texts, ENCODER, words=True, layer=1)
    places = [(n, *span) for n, text in enumerate(texts) for span in Splitter().words(text)]
    assert columns["word"] == ["a", "dog", ",", "the", "cat", ".", "苹", "果"]
    assert [*zip(columns["sentence"], columns["start"], columns["end"], strict=True)] == places
    spans = [(start, end) for _, start, end in places]
    expected = span_vectors(ENCODER, [texts[n] for n, *_ in places], spans, [1])
    np.testing.assert_allclose(vectors, expected[:, 0], atol=1e-5)
    with pytest.raises(InputError, match="there are no words"):
        embedded(["\u200b"], ENCODER, words=True)


def test_texts_have_the_vectors_of_embed() -> None:
    columns, vectors = embedded(TEXTS[:3], ENCODER, layer=0, pooling="cls")
    assert columns == {"text": TEXTS[:3]}
    np.testing.assert_allclose(vectors, embeddings.embed(ENCODER, TEXTS[:3], "cls", 0), atol=1e-6)
