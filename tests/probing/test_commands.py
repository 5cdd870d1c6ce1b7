"""`bert words`, `senses`, `score`, `attend` and `embed` from the command line: what they print, write and refuse."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from bert import score
from bert.cli import main
from bert.commands import embedding
from bert.commands.options import output
from bert.errors import InputError
from bert.probing.vectors import embedded
from tests.probing.models import make_masked_lm, sense_rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("probing") / "model"
    make_masked_lm().save(folder)
    return str(folder)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [
        {"word": row.word, "sentence": row.sentence, "start": row.span[0], "end": row.span[1], "sense": row.sense}
        for row in sense_rows()
    ]
    (tmp_path / "senses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "lines.txt").write_text(
        "the apple <script>alert(1)</script> is sweet\nApple shares, an apple\n\n苹果 apple\n"
    )
    (tmp_path / "one.txt").write_text("the cat sat on the mat\n")
    (tmp_path / "pairs.jsonl").write_text(
        '{"good": "the cat sat", "bad": "sat the cat"}\n{"good": "mat", "bad": "apple"}\n'
    )
    return tmp_path


@pytest.fixture
def runs(place: Path, model: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        capsys.readouterr()
        assert main([*arguments, "--model", model]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run


def test_words_prints_layers_and_writes_a_page_and_a_picture(runs: Callable[..., str], place: Path) -> None:
    printed = runs("words", "apple", "--sentences", "lines.txt", "--html", "a.html", "--png", "a.png")
    assert "apple: 4 occurrences" in printed
    assert "cosines at layer 2" in printed
    page = (place / "a.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert (place / "a.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in place.iterdir() if path.name.startswith((".", "a."))) == ["a.html", "a.png"]


def test_words_takes_senses_a_layer_forms_and_clusters(runs: Callable[..., str], place: Path) -> None:
    printed = runs(
        "words", "apple", "--sentences", "senses.jsonl", "--layer", "1", "--clusters", "2", "--html", "s.html"
    )
    assert "of senses" in printed
    assert "clusters at layer 1" in printed
    assert "fruit" in (place / "s.html").read_text(encoding="utf-8")
    (place / "forms.txt").write_text("two apples\nthe mice\n")
    assert "2 occurrences" in runs("words", "apple", "--sentences", "forms.txt", "--forms", "--also", "mice")


def test_words_writes_its_occurrences_and_their_vectors(runs: Callable[..., str], place: Path) -> None:
    runs("words", "apple", "--sentences", "senses.jsonl", "--out", "apple.tsv")
    written = pd.read_csv(place / "apple.tsv", sep="\t")
    assert [*written] == ["sentence", "start", "end", "form", "sense", "cluster", "nearest"]
    assert {*written["sense"]} == {"fruit", "firm"}
    assert [text[a:b] for text, a, b in written[["sentence", "start", "end"]].values] == [*written["form"]]
    runs("words", "apple", "--sentences", "senses.jsonl", "--out", "apple.NPZ")
    with np.load(place / "apple.NPZ") as arrays:  # without pickles
        assert {*arrays} == {*written, "vectors"}
        assert all(arrays[name].tolist() == written[name].tolist() for name in written)
        last = arrays["vectors"][:, -1]
        cosines = cosine_similarity(last) - 3 * np.eye(len(last))
        nearest = [str(arrays["sentence"][n]) for n in cosines.argmax(axis=1)]
        assert arrays["nearest"].tolist() == nearest
    runs("words", "mat", "--sentences", "one.txt", "--out", "one.tsv")
    assert (place / "one.tsv").read_text().splitlines()[1] == "the cat sat on the mat\t19\t22\tmat\t\t0\t"


@pytest.mark.parametrize("suffix", ["npz", "parquet", "tsv"])
@pytest.mark.parametrize("of", [[], ["--words", "--layer", "1", "--pooling", "last"]])
def test_embed_writes_the_vectors_of_python(
    runs: Callable[..., str], place: Path, model: str, suffix: str, of: list[str]
) -> None:
    printed = runs("embed", "lines.txt", "--out", f"x.{suffix}", *of)
    texts = ["the apple <script>alert(1)</script> is sweet", "Apple shares, an apple", "", "苹果 apple"]
    columns, vectors = embedded(texts, model, *([True, 1, "last"] if of else []))
    assert printed == f"x.{suffix}: vectors of {len(vectors)} {'words' if of else 'texts'}, 32 dimensions each\n"
    if suffix == "npz":
        with np.load(place / "x.npz") as arrays:
            found, got = {name: arrays[name].tolist() for name in columns}, arrays["vectors"]
    elif suffix == "parquet":
        table = pd.read_parquet(place / "x.parquet")
        found, got = {name: table[name].tolist() for name in columns}, np.stack([*table["vector"]])
    else:
        table = pd.read_csv(place / "x.tsv", sep="\t", keep_default_na=False)
        found, got = {name: table[name].tolist() for name in columns}, table.loc[:, "v0":"v31"].to_numpy(np.float32)
    assert found == {name: [*column] for name, column in columns.items()}
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, vectors, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "x.csv"], "--out x.csv: give a name that ends in .npz or .parquet or .tsv"),
        (["--out", "x.npz", "--layer", "9"], "layer 9: the model has layers 0 (the embeddings) to 2"),
        (["--out", "x.npz", "--pooling", "first"], "pooling is first: give mean or cls"),
        (["--out", "x.npz", "--words", "--pooling", "cls"], "pooling is cls; must be mean or first or last for words"),
    ],
)
def test_embed_refuses_in_one_line_and_writes_nothing(
    place: Path, model: str, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["embed", "lines.txt", "--model", model, *options]) == 2
    assert capsys.readouterr().err == f"bert: {message}\n"
    assert not [*place.glob("*x.*")]


def test_senses_prints_and_writes_every_metric(runs: Callable[..., str], place: Path) -> None:
    printed = runs("senses", "senses.jsonl", "--out", "s.json")
    assert "layers 1–2" in printed
    content = json.loads((place / "s.json").read_text(encoding="utf-8"))
    assert content["headline"] == "layers 1–2"
    assert {row["word"] for row in content["words"]} == {"apple", "berry"}
    runs("senses", "senses.jsonl", "--test", "senses.jsonl", "--words", "berry", "--out", "s.tsv")
    lines = (place / "s.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "word\tmethod\taccuracy\tmacro_f1\tsenses\ttrain\ttest\tsd\trandom_encoder"
    assert len(lines) == 11
    assert lines[1].endswith("\t2\t20\t20\t\t")


def test_score_prints_sentences_and_pairs(
    runs: Callable[..., str], monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    lines = runs("score", "lines.txt").splitlines()
    assert lines[0] == "score\tper token\tsentence"
    assert [line.split("\t")[2] for line in lines[1:]][1:] == ["Apple shares, an apple", "", "苹果 apple"]
    assert lines[3] == "–\t–\t"  # a line of the file is a line of the table
    pairs = runs("score", "pairs.jsonl").splitlines()
    assert len(pairs) == 4
    right = sum(line.split("\t")[2] == "yes" for line in pairs[1:3])
    assert pairs[3].startswith(
        f"accuracy {right / 2:.1%}: the good sentence has the higher score in {right} of 2 pairs"
    )


def test_minimal_pairs_are_told_by_phenomenon_and_written_one_by_one(runs: Callable[..., str], place: Path) -> None:
    rows = [("the cat sat", "sat the cat", "order"), ("mat", "apple", "words"), ("cat", "cat", "words")] * 2
    keys = ("good", "bad", "phenomenon")
    (place / "blimp.jsonl").write_text("".join(json.dumps(dict(zip(keys, row))) + "\n" for row in rows))
    printed = runs("score", "blimp.jsonl", "--minimal-pairs", "--out", "p.tsv").splitlines()
    assert printed[0].split() == ["phenomenon", "pairs", "right", "ties", "accuracy"]
    told = {line.split()[0]: line.split()[1:] for line in printed[2:5]}
    assert list(told) == ["order", "words", "all"]
    written = [line.split("\t") for line in (place / "p.tsv").read_text(encoding="utf-8").splitlines()]
    assert written[0] == "phenomenon field paradigm good_score bad_score verdict good bad".split()
    assert [(row[6], row[7], row[0]) for row in written[1:]] == rows
    for name, (pairs, right, ties, accuracy) in told.items():
        verdicts = [row[5] for row in written[1:] if name in (row[0], "all")]
        assert (int(pairs), int(right), int(ties)) == (
            len(verdicts),
            verdicts.count("right"),
            verdicts.count("tie"),
        )
        assert accuracy == f"{verdicts.count('right') / len(verdicts):.1%}"
    assert told["words"][2] == "2"
    assert printed[5].startswith("2 pairs are ties")
    limited = runs("score", "blimp.jsonl", "--minimal-pairs", "--limit", "1").splitlines()
    assert [line.split()[1] for line in limited[2:5]] == ["1", "1", "2"]
    runs("score", "blimp.jsonl", "--out", "p.json")
    content = json.loads((place / "p.json").read_text(encoding="utf-8"))
    assert content["all"]["pairs"] == len(content["pairs"]) == 6
    assert [group["name"] for group in content["phenomenon"]] == ["order", "words"]


def test_a_tilde_in_the_name_of_an_output_is_ones_home(
    runs: Callable[..., str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(place))
    runs("score", "lines.txt", "--out=~/home.tsv")
    runs("attend", "The cat", "--png=~/home.png")
    assert (place / "home.tsv").is_file()
    assert (place / "home.png").is_file()


def test_sentences_are_written_with_each_token(runs: Callable[..., str], place: Path, model: str) -> None:
    texts = (place / "lines.txt").read_text(encoding="utf-8").splitlines()
    content = {}
    for within_word in (False, True):
        runs("score", "lines.txt", *["--within-word"] * within_word, "--out", "s.json")
        content[within_word] = json.loads((place / "s.json").read_text(encoding="utf-8"))
        for row, one in zip(content[within_word], score(texts, model, within_word=within_word), strict=True):
            assert row["log_probabilities"] == pytest.approx(one.log_probabilities)
    assert content[False] != content[True]
    content = content[True]
    assert len(content) == 4
    assert content[1]["score"] == pytest.approx(sum(content[1]["log_probabilities"]))
    assert content[2] == {"score": None, "per_token": None, "sentence": "", "tokens": [], "log_probabilities": []}
    runs("score", "lines.txt", "--out", "s.tsv")
    assert (place / "s.tsv").read_text(encoding="utf-8").splitlines()[3] == "\t\t"


def test_a_cell_of_a_table_has_no_tab_and_no_line_end(runs: Callable[..., str], place: Path) -> None:
    (place / "cells.csv").write_text('sentence\n"the\tcat\nsat"\nthe mat\n')
    assert [line.count("\t") for line in runs("score", "cells.csv").splitlines()] == [2, 2, 2]


def test_one_occurrence_has_no_mean_cosine(runs: Callable[..., str], place: Path) -> None:
    (place / "one.txt").write_text("the apple is sweet\n")
    runs("words", "apple", "--sentences", "one.txt", "--html", "one.html", "--png", "one.png")
    assert ">nan<" not in (place / "one.html").read_text(encoding="utf-8")


def test_attend_prints_and_draws_a_head(runs: Callable[..., str], place: Path) -> None:
    printed = runs("attend", "The cat sat", "--layer", "2", "--head", "1", "--png", "cat.png")
    assert printed.startswith("layer 2, head 1\n")
    assert (place / "cat.png").read_bytes().startswith(b"\x89PNG")
    assert runs("attend", "The cat sat").startswith("layer ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["words", "aple", "--sentences", "lines.txt"], "aple is not in the 3 sentences: similar words are apple"),
        (
            ["words", "apple", "--sentences", "line.txt"],
            "line.txt: no such file: give another path. Did you mean `lines.txt`?",
        ),
        (["words", "apple", "--sentences", "empty.txt"], "empty.txt: no sentences"),
        (["words", "apple", "--sentences", "emoji.txt"], "apple is not in the 2 sentences"),
        (["words", "apple", "--sentences", "lines.txt", "--layer", "7"], "layer 7: the model has layers 0"),
        (["words", "apple", "--sentences", "lines.txt", "--clusters", "0"], "--clusters 0: give 1 or more"),
        (["words", "apple", "--sentences", "lines.txt", "--clusters", "99"], "clusters is 99 and apple occurs"),
        (["words", "apple", "--sentences", "lines.txt", "--html", "no/a.html"], "--html no/a.html: no folder no"),
        (
            ["words", "apple", "--sentences", "lines.txt", "--html", "a.pdf"],
            "--html a.pdf: give a name that ends in .html",
        ),
        (
            ["words", "apple", "--sentences", "lines.txt", "--html", "d.html"],
            "--html d.html: is a folder: give the path of a file",
        ),
        (["words", "apple", "--sentences", "spans.jsonl"], "spans.jsonl, line 1: characters 3 to 99 are not inside"),
        (["senses", "lines.txt"], "lines.txt, line 1: no value in column 'word'"),
        (["senses", "columns.jsonl"], "columns.jsonl: no column `sentence`; there are: word, sense. Rename a column."),
        (["senses", "senses.jsonl", "--words", "aple"], "aple: no row has this word. Did you mean `apple`?"),
        (["words", "apple", "--sentences", "lines.txt", "--seed", "-1"], "seed is -1: give a whole number from 0"),
        (["senses", "senses.jsonl", "--seed", "99999999999"], "seed is 99999999999: give a whole number from 0"),
        (
            ["words", "apple", "--sentences", "lines.html", "--html", "lines.html"],
            "--html lines.html: would overwrite the input",
        ),
        (
            ["words", "apple", "--sentences", "mixed.jsonl"],
            "mixed.jsonl, line 2: no sense of apple, which other rows have",
        ),
        (["words", "apple", "--sentences", "true.jsonl"], "true.jsonl, line 1: start is True: give a whole number"),
        (["attend", "the cat " * 400], "tokens"),
        (["senses", "senses.tsv", "--out", "senses.tsv"], "--out senses.tsv: would overwrite the input"),
        (["senses", "senses.jsonl", "--out", "x.csv"], "--out x.csv: give a name that ends in .json or .tsv"),
        (["score", "half.jsonl"], "half.jsonl, line 1: no sentence in column 'bad'"),
        (["score", "zero.jsonl"], "zero.jsonl, line 1: no token in the sentence"),
        (["senses", "senses.jsonl", "--config", "bad.yaml"], "bad.yaml: unknown key `plain_centroid`. Did you mean"),
        (["senses", "senses.jsonl", "--plain_centroids", "7"], "plain_centroids is 7: give true or false"),
        (["score", "lines.txt", "--minimal-pairs"], "lines.txt: no columns good and bad: give .jsonl"),
        (["score", "senses.jsonl", "--minimal-pairs"], "senses.jsonl: no columns good and bad"),
        (["score", "lines.txt", "--limit", "3"], "lines.txt: no columns good and bad"),
        (["score", "pairs.jsonl", "--limit", "0"], "--limit 0: give 1 or more"),
        (["score", "none.tsv"], "none.tsv: no pairs"),
        (["score", "pairs.jsonl", "--out", "x.csv"], "--out x.csv: give a name that ends in .tsv or .json"),
        (["score", "none.tsv", "--out", "none.tsv"], "--out none.tsv: would overwrite the input"),
        (["senses", "few.jsonl"], "give test rows, or 5 rows or more of each of two senses"),
        (["attend", "\u200b"], "has no token: give a text with a word in it"),
        (["attend", "lines.txt"], "lines.txt: is a file: give one sentence"),
        (["attend", "The cat", "--layer", "9"], "layer 9: the model has layers 1 to 2"),
        (["attend", "The cat", "--head", "5"], "head 5: a layer of the model has heads 0 to 1"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    place: Path, model: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (place / "empty.txt").write_text("\n")
    (place / "emoji.txt").write_text("👍🎉\n\u200b\u200d\n", encoding="utf-8")
    (place / "spans.jsonl").write_text(
        '{"word": "apple", "sentence": "an apple", "start": 3, "end": 99, "sense": "a"}\n'
    )
    (place / "columns.jsonl").write_text('{"word": "apple", "sense": "a"}\n')
    (place / "half.jsonl").write_text('{"good": "a"}\n')
    (place / "bad.yaml").write_text("plain_centroid: true\n")
    (place / "none.tsv").write_text("good\tbad\n")
    (place / "zero.jsonl").write_text('{"good": "a", "bad": "\\u200b"}\n')
    (place / "few.jsonl").write_text('{"word": "apple", "sentence": "an apple", "sense": "a"}\n')
    (place / "senses.tsv").write_text("word\tsentence\tsense\n")
    (place / "mixed.jsonl").write_text(
        '{"word": "apple", "sentence": "an apple", "sense": "a"}\n{"word": "apple", "sentence": "the apple"}\n'
    )
    (place / "true.jsonl").write_text('{"word": "apple", "sentence": "an apple", "start": true, "end": 8}\n')
    (place / "lines.html").write_text("the apple\n")
    (place / "d.html").mkdir()
    before = sorted(place.rglob("*"))
    assert main([*arguments, "--model", model]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("bert: ")
    assert errors.count("\n") == 1
    assert message in errors
    assert sorted(place.rglob("*")) == before


def test_models_of_another_task_or_without_weights_are_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_masked_lm()
    model.encoder.save(place / "encoder")
    model.encoder.save(place / "bare")
    (place / "bare" / "model.safetensors").unlink()
    for arguments, message in [
        (["score", "lines.txt", "--model", "encoder"], "an encoder without a masked-LM head"),
        (
            ["words", "apple", "--sentences", "lines.txt", "--model", "bare"],
            "bare: no model.safetensors and no pytorch_model.bin in it",
        ),
        (["attend", "a", "--model", "gone"], "gone: no such folder"),
    ]:
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


def test_no_output_may_lie_in_the_model_that_is_read(tmp_path):
    (tmp_path / "model").mkdir()
    output("--out", str(tmp_path / "model.tsv"), (".tsv",), inputs=[str(tmp_path / "model")])
    with pytest.raises(InputError, match="would overwrite the input"):
        output("--out", str(tmp_path / "model" / "new.tsv"), (".tsv",), inputs=[str(tmp_path / "model")])


def test_standard_output_that_fails_is_not_blamed_on_the_picture(
    place: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(remark: object) -> None:
        raise OSError("standard output")

    monkeypatch.setattr("bert.commands.probing._say", refuse)
    with pytest.raises(OSError, match="standard output"):
        main(["attend", "The cat sat", "--model", model, "--png", "cat.png"])
    assert (place / "cat.png").read_bytes().startswith(b"\x89PNG")


def test_senses_are_measured_at_the_milestones_of_a_run_with_all_that_a_model_has(
    place: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for tokens, loss in ((100, 4.5), (2_000, 3.25)):
        folder = shutil.copytree(model, place / "run" / "milestones" / f"{tokens:015d}")
        (folder / "milestone.json").write_text(json.dumps({"step": 1, "tokens": tokens, "loss": loss}))
    contexts = [
        {"word": word, "sentence1": f"the {word} is ripe", "sentence2": f"a {word} {more}", "same": more == "ripe"}
        for word in ("apple", "berry", "bank", "mouse", "seal")
        for more in ("ripe", "rose")
    ]
    (place / "wic.jsonl").write_text("".join(json.dumps(row) + "\n" for row in contexts))
    over = ["--checkpoints", "run", "--out", "out.tsv"]
    for arguments, names in (
        (
            ["senses.jsonl", "--examples", "2", "--seeds", "2"],
            ["bag of words", "2 a sense, linear probe", "layers 1–2"],
        ),
        (["wic.jsonl"], ["majority", "cosine", "random encoder, linear"]),
    ):
        assert main(["senses", *arguments, *over]) == 0, capsys.readouterr().err
        table = pd.read_csv(place / "out.tsv", sep="\t")
        assert [*table["tokens"]] == [100, 2_000]
        assert [*table["loss"]] == [4.5, 3.25]
        for name in names:
            assert table[name].nunique() == 1  # the same model
        assert max(map(len, capsys.readouterr().out.splitlines())) <= 120
    assert main(["senses", "senses.jsonl", "--checkpoints", "nowhere"]) == 2
    assert capsys.readouterr().err.strip() == "bert: --checkpoints nowhere: there is no such folder: give a run"


def test_an_array_of_texts_that_would_be_large_is_refused(
    place: Path, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NumPy pads each text to the longest one."""
    monkeypatch.setattr(embedding, "MOST_CHARACTERS", 1_000)
    (place / "long.txt").write_text("a\n" * 9 + "b" * 200 + "\n")
    assert main(["embed", "long.txt", "--out", "long.npz", "--model", model]) == 2
    assert ".npz would hold 200 characters for each of 10 texts: give .parquet" in capsys.readouterr().err
    assert main(["embed", "long.txt", "--out", "long.parquet", "--model", model]) == 0
    assert not (place / "long.npz").exists()


def test_pairs_are_scored_by_phenomenon_at_the_milestones_of_a_run(
    place: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(model, place / "run" / "milestones" / f"{100:015d}")
    (folder / "milestone.json").write_text(json.dumps({"step": 1, "tokens": 100, "loss": 4.5}))
    pairs = [{"good": "the cat sat", "bad": "sat the cat", "phenomenon": name} for name in ("order", "order", "more")]
    (place / "named.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    assert main(["score", "named.jsonl", "--minimal-pairs", "--checkpoints", "run", "--out", "out.tsv"]) == 0
    assert (place / "out.tsv").read_text().splitlines()[0] == "tokens\tloss\taccuracy\torder (2)\tmore (1)"


def test_tagged_words_are_no_sentences(place: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "x.conllu").write_text("1\ta\t_\tX\t_\t_\t0\troot\t_\t_\n\n")
    for arguments in (
        ["embed", "x.conllu", "--out", "x.npz"],
        ["words", "a", "--sentences", "x.conllu"],
        ["score", "x.conllu"],
    ):
        assert main([*arguments, "--model", model]) == 2
        assert "x.conllu: holds tagged words: give the sentences as .txt" in capsys.readouterr().err
    (place / "empty.txt").write_text("\x01 \x02\n")
    assert main(["embed", "empty.txt", "--words", "--out", "x.npz", "--model", model]) == 2
    assert "no words" in capsys.readouterr().err
    assert not (place / "x.npz").exists()
