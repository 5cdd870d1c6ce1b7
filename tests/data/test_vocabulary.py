"""Training: the same bytes each time, the sizes that were asked for, and what is refused."""

import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from bert.data import vocabulary
from bert.data.corpus import find_corpus
from bert.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from bert.data.vocabulary import KINDS, make_tokenizer, sample_documents, train_tokenizer
from bert.errors import InputError
from bert.files import owned

DATA = Path(__file__).parents[3] / "shared" / "data"
SYLLABLES = [
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "ha",
    "je",
    "ki",
    "lo",
    "mu",
    "na",
    "pe",
    "qi",
    "ro",
    "su",
    "ta",
    "ve",
    "wi",
    "xo",
    "zu",
]


def made_up_documents(count: int, seed: int = 0) -> list[str]:
    """Words of a Zipf-like made-up language, a few of them rare, some in other scripts."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(400)]
    words += ["苹果", "水", "Éclair", "日本", "ñandú", "яблоко", "!", ","]
    weights = [1 / (i + 1) for i in range(len(words))]
    return [" ".join(draw.choices(words, weights, k=draw.randint(20, 60))) for _ in range(count)]


DOCUMENTS = made_up_documents(150)
SIZES = {"wordpiece": 200, "bpe": 400, "unigram": 150}
TRAIN = """
import sys; sys.path.insert(0, {folder!r})
from test_vocabulary import DOCUMENTS, SIZES
from bert.data.vocabulary import train_tokenizer
print(*[train_tokenizer(DOCUMENTS, kind, size).hash for kind, size in SIZES.items()])
"""


def refused(call, *arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_documents_give_the_same_bytes_again(tmp_path, kind):
    # the hash maps inside `tokenizers` are seeded anew for each training, so this does not need a process each
    for i in range(4):
        train_tokenizer(DOCUMENTS, kind, SIZES[kind]).save(tmp_path / str(i))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert len({(tmp_path / str(i) / name).read_bytes() for i in range(4)}) == 1


def test_merges_and_characters_that_tie_are_chosen_the_same_way_each_time():
    letters = "abcdefghijklmnopqrstuvwxyz"
    pairs = [" ".join(f"a{letter}" for letter in letters)] * 10  # 26 merges of equal count, room for half of them
    assert len({train_tokenizer(pairs, "wordpiece", 5 + 26 + 26 + 13).hash for _ in range(6)}) == 1
    rare = [*pairs * 200, " ".join(map(chr, range(0x400, 0x460)))]  # characters of equal count, room for some of them
    assert len({train_tokenizer(rare, "wordpiece", 5 + 26 + 26 + 60).hash for _ in range(3)}) == 1


def test_the_same_documents_give_the_same_tokenizer_in_other_processes():
    found = set()
    for seed in ("1", "2"):
        environment = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "TOKENIZERS_PARALLELISM": "true" if seed == "1" else "false",
        }
        script = TRAIN.format(folder=str(Path(__file__).parent))
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        found.add(done.stdout)
    assert len(found) == 1


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(("language", "sizes"), [("enwiki", (4000, 4000, 2000)), ("zh", (2000, 2000, 2000))])
def test_real_text_gives_the_same_bytes_again(language, sizes):
    path = DATA / language / "valid.txt.gz"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    documents = list(find_corpus(path).documents())[:40]
    for kind, size in zip(KINDS, sizes):
        assert len({train_tokenizer(documents, kind, size).hash for _ in range(3)}) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("more", [0, 1, 63])
def test_the_vocabulary_is_brought_to_a_multiple_of_64_by_unused_entries(kind, more):
    size = {"wordpiece": 128, "bpe": 320, "unigram": 128}[kind] + more
    tokenizer = train_tokenizer(DOCUMENTS, kind, size)
    expected = -(-size // 64) * 64
    assert tokenizer.vocab_size == expected
    assert len(tokenizer.unused_ids) == expected - size
    assert [tokenizer.token(i) for i in tokenizer.unused_ids] == [f"[unused{i}]" for i in range(expected - size)]
    assert [entry["content"] for entry in tokenizer._definition["added_tokens"]] == list(SPECIAL_TOKENS)


def test_wordpiece_ids_are_sorted_after_the_special_tokens():
    tokenizer = train_tokenizer(DOCUMENTS, "wordpiece", 192)
    pieces = [tokenizer.token(i) for i in range(5, 192)]
    assert pieces == sorted(pieces)


def test_wordpiece_is_the_merges_of_its_definition_and_of_the_trainer_of_tokenizers():
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, normalizers, pre_tokenizers, trainers

    # ab, abc, abcd, ef, efg, efgh ...: the most frequent pair is always one alone, so the merges can be told beforehand
    words, merges = [], []
    for k in range(6):
        word = "abcdefghijklmnopqrstuvwx"[4 * k : 4 * k + 4]
        counts = (200 - 17 * k, 120 - 11 * k, 70 - 7 * k)
        for length, count in zip((2, 3, 4), counts):
            words += [word[:length]] * count
            merges.append((sum(counts[length - 2 :]), word[:length]))
    best = [piece for _, piece in sorted(merges, reverse=True)]
    letters = "abcdefghijklmnopqrstuvwx"
    alphabet = {*SPECIAL_TOKENS, *letters, *(f"##{letter}" for i, letter in enumerate(letters) if i % 4)}
    documents = [" ".join(words)]
    for vocab_size in (len(alphabet), 55, 60, 64):
        theirs = Backend(models.WordPiece(unk_token="[UNK]"))
        theirs.normalizer, theirs.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), show_progress=False
        )
        theirs.train_from_iterator(documents, trainer)
        ours = train_tokenizer(documents, "wordpiece", vocab_size)
        used = {ours.token(i) for i in range(ours.vocab_size)} - {ours.token(i) for i in ours.unused_ids}
        assert used == {*alphabet, *best[: vocab_size - len(alphabet)]} == set(theirs.get_vocab())


def test_kinds_treat_case_accents_and_chinese_as_they_should():
    wordpiece = train_tokenizer(DOCUMENTS, "wordpiece", 192)
    assert wordpiece.encode("ÉCLAIR") == wordpiece.encode("e\u0301clair") != wordpiece.encode("eclair")
    stripped = train_tokenizer(DOCUMENTS, "wordpiece", 192, strip_accents=True)
    assert stripped.encode("ÉCLAIR") == stripped.encode("eclair")
    assert [wordpiece.token(i) for i in wordpiece.encode("苹果水")[1:-1]] == ["苹", "果", "水"]
    assert not any(wordpiece.token(i) in ("##苹", "##果") for i in range(192))
    cased = train_tokenizer(DOCUMENTS, "wordpiece", 192, lowercase=False)
    assert cased.encode("Éclair") != cased.encode("eclair")
    for kind in ("bpe", "unigram"):
        tokenizer = train_tokenizer(DOCUMENTS, kind, SIZES[kind])
        assert tokenizer.encode("BA") != tokenizer.encode("ba")
        lower = train_tokenizer(DOCUMENTS, kind, SIZES[kind], lowercase=True)
        assert lower.encode("BA") == lower.encode("ba")
    assert 1 not in train_tokenizer(DOCUMENTS, "bpe", 300).encode("any 文字 at all 😀")


@pytest.mark.parametrize(("kind", "size"), [("wordpiece", 100), ("unigram", 60)])
def test_characters_that_hardly_occur_give_way_where_there_is_no_room(kind, size):
    rare = "".join(map(chr, [*range(0x3B1, 0x3C2), *range(0x3C3, 0x3CA), *range(0x5D0, 0x5EB)]))
    documents = DOCUMENTS * 20 + [f"{character}ba" for character in rare]  # each once among a million characters

    def held(vocab_size: int) -> set[str]:
        tokenizer = train_tokenizer(documents, kind, vocab_size)
        return set(rare) & set("".join(map(tokenizer.token, range(tokenizer.vocab_size))))

    assert not held(size)
    assert held(200) == set(rare)


# ── the sample ──


def test_a_sample_is_bounded_spread_out_and_always_the_same():
    documents = [f"document {i} " + "word " * 20 for i in range(1000)]
    sample = sample_documents(iter(documents), 10_000)
    assert 9_800 < sum(map(len, sample)) <= 10_000
    assert sample == sample_documents(documents, 10_000)
    places = [documents.index(document) for document in sample]
    assert places == sorted(places)
    assert all(any(start <= place < start + 250 for place in places) for start in range(0, 1000, 250))
    assert sample_documents(documents, 10**9) == documents
    assert sample_documents(["x" * 100], 10) == ["x" * 10]


def test_sampling_a_large_corpus_takes_the_memory_of_the_sample():
    tracemalloc.start()
    sample_documents((f"{i} {'word ' * 200}" for i in range(20_000)), 200_000)  # 20 MB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6


def test_a_tokenizer_is_trained_on_the_sample_alone():
    sample = sample_documents(DOCUMENTS, 8_000)
    assert len(sample) < len(DOCUMENTS)
    assert train_tokenizer(DOCUMENTS, "bpe", 300, 8_000).hash == train_tokenizer(sample, "bpe", 300).hash


# ── bad input ──


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_larger_than_the_corpus_supports_is_refused_with_one_that_works(kind):
    message = refused(train_tokenizer, DOCUMENTS[:20], kind, 8192)
    supported = int(message.split("supports ")[1].split()[0])
    assert message == (f"vocabulary size 8192: the corpus supports {supported} entries; give {supported} or more text")
    tokenizer = train_tokenizer(DOCUMENTS[:20], kind, supported)
    assert tokenizer.vocab_size - len(tokenizer.unused_ids) == supported
    # what only rounds up to the same multiple of 64 is no error
    assert train_tokenizer(DOCUMENTS[:20], kind, -(-supported // 64) * 64).hash == tokenizer.hash


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_too_small_for_the_alphabet_is_refused_with_one_that_works(kind):
    message = refused(train_tokenizer, DOCUMENTS, kind, 20)
    needed = int(message.split("need ")[1].split(";")[0])
    assert message == (
        f"vocabulary size 20: the special tokens and the alphabet of the corpus alone need {needed}; "
        f"give {needed} or more"
    )
    assert train_tokenizer(DOCUMENTS, kind, needed).vocab_size == -(-needed // 64) * 64
    assert refused(train_tokenizer, DOCUMENTS, kind, needed - 1)


def test_sizes_and_kinds_that_make_no_sense_are_refused():
    assert refused(train_tokenizer, DOCUMENTS, "bpe", 0) == "vocabulary size 0: must be positive"
    assert refused(train_tokenizer, DOCUMENTS, "bpe", -64) == "vocabulary size -64: must be positive"
    assert refused(train_tokenizer, DOCUMENTS, "bpe", 300, 0) == "sample of characters 0: must be positive"
    assert refused(train_tokenizer, DOCUMENTS, "wordpeice") == (
        "kind 'wordpeice' is not known: use one of auto, wordpiece, bpe, unigram. Did you mean `wordpiece`?"
    )
    assert "holds no text" in refused(train_tokenizer, [], "bpe", 300)


# ── the command ──


def test_the_command_saves_a_tokenizer_and_says_so_and_keeps_one_that_is_there(tmp_path, said):
    (tmp_path / "a.txt").write_text("\n\n".join(DOCUMENTS), encoding="utf-8")
    out = tmp_path / "tokenizer"
    made = make_tokenizer(tmp_path / "a.txt", out, vocab_size=150)
    assert Tokenizer.load(out).hash == made.hash == train_tokenizer(DOCUMENTS, "wordpiece", 150).hash
    assert said[-1].startswith(f"{out}: wordpiece tokenizer of 192 entries (42 unused), trained on 0.0 of 0.0 million")
    assert "(150 documents) in " in said[-1]

    before = (out / "tokenizer.json").read_bytes()
    message = refused(make_tokenizer, tmp_path / "a.txt", out, kind="bpe", vocab_size=300)
    assert message == f"{out}: already holds a tokenizer; give another `out`, or `overwrite`"
    assert (out / "tokenizer.json").read_bytes() == before
    make_tokenizer(tmp_path / "a.txt", out, kind="bpe", vocab_size=300, overwrite=True)
    assert Tokenizer.load(out).kind == "bpe"
    assert {path.name for path in out.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}


def test_a_command_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "a.txt").write_text("too small a text", encoding="utf-8")
    refused(make_tokenizer, tmp_path / "a.txt", tmp_path / "out", vocab_size=8192)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_word_without_end_is_cut_for_training_and_ordinary_text_is_not(monkeypatch):
    lengths: list[int] = []

    def watched(backend, sample, trainer):
        words = [word for text in sample for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
        lengths.append(max(map(len, words)))

    monkeypatch.setattr(vocabulary, "interruptible", lambda function, *given: watched(function.__self__, *given))
    for text in ("a" * 30_000, "word " * 300 + "苹果" * 140):
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        vocabulary._train(backend, [text], None)
        assert isinstance(backend.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
    assert lengths == [1000, 280]


def test_the_second_trainer_of_a_tokenizer_hears_in_one_line_who_trains_it(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(DOCUMENTS), encoding="utf-8")
    out = tmp_path / "deep" / "tokenizer"
    with owned(out):
        message = refused(make_tokenizer, tmp_path / "a.txt", out, vocab_size=150)
    assert message.startswith(f"{out}: in use by process {os.getpid()} on ")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    make_tokenizer(tmp_path / "a.txt", out, vocab_size=150)
    assert [path.name for path in out.parent.iterdir()] == ["tokenizer"]


def test_the_current_folder_is_not_replaced_under_the_user(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("\n\n".join(DOCUMENTS), encoding="utf-8")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for out in (".", tmp_path):
        message = refused(make_tokenizer, tmp_path / "a.txt", out, vocab_size=150)
        assert message == f"{out}: is or holds the current folder, which cannot be replaced: give a folder in it"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("name", ["tokenizer", "prepare"])
def test_a_signal_ends_a_command_and_leaves_nothing(tmp_path, name, number, code):
    train_tokenizer(DOCUMENTS, "bpe", 300).save(tmp_path / "t")
    with (tmp_path / "a.txt").open("w") as file:
        for i in range(300_000):
            file.write(" ".join(f"w{(i * 7 + j * j) % 99_991}" for j in range(40)) + "\n\n")
    out = tmp_path / "deep" / "out"
    call = (
        "from bert.signals import handled; from bert.cli import main; import sys\n"
        "try:\n  with handled(): code = main()\n"
        "except KeyboardInterrupt: code = 130\n"
        "except SystemExit as error: code = error.code\n"
        "sys.exit(code)"
    )
    more = ["--kind", "bpe"] if name == "tokenizer" else ["--tokenizer", str(tmp_path / "t")]
    command = [sys.executable, "-c", call, name, str(tmp_path / "a.txt"), "--out", str(out), *more]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(out.parent.glob(".out.lock")):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(number)
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "t"]
