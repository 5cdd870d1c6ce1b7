"""Pages and pictures of a word: what they say and draw is what was computed."""

import re
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.metrics.pairwise import cosine_similarity

from bert import words
from bert.probing import pictures
from bert.probing import words as words_module
from bert.probing.pictures import map_of_words, words_page, words_png
from bert.report import maps
from tests.probing.models import FIRM, FRUIT, make_masked_lm, sentence
from tests.report.reader import Reader

MODEL = make_masked_lm()


def made(fruit: int = 30, firm: int = 6, labeled: bool = True) -> words_module.Words:
    """Occurrences of which every sixth, if there are as many, has another sense."""
    texts = [sentence("apple", FRUIT, n) for n in range(fruit)] + [sentence("apple", FIRM, n) for n in range(firm)]
    senses = ["fruit"] * fruit + ["firm"] * firm
    order = np.argsort([n % fruit for n in range(fruit)] + [n * fruit / max(1, firm) + 0.5 for n in range(firm)])
    return words("apple", [texts[n] for n in order], MODEL, senses=[senses[n] for n in order] if labeled else None)


def test_a_rare_sense_is_among_the_occurrences_compared_and_among_the_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words_module, "MOST_OCCURRENCES", 60)
    monkeypatch.setattr(maps, "MOST_MARKS", 12)
    for seed in range(5):
        rows = [sentence("apple", FRUIT, n) for n in range(299)] + [sentence("apple", FIRM, 1)]
        found = words("apple", rows, MODEL, layers=[2], senses=["fruit"] * 299 + ["firm"], seed=seed)
        assert Counter(one.sense for one in found.occurrences) == {"fruit": 59, "firm": 1}
        word = map_of_words(found)
        assert Counter(word.groups[index] for index in word.drawn()) == {"fruit": 11, "firm": 1}


def test_a_sense_at_every_sixth_row_has_its_share_of_the_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "MOST_MARKS", 12)
    found = made(60, 12)
    (content,) = Reader(maps.layer_map(map_of_words(found))).data
    groups = [content["groups"][item[3]] for item in content["items"]][:12]
    assert Counter(groups) == {"fruit": 10, "firm": 2}


def test_the_silhouette_beside_a_map_is_that_of_the_colors_drawn_in_it() -> None:
    for labeled in (True, False):
        found = made(labeled=labeled)
        word = map_of_words(found)
        shown = word.measures["silhouette of the colors"]
        for layer, value in zip(found.layers[1:], shown[1:], strict=True):
            expected = silhouette_score(layer.vectors, list(word.groups), metric="cosine")
            assert value == pytest.approx(expected, abs=1e-5)
    own = [layer.silhouette for layer in found.layers]
    assert any(one is not None and abs(one - other) > 0.01 for one, other in zip(own[:-1], shown))


def test_senses_told_stand_beside_the_most_frequent_sense_and_rand_is_called_adjusted() -> None:
    found = made(40, 3)
    read = Reader(words_page(found))
    accuracy = found.layer().senses.accuracy
    assert re.search(rf"sense accuracy{accuracy:.1%}", read.text)
    assert f"most frequent sense{40 / 43:.1%}the accuracy of always answering fruit" in read.text
    assert found.most_frequent == ("fruit", 40 / 43)
    assert f"accuracy of always the most frequent sense: {40 / 43:.1%} (fruit)" in str(found)
    word = map_of_words(found)
    assert word.measures["most frequent sense"] == [40 / 43] * 3
    gold = [one.sense for one in found.occurrences]
    for layer, value in zip(found.layers, word.measures["adjusted Rand"], strict=True):
        assert value == pytest.approx(adjusted_rand_score(gold, layer.clusters))
    assert not re.search(r"(?<!adjusted )(?<!adj\. )\bRand", read.text)
    assert not re.search(r"(?<!adj\. )\bRand", str(found))


def test_without_senses_no_constant_answer_is_named() -> None:
    found = made(labeled=False)
    assert "most frequent" not in words_page(found) + str(found)
    assert "Colors and shapes are the clusters of layer 2, in all layers." in words_page(found)


def test_a_map_names_its_principal_components_and_their_share_and_claims_no_more() -> None:
    found = made()
    text = Reader(words_page(found)).text
    assert "principal components (PCA)" in text
    assert not re.search(r"lie together|close together have|like vectors|similar vectors", text)
    shares = map_of_words(found).measures["variance shown (PCA)"]
    for layer, share in zip(found.layers[1:], shares[1:], strict=True):
        directions = layer.vectors / np.linalg.norm(layer.vectors, axis=1, keepdims=True)
        assert share == pytest.approx(PCA(2).fit(directions).explained_variance_ratio_.sum(), abs=1e-4)


def test_the_readout_of_a_mark_and_its_card_name_the_same_neighbors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "MOST_MARKS", 10)
    found = made(50, 10)
    cosines = cosine_similarity(found.layer().vectors.astype(float))
    np.fill_diagonal(cosines, -1)
    word = map_of_words(found)
    (content,) = Reader(maps.layer_map(word)).data
    shown = np.array(content["near"][-1]["cosines"]).reshape(10, 3) / 100
    assert shown == pytest.approx(np.sort(cosines[word.drawn()])[:, :-4:-1], abs=0.0051)
    cards = pictures.nearest_contexts(found)
    best = [
        float(re.findall(r"<output>(.*?)</output>", card)[0].replace("\N{MINUS SIGN}", "-"))
        for card in cards.split("figcaption>")[2::2]
    ]
    assert set(np.round(best, 2)) <= set(np.round(cosines.max(axis=1), 2).tolist())
    assert len(best) == pictures.SENTENCES
    assert len(set(re.findall(r"<figcaption><svg class=\"symbol c(\d)", cards))) == 2  # both senses have a card


def test_titles_with_a_word_of_another_direction_begin_with_a_letter_from_left_to_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a browser (dir=auto) and matplotlib order the title as English, and the word inside it as its own."""
    found = words("תפוח", ["אכלתי תפוח אדום.", "תפוח ירוק נפל."], make_masked_lm("bpe"))
    read = Reader(words_page(found, model="מודל", source="קובץ"))
    titles: list[str] = []
    monkeypatch.setattr(pictures, "layer_scatter_png", lambda *arguments: titles.append(arguments[-1]) or "")
    words_png(found, tmp_path / "a.png")
    texts = [text for text in read.texts if "תפוח" in text and ("ontexts" in text or "layer" in text)] + titles
    assert len(texts) == 3  # title, h1, PNG
    for text in texts:
        strong = next(kind for kind in map(unicodedata.bidirectional, text) if kind in ("L", "R", "AL"))
        assert strong == "L"
        assert text.endswith("תפוח")
