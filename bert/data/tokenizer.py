"""Text to token ids and back: one class around `tokenizers.Tokenizer`. `bert.data.vocabulary` trains tokenizers."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers.processors import Sequence as ProcessorSequence
from tokenizers.processors import TemplateProcessing

from bert.data import encoding
from bert.data.encoding import BERT_TOKENS, ROBERTA_TOKENS, ROLES
from bert.errors import InputError, accessing, check_arguments, first_line
from bert.files import completed, replaced_folder
from bert.signals import interruptible

SPECIAL_TOKENS = BERT_TOKENS
_UNUSED = re.compile(r"\[unused\d+\]")
_AT_ONCE = 100_000  # characters that are encoded between two checks for signals
# scripts written without spaces, where each token counts as a word
_UNSPACED = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F))
_MOST_GAPS, _FEW_IDS = 4, 1000  # the highest id is at most 4 × the number of entries + 1,000
_IDEOGRAPHS = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFD))

_TRIAL = f"a Test, 1+1 = été\n[MASK] 苹果 ꙮ𐎠😀\u200b {'a' * 40}! {'1' * 40}.{' ' * 40}x"
"""text of many kinds, with what makes patterns backtrack"""


class Tokenizer:
    """A trained tokenizer: `load` one, or make one with `train_tokenizer`.

    The vocabulary must have a padding, unknown, classification, separator and mask token, with the names of BERT
    (`[PAD]`, `[UNK]`, `[CLS]`, `[SEP]`, `[MASK]`), of RoBERTa (`<pad>`, `<unk>`, `<s>`, `</s>`, `<mask>`) or of `names`, by role.
    Raises InputError if one is missing, or if other tokens than `[CLS]` and `[SEP]` are put around a text.

    >>> from bert.data.vocabulary import train_tokenizer
    >>> tokenizer = train_tokenizer(["the cat and the dog"] * 3)
    >>> ids = tokenizer.encode("the [MASK]")
    >>> [tokenizer.token(i) for i in ids]
    ['[CLS]', 'the', '[MASK]', '[SEP]']
    >>> values, lengths = tokenizer.encode_documents(["the cat", "the dog and"])  # without special tokens
    >>> lengths.tolist(), values.dtype
    ([2, 3], dtype('uint16'))
    """

    def __init__(self, backend: tokenizers.Tokenizer, names: dict[str, str] | None = None, source: str = "tokenizer"):
        backend.no_truncation()
        backend.no_padding()
        tokens, missing = {}, []
        for role, bert_name, roberta_name in zip(ROLES, BERT_TOKENS, ROBERTA_TOKENS):
            candidates = [name for name in ((names or {}).get(role), bert_name, roberta_name) if name is not None]
            found = next((name for name in candidates if backend.token_to_id(name) is not None), None)
            if found is None:
                missing.append(candidates[0])
            else:
                tokens[role] = found
        if missing:
            fix = "name its own in tokenizer_config.json (cls_token, …), or train one"
            raise InputError(f"{source}: the vocabulary has no {', '.join(missing)}; {fix}")
        self.tokens = tokens
        self.pad_token, self.unk_token, self.cls_token, self.sep_token, self.mask_token = tokens.values()
        vocabulary = backend.get_vocab(with_added_tokens=True)
        last = max(vocabulary, key=vocabulary.__getitem__)
        if vocabulary[last] > _MOST_GAPS * len(vocabulary) + _FEW_IDS:
            where = f"{vocabulary[last]} in a vocabulary of {len(vocabulary)} entries"
            raise InputError(f"{source}: {last!r} has id {where}: number the entries from 0")
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = map(vocabulary.__getitem__, tokens.values())
        around = list(backend.encode("").ids)
        if not around:  # nothing puts special tokens around a text, yet every model here reads them
            template = post_processor(self.cls_token, self.cls_id, self.sep_token, self.sep_id)
            given = backend.post_processor
            backend.post_processor = template if given is None else ProcessorSequence([given, template])
        elif around != [self.cls_id, self.sep_id]:
            found = " ".join(map(str, map(backend.id_to_token, around)))
            what = f"puts {found} around a text, not {self.cls_token} and {self.sep_token}"
            raise InputError(f"{source}: {what}: name them as cls_token and sep_token in tokenizer_config.json")
        self.backend, self.source = backend, source
        self._definition: dict[str, Any] = json.loads(backend.to_str())

    # ── files ──

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read the tokenizer of a folder, or a `tokenizer.json` file. Truncation and padding are switched off.

        The folder holds `tokenizer.json` or, as older Hugging Face folders do, BERT's `vocab.txt` or RoBERTa's `vocab.json`
        and `merges.txt`, with `tokenizer_config.json` and similar files beside them.

        Raises InputError if there is no tokenizer, a file is damaged, or one of the five special tokens is missing.
        """
        check_arguments(Tokenizer.load, locals())
        path = completed(Path(path).expanduser())
        if not path.exists():
            raise InputError(f"{path}: no such tokenizer file or folder; train one first")
        if path.is_file() and path.name in encoding.FILES and path.name != "tokenizer.json":
            path = path.parent  # which holds its other files
        file, options = path, {}
        if path.is_dir():
            file, options = path / "tokenizer.json", encoding.read_object(path / "tokenizer_config.json")
            if options.get("added_tokens_decoder") is None:  # of transformers before 4.34
                options |= encoding.read_object(path / "special_tokens_map.json")
        named = {role: encoding.token_name(options.get(f"{role}_token")) for role in ROLES}
        names = {role: name for role, name in named.items() if name is not None}
        try:
            if path.is_dir() and not file.exists():
                from bert.data.legacy_tokenizers import read_vocabulary  # for old folders only

                backend, names, file = read_vocabulary(path, options, names)
            else:
                backend = encoding.read_definition(file)
                if options.keys() & encoding.NORMALIZER.keys():
                    from bert.data.legacy_tokenizers import configure

                    configure(backend, path, options)
            with encoding.rust_silent():
                tokenizer = cls(backend, names, source=str(file))
                tokenizer._try()
        except BaseException as error:
            if isinstance(error, InputError) or not (isinstance(error, Exception) or encoding.is_of_rust(error)):
                raise
            raise InputError(f"{file}: not a tokenizer ({first_line(error)}); fetch it again, or train one") from None
        return tokenizer

    def _try(self) -> None:
        """Encode and decode a short text, so that a tokenizer that always fails is refused when it is loaded."""
        with_specials, pair = self.backend.encode(_TRIAL), self.backend.encode(_TRIAL, "b")
        alone = self.backend.encode(_TRIAL, add_special_tokens=False)
        self._plain.encode(_TRIAL)
        self.backend.decode(pair.ids)
        if len(with_specials) != len(alone) + 2 or max(pair.ids) >= self.vocab_size or not {*pair.type_ids} <= {0, 1}:
            raise ValueError("it puts other than special tokens of its vocabulary around a text")

    @staticmethod
    def has_files(folder: str | Path) -> bool:
        """Whether a folder holds a tokenizer for `load`, or part of one."""
        folder = Path(folder)
        return any((folder / name).exists() for name in (*encoding.FILES, *encoding.sentencepieces(folder)))

    def save(
        self,
        folder: str | Path,
        model_max_length: int = 512,
        model_input_names: Sequence[str] = ("input_ids", "attention_mask"),
    ) -> None:
        """Write `tokenizer.json`, `tokenizer_config.json` and, for a WordPiece of BERT, `vocab.txt` into `folder`.

        transformers' AutoTokenizer opens the folder and gives the same ids. The folder is replaced atomically; other files in
        it are kept. `model_input_names` must contain "token_type_ids" if the model has token types. Raises InputError.
        """
        fix = "free the disk or choose another folder"
        with accessing(folder, "written", fix), replaced_folder(Path(folder), encoding.ALL_FILES) as fresh:
            self.write(fresh, model_max_length, model_input_names)

    def write(self, folder: Path, model_max_length: int, model_input_names: Sequence[str]) -> None:
        """Write the files of `save` into a folder. Raises OSError."""
        # any other class, or none, makes AutoTokenizer rebuild the normalizer from its own defaults
        config: dict[str, object] = {f"{role}_token": token for role, token in self.tokens.items()}
        config |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        if (self.cls_token, self.sep_token) == ("<s>", "</s>"):  # RoBERTa's readers also look for these keys
            config |= {"bos_token": "<s>", "eos_token": "</s>"}
        config |= {"model_max_length": model_max_length, "model_input_names": list(model_input_names)}
        files = {"tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False) + "\n"}
        # readers of vocab.txt normalize as BERT does; without added words, which would become parts of longer words too
        if self.kind == "wordpiece" and (self._definition["normalizer"] or {}).get("type") == "BertNormalizer":
            vocabulary: dict[str, int] = self._definition["model"]["vocab"]
            if sorted(vocabulary.values()) == list(range(len(vocabulary))):
                files["vocab.txt"] = "".join(f"{token}\n" for token in sorted(vocabulary, key=vocabulary.__getitem__))
        files["tokenizer.json"] = json.dumps(self._definition, indent=2, ensure_ascii=False) + "\n"
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")

    # ── text to ids and back ──

    def encode(self, text: str, pair: str | None = None) -> list[int]:
        """Ids of a text, or of a pair of texts, with special tokens; `[MASK]` in the text is the mask token.

        The text around a mask is split as in running text, where the space before a word is part of its first token.
        """
        check_arguments(Tokenizer.encode, locals())
        text, pair = encoding.encodable(text), pair if pair is None else encoding.encodable(pair)
        if pair is None and self._needs_blank_before_words and not self._needs_blank and self.mask_token in text:
            return [self.cls_id, *self._around_masks(text), self.sep_id]
        return list(self._called(self.backend.encode, text, pair).ids)

    def _around_masks(self, text: str) -> list[int]:
        """Ids of a text with masks, for tokenizers whose words begin with a space: a mask includes the space of its word."""
        first, *others = text.split(self.mask_token)
        ids = list(self._called(self.backend.encode, first.rstrip() if others else first, add_special_tokens=False).ids)
        for number, part in enumerate(others, start=1):
            part = part.rstrip() if number < len(others) else part
            ids.append(self.mask_id)
            # a part that begins without a space, such as a full stop, is tokenized after a letter, which is then dropped
            attached = part[:1] != "" and not part[0].isspace() and not part[0].isalnum()
            cut = self._called(self.backend.encode, f"a{part}" if attached else part, add_special_tokens=False)
            if attached and any(start < 1 < end for start, end in cut.offsets):  # the letter is part of a token
                attached, cut = False, self._called(self.backend.encode, part, add_special_tokens=False)
            ids += [i for i, (_, end) in zip(cut.ids, cut.offsets) if not attached or end > 1]
        return ids

    def encode_documents(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of many texts without special tokens, by all cores: flat values (uint16 or uint32) and lengths (int64).

        Special-token strings in texts are treated as plain text.
        """
        check_arguments(Tokenizer.encode_documents, locals())
        try:
            encodings = self._encoded(list(texts))
        except (TypeError, UnicodeEncodeError):  # a lone surrogate
            encodings = self._encoded([encoding.encodable(text) for text in texts])
        ids = [np.array(one.ids, dtype=self.dtype) for one in encodings]
        lengths = np.array([len(row) for row in ids], dtype=np.int64)
        return np.concatenate(ids) if ids else np.zeros(0, dtype=self.dtype), lengths

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of a text with special tokens, and for each the characters (start, end) of `text` that it stands for.

        Special tokens have (0, 0). A space that belongs to a token is not counted: a token of spaces alone has start = end.
        Special-token strings in the text are treated as plain text.
        """
        check_arguments(Tokenizer.encode_with_offsets, locals())
        encoded = self._called(self._plain.encode, encoding.encodable(text))  # as many characters: offsets are the same
        offsets = []
        for token, (start, end) in zip(encoded.tokens, encoded.offsets):
            if self._needs_blank_before_words and not token.strip("Ġ▁"):
                end = start  # a space that the tokenizer put before the text would be its first character
            covered = text[start:end]
            start += len(covered) - len(covered.lstrip())
            offsets.append((start, max(start, end - len(covered) + len(covered.rstrip()))))
        return list(encoded.ids), offsets

    def word_tokens(self, words: Sequence[str]) -> list[list[int]]:
        """The ids of each word as in running text: one list for each word, none empty.

        A word of which nothing remains (characters that the normalizer drops, spaces, an empty string) is [UNK].
        Special-token strings are treated as plain text.
        """
        space = " " if self._needs_blank else ""
        distinct = list(dict.fromkeys(words))
        encoded = self._encoded([space + encoding.encodable(word) for word in distinct])
        ids_of = {word: list(one.ids) or [self.unk_id] for word, one in zip(distinct, encoded)}
        return [ids_of[word] for word in words]

    def decode(self, ids: Sequence[int] | np.ndarray, skip_special_tokens: bool = True) -> str:
        """The text of ids, as far as the tokenizer's normalization preserves it."""
        return str(self._called(self.backend.decode, [int(i) for i in ids], skip_special_tokens=skip_special_tokens))

    def _encoded(self, texts: list[str]) -> list[tokenizers.Encoding]:
        how = (interruptible,) if sum(map(len, texts)) > _AT_ONCE else ()  # a thread takes longer than a short text
        return list(self._called(*how, self._plain.encode_batch_fast, texts, False, False))

    def _called(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a function of `tokenizers` on a text. Raises InputError if it fails."""
        try:
            return function(*arguments, **options)
        except BaseException as error:
            if not encoding.is_of_rust(error):
                raise
            what = f"cannot encode or decode this text ({first_line(error)})"
            raise InputError(f"{self.source}: {what}; use another tokenizer") from None

    def token(self, token_id: int) -> str:
        """The token of an id, such as `##ing`."""
        return self._tokens_by_id[token_id]

    def spelling(self, token_id: int) -> tuple[bool, str] | None:
        """Whether a token begins with a space or begins a word, and its text without the marker for that: (True, "run") for
        `run`, `Ġrun` or `▁run`, (False, "ning") for `##ning` or `ning`.

        None for special and unused entries, and for a byte-level token that is part of a character.
        """
        token = self._tokens_by_id[token_id]
        if token_id in self._silent_ids or not token:
            return None
        if self.kind == "wordpiece":
            prefix = self._definition["model"]["continuing_subword_prefix"]
            return not token.startswith(prefix), token.removeprefix(prefix)
        if self._byte_level:
            try:
                token = bytes(_BYTE_OF[character] for character in token).decode("utf-8").replace(" ", "▁", 1)
            except (KeyError, UnicodeDecodeError):
                return None
        return token.startswith("▁"), token.removeprefix("▁")

    # ── two texts in a row ──

    @cached_property
    def pair_separators(self) -> tuple[int, ...]:
        """The ids between the two texts of a pair: one separator in BERT's format, two in RoBERTa's."""
        return tuple(self.backend.encode("", "").ids[1:-1])

    @cached_property
    def second_type(self) -> int:
        """Token type of the second text of a pair and of the separator after it: 1 in BERT's format, 0 in RoBERTa's."""
        return int(self.backend.encode("", "").type_ids[-1])

    # ── what is in the vocabulary ──

    @cached_property
    def kind(self) -> str:
        """`wordpiece`, `bpe`, `unigram` or, in folders of others, `wordlevel`."""
        return str(self._definition["model"]["type"]).lower()

    @cached_property
    def hash(self) -> str:
        """sha256 of the definition, independent of the layout of its file; stored in token stores and checkpoints."""
        text = json.dumps(self._definition, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def vocab_size(self) -> int:
        """Number of entries of the vocabulary, including unused ones: the highest id + 1."""
        return len(self._tokens_by_id)

    @property
    def dtype(self) -> type[np.uint16] | type[np.uint32]:
        """The smallest type that holds every id."""
        return np.uint16 if self.vocab_size <= 65536 else np.uint32

    @cached_property
    def special_ids(self) -> tuple[int, ...]:
        """The five special tokens and any other that the tokenizer marks as special, ascending."""
        marked = {int(entry["id"]) for entry in self._definition["added_tokens"] if entry["special"]}
        return tuple(sorted(marked | {self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id}))

    @cached_property
    def unused_ids(self) -> tuple[int, ...]:
        """Ids that no text produces: `[unusedN]`, and gaps in the numbering."""
        return tuple(i for i, token in enumerate(self._tokens_by_id) if not token or _UNUSED.fullmatch(token))

    @cached_property
    def _silent_ids(self) -> frozenset[int]:
        return frozenset((*self.special_ids, *self.unused_ids))

    @cached_property
    def replacement_ids(self) -> np.ndarray:
        """int64 array of the ids that may replace a masked token: neither special nor unused."""
        return np.setdiff1d(np.arange(self.vocab_size), list(self._silent_ids)).astype(np.int64)

    @cached_property
    def word_starts(self) -> np.ndarray:
        """(vocab_size,) bool: whether a token begins a word. A word is such a token and the following ones up to the next.

        WordPiece: no `##`. Otherwise a token that begins with a space, punctuation, a symbol or a character of a script
        without spaces (where a whole sentence would be one word). Special and unused entries are words by themselves.
        """
        starts = np.array([self._begins_word(token) for token in self._tokens_by_id], dtype=bool)
        starts[list(self._silent_ids)] = True
        return starts

    def _begins_word(self, token: str) -> bool:
        if self.kind == "wordpiece":
            return not token.startswith(self._definition["model"]["continuing_subword_prefix"])
        if self._byte_level:
            raw = bytes(_BYTE_OF[character] for character in token if character in _BYTE_OF)
            if not raw or raw[0] & 0xC0 == 0x80:  # the middle of a character
                return False
            # the beginning of a character is completed to one of the same block
            text = (raw + b"\x80\x80\x80").decode("utf-8", errors="ignore")
        else:
            text = token.replace("▁", " ")
        first = text[:1]
        return first.isspace() or is_unspaced(first) or unicodedata.category(first or "a")[0] in "PSZC"

    @cached_property
    def _tokens_by_id(self) -> list[str]:
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        tokens = [""] * (max(vocabulary.values()) + 1)
        for token, i in vocabulary.items():
            tokens[i] = token
        return tokens

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """A copy that treats special-token strings in a text as plain text."""
        plain = tokenizers.Tokenizer.from_str(self.backend.to_str())
        plain.encode_special_tokens = True
        return plain

    @cached_property
    def _pre_tokenizers(self) -> list[dict[str, Any]]:
        outer = self._definition["pre_tokenizer"] or {"type": "none"}
        return list(outer["pretokenizers"]) if outer["type"] == "Sequence" else [outer]

    @cached_property
    def _byte_level(self) -> bool:
        return any(entry["type"] == "ByteLevel" for entry in self._pre_tokenizers)

    @cached_property
    def _needs_blank_before_words(self) -> bool:
        return any(entry["type"] in ("ByteLevel", "Metaspace") for entry in self._pre_tokenizers)

    @cached_property
    def _needs_blank(self) -> bool:
        """Whether a word needs a space before it to be tokenized as in running text."""
        byte_level = [not entry["add_prefix_space"] for entry in self._pre_tokenizers if entry["type"] == "ByteLevel"]
        metaspace = [entry for entry in self._pre_tokenizers if entry["type"] == "Metaspace"]
        return any(byte_level) or any(entry["prepend_scheme"] == "never" for entry in metaspace)


def is_unspaced(character: str, ideographs: bool = True) -> bool:
    """Whether a character, if any, belongs to a script that is written without spaces between words."""
    ranges = _UNSPACED + _IDEOGRAPHS if ideographs else _UNSPACED
    return any(low <= ord(character) <= high for low, high in ranges) if character else False


def post_processor(cls_token: str, cls_id: int, sep_token: str, sep_id: int) -> TemplateProcessing:
    """[CLS] A [SEP], and [CLS] A [SEP] B [SEP] with token type 1 from B on."""
    single, special = f"{cls_token} $A {sep_token}", [(cls_token, cls_id), (sep_token, sep_id)]
    return TemplateProcessing(single=single, pair=f"{single} $B:1 {sep_token}:1", special_tokens=special)


# the characters that stand for the 256 bytes in byte-level tokenizers (GPT-2's table)
_PLAIN = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_OTHERS = [byte for byte in range(256) if byte not in _PLAIN]
_BYTE_OF = {chr(byte): byte for byte in _PLAIN} | {chr(256 + i): byte for i, byte in enumerate(_OTHERS)}
