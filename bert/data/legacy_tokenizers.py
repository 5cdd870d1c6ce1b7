"""Tokenizer folders of Hugging Face: what `tokenizer_config.json` says beside `tokenizer.json`; and folders without the latter: BERT's
`vocab.txt`, RoBERTa's `vocab.json` and `merges.txt`, and the JSON files beside them.

The settings and their defaults are those of transformers' BertTokenizer and RobertaTokenizer. A folder that names another
class is refused, because its text would be split differently.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import RobertaProcessing

from bert.data.encoding import BERT_TOKENS, NORMALIZER, ROBERTA_TOKENS, ROLES, read_object, sentencepieces, token_name
from bert.errors import InputError, first_line

_CLASSES = {
    "vocab.txt": ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer"),
    "vocab.json": ("RobertaTokenizer", "LongformerTokenizer", "XLMRobertaXLTokenizer"),
}
_DEFAULTS = {"strip_accents": None, "tokenize_chinese_chars": True}
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
_CASED = 0.05  # uncased vocabularies hold no capital letter outside the special tokens
_SAVE_AGAIN = "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of transformers writes one"


@dataclass(frozen=True)
class Settings:
    """What the JSON files beside a vocabulary say."""

    folder: Path
    options: dict[str, Any]
    """tokenizer_config.json, updated with special_tokens_map.json"""
    added: dict[int, AddedToken]
    """tokens beside the vocabulary, by id"""

    def flag(self, key: str, default: bool | None) -> Any:
        """An option that is true or false. Raises InputError if it is neither."""
        value = self.options.get(key, default)
        if value is not None and not isinstance(value, bool):
            raise InputError(f"{self.folder / 'tokenizer_config.json'}: {key} is {value!r}: give true or false")
        return default if value is None else value

    def token(self, entry: Any) -> AddedToken | None:
        """A special token written as its text, or as an object that also says how it is found in a text."""
        if (name := token_name(entry)) is None:
            return None
        if isinstance(entry, dict):
            return AddedToken(name, special=True, **{flag: bool(entry[flag]) for flag in _FLAGS if flag in entry})
        known = next((token for token in self.added.values() if token.content == name), None)
        return known or AddedToken(name, special=True, normalized=False)


def configure(backend: tokenizers.Tokenizer, folder: Path, options: dict[str, Any]) -> None:
    """Where tokenizer_config.json contradicts tokenizer.json, a BERT tokenizer follows the former, as in transformers, with a warning.

    `backend` is what tokenizer.json says, and `options` what the other says. Raises InputError for an option of another type."""
    if str(options.get("tokenizer_class")).removesuffix("Fast") not in (*_CLASSES["vocab.txt"], "None"):
        return
    found = backend.normalizer
    before = {"do_lower_case": bool(found) and found.normalize_str("A") == "a"} | _DEFAULTS
    if isinstance(found, normalizers.BertNormalizer):
        before = {key: getattr(found, name) for key, name in NORMALIZER.items()}
    after = {key: Settings(folder, options, {}).flag(key, value) for key, value in before.items()}
    if changed := [key for key in after if after[key] != before[key]]:
        backend.normalizer = normalizers.BertNormalizer(**{name: after[key] for key, name in NORMALIZER.items()})
        differ = " and ".join(f"{key} {json.dumps(after[key])}, not {json.dumps(before[key])}" for key in changed)
        what = f"tokenizer_config.json says {differ} as tokenizer.json"
        warnings.warn(f"{folder}: {what}: done as in transformers; correct one of the two", stacklevel=3)


def _additional(options: dict[str, Any]) -> list[Any]:
    """The entries of special tokens without a role."""
    entries = options.get("additional_special_tokens") or options.get("extra_special_tokens") or []
    entries = list(entries.values()) if isinstance(entries, dict) else entries
    return entries if isinstance(entries, list) else []


def _added_tokens(folder: Path, options: dict[str, Any], names: dict[str, str]) -> dict[int, AddedToken]:
    """The tokens beside a vocabulary, by id. Raises InputError for a damaged file."""
    numbered: list[tuple[Any, Any]]
    decoder = options.get("added_tokens_decoder")
    if decoder is None:  # before transformers 4.34 they had a file of their own
        special = {*names.values(), *map(token_name, _additional(options))}
        numbered = [
            (number, {"content": name, "special": name in special, "normalized": name not in special})
            for name, number in read_object(folder / "added_tokens.json").items()
        ]
    else:
        numbered = list(decoder.items()) if isinstance(decoder, dict) else [(None, {})]
    try:
        return {int(number): AddedToken(**entry) for number, entry in numbered}
    except (TypeError, ValueError, OverflowError) as error:
        file = folder / ("added_tokens.json" if decoder is None else "tokenizer_config.json")
        raise InputError(f"{file}: its added tokens are not tokens with ids ({error}): repair or remove it") from None


def read_vocabulary(
    folder: Path, options: dict[str, Any], names: dict[str, str]
) -> tuple[tokenizers.Tokenizer, dict[str, str], Path]:
    """The tokenizer of a folder without tokenizer.json, its special tokens by role, and the file it was read from.

    `options`: tokenizer_config.json, updated with special_tokens_map.json; `names`: the special tokens that they name, by
    role. Raises InputError, naming file and fix, for a folder without a vocabulary, a damaged file, and a tokenizer class
    that splits text differently.
    """
    settings = Settings(folder, options, _added_tokens(folder, options, names))
    if (folder / "vocab.json").exists() or (folder / "merges.txt").exists():
        file, named = folder / "vocab.json", dict(zip(ROLES, ROBERTA_TOKENS)) | names
        for name, other in (("vocab.json", "merges.txt"), ("merges.txt", "vocab.json")):
            if not (folder / name).exists():
                raise InputError(f"{folder}: {other} without {name}: add the {name} of the same tokenizer")
        _check_class(folder, "vocab.json", settings)
        backend = _byte_pairs(folder, settings)
    elif (folder / "vocab.txt").exists():
        file, named = folder / "vocab.txt", dict(zip(ROLES, BERT_TOKENS)) | names
        _check_class(folder, "vocab.txt", settings)
        backend = _word_tokens(file, settings, named)
    elif (model := next(iter(sentencepieces(folder)), None)) is not None:
        raise InputError(f"{folder}: {model} without tokenizer.json, the only such file read here: {_SAVE_AGAIN}")
    else:
        what = "no tokenizer in this folder (tokenizer.json, vocab.txt, or vocab.json with merges.txt)"
        raise InputError(f"{folder}: {what}; train one first")
    _add_tokens(backend, settings, named)
    if file.name == "vocab.json":
        cls_id, sep_id = backend.token_to_id(named["cls"]), backend.token_to_id(named["sep"])
        if cls_id is not None and sep_id is not None:  # Tokenizer says which special tokens are missing
            prefix, trim = settings.flag("add_prefix_space", False), settings.flag("trim_offsets", True)
            backend.post_processor = RobertaProcessing((named["sep"], sep_id), (named["cls"], cls_id), trim, prefix)
    return backend, named, file


def _word_tokens(file: Path, settings: Settings, named: dict[str, str]) -> tokenizers.Tokenizer:
    try:
        read = models.WordPiece.read_file(str(file))
        # some editors put a byte order mark first
        entries = {entry.removeprefix("\ufeff"): number for entry, number in read.items()}
    except Exception as error:  # `tokenizers` raises bare Exception
        raise _damaged(file, error, "one token per line, UTF-8") from None
    while entries and entries.get("") == max(entries.values()):  # blank lines at the end are not tokens
        del entries[""]
    if not entries:
        raise InputError(f"{file}: empty: give the {file.name} that the model was trained with")
    lowercase = settings.flag("do_lower_case", None)
    if lowercase is None:
        capitals = sum(entry[:1].isupper() for entry in entries)
        if capitals > _CASED * len(entries):
            what = f"{capitals:,} tokens begin with a capital letter and nothing says do_lower_case"
            fix = 'if the model is cased, put {"do_lower_case": false} into tokenizer_config.json'
            warnings.warn(f"{file}: {what}: text is lower-cased, as in transformers; {fix}", stacklevel=2)
    backend = tokenizers.Tokenizer(models.WordPiece(entries, unk_token=named["unk"]))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.flag("tokenize_chinese_chars", True),
        strip_accents=settings.flag("strip_accents", None),
        lowercase=lowercase is not False,
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def _byte_pairs(folder: Path, settings: Settings) -> tokenizers.Tokenizer:
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    read_object(vocabulary)  # its errors say more
    if not merges.read_bytes().strip():
        raise InputError(f"{merges}: empty: give the merges.txt that belongs to vocab.json")
    try:
        entries, pairs = models.BPE.read_file(str(vocabulary), str(merges))
    except Exception as error:  # or ids in vocab.json that are not numbers
        raise _damaged(merges, error, "two tokens per line, UTF-8, and one id per token in vocab.json") from None
    try:
        backend = tokenizers.Tokenizer(models.BPE(entries, pairs, continuing_subword_prefix="", end_of_word_suffix=""))
    except Exception as error:
        raise _damaged(merges, error, "merges of tokens in vocab.json: are both files of the same tokenizer?") from None
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=settings.flag("add_prefix_space", False))
    backend.decoder = decoders.ByteLevel()
    return backend


def _add_tokens(backend: tokenizers.Tokenizer, settings: Settings, named: dict[str, str]) -> None:
    """Register the special tokens, and the added ones, which must get the ids that their file says."""
    for number, token in sorted(settings.added.items()):
        backend.add_tokens([token])
        if (actual := backend.token_to_id(token.content)) != number:
            both = f"{token.content!r} has id {number} and the vocabulary puts it at {actual}"
            raise InputError(f"{settings.folder}: the added token {both}: the two are not of the same tokenizer")
    present = {token.content for token in settings.added.values()}
    for role, name in named.items():
        if name not in present and backend.token_to_id(name) is not None:
            entry = settings.options.get(f"{role}_token")
            token = settings.token(entry) or AddedToken(name, special=True, normalized=False)
            if role == "mask" and isinstance(backend.model, models.BPE) and not isinstance(entry, dict):
                # RoBERTa's mask includes the space before it, in its tokenizer.json and in transformers before version 5;
                # version 5 leaves a single space there for these files, which the model never saw before a mask
                token = AddedToken(name, special=True, normalized=False, lstrip=True)
            backend.add_special_tokens([token])
    additional = map(settings.token, _additional(settings.options))
    backend.add_special_tokens([token for token in additional if token and token.content not in present])


def _check_class(folder: Path, file: str, settings: Settings) -> None:
    """Refuse a vocabulary of another class of transformers, which would split text differently."""
    config = read_object(folder / "config.json")
    name = settings.options.get("tokenizer_class") or config.get("tokenizer_class")
    if isinstance(name, str) and name.removesuffix("Fast") not in _CLASSES[file]:
        what = f"{name} is not made from {file} here, only {', '.join(_CLASSES[file])}"
        raise InputError(f"{folder}: {what}: give its tokenizer.json; {_SAVE_AGAIN}")


def _damaged(file: Path, error: Exception, expected: str) -> InputError:
    return InputError(f"{file}: not a vocabulary ({first_line(error)}); expected {expected}")
