"""Folders with tokenizers as Hugging Face's folders have them, new and old, with small vocabularies; a page of awkward text."""

import json
from collections.abc import Callable
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

PAGE = (
    "The quick brown fox jumps over the lazy dog, and the dog sleeps.",
    "An apple a day keeps the doctor away; 我每天吃一个苹果，喝一杯水。",
    "北京大学的学生在図書館で한국어を勉強する",
    "Café crème, naïve résumés: Ångström coöperates",
    "Cafe\u0301 cre\u0300me, nai\u0308ve re\u0301sume\u0301s: A\u030angstro\u0308m",  # the same, decomposed
    "ẞtraße İstanbul ıssız ŉ ǅ ﬁnal ﬂow",
    "👩‍👩‍👧‍👦 family, 👍🏽 thumb, 🇩🇪 flag, ❤️ heart, \U0001fae0",
    "zero\u200bwidth\u200djoiner\u200cs and a soft\u00adhyphen and \u2060word joiner\ufeff",
    "control\x01\x02\x7f characters \x00 and \x85next line",
    "שלום עולם \u202eright to left\u202c مرحبا بالعالم",
    "हिन्दी में लिखा, ภาษาไทย, ქართული",
    "a" * 101,
    "b" * 100 + " " + "苹" * 120 + " pneumonoultramicroscopicsilicovolcanoconiosis" * 3,
    "3.14159 1,000,000 2024-02-29 ½ ² ① Ⅳ 𝟘𝟙 ٣٤",
    "https://example.org/a_b?c=d&e=%20f#g user@example.com C:\\dir\\file.txt",
    "don't can't it's I'll we've O'Neill 's 't",
    "   ",
    "",
    " leading and trailing ",
    "two  blanks   three    four     five",
    "line\nfeed\r\nreturn\ttab\x0bvertical\x0cform",
    "no\u00a0break\u2003em\u3000ideographic\u2028line\u2029paragraph",
    "ＦＵＬＬ　ｗｉｄｔｈ　１２３！？",
    "x²+y²=z² ∑∀∃ €£¥ © ® ™ « » “quotes” – — …",
    "_under_ --dash-- ##hash ##ing ▁Ġ [brackets] <tags> </tags>",
    "\u0301combining first",
    "MiXeD CaSe ALLCAPS iPhone",
    "[unused1] [PAD] [pad] <pad> [CLS]",
)
"""texts; none holds a mask"""
MASKED = (
    "</s> {} [SEP] first",
    "an {} a day",
    "{}",
    "{} first",
    "last {}",
    "two {} {} in a row",
    "  blanks   {}   around  ",
)
PAIRS = (("the cat", "a red phone"), ("", "second"), ("first", ""), ("", ""), ("我吃苹果。", " blank 👍🏽 first"))
BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def write(folder: Path, files: dict[str, object]) -> Path:
    """Files of a folder: text as it stands, anything else as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return folder


def word_tokens(cased: bool) -> str:
    """A vocab.txt: special tokens, every character of the page on its own and inside a word, a few longer pieces."""
    normalizer = normalizers.BertNormalizer(lowercase=not cased)
    text = normalizer.normalize_str(" ".join(PAGE))
    characters = sorted({character for character in text if not character.isspace()})
    longer = ["the", "dog", "##s", "apple", "quick", "##ing", "caf", "##fe", "ｆｕｌｌ", "苹果", "The", "Caf", "##FE"]
    entries = [*BERT, "[unused1]", *characters, *(f"##{character}" for character in characters), *longer]
    return "".join(f"{entry}\n" for entry in dict.fromkeys(entries))


def byte_pairs() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocab.json and the merges of a merges.txt, byte-level, with RoBERTa's special tokens."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = list(ROBERTA[:4])
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    backend.train_from_iterator(PAGE, trainer)
    model = json.loads(backend.to_str())["model"]
    vocabulary = model["vocab"] | {"<mask>": len(model["vocab"])}
    return vocabulary, [tuple(pair) for pair in model["merges"]]


def merges_file(merges: list[tuple[str, str]]) -> str:
    return "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges)


def bert_uncased(folder: Path) -> Path:
    config = {"do_lower_case": True, "model_max_length": 512}
    return write(
        folder,
        {"config.json": {"model_type": "bert"}, "tokenizer_config.json": config, "vocab.txt": word_tokens(False)},
    )


def bert_cased(folder: Path) -> Path:
    return write(
        folder,
        {
            "config.json": {"model_type": "bert"},
            "tokenizer_config.json": {"do_lower_case": False},
            "vocab.txt": word_tokens(True),
        },
    )


def bert_accents(folder: Path) -> Path:
    """Lower-cased with its accents, CJK characters not apart; saved by a slow tokenizer of transformers 4."""
    config = {
        "do_lower_case": True,
        "strip_accents": False,
        "tokenize_chinese_chars": False,
        "do_basic_tokenize": True,
        "never_split": None,
        "tokenizer_class": "BertTokenizer",
        **{f"{role}_token": name for role, name in zip(("pad", "unk", "cls", "sep", "mask"), BERT)},
    }
    special = {key: value for key, value in config.items() if key.endswith("_token")}
    return write(
        folder,
        {
            "config.json": {"model_type": "bert"},
            "tokenizer_config.json": config,
            "special_tokens_map.json": special,
            "vocab.txt": word_tokens(False),
        },
    )


def chinese(folder: Path) -> Path:
    """As bert-base-chinese and RoBERTa-wwm were given out first."""
    return write(folder, {"config.json": {"model_type": "bert"}, "vocab.txt": word_tokens(False)})


def added(folder: Path) -> Path:
    """Words added after the training, one of them special."""
    vocabulary = word_tokens(False)
    size = vocabulary.count("\n")
    return write(
        folder,
        {
            "config.json": {"model_type": "bert"},
            "vocab.txt": vocabulary,
            "added_tokens.json": {"Ångström": size + 1, "[ENT]": size, "iphone": size + 2},
            "special_tokens_map.json": {"additional_special_tokens": ["[ENT]"], "cls_token": "[CLS]"},
        },
    )


def decoder(folder: Path) -> Path:
    """As transformers 4.34 and later save a slow tokenizer: added tokens in tokenizer_config.json."""
    vocabulary = word_tokens(True)
    pieces = vocabulary.splitlines()
    plain = {"lstrip": False, "rstrip": False, "single_word": False}
    entries = {
        str(pieces.index(name)): {"content": name, "normalized": False, "special": True} | plain for name in BERT
    }
    entries[str(len(pieces))] = {"content": "Ångström", "normalized": True, "special": False} | plain
    config = {"do_lower_case": False, "added_tokens_decoder": entries, "tokenizer_class": "BertTokenizer"}
    return write(
        folder,
        {"config.json": {"model_type": "bert"}, "vocab.txt": vocabulary, "tokenizer_config.json": config},
    )


def distilbert(folder: Path) -> Path:
    config = {"do_lower_case": True, "tokenizer_class": "DistilBertTokenizer", "model_max_length": 512}
    return write(
        folder,
        {
            "config.json": {"model_type": "distilbert"},
            "tokenizer_config.json": config,
            "vocab.txt": word_tokens(False),
        },
    )


def electra(folder: Path) -> Path:
    return write(
        folder,
        {
            "config.json": {"model_type": "electra"},
            "tokenizer_config.json": {"do_lower_case": True},
            "vocab.txt": word_tokens(False),
        },
    )


def roberta(folder: Path) -> Path:
    """As roberta-base was given out first: its mask is nothing but a name."""
    vocabulary, merges = byte_pairs()
    return write(
        folder,
        {"config.json": {"model_type": "roberta"}, "vocab.json": vocabulary, "merges.txt": merges_file(merges)},
    )


def roberta_bare_mask(folder: Path) -> Path:
    """Whose files say that the mask does not take the blank before it."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    roberta(folder)
    return write(folder, {"special_tokens_map.json": {"mask_token": {"content": "<mask>"} | flags}})


def roberta_prefix(folder: Path) -> Path:
    """With a blank put before each text, and what is said of its tokens in a file of its own."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    names = dict(zip(("cls", "pad", "sep", "unk", "mask"), ROBERTA)) | {"bos": "<s>", "eos": "</s>"}
    special = {f"{role}_token": {"content": name} | flags for role, name in names.items()}
    special["mask_token"]["lstrip"] = True
    special["mask_token"]["normalized"] = False
    config = {
        "add_prefix_space": True,
        "trim_offsets": True,
        "errors": "replace",
        "tokenizer_class": "RobertaTokenizer",
    }
    roberta(folder)
    return write(folder, {"tokenizer_config.json": config, "special_tokens_map.json": special})


def modernbert(folder: Path) -> Path:
    """Byte-level BPE with NFC, BERT's names at the end, and runs of blanks as added tokens, as OLMo's tokenizer has them."""
    vocabulary, merges = byte_pairs()
    for name in ROBERTA:
        vocabulary.pop(name)
    vocabulary = {piece: number for number, piece in enumerate(vocabulary)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([AddedToken(" " * width, normalized=True) for width in (5, 4, 3, 2)])
    tokens = [AddedToken(name, special=True, lstrip=name == "[MASK]") for name in ("[UNK]", "[CLS]", "[SEP]", "[PAD]")]
    backend.add_special_tokens([*tokens, AddedToken("[MASK]", special=True, lstrip=True)])
    backend.add_tokens([AddedToken(f"[unused{number}]") for number in range(3)])
    ids = [(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=ids
    )
    named = {f"{role}_token": name for role, name in zip(("pad", "unk", "cls", "sep", "mask"), BERT)}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}
    write(folder, {"config.json": {"model_type": "modernbert"}, "tokenizer_config.json": config | named})
    backend.save(str(folder / "tokenizer.json"))
    return folder


def xlm_roberta(folder: Path) -> Path:
    """SentencePiece's Unigram as XLM-R has it, without its table of normalisation; truncation and padding are on."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(PAGE, trainer)
    pieces = [(piece, score) for piece, score in json.loads(backend.to_str())["model"]["vocab"]]
    backend = tokenizers.Tokenizer(models.Unigram([*pieces, ("<mask>", 0.0)], unk_id=3, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens([*special, AddedToken("<mask>", special=True, lstrip=True)])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    backend.enable_truncation(128)
    backend.enable_padding(length=64, pad_id=1, pad_token="<pad>")
    config = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 512}
    write(folder, {"config.json": {"model_type": "xlm-roberta"}, "tokenizer_config.json": config})
    backend.save(str(folder / "tokenizer.json"))
    return folder


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "bert-uncased": bert_uncased,
    "bert-cased": bert_cased,
    "bert-accents": bert_accents,
    "chinese": chinese,
    "added": added,
    "decoder": decoder,
    "distilbert": distilbert,
    "electra": electra,
    "roberta": roberta,
    "roberta-bare-mask": roberta_bare_mask,
    "roberta-prefix": roberta_prefix,
    "modernbert": modernbert,
    "xlm-roberta": xlm_roberta,
}
