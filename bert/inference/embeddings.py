"""Many texts to vectors: of texts and of words in them; guesses for masks. `bert.inference.batching` runs the model.

Below are the model and the tokenizer that came with its folder.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from bert.data.tokenizer import Tokenizer
from bert.errors import InputError
from bert.inference.batching import Batch, Encoded, check_finite, evaluating, run_batches
from bert.model.config import EncoderConfig
from bert.model.encoder import Encoder
from bert.model.heads import MaskedLM, Prediction

Pooling = Literal["mean", "cls"]

TOKENISED_AT_ONCE = 4_096
"""texts: what a tokenizer tells of each takes memory"""


# ── vectors of texts ──


def embed(
    model: nn.Module,
    texts: Iterable[str],
    pooling: Pooling = "mean",
    layer: int = -1,
    *,
    sequence_length: int | None = None,
    batch_tokens: int | None = None,
    bf16: bool | None = None,
    progress: str | None = None,
) -> Tensor:
    """(N, D) fp32 vectors on the CPU of N texts: the mean of a text's tokens, special ones too, or its first token, [CLS].

    `layer` counts from 0, the embeddings; -1 is the last. A text of more than `sequence_length` tokens (`max_length` of the model
    where not given) goes through in windows of like length, none overlapping, and is pooled over all of them: nothing is cut
    off. What looks like a special token in a text is text. `batch_tokens`, `bf16` and `progress` are those of
    `bert.inference.batching.run_batches`.

    Raises InputError for one text in place of a list, or what is no text, for another pooling, and where the model has no
    tokenizer, no such layer or no rows of that length.
    """
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise InputError(f'embed takes a list of texts and got {type(texts).__name__}: give ["…"] for one')
    texts = list(texts)
    if pooling not in ("mean", "cls"):
        raise InputError(f"pooling is {pooling}: give mean or cls")
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"texts[{place}] is {text!r}: embed takes a list of texts")
    encoder = encoder_of(model)
    tokenizer = tokenizer_of(encoder)
    (number,) = resolve_layers(encoder.config, [layer])
    room = _room(encoder.config, sequence_length)
    windows, owners = [], []
    cls, sep = (np.array([special], tokenizer.dtype) for special in (tokenizer.cls_id, tokenizer.sep_id))
    for owner, ids in enumerate(_tokens(tokenizer, texts)):
        count = max(1, -(-len(ids) // room))
        for part in range(count):
            piece = ids[len(ids) * part // count : len(ids) * (part + 1) // count]
            windows.append(Encoded(np.concatenate((cls, piece, sep))))  # 2 bytes a token, where a list takes 36
            owners.append(owner)

    sums = torch.zeros(len(texts), encoder.config.hidden_size)
    counts = torch.zeros(len(texts), 1)

    def take(output: Any, batch: Batch) -> list[None]:
        hidden = output.last_hidden_state if output.hidden_states is None else output.hidden_states[number]
        mask = batch.attention_mask if pooling == "mean" else torch.ones_like(batch.attention_mask[:, :1])
        pooled = (hidden[:, : mask.shape[1]] * mask[..., None]).sum(dim=1, dtype=torch.float32)  # (B, D)
        of = torch.tensor([owners[place] for place in batch.positions])
        sums.index_add_(0, of, pooled.cpu())
        counts.index_add_(0, of, mask.sum(dim=1, keepdim=True).float().cpu())
        return [None] * len(batch.positions)

    last = number == encoder.config.num_layers
    run_batches(encoder, windows, take, hidden_states=not last, batch_tokens=batch_tokens, bf16=bf16, progress=progress)
    return sums / counts


def _tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[np.ndarray]:
    """The ids of each text without special tokens. Many texts at once go through all cores."""
    for first in range(0, len(texts), TOKENISED_AT_ONCE):
        values, lengths = tokenizer.encode_documents(texts[first : first + TOKENISED_AT_ONCE])
        begin = 0
        for length in lengths.tolist():
            yield values[begin : begin + length]
            begin += length


# ── vectors of words in their sentences ──


Pieces = tuple[list[int], list[int]]
"""ids of a sentence with special tokens, and the positions of some of them"""


def span_tokens(tokenizer: Tokenizer, sentences: Sequence[str], spans: Sequence[tuple[int, int]]) -> list[Pieces]:
    """For each of n sentences its ids and the positions of the pieces that characters start to end touch.

    Raises InputError where a span is not inside its sentence or touches no piece.
    """
    found: list[Pieces] = []
    text: str | None = None
    for sentence, span in zip(sentences, spans, strict=True):
        if sentence != text:
            text, (ids, offsets) = sentence, tokenizer.encode_with_offsets(sentence)
        found.append((ids, _touched(offsets, sentence, span)))
    return found


def token_vectors(
    encoder: Encoder,
    pieces: Sequence[Pieces],
    layers: Sequence[int] | None = None,
    *,
    sequence_length: int | None = None,
    batch_tokens: int | None = None,
    bf16: bool | None = None,
    progress: str | None = None,
) -> Tensor:
    """(n, layers, D) fp32 on the CPU: for each of n sentences of ids the mean over the positions that are given with it.

    `layers` counts from 0, the embeddings, to the number of layers; not given: all of them. A sentence of more than
    `sequence_length` tokens (`max_length` of the model where not given) is read through the window of that length in whose middle
    the positions are; of positions that lie further apart, those in that window count. A sentence that comes several times is run once.

    Raises InputError where the model has no such layer.
    """
    numbers = resolve_layers(encoder.config, layers)
    room = _room(encoder.config, sequence_length)
    windows: dict[tuple[int, ...], list[tuple[int, list[int]]]] = {}  # ids → (number, positions of its pieces)
    for number, (ids, positions) in enumerate(pieces):
        window, inside = window_around(ids, positions, room)
        windows.setdefault(window, []).append((number, inside))
    wanted = list(windows.values())
    vectors = torch.empty(len(pieces), len(numbers), encoder.config.hidden_size)

    def take(output: Any, batch: Batch) -> list[None]:
        width = batch.input_ids.shape[1]
        here = [(row, *one) for row, place in enumerate(batch.positions) for one in wanted[place]]
        flat = [row * width + piece for row, _, inside in here for piece in inside]
        owner = [position for position, (_, _, inside) in enumerate(here) for _ in inside]
        sizes = torch.tensor([[len(inside)] for _, _, inside in here])
        of = torch.tensor([number for _, number, _ in here])
        for column, layer in enumerate(numbers):
            hidden = output.hidden_states[layer].flatten(0, 1)[flat].float().cpu()  # (pieces, D)
            sums = torch.zeros(len(here), hidden.shape[1]).index_add_(0, torch.tensor(owner), hidden)
            vectors[of, column] = sums / sizes
        return [None] * len(batch.positions)

    inputs = [Encoded(window) for window in windows]
    run_batches(encoder, inputs, take, hidden_states=True, batch_tokens=batch_tokens, bf16=bf16, progress=progress)
    return vectors


def _touched(offsets: Sequence[tuple[int, int]], sentence: str, span: tuple[int, int]) -> list[int]:
    """Positions of the pieces that the characters of `span` touch."""
    start, end = span
    if not 0 <= start < end <= len(sentence):
        where = f"the sentence {_short(sentence)} of {len(sentence)} characters"
        raise InputError(f"characters {start} to {end} are not inside {where}")
    pieces = [place for place, (first, last) in enumerate(offsets) if max(first, start) < min(last, end)]
    if not pieces:
        what = f"{start} to {end} of {_short(sentence)} ({sentence[start:end]!r})"
        fix = "are nothing to the tokenizer, which drops them: leave this occurrence out"
        raise InputError(f"characters {what} {fix}")
    return pieces


def window_around(ids: Sequence[int], pieces: Sequence[int], room: int) -> tuple[tuple[int, ...], list[int]]:
    """At most `room` of the tokens between the special ones, with `pieces` in their middle; positions of `pieces` in it."""
    length = len(ids) - 2
    if length <= room:
        return tuple(ids), list(pieces)
    middle = (pieces[0] + pieces[-1]) // 2 - 1
    begin = min(max(0, middle - room // 2), length - room)
    window = (ids[0], *ids[1 + begin : 1 + begin + room], ids[-1])
    return window, [piece - begin for piece in pieces if 1 <= piece - begin <= room]


def resolve_layers(config: EncoderConfig, layers: Sequence[int] | int | None) -> list[int]:
    """Numbers of layers from 0, the embeddings; all of them for none. Negative ones count from the last."""
    total = config.num_layers + 1
    layers = [layers] if isinstance(layers, int) else layers
    if layers is None:
        return list(range(total))
    for layer in layers:
        if not -total <= layer < total:
            raise InputError(f"layer {layer}: the model has layers 0 (the embeddings) to {config.num_layers}")
    return [layer % total for layer in layers]


def encoder_of(model: nn.Module | str | Path) -> Encoder:
    """The encoder in any of our models, or in a model folder: then on the GPU where there is one."""
    if isinstance(model, str | Path):
        return Encoder.load(model).to("cuda" if torch.cuda.is_available() else "cpu")
    encoder = model if isinstance(model, Encoder) else getattr(model, "encoder", None)
    if not isinstance(encoder, Encoder):
        raise InputError(f"{type(model).__name__} is not a model of this package: give an Encoder, or a model with one")
    return encoder


def tokenizer_of(model: nn.Module) -> Tokenizer:
    """The tokenizer that came with the model. InputError where it has none."""
    tokenizer = encoder_of(model).tokenizer
    if tokenizer is None:
        fix = "load it from a folder with tokenizer.json, or set model.tokenizer"
        raise InputError(f"this model has no tokenizer: {fix}")
    return tokenizer


def _room(config: EncoderConfig, sequence_length: int | None) -> int:
    """Tokens of a text that a row has room for, beside [CLS] and [SEP]."""
    length = config.max_length if sequence_length is None else sequence_length
    if not 3 <= length <= config.max_length:
        raise InputError(f"sequence_length is {length}: give 3 to {config.max_length}, the longest row of the model")
    return length - 2


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}…")


# ── guesses for masks ──


@torch.inference_mode()
def fill(model: MaskedLM, text: str, top: int = 5) -> list[list[Prediction]]:
    """The `top` likeliest tokens for each mask in `text`, likeliest first; never a special or an unused token.

    Dropout is off while it predicts. Raises InputError where the model has no tokenizer, the text no mask token or more
    tokens than the model takes, or `top` is less than 1.
    """
    tokenizer = tokenizer_of(model)
    if not isinstance(text, str):
        raise InputError(f"fill takes one text and got {type(text).__name__}: give each by itself")
    if not isinstance(top, int) or top < 1:
        raise InputError(f"top is {top}: give a whole number, 1 or more")
    ids = tokenizer.encode(text)
    masks = [place for place, token in enumerate(ids) if token == tokenizer.mask_id]
    if not masks:
        mask = tokenizer.mask_token
        raise InputError(f"no {mask} in {text!r}: put {mask} where a word is to be guessed")
    if len(ids) > model.config.max_length:
        most = model.config.max_length
        raise InputError(f"the text is {len(ids)} tokens long and the model takes {most}: give a shorter text")
    device = next(model.parameters()).device
    with evaluating(model):
        masked_positions = torch.tensor([masks], device=device)
        logits = model(torch.tensor([ids], device=device), masked_positions=masked_positions).logits[0]  # (masks, V)
    check_finite(logits)
    probabilities = logits.float().softmax(dim=-1).cpu()
    words = torch.from_numpy(tokenizer.replacement_ids).long()  # what may be an answer
    values, positions = probabilities[:, words].topk(min(top, len(words)), dim=-1)
    return [
        [
            Prediction(_readable(tokenizer, int(words[place])), int(words[place]), float(value))
            for value, place in zip(of_mask, at)
        ]
        for of_mask, at in zip(values, positions)
    ]


def _readable(tokenizer: Tokenizer, token_id: int) -> str:
    piece = tokenizer.token(token_id)
    return piece if tokenizer.kind == "wordpiece" else tokenizer.decode([token_id]).strip() or piece
