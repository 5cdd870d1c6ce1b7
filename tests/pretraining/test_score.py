"""Scores on fixed masks against transformers and by hand."""

import zipfile

import numpy as np
import pytest
import torch

from bert import untrusted
from bert.errors import InputError
from bert.model.config import EncoderConfig
from bert.model.heads import MaskedLM
from bert.pretraining.score import read_masked, score_masked

SMALL = EncoderConfig(vocab_size=128, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=32, max_length=32)


@pytest.fixture
def masked(tmp_path):
    generator = np.random.default_rng(0)
    input_ids = generator.integers(5, 128, (50, 20)).astype(np.uint16)
    labels = np.where(generator.random((50, 20)) < 0.15, generator.integers(5, 128, (50, 20)), -100).astype(np.int16)
    np.savez(tmp_path / "masked.npz", input_ids=input_ids, labels=labels)
    return tmp_path / "masked.npz"


def test_a_score_is_the_mean_cross_entropy_and_accuracy_over_the_targets(masked):
    torch.manual_seed(0)
    model = MaskedLM(SMALL)
    score = score_masked(model, masked, batch_size=7)
    input_ids, labels = read_masked(masked)
    with torch.no_grad():
        logits = model.eval()(input_ids).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    right = (logits.argmax(-1) == labels)[labels >= 0].float().mean()
    assert score.loss == pytest.approx(float(expected), rel=1e-5)
    assert score.accuracy == pytest.approx(float(right))
    assert score.targets == int((labels >= 0).sum())


@pytest.mark.hf
def test_transformers_scores_the_saved_folder_the_same(masked, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    model = MaskedLM(SMALL)
    model.save(tmp_path / "model")
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "model").eval()
    input_ids, labels = read_masked(masked)
    with torch.no_grad():
        loss = theirs(input_ids=input_ids, labels=labels).loss
    assert score_masked(model, masked).loss == pytest.approx(float(loss), abs=1e-5)


@pytest.mark.data
def test_the_yardstick_has_its_number_of_targets(data):
    input_ids, labels = read_masked(data / "enwiki" / "valid-masked-8192.npz")
    assert input_ids.shape == (1024, 128)
    assert int((labels >= 0).sum()) == 19_456


@pytest.mark.parametrize("name", ["masked.npz", "table.npy"])
def test_a_damaged_file_is_refused(masked, name):
    """A truncated archive, and an array that is no archive."""
    content = masked.read_bytes()
    np.save(masked.with_name("table.npy"), np.zeros((2, 3)))
    masked.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"not an \.npz file"):
        score_masked(MaskedLM(SMALL), masked.with_name(name))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"input_ids": np.zeros((2, 3))}, "has no array labels"),
        ({"input_ids": np.zeros((2, 3)), "labels": np.zeros((2, 4))}, "must be two tables of one shape"),
        ({"input_ids": np.full((2, 3), np.inf), "labels": np.zeros((2, 3))}, "input_ids holds NaN or infinity"),
        ({"input_ids": np.zeros((0, 3)), "labels": np.zeros((0, 3))}, "hold sequences"),
        ({"input_ids": np.zeros((2, 3)), "labels": np.full((2, 3), -100)}, "nothing to score"),
        ({"input_ids": np.full((2, 3), -1), "labels": np.zeros((2, 3))}, "ids are 0 or more"),
        ({"input_ids": np.full((2, 3), 500), "labels": np.zeros((2, 3))}, "token id 500"),
        (
            {"input_ids": np.zeros((2, 40)), "labels": np.zeros((2, 40))},
            "sequences of 40 tokens are longer than the model's 32",
        ),
    ],
)
def test_files_that_cannot_be_scored_are_refused(arrays, message, tmp_path):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=message):
        score_masked(MaskedLM(SMALL), tmp_path / "bad.npz")


def npz(file, header, content=b"", compression=zipfile.ZIP_DEFLATED):
    """An .npz whose arrays have such a header and such a content."""
    text = header.ljust(117) + "\n"
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name in ("input_ids", "labels"):
            archive.writestr(
                f"{name}.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + content
            )
    return file


@pytest.mark.parametrize(
    ("header", "content"),
    [
        ("{'descr': '<i8', 'fortran_order': False, 'shape': (1048576, 33554432)}", b""),
        ("{'descr': '<i8', 'fortran_order': False, 'shape': (-1, -2)}", b"0" * 16),
        ("{'descr': '<i8', 'fortran_order': False, 'shape': (2, 2)}", b"0" * 24),
        ("{'descr': '<i8', 'fortran_order': False, 'shape': (2, 2)}", b"0" * 40),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"cos\nsystem\n(S'true'\ntR."),
        ("{'descr': '<U9', 'fortran_order': False, 'shape': (1,)}", b"0" * 36),
        ("{'descr': '<i8', 'fortran_order': False, 'shape': " + "(" * 90, b""),
        ("{'descr': '<i8', 'fortran_order': False, 'shape': (536870912,)}", None),
    ],
    ids=["huge", "negative", "short", "long", "pickle", "text", "nested", "bomb"],
)
def test_an_npz_that_says_something_else_than_it_holds_is_refused_before_memory_is_asked_for(
    tmp_path, monkeypatch, header, content
):
    if content is None:  # a megabyte of zeros stands for the gigabytes of a bomb
        monkeypatch.setattr(untrusted, "_MOST_UNPACKED", 1000)
        content, header = bytes(1 << 20), header.replace("536870912", "131072")
    file = npz(tmp_path / "bad.npz", header, content)
    with pytest.raises(InputError, match=r"bad\.npz: not an \.npz file: give one with input_ids and labels$"):
        read_masked(file)
