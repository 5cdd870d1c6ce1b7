"""Tensors from every kind of file that a model folder may hold, and what is refused."""

import contextlib
import json
import os
import pickle
import random
import re
import time
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from bert.errors import InputError
from bert.hf.folder import start_masked_lm
from bert.hf.weights import WEIGHTS, listed, read_tensors
from bert.model.encoder import Encoder
from bert.model.heads import MaskedLM
from tests.hf.hf import inputs, make


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    make("bert").save(tmp_path / "model")
    return tmp_path / "model"


def logits(folder: Path) -> torch.Tensor:
    ids, mask, _ = inputs()
    with torch.no_grad():
        return MaskedLM.load(folder)(ids, mask).logits


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}


def put(folder: Path, tensors: object, legacy: bool = False) -> None:
    """Replace the weights of a folder by a pickled file."""
    (folder / "model.safetensors").unlink(missing_ok=True)
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)


def shard(folder: Path, ending: str) -> dict[str, str]:
    """Part the weights of a folder in three files with an index; returns its weight_map."""
    tensors = tensors_of(folder)
    (folder / "model.safetensors").unlink()
    stem = "model" if ending == "safetensors" else "pytorch_model"
    files = [f"{stem}-{part + 1:05d}-of-00003.{ending}" for part in range(3)]
    positions = {name: files[number % 3] for number, name in enumerate(tensors)}
    for file in files:
        part = {name: tensors[name] for name, place in positions.items() if place == file}
        if ending == "safetensors":
            save_file(part, folder / file)
        else:
            torch.save(part, folder / file)
    write_index(folder, stem, ending, positions)
    return positions


def write_index(folder: Path, stem: str, ending: str, positions: dict[str, str]) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": positions}
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickled_file_holds_the_same_model(legacy: bool, saved: Path) -> None:
    before = logits(saved)
    put(saved, OrderedDict(tensors_of(saved)), legacy)
    assert torch.equal(logits(saved), before)


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_parts_with_an_index_hold_the_same_model(ending: str, saved: Path) -> None:
    before = logits(saved)
    shard(saved, ending)
    assert torch.equal(logits(saved), before)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float16, 2e-2), (torch.bfloat16, 2e-1), (torch.float64, 0.0)])
def test_weights_of_another_precision_are_read_as_fp32(dtype: torch.dtype, near: float, saved: Path) -> None:
    before, tensors = logits(saved), tensors_of(saved)
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, saved / "model.safetensors")
    model = MaskedLM.load(saved)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert (logits(saved) - before).abs().max() <= near
    for name, parameter in model.named_parameters():  # what was stored, neither less nor more
        if name.endswith("tokens.weight"):
            stored = tensors["bert.embeddings.word_embeddings.weight"].to(dtype)
            assert torch.equal(parameter, stored.float())


def test_half_precision_weights_of_different_kinds_in_one_matrix_are_read(saved: Path) -> None:
    tensors = tensors_of(saved)
    name = "bert.encoder.layer.0.attention.self.query.weight"
    save_file(tensors | {name: tensors[name].half()}, saved / "model.safetensors")
    assert MaskedLM.load(saved).encoder.layers[0].attention.qkv.weight.dtype == torch.float32


def test_whole_numbers_are_no_weights(saved: Path) -> None:
    tensors = tensors_of(saved)
    name = "bert.encoder.layer.0.output.dense.weight"
    save_file(tensors | {name: tensors[name].to(torch.int8)}, saved / "model.safetensors")
    with pytest.raises(
        InputError,
        match=r"integers in place of weights: bert\.encoder\.layer\.0\.output\.dense\.weight",
    ):
        MaskedLM.load(saved)


def test_a_model_can_learn_and_be_saved_where_it_came_from(saved: Path) -> None:
    """Its weights are mapped from the file: learning must not reach it, and a save replaces it."""
    before = (saved / "model.safetensors").read_bytes()
    model = MaskedLM.load(saved)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert (saved / "model.safetensors").read_bytes() == before
    model.save(saved)
    assert torch.equal(MaskedLM.load(saved).encoder.embeddings.tokens.weight, model.encoder.embeddings.tokens.weight)


class Bomb:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("kind", ["torch", "legacy", "plain pickle"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(kind: str, saved: Path, tmp_path: Path) -> None:
    mark, file = tmp_path / "ran", saved / "pytorch_model.bin"
    tensors: dict[str, object] = {**tensors_of(saved), "extra": Bomb(mark)}
    if kind == "plain pickle":
        (saved / "model.safetensors").unlink()
        file.write_bytes(pickle.dumps(tensors))
    else:
        put(saved, tensors, legacy=kind == "legacy")
    with pytest.raises(InputError, match=r"pytorch_model\.bin: (holds more than tensors|damaged)") as caught:
        MaskedLM.load(saved)
    assert "\n" not in str(caught.value)
    time.sleep(0.05)
    assert not mark.exists()
    if kind == "torch":  # the same file is a bomb indeed
        torch.load(file, weights_only=False)
        assert mark.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_that_are_no_numbers_are_refused_by_name(dtype: torch.dtype, value: float, saved: Path) -> None:
    name = "bert.encoder.layer.1.attention.self.key.weight"
    tensors = {key: tensor.to(dtype) for key, tensor in tensors_of(saved).items()}
    tensors[name][3, 2] = value
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(InputError, match=rf"model\.safetensors: {name.replace('.', '[.]')} holds NaN or infinity: "):
        MaskedLM.load(saved)


def test_weights_of_our_own_type_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    make("own-rms").save(tmp_path)
    tensors = tensors_of(tmp_path)
    tensors["encoder.layers.2.mlp.wo.weight"][0, 0], tensors["encoder.layers.2.mlp.wo.weight"][0, 1] = torch.tensor(
        [float("inf"), float("-inf")]
    )
    save_file(tensors, tmp_path / "model.safetensors")
    for cls in (Encoder, MaskedLM):
        with pytest.raises(InputError, match=r"encoder\.layers\.2\.mlp\.wo\.weight holds NaN or infinity"):
            cls.load(tmp_path)


def test_large_weights_whose_sum_overflows_are_numbers(saved: Path) -> None:
    tensors = tensors_of(saved)
    tensors["bert.encoder.layer.0.output.dense.bias"].fill_(3e38)
    save_file(tensors, saved / "model.safetensors")
    assert MaskedLM.load(saved).encoder.layers[0].mlp.wo.bias.max() > 1e38
    save_file({name: t.clamp(-6e4, 6e4).half().fill_(6e4) for name, t in tensors.items()}, saved / "model.safetensors")
    MaskedLM.load(saved)


def packed(file: Path, compression: int, twice: bool = False) -> None:
    """Write the zip file again, its entries compressed, or one of them named twice as large as it is."""
    with zipfile.ZipFile(file) as archive:
        entries = [(one.filename, archive.read(one)) for one in archive.infolist()]
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content + (b"\0" * 50_000_000 if compression and "/data/0" in name else b""))
        for entry in archive.infolist() if twice else ():
            entry.file_size *= 3


@pytest.mark.parametrize(("compression", "twice"), [(zipfile.ZIP_DEFLATED, False), (zipfile.ZIP_STORED, True)])
def test_a_pickle_whose_zip_unpacks_to_more_than_it_is_is_not_unpacked(
    compression: int, twice: bool, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(saved, tensors_of(saved))
    packed(saved / "pytorch_model.bin", compression, twice)
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(
        InputError, match=r"pytorch_model\.bin: damaged, or not a file of weights: its parts are compressed"
    ):
        MaskedLM.load(saved)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_tensor_that_its_file_cannot_hold_is_refused(legacy: bool, saved: Path) -> None:
    """One number that strides of zero show as 10^12."""
    name = "bert.encoder.layer.0.output.dense.weight"
    put(saved, tensors_of(saved) | {name: torch.zeros(1).expand(10**6, 10**6)}, legacy)
    with pytest.raises(InputError, match=r"pytorch_model\.bin: \d+ bytes cannot hold its tensors of \d+ bytes"):
        read_tensors(saved)


def test_a_tied_matrix_may_have_two_names_in_a_pickle(saved: Path) -> None:
    before, tensors = logits(saved), tensors_of(saved)
    put(saved, tensors | {"cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"]})
    assert torch.equal(logits(saved), before)


def test_tensors_without_their_numbers_are_no_weights(saved: Path) -> None:
    name, tensors = "bert.encoder.layer.0.output.dense.bias", tensors_of(saved)
    for odd in (torch.zeros(32).to_sparse(), torch.zeros(32, device="meta")):
        put(saved, tensors | {name: odd})
        with pytest.raises(InputError, match=r"pytorch_model\.bin: (not tensors: bert\.encoder|damaged|holds more)"):
            MaskedLM.load(saved)


@pytest.mark.parametrize("kind", ["safetensors", "bin", "legacy"])
def test_a_file_of_weights_with_any_bytes_changed_is_a_model_or_one_line(kind: str, saved: Path) -> None:
    if kind != "safetensors":
        put(saved, tensors_of(saved), legacy=kind == "legacy")
    file = saved / ("model.safetensors" if kind == "safetensors" else "pytorch_model.bin")
    whole, chance = file.read_bytes(), random.Random(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 4)):  # the head of the file, where names and sizes are, more often
            damaged[chance.choice((chance.randrange(len(whole)), chance.randrange(4_000)))] = chance.randrange(256)
        file.write_bytes(damaged)
        with contextlib.suppress(InputError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            MaskedLM.load(saved)


def test_a_name_with_a_number_of_any_length_is_listed() -> None:
    name = f"layers.{'9' * 5000}.weight"
    assert listed([name]) == name


def test_what_is_no_file_is_no_weights(saved: Path) -> None:
    """A pipe would be waited for without end."""
    (saved / "model.safetensors").unlink()
    os.mkfifo(saved / "model.safetensors")
    with pytest.raises(InputError, match=r"no model\.safetensors and no pytorch_model\.bin in it"):
        MaskedLM.load(saved)


def test_what_is_no_state_dict_is_named(saved: Path) -> None:
    for content, message in [
        ({"model": {"a": torch.zeros(1)}, "epoch": 3}, r"not tensors: model, epoch: give only the state dict"),
        ([torch.zeros(1)], r"holds a list, not tensors by name"),
        ({7: torch.zeros(1)}, r"not tensors: 7"),
    ]:
        put(saved, content)
        with pytest.raises(InputError, match=message):
            MaskedLM.load(saved)


def test_a_damaged_pickle_is_one_line(saved: Path) -> None:
    put(saved, tensors_of(saved))
    whole = (saved / "pytorch_model.bin").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"PK no zip", b"hello"):
        (saved / "pytorch_model.bin").write_bytes(damaged)
        with pytest.raises(InputError, match=r"pytorch_model\.bin: (damaged|holds more than tensors)") as caught:
            MaskedLM.load(saved)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("\0.safetensors", "which is missing: fetch the missing part"),
        ("model-00009-of-00003.safetensors", "which is missing: fetch the missing part"),
        ("../other/model.safetensors", "which is not a file of weights in this folder"),
        ("/etc/passwd", "which is not a file of weights in this folder"),
        ("", "which is not a file of weights in this folder"),
        ("..", "which is not a file of weights in this folder"),
        ("config.json", "which is not a file of weights in this folder"),
    ],
)
def test_an_index_that_leads_elsewhere_is_refused(part: str, message: str, saved: Path) -> None:
    positions = shard(saved, "safetensors")
    other = saved.parent / "other"
    other.mkdir()
    save_file({"x": torch.zeros(1)}, other / "model.safetensors")
    write_index(saved, "model", "safetensors", positions | {"bert.embeddings.LayerNorm.weight": part})
    with pytest.raises(InputError, match=rf"index\.json: names .*({message})|({message})") as caught:
        MaskedLM.load(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"metadata": {}}', '{"weight_map": 3}', '{"weight_map": ["a"]}'])
def test_a_damaged_index_is_refused(text: str, saved: Path) -> None:
    shard(saved, "safetensors")
    (saved / "model.safetensors.index.json").write_text(text)
    with pytest.raises(InputError, match=r"model\.safetensors\.index\.json: not an index of weights"):
        MaskedLM.load(saved)


def test_an_index_that_names_what_its_parts_lack_is_refused(saved: Path) -> None:
    positions = shard(saved, "safetensors")
    write_index(saved, "model", "safetensors", positions | {"bert.more.weight": next(iter(positions.values()))})
    with pytest.raises(InputError, match=r"names parameters that its parts do not hold: bert\.more\.weight"):
        MaskedLM.load(saved)


def test_all_that_is_missing_left_over_and_of_another_shape_is_named(saved: Path) -> None:
    tensors = tensors_of(saved)
    gone = [name for name in tensors if ".attention.output." in name or name == "bert.embeddings.LayerNorm.bias"]
    save_file({name: t for name, t in tensors.items() if name not in gone}, saved / "model.safetensors")
    with pytest.raises(InputError, match=f"{len(gone)} parameters are missing: ") as caught:
        MaskedLM.load(saved)
    for name in ("bert.embeddings.LayerNorm.bias", "bert.encoder.layer.{0-2}.attention.output.dense.weight"):
        assert name in str(caught.value)

    surplus = {f"bert.encoder.layer.{i}.adapter.weight": torch.zeros(2) for i in (0, 1, 7)} | {
        "qa.bias": torch.zeros(1)
    }
    save_file(tensors | surplus, saved / "model.safetensors")
    for cls in (MaskedLM, Encoder):
        with pytest.warns(UserWarning, match="4 parameters are not part of") as seen:
            cls.load(saved)
        assert "bert.encoder.layer.{0-1,7}.adapter.weight" in str(seen[0].message)
        assert "qa.bias" in str(seen[0].message)

    wrong = {name: torch.zeros(7) for name in tensors if name.endswith("intermediate.dense.bias")}
    save_file(tensors | wrong, saved / "model.safetensors")
    with pytest.raises(InputError) as caught:
        MaskedLM.load(saved)
    assert str(caught.value).count("is (7,) and config.json says (40,)") == 3


def test_parts_of_a_stacked_matrix_are_looked_at_one_by_one(saved: Path) -> None:
    """Queries, keys and values become one matrix here: sizes that add up are not enough."""
    tensors, attention = tensors_of(saved), "bert.encoder.layer.1.attention.self"
    for changes in (
        {f"{attention}.query.weight": torch.zeros(48, 32), f"{attention}.key.weight": torch.zeros(16, 32)},
        {f"{attention}.query.weight": torch.zeros(3, 3)},
        {f"{attention}.query.bias": torch.tensor(1.0)},
    ):
        save_file(tensors | changes, saved / "model.safetensors")
        with pytest.raises(
            InputError, match=r"model\.safetensors: bert\.encoder\.layer\.1\.attention\.self\.query"
        ) as caught:
            MaskedLM.load(saved)
        assert str(caught.value).count("and config.json says") == len(changes)


WRAPPED = {
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "data parallel": lambda name: f"module.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "a Lightning module": lambda name: f"student.net.{name}",
    "FSDP": lambda name: re.sub(r"\.(\d+)\.", r".\1._fsdp_wrapped_module.", f"_fsdp_wrapped_module.{name}"),
    "checkpointed blocks": lambda name: re.sub(r"\.(\d+)\.", r".\1._checkpoint_wrapped_module.", name),
    "a compiled encoder": lambda name: re.sub(
        r"^(bert|roberta|distilbert|electra|model|encoder)\.", r"\1._orig_mod.", name
    ),
    "a parallel encoder": lambda name: re.sub(
        r"^(bert|roberta|distilbert|electra|model|encoder)\.", r"\1.module.", name
    ),
}


@pytest.mark.parametrize("wrapper", WRAPPED)
@pytest.mark.parametrize("shape", ["bert", "roberta", "distilbert", "electra", "modernbert", "own-rms"])
def test_a_program_around_the_model_that_leaves_its_name_in_the_weights_changes_nothing(
    shape: str, wrapper: str, tmp_path: Path
) -> None:
    make(shape).save(tmp_path)
    right, vectors = MaskedLM.load(tmp_path).state_dict(), Encoder.load(tmp_path).state_dict()
    save_file({WRAPPED[wrapper](name): tensor for name, tensor in tensors_of(tmp_path).items()}, tmp_path / WEIGHTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is left over
        for cls, expected in ((MaskedLM, right), (Encoder, vectors)):
            found = cls.load(tmp_path).state_dict()
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_encoder_of_a_larger_program_is_found_in_it_and_the_rest_is_said(tmp_path: Path) -> None:
    encoder = make("bert").encoder
    encoder.save(tmp_path)
    inside = {f"towers.text.{name}": tensor for name, tensor in tensors_of(tmp_path).items()}
    save_file(inside | {"towers.image.conv.weight": torch.zeros(2)}, tmp_path / WEIGHTS)
    with pytest.warns(UserWarning, match=r"1 parameters are not part of .*: towers\.image\.conv\.weight"):
        found = Encoder.load(tmp_path)
    ids, mask, _ = inputs()
    with torch.no_grad():
        assert torch.equal(found(ids, mask).last_hidden_state, encoder(ids, mask).last_hidden_state)


def test_two_encoders_in_a_file_are_not_chosen_between_and_the_line_is_short(saved: Path) -> None:
    tensors = tensors_of(saved)
    twins = {f"{which}.{name}": tensor.clone() for which in ("query", "answer") for name, tensor in tensors.items()}
    save_file(twins, saved / WEIGHTS)
    with pytest.raises(
        InputError, match=r"parameters are missing: .* more; \d+ are left over: answer\.bert\.emb"
    ) as caught:
        MaskedLM.load(saved)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("part", ["LayerNorm", ""])
def test_of_a_parameter_that_is_there_with_and_without_a_wrapper_the_plain_one_is_read_and_the_other_said(
    saved: Path, part: str
) -> None:
    right, tensors = logits(saved), tensors_of(saved)
    other = {f"module.{name}": tensor + 1 for name, tensor in tensors.items() if part in name}
    save_file(tensors | other, saved / WEIGHTS)
    with pytest.warns(UserWarning, match=rf"{len(other)} parameters are not part of .*: module\.bert\.embeddings"):
        assert torch.equal(logits(saved), right)


TIED = {
    "bert": ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    "roberta": ("roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
    "distilbert": ("distilbert.embeddings.word_embeddings.weight", "vocab_projector.weight"),
    "electra": ("electra.embeddings.word_embeddings.weight", "generator_lm_head.weight"),
    "modernbert": ("model.embeddings.tok_embeddings.weight", "decoder.weight"),
}


@pytest.mark.hf
@pytest.mark.parametrize("shape", TIED)
def test_a_tied_matrix_is_read_by_the_only_name_that_it_has(shape: str, tmp_path: Path) -> None:
    """A program that stores a shared tensor once keeps either name; transformers ties both again."""
    transformers = pytest.importorskip("transformers")
    make(shape).save(tmp_path)
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    tensors, (embedding, output) = tensors_of(tmp_path), TIED[shape]
    tensors[output] = tensors.pop(embedding)
    save_file(tensors, tmp_path / WEIGHTS, {"format": "pt"})
    ids, mask, _ = inputs()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = MaskedLM.load(tmp_path)
        assert (ours(ids, mask).logits - theirs(ids, mask).logits)[mask > 0].abs().max() <= 1e-5
        vectors = theirs.base_model(ids, mask).last_hidden_state
        assert (Encoder.load(tmp_path)(ids, mask).last_hidden_state - vectors)[mask > 0].abs().max() <= 1e-5
    model, fresh = start_masked_lm(tmp_path)
    assert fresh == []
    assert model.head_config.tied


def test_an_output_bias_is_read_by_the_only_name_that_it_has(saved: Path) -> None:
    right = logits(saved)
    tensors = tensors_of(saved)
    tensors["cls.predictions.decoder.bias"] = tensors.pop("cls.predictions.bias")
    save_file(tensors, saved / WEIGHTS)
    assert torch.equal(logits(saved), right)


def test_an_untied_model_without_its_embedding_matrix_is_incomplete(tmp_path: Path) -> None:
    make("bert-relu-untied").save(tmp_path)
    tensors = tensors_of(tmp_path)
    del tensors["bert.embeddings.word_embeddings.weight"]
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(InputError, match=r"1 parameters are missing: bert\.embeddings\.word_embeddings\.weight"):
        MaskedLM.load(tmp_path)


@pytest.mark.hf
def test_an_output_matrix_that_is_not_the_embedding_is_read_as_transformers_reads_it(saved: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tensors = tensors_of(saved)
    matrix = torch.randn(90, 32, generator=torch.Generator().manual_seed(1))
    bias = torch.arange(90) / 10
    decoder = {"cls.predictions.decoder.weight": matrix, "cls.predictions.decoder.bias": bias}
    save_file(tensors | decoder | {"cls.predictions.bias": bias.clone()}, saved / "model.safetensors", {"format": "pt"})
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(saved, attn_implementation="eager").eval()
    ids, mask, _ = inputs()
    with pytest.warns(UserWarning, match="the output matrix is not the embedding matrix"):
        ours = MaskedLM.load(saved)
    with torch.no_grad():
        difference = ours(ids, mask).logits - theirs(ids, mask).logits
    assert difference[mask > 0].abs().max() <= 1e-5
    with pytest.warns(UserWarning, match="read as untied"):  # for going on with it, too
        started, fresh = start_masked_lm(saved)
    assert fresh == []
    assert torch.equal(started.head.weight, matrix)
    ours.save(saved.parent / "again")  # and so it stays
    with torch.no_grad():
        assert torch.equal(MaskedLM.load(saved.parent / "again")(ids, mask).logits, ours(ids, mask).logits)

    copy = {"cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"].clone()}
    save_file(tensors | copy, saved / "model.safetensors")
    assert MaskedLM.load(saved).head_config.tied  # a copy, as old files have it, is no other matrix


def test_the_pointer_of_git_lfs_is_named(saved: Path) -> None:
    (saved / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(InputError, match=r"a pointer of git-lfs: fetch the file itself"):
        MaskedLM.load(saved)


def test_a_pooler_that_nothing_reads_is_said(saved: Path) -> None:
    tensors = tensors_of(saved)
    pooler = {"bert.pooler.dense.weight": torch.zeros(32, 32), "bert.pooler.dense.bias": torch.zeros(32)}
    buffer = {"bert.embeddings.position_ids": torch.arange(40)[None]}  # anybody can count
    save_file(tensors | pooler | buffer, saved / "model.safetensors")
    with pytest.warns(UserWarning, match=r"2 parameters are not part of an encoder .*pooler\.dense\.weight"):
        Encoder.load(saved)


def test_safetensors_come_first(saved: Path) -> None:
    torch.save({"x": torch.zeros(1)}, saved / "pytorch_model.bin")
    assert "x" not in read_tensors(saved)
    MaskedLM.load(saved).save(saved)
    assert not (saved / "pytorch_model.bin").exists()  # of the model that was there before


@given(st.lists(st.integers(0, 40), min_size=1, unique=True))
def test_layers_are_listed_as_ranges_that_hold_each_once(numbers: list[int]) -> None:
    text = listed([f"layers.{number}.mlp.wi.weight" for number in numbers])
    inside = text.removeprefix("layers.").removesuffix(".mlp.wi.weight").strip("{}")
    named: list[int] = []
    for part in inside.split(","):
        first, _, last = part.partition("-")
        named += range(int(first), int(last or first) + 1)
    assert named == sorted(numbers)
