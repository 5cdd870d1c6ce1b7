"""One word in its contexts: which occurrences, which vectors, what the baseline is, and what is refused."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from bert import words
from bert.errors import InputError
from bert.probing import words as module
from bert.probing.pictures import words_page
from bert.probing.rows import Row
from tests.encoders import span_vectors
from tests.probing.models import make_masked_lm, sense_rows

MODEL = make_masked_lm()
LINES = [
    "the sweet ripe of the apple is green",
    "the phone profit of the Apple is software, an apple",
    "the market shares of the berry is screen",
    "apples and apple trees",
]


def test_every_occurrence_is_found_in_its_sentence() -> None:
    found = words("apple", LINES, MODEL)
    assert [(one.sentence, one.text) for one in found.occurrences] == [
        (LINES[0], "apple"),
        (LINES[1], "Apple"),
        (LINES[1], "apple"),
        (LINES[3], "apple"),
    ]
    assert found.found == 4
    assert [one.text for one in words("apple", LINES, MODEL, forms=True).occurrences][3] == "apples"
    assert len(words("apple", LINES, MODEL, also=["berry"]).occurrences) == 5
    chinese = words("苹果", ["她在超市买了一个苹果。", "苹果公司发布了新苹果手机。"], MODEL)
    assert [(one.start, one.end) for one in chinese.occurrences] == [(8, 10), (0, 2), (8, 10)]


def test_each_layer_has_the_vectors_and_the_cosines_of_the_occurrences() -> None:
    found = words("apple", LINES, MODEL)
    assert [layer.number for layer in found.layers] == [0, 1, 2]
    spans = [(one.start, one.end) for one in found.occurrences]
    vectors = span_vectors(MODEL, [one.sentence for one in found.occurrences], spans).numpy()
    for column, layer in enumerate(found.layers):
        np.testing.assert_array_equal(layer.vectors, vectors[:, column])
        expected = cosine_similarity(layer.vectors)
        np.testing.assert_allclose(layer.cosines, expected, atol=1e-6)
        assert layer.mean_cosine == pytest.approx(expected[np.triu_indices(4, 1)].mean(), abs=1e-6)
        near = layer.nearest(0, 2)
        assert [place for place, _ in near] == (np.argsort(-expected[0, 1:], kind="stable")[:2] + 1).tolist()
        assert near[0][1] == pytest.approx(expected[0, 1:].max(), abs=1e-6)
    assert found.layer(1) is found.layers[1]
    assert [layer.number for layer in words("apple", LINES, MODEL, layers=[-1]).layers] == [2]


def test_the_baseline_is_the_mean_cosine_of_all_tokens_where_they_are_few() -> None:
    lines = ["the apple is green", "the berry is sour"]
    found = words("apple", lines, MODEL)
    tokens = [
        (line, span) for line in lines for span in MODEL.tokenizer.encode_with_offsets(line)[1][1:-1]
    ]  # fewer than are drawn
    vectors = span_vectors(MODEL, [line for line, _ in tokens], [span for _, span in tokens]).numpy()
    upper = np.triu_indices(len(tokens), 1)
    for column, layer in enumerate(found.layers):
        assert layer.baseline == pytest.approx(cosine_similarity(vectors[:, column])[upper].mean(), abs=1e-5)


def test_senses_of_rows_and_of_a_list_are_the_same() -> None:
    rows = [row for row in sense_rows() if row.word == "apple"]
    by_rows = words("apple", sense_rows(), MODEL)
    by_list = words("apple", [row.sentence for row in rows], MODEL, senses=[row.sense for row in rows])
    assert [one.sense for one in by_rows.occurrences] == [row.sense for row in rows]
    for one, other in zip(by_rows.layers, by_list.layers, strict=True):
        assert one.senses == other.senses
        assert one.senses.within > one.senses.between or one.number < 2


def test_rows_with_senses_of_other_words_do_not_count_but_are_searched_for_a_word_without_senses() -> None:
    rows = [
        Row("an apple and a berry", "", "berry", (15, 20), "x"),
        Row("an apple, an apple", "", "apple", (13, 18), "y"),
    ]
    (one,) = words("apple", rows, MODEL).occurrences
    assert (one.start, one.end, one.sense) == (13, 18, "y")
    assert [one.sense for one in words("an", rows, MODEL).occurrences] == [None, None, None]


def test_the_same_seed_gives_the_same_and_a_sample_is_taken_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_OCCURRENCES", 20)
    lines = [f"the apple is {n}" for n in range(50)]
    first, again, other = (words("apple", lines, MODEL, layers=[2], clusters=2, seed=seed) for seed in (3, 3, 4))
    assert (first.found, len(first.occurrences)) == (50, 20)
    assert first.occurrences == again.occurrences != other.occurrences
    np.testing.assert_array_equal(first.layers[0].clusters, again.layers[0].clusters)
    assert first.layers[0].baseline == again.layers[0].baseline
    assert "50 occurrences, sample of 20" in str(first)


def test_senses_left_out_of_a_sample_are_counted(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setattr(module, "MOST_OCCURRENCES", 20)
    lines = [f"the apple is {n}" for n in range(50)]
    words("apple", lines, MODEL, layers=[2], clusters=2, senses=[f"sense {n % 20}" for n in range(50)])
    assert said == []
    words("apple", lines, MODEL, layers=[2], clusters=2, senses=[f"sense {n % 25}" for n in range(50)])
    assert said == ["5 senses of apple are left out: at most 20 occurrences are compared"]


def test_one_occurrence_is_shown_without_figures_that_need_two() -> None:
    found = words("berry", ["a berry"], MODEL)
    assert np.isnan(found.layers[0].mean_cosine)
    assert found.layers[0].silhouette is None
    assert "1 occurrence" in str(found)
    assert "–" in str(found)


def test_the_matrix_is_printed_where_occurrences_are_few_and_clusters_where_many() -> None:
    few = str(words("apple", LINES, MODEL))
    assert "cosines at layer 2" in few
    assert "1.00" in few
    many = str(words("apple", sense_rows(), MODEL, clusters=3))
    assert "cluster 0: " in many
    assert "(f" in many
    assert max(map(len, many.splitlines())) <= 120
    assert "[bold]" in str(words("apple", ["[bold] apple", "an apple"], MODEL))


def test_the_summary_is_the_same_text_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    found = words("apple", LINES, MODEL)
    expected = str(found)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)  # rich would show the table and leave the text empty
    assert str(found) == expected


@pytest.mark.parametrize(
    ("word", "sentences", "options", "message"),
    [
        (
            "aple",
            LINES,
            {},
            r"aple is not in the 4 sentences: similar words are apple, apples; `forms` also finds inflected forms",
        ),
        ("zzz", LINES, {"forms": True}, "zzz is not in the 4 sentences, and no similar word$"),
        ("苹国", ["一个苹果"], {}, "similar words are .*苹果"),
        (" ", LINES, {}, "the word is empty"),
        ("apple", ["", " "], {}, "no sentences: all are empty"),
        ("apple", [], {}, "no sentences"),
        ("apple", "apple", {}, r"sentences is 'apple'; must be Sequence\[str\] \| Sequence\[Row\] \| Path$"),
        ("apple", LINES, {"layers": []}, "no layers: name at least one"),
        ("apple", LINES, {"layers": [3]}, r"layer 3: the model has layers 0 \(the embeddings\) to 2"),
        ("apple", LINES, {"clusters": 0}, "clusters is 0: give 1 or more"),
        ("apple", LINES, {"senses": ["a"]}, "1 senses for 4 sentences"),
        ("apple", ["👍", "\u200b", "🍎🍎"], {}, "apple is not in the 3 sentences"),
        ("\u200b", ["a \u200b b"], {}, "the word is empty"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(word: str, sentences: list[str], options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        words(word, sentences, MODEL, **options)


def test_occurrences_that_the_tokenizer_does_not_know_are_counted_in_the_summary_and_on_the_page() -> None:
    found = words("щука", ["the щука and the cat", "Щука", "the cat sat on the mat"], MODEL, also=["cat"])
    assert (len(found.occurrences), found.unknown) == (4, 2)
    assert str(found).startswith("щука: 4 occurrences, 2 of them unknown to the model ([UNK])\n")
    assert "4 compared, 2 unknown to the model ([UNK])" in words_page(found)
    known = words("cat", ["the cat and the щука"], MODEL)
    assert known.unknown == 0
    assert "[UNK]" not in str(known) + words_page(known)


def test_advice_names_english_forms_for_english_words_alone() -> None:
    with pytest.raises(InputError, match=r"similar words are 강아지가; `also` finds other forms that you name$"):
        words("강아지", ["강아지가 왔다"], MODEL)
    with pytest.raises(InputError, match=r"no similar word; `forms` also finds inflected forms, by English rules$"):
        words("puppy", ["강아지가 왔다"], MODEL)
    with pytest.raises(InputError, match=r"similar words are 강아지가$"):
        words("강아지", ["강아지가 왔다"], MODEL, also=["강아지는"])


def test_a_row_s_word_is_compared_as_it_is_found() -> None:
    rows = [Row("izmir ve İzmir", "", "İZMİR", (9, 14), "x"), Row("Ｉｚｍｉｒ", "", "izmir", None, "y")]
    assert [(one.text, one.sense) for one in words("izmir", rows, MODEL).occurrences] == [
        ("İzmir", "x"),
        ("Ｉｚｍｉｒ", "y"),
    ]


@pytest.mark.parametrize(
    "sentences", [None, 7, {"sentence": "a"}, [{"word": "apple", "sentence": "an apple"}], ["an apple", None]]
)
def test_what_is_no_list_of_sentences_is_refused_and_not_searched_as_its_repr(sentences: object) -> None:
    with pytest.raises(
        InputError, match=r"^sentences(\[[01]\])? is .*; must be Sequence\[str\] \| Sequence\[Row\] \| Path$"
    ):
        words("apple", sentences, MODEL)  # type: ignore[arg-type]


def test_an_emoji_is_a_word_too() -> None:
    assert len(words("👍", ["👍", "well 👍 done"], MODEL).occurrences) == 2


def test_rows_that_mark_another_word_do_not_lend_their_sense() -> None:
    rows = [
        Row("an apple on a berry", "", None, (14, 19), "green"),
        Row("an apple, an apple", "", None, (13, 18), "sweet"),
        Row("no apple", "", None, None, "none"),
    ]
    found = words("apple", rows, MODEL).occurrences
    assert [(one.start, one.sense) for one in found] == [(13, "sweet"), (3, "none")]
    assert [one.text for one in words("berry", rows, MODEL).occurrences] == ["berry"]


def test_rows_in_which_their_word_is_not_found_are_counted(said: list[str]) -> None:
    rows = [
        Row("the apples fell", "a.tsv, line 2", "apple", None, "x"),
        Row("an apple", "a.tsv, line 3", "apple", None, "y"),
    ]
    assert [one.sense for one in words("apple", rows, MODEL).occurrences] == ["y"]
    (note,) = said
    assert note.startswith(
        "1 of 2 rows of apple are left out: it is not in their sentences (a.tsv, line 2 is the first)"
    )
    assert len(words("apple", rows, MODEL, forms=True).occurrences) == 2
    assert len(said) == 1


def test_a_layer_may_be_a_number_of_numpy() -> None:
    assert [layer.number for layer in words("apple", LINES, MODEL, np.int64(1)).layers] == [1]  # type: ignore[arg-type]


def test_a_list_of_some_senses_of_a_cluster_ends_in_an_ellipsis() -> None:
    lines = ["an apple"] * 15
    for most, end in ((4, " 3)"), (5, ", …)")):
        printed = str(words("apple", lines, MODEL, layers=[2], senses=[f"s{n % most}" for n in range(15)]))
        assert "cluster 0: 15 occurrences (s0 " in printed
        assert printed[: printed.index("\n    an [apple]")].endswith(end)
