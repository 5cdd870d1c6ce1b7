"""Model cards: read by the Hub's own reader, and nothing of what was written is lost on the way."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from bert.errors import InputError
from bert.hf.card import card_header, inherited, measured, written_before
from bert.model.heads import MaskedLM
from tests.hf.hf import OWN, make, make_task


@pytest.mark.parametrize("name", ["bert", "own-rms"])
def test_the_hub_reads_licence_task_and_figures(name: str, tmp_path: Path) -> None:
    model = make(name)
    figures = {"loss": 3.402, "accuracy": 0.393}
    header = card_header(license="apache-2.0", **measured("fill-mask", "valid.txt", figures))
    model.save(tmp_path, card=header + "## Training\non text\n")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "fill-mask"
    assert card.data.library_name == (None if name in OWN else "transformers")
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == figures
    assert {result.dataset_name for result in card.data.eval_results} == {"valid.txt"}
    assert card.text.rstrip().endswith("## Training\non text")
    assert ("No architecture of Hugging Face transformers computes this" in card.text) == (name in OWN)


def test_without_a_word_the_licence_is_unknown_and_no_figure_is_claimed(tmp_path: Path) -> None:
    make_task("bert-tag").save(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "unknown"
    assert card.data.pipeline_tag == "token-classification"
    assert not card.data.eval_results
    assert measured("fill-mask", "x", {}) == {}


@pytest.mark.parametrize(
    ("name", "needs"),
    [("bert-tag", True), ("modernbert-tag", True), ("own-original-tag", False), ("bert-classify", False)],
)
def test_the_card_of_a_tagger_says_which_tokens_of_a_word_a_pipeline_reads(
    name: str, needs: bool, tmp_path: Path
) -> None:
    make_task(name).save(tmp_path)
    text = " ".join(ModelCard.load(tmp_path / "README.md").text.split())
    assert ('a pipeline needs `aggregation_strategy="first"`' in text) is needs


def test_what_was_added_to_a_card_can_be_added_again(tmp_path: Path) -> None:
    added = (
        card_header(license="mit", **measured("fill-mask", "x.txt", {"loss": 1.5}))
        + "## Training\nhere\n\n## More\nthere\n"
    )
    make("bert").save(tmp_path / "first", card=added)
    MaskedLM.load(tmp_path / "first").save(tmp_path / "second", card=written_before(tmp_path / "first"))
    assert (tmp_path / "first" / "README.md").read_bytes() == (tmp_path / "second" / "README.md").read_bytes()
    assert written_before(tmp_path / "nowhere") == ""
    (tmp_path / "README.md").write_text("---\n: [\n---\n# x\n")
    assert written_before(tmp_path) == ""


HEADERS = (
    *(
        "[\n" * 300,
        "a: " + "[\n" * 300,
        "a: !!int ''",
        "a: !!bool x",
        "a: !!timestamp x",
        "a: 2001-99-99",
        "5: x",
        "? [a]\n: b",
    ),
    "a: " + "1:" * 250 + "1.5",
    "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)).replace("*a0", "x"),
    "&a a: [*a, &b [*b]]",
)


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_a_card_that_nobody_can_read_is_no_obstacle_to_a_model_made_from_it(header: str, tmp_path: Path) -> None:
    """It would show when the training is over and the model is to be saved."""
    (tmp_path / "README.md").write_text(f"---\nlicense: mit\n{header}\n---\n# Model\n")
    assert inherited(str(tmp_path)) == {"license": "unknown"}
    assert written_before(tmp_path, "mit") == "---\nlicense: mit\n---\n"
    with pytest.raises(InputError, match="the header of the model card is not YAML") as caught:
        make("bert").save(tmp_path / "model", card=(tmp_path / "README.md").read_text())
    assert "\n" not in str(caught.value)


def test_a_card_of_any_size_is_read_to_a_limit(tmp_path: Path) -> None:
    (tmp_path / "README.md").symlink_to("/dev/zero")
    assert inherited(str(tmp_path)) == {"license": "unknown"}


@pytest.mark.parametrize("header", ["---\n[\n---\n", "---\njust text\n---\n"])
def test_a_header_that_is_no_mapping_is_refused(header: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the header of the model card is not YAML"):
        make("bert").save(tmp_path / "model", card=header)
    assert not (tmp_path / "model").exists()
