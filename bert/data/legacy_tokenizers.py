"""What the tokenizer files of Hugging Face's folders say, old ones too: BERT's `vocab.txt`, RoBERTa's `vocab.json` and
`merges.txt`, and the JSON files beside them.

The settings and their defaults are those of transformers' BertTokenizer and RobertaTokenizer; a folder that asks for
another class is refused, because its text would be cut in another way.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import RobertaProcessing

from bert.errors import InputError
from bert.untrusted import read_json

ROLES = ("pad", "unk", "cls", "sep", "mask")
BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_TOKENS = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")

DEFINITION, VOCABULARY, MERGES, WORDPIECES = "tokenizer.json", "vocab.json", "merges.txt", "vocab.txt"
FILES = (DEFINITION, VOCABULARY, MERGES, WORDPIECES)
"""files that make a folder one with a tokenizer; the first that is there decides"""
_CONFIG, _TOKENS, _ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
ALL_FILES = (*FILES, _CONFIG, _TOKENS, _ADDED)
_SENTENCEPIECES = ("sentencepiece.bpe.model", "spiece.model", "spm.model", "tokenizer.model")
_CLASSES = {
    WORDPIECES: ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer"),
    VOCABULARY: ("RobertaTokenizer", "LongformerTokenizer", "XLMRobertaXLTokenizer"),
}
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
_CASED = 0.05  # uncased vocabularies hold no capital letter outside the special tokens
_SAVE_AGAIN = "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of transformers writes one"


@dataclass(frozen=True)
class Settings:
    """What the JSON files beside a vocabulary say."""

    folder: Path
    options: dict[str, Any]
    """tokenizer_config.json, under special_tokens_map.json"""
    added: dict[int, AddedToken]
    """tokens beside the vocabulary by id, from added_tokens.json or from tokenizer_config.json"""

    def token(self, key: str) -> AddedToken | None:
        """The token of a key such as `cls_token`; none where nothing names it."""
        return self._token(self.options.get(key))

    @property
    def additional(self) -> list[AddedToken]:
        """Special tokens without a role."""
        entries = self.options.get("additional_special_tokens") or self.options.get("extra_special_tokens") or []
        entries = list(entries.values()) if isinstance(entries, dict) else entries
        return [token for token in map(self._token, entries if isinstance(entries, list) else []) if token is not None]

    @property
    def names(self) -> dict[str, str]:
        """The special tokens that are named, by role."""
        named = {role: self.token(f"{role}_token") for role in ROLES}
        return {role: token.content for role, token in named.items() if token is not None}

    def flag(self, key: str, default: bool | None) -> Any:
        """An option that is true or false. InputError where it is neither."""
        value = self.options.get(key, default)
        if value is not None and not isinstance(value, bool):
            raise InputError(f"{self.folder / _CONFIG}: {key} is {value!r}: give true or false")
        return default if value is None else value

    def _token(self, entry: Any) -> AddedToken | None:
        """A token written as its text, or as an object that says how it is found in a text."""
        if isinstance(entry, dict):
            flags = {name: bool(entry[name]) for name in _FLAGS if name in entry}
            entry = entry.get("content")
            return AddedToken(entry, special=True, **flags) if isinstance(entry, str) else None
        if not isinstance(entry, str):
            return None
        known = next((token for token in self.added.values() if token.content == entry), None)
        return known or AddedToken(entry, special=True, normalized=False)


def read_settings(folder: Path) -> Settings:
    """What stands beside the vocabulary in a folder; all open where there is nothing. InputError for a damaged file."""
    config = _read_json(folder / _CONFIG)
    decoder = config.get("added_tokens_decoder")
    numbered: list[tuple[Any, Any]]
    if decoder is None:  # before transformers 4.34 they stood in two files of their own
        options = config | _read_json(folder / _TOKENS)
        plain = Settings(folder, options, {})
        special = {token.content for token in plain.additional} | set(plain.names.values())
        numbered = [
            (number, {"content": name, "special": name in special, "normalized": name not in special})
            for name, number in _read_json(folder / _ADDED).items()
        ]
    else:
        options = config
        numbered = list(decoder.items()) if isinstance(decoder, dict) else [(None, {})]
    file = folder / (_ADDED if decoder is None else _CONFIG)
    try:
        tokens = {int(number): AddedToken(**entry) for number, entry in numbered}
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{file}: its added tokens are not tokens with ids ({error}): repair or remove it") from None
    return Settings(folder, options, tokens)


def read_vocabulary(folder: Path, settings: Settings) -> tuple[tokenizers.Tokenizer, dict[str, str], Path]:
    """The tokenizer of a folder without tokenizer.json, its special tokens by role, and the file it came from.

    Raises InputError, naming file and fix, for a folder without a vocabulary, a damaged file, and a tokenizer class that
    cuts text in another way.
    """
    if (folder / VOCABULARY).exists() or (folder / MERGES).exists():
        file, named = folder / VOCABULARY, dict(zip(ROLES, ROBERTA_TOKENS)) | settings.names
        for name in (VOCABULARY, MERGES):
            if not (folder / name).exists():
                other = MERGES if name == VOCABULARY else VOCABULARY
                raise InputError(f"{folder}: {other} without {name}: put the {name} of the same tokenizer beside it")
        _check_class(folder, VOCABULARY, settings)
        backend = _byte_pairs(folder, settings, named)
    elif (folder / WORDPIECES).exists():
        file, named = folder / WORDPIECES, dict(zip(ROLES, BERT_TOKENS)) | settings.names
        _check_class(folder, WORDPIECES, settings)
        backend = _word_tokens(file, settings, named)
    else:
        raise _no_files(folder)
    _add_tokens(backend, settings, named)
    if file.name == VOCABULARY:
        cls_id, sep_id = backend.token_to_id(named["cls"]), backend.token_to_id(named["sep"])
        if cls_id is not None and sep_id is not None:  # Tokenizer says which special tokens are missing
            prefix, trim = settings.flag("add_prefix_space", False), settings.flag("trim_offsets", True)
            backend.post_processor = RobertaProcessing((named["sep"], sep_id), (named["cls"], cls_id), trim, prefix)
    return backend, named, file


def _word_tokens(file: Path, settings: Settings, named: dict[str, str]) -> tokenizers.Tokenizer:
    try:
        read = models.WordPiece.read_file(str(file))
        # of editors that put a byte order mark first
        pieces = {piece.removeprefix("\ufeff"): number for piece, number in read.items()}
    except Exception as error:  # `tokenizers` raises bare Exception
        raise _damaged(file, error, "one piece a line, UTF-8") from None
    while pieces and pieces.get("") == max(pieces.values()):  # blank lines at the end are no pieces
        del pieces[""]
    if not pieces:
        raise InputError(f"{file}: empty: put the {file.name} there that the model was trained with")
    lowercase = settings.flag("do_lower_case", None)
    if lowercase is None:
        capitals = sum(piece[:1].isupper() for piece in pieces)
        if capitals > _CASED * len(pieces):
            what = (
                f"{capitals:,} pieces begin with a capital letter and nothing says do_lower_case: text is lower-cased,"
            )
            fix = f'as transformers does; put {{"do_lower_case": false}} into {_CONFIG} if the model is cased'
            warnings.warn(f"{file}: {what} {fix}", stacklevel=2)
    backend = tokenizers.Tokenizer(models.WordPiece(pieces, unk_token=named["unk"]))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.flag("tokenize_chinese_chars", True),
        strip_accents=settings.flag("strip_accents", None),
        lowercase=lowercase is not False,
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def _byte_pairs(folder: Path, settings: Settings, named: dict[str, str]) -> tokenizers.Tokenizer:
    vocabulary, merges = folder / VOCABULARY, folder / MERGES
    _read_json(vocabulary)  # says more about what is wrong with it
    if not merges.read_bytes().strip():
        raise InputError(f"{merges}: empty: put the {MERGES} there that belongs to {VOCABULARY}")
    try:
        pieces, pairs = models.BPE.read_file(str(vocabulary), str(merges))
    except Exception as error:
        # what is wrong with vocab.json has been said, save for ids that are none
        raise _damaged(merges, error, f"two pieces a line, UTF-8, and {VOCABULARY} one id a piece") from None
    try:
        backend = tokenizers.Tokenizer(models.BPE(pieces, pairs, continuing_subword_prefix="", end_of_word_suffix=""))
    except Exception as error:
        raise _damaged(merges, error, f"merges of pieces in {VOCABULARY}: are the two of one tokenizer?") from None
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=settings.flag("add_prefix_space", False))
    backend.decoder = decoders.ByteLevel()
    return backend


def _add_tokens(backend: tokenizers.Tokenizer, settings: Settings, named: dict[str, str]) -> None:
    """Have the special tokens found in texts, and the added ones, which must get the ids that their file gives."""
    for number, token in sorted(settings.added.items()):
        backend.add_tokens([token])
        if backend.token_to_id(token.content) != number:
            what = f"the added token {token.content!r} has id {number} and the vocabulary puts it at"
            why = f"{backend.token_to_id(token.content)}: vocabulary and added tokens are not of one tokenizer"
            raise InputError(f"{settings.folder}: {what} {why}")
    present = {token.content for token in settings.added.values()}
    for role, name in named.items():
        if name not in present and backend.token_to_id(name) is not None:
            token = settings.token(f"{role}_token") or AddedToken(name, special=True, normalized=False)
            if role == "mask" and isinstance(backend.model, models.BPE) and not _says_how(settings, role):
                # RoBERTa's mask takes the blank before it, in its tokenizer.json and in transformers before version 5;
                # from these files version 5 leaves a lone blank there, which the model never saw before a mask
                token = AddedToken(name, special=True, normalized=False, lstrip=True)
            backend.add_special_tokens([token])
    backend.add_special_tokens([token for token in settings.additional if token.content not in present])


def _says_how(settings: Settings, role: str) -> bool:
    """Whether the files say of a token how it is found, not only what it is."""
    return isinstance(settings.options.get(f"{role}_token"), dict)


def _check_class(folder: Path, file: str, settings: Settings) -> None:
    """Refuse a vocabulary that another class of transformers reads: text would be cut in another way than it was."""
    config = _read_json(folder / "config.json")
    name = settings.options.get("tokenizer_class") or config.get("tokenizer_class")
    if isinstance(name, str) and name.removesuffix("Fast") not in _CLASSES[file]:
        what = f"{name} is not made from {file} here, only {', '.join(_CLASSES[file])}"
        raise InputError(f"{folder}: {what}: put its {DEFINITION} there; {_SAVE_AGAIN}")


def _no_files(folder: Path) -> InputError:
    if model := next((name for name in _SENTENCEPIECES if (folder / name).exists()), None):
        return InputError(f"{folder}: {model} without {DEFINITION}, which is what is read here: {_SAVE_AGAIN}")
    what = f"no tokenizer in this folder ({DEFINITION}, {WORDPIECES}, or {VOCABULARY} with {MERGES})"
    return InputError(f"{folder}: {what}; train one first")


def _damaged(file: Path, error: Exception, expected: str) -> InputError:
    first = (str(error).splitlines() or [""])[0]
    return InputError(f"{file}: not a vocabulary ({first}); expected {expected}")


def _read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where there is none."""
    try:
        content = read_json(file)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise InputError(f"{file}: not valid JSON ({error}); repair or remove it") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: not a JSON object; repair or remove it")
    return content
