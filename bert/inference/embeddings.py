"""Vectors of texts and of words in them, and predictions for masks, of a model with the tokenizer of its folder.

`bert.inference.batching` runs the model.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bert.data.tokenizer import Tokenizer
from bert.errors import InputError, check_arguments
from bert.inference.batching import Batch, Encoded, check_finite, run_batches
from bert.model.config import EncoderConfig
from bert.model.encoder import Encoder, Pooling, evaluating
from bert.model.heads import Candidate, MaskedLM

logger = logging.getLogger(__name__)

TOKENIZED_AT_ONCE = 4_096
"""texts at once: the output of a tokenizer takes memory"""


# ── vectors of texts ──


def embed(
    model: nn.Module,
    texts: Iterable[str],
    pooling: Pooling | None = None,
    layer: int | Sequence[int] = -1,
    batch_tokens: int | None = None,
    bf16: bool | None = None,
) -> Tensor:
    """(N, D) fp32 vectors on the CPU of N texts: the mean over the tokens of a text, including special ones, or its first
    token, [CLS]. By default the one that the folder of the model says for sentence-transformers; without that, the mean.

    `layer` counts from 0, the embeddings; -1 is the last. For a list of layers the vectors are (N, layers, D).
    A text of more tokens than the model takes is split into windows of similar length without overlap, and pooled over all of
    them: nothing is truncated. Special-token strings in texts are plain text. `batch_tokens` and `bf16` are those of
    `bert.inference.batching.run_batches`.

    Raises InputError for a single text instead of a list, for items that are not text, for an unknown pooling, and if the model
    has no tokenizer or no such layer.
    """
    check_arguments(embed, locals())
    texts = list(texts)
    encoder = encoder_of(model)
    chosen = pooling or encoder.pooling
    if chosen not in ("mean", "cls"):
        source = "" if pooling else ", as 1_Pooling in the folder of the model says, which is not supported"
        raise InputError(f"pooling is {chosen}{source}: give mean or cls")
    tokenizer, numbers = tokenizer_of(encoder), resolve_layers(encoder.config, layer)
    room = max(1, encoder.config.max_length - 2)
    windows, owners = [], []
    cls, sep = (np.array([special], tokenizer.dtype) for special in (tokenizer.cls_id, tokenizer.sep_id))
    for owner, ids in enumerate(_tokens(tokenizer, texts)):
        count = max(1, -(-len(ids) // room))
        for part in range(count):
            window = ids[len(ids) * part // count : len(ids) * (part + 1) // count]
            windows.append(Encoded(np.concatenate((cls, window, sep))))  # 2 bytes per token; a list takes 36
            owners.append(owner)

    sums = torch.zeros(len(texts), len(numbers), encoder.config.hidden_size)
    counts = torch.zeros(len(texts), 1, 1)
    is_last = numbers == [encoder.config.num_layers]

    def take(output: Any, batch: Batch) -> list[None]:
        states = [output.last_hidden_state] if is_last else [output.hidden_states[number] for number in numbers]
        mask = batch.attention_mask if chosen == "mean" else torch.ones_like(batch.attention_mask[:, :1])
        of = torch.tensor([owners[place] for place in batch.positions])
        for column, hidden in enumerate(states):
            pooled = (hidden[:, : mask.shape[1]] * mask[..., None]).sum(dim=1, dtype=torch.float32)  # (B, D)
            sums[:, column].index_add_(0, of, pooled.cpu())
        counts.index_add_(0, of, mask.sum(dim=1, keepdim=True)[..., None].float().cpu())
        return [None] * len(batch.positions)

    run_batches(encoder, windows, take, hidden_states=not is_last, batch_tokens=batch_tokens, bf16=bf16)
    sums /= counts
    return sums[:, 0] if isinstance(layer, int | np.integer) else sums


def _tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[np.ndarray]:
    """The ids of each text without special tokens, computed in batches by all cores."""
    for first in range(0, len(texts), TOKENIZED_AT_ONCE):
        values, lengths = tokenizer.encode_documents(texts[first : first + TOKENIZED_AT_ONCE])
        for length, end in zip(lengths.tolist(), np.cumsum(lengths).tolist()):
            yield values[end - length : end]


# ── vectors of words in their sentences ──


Pieces = tuple[list[int], list[int]]
"""ids of a sentence with special tokens, and the positions of some of them"""


def span_tokens(tokenizer: Tokenizer, sentences: Sequence[str], spans: Sequence[tuple[int, int]]) -> list[Pieces]:
    """For each of n sentences its ids and the positions of the tokens that overlap characters start to end.

    Raises InputError if a span is not inside its sentence or overlaps no token.
    """
    found: list[Pieces] = []
    text: str | None = None
    for sentence, span in zip(sentences, spans, strict=True):
        if sentence != text:
            text, (ids, offsets) = sentence, tokenizer.encode_with_offsets(sentence)
        found.append((ids, _touched(offsets, sentence, span)))
    return found


def warn_of_unknown(tokenizer: Tokenizer, tokens: Sequence[str]) -> None:
    """Warn if there are [UNK] tokens: a model cannot tell what they stand for."""
    if unknown := tokens.count(tokenizer.unk_token):
        logger.warning(f"{unknown:,} of {len(tokens):,} tokens are unknown to the model ({tokenizer.unk_token})")


def token_vectors(
    encoder: Encoder,
    spans: Sequence[Pieces],
    layers: Sequence[int] | None = None,
    bf16: bool | None = None,
    progress: str | None = None,
) -> Tensor:
    """(n, layers, D) fp32 on the CPU: for each of n sentences of ids the mean over its positions in `spans`.

    `layers` counts from 0, the embeddings, negative ones from the last; by default all, ascending. Of a sentence of more tokens
    than the model takes, only a window around the middle of the positions is used, and the positions in it. A sentence that
    occurs several times is run once.

    Raises InputError if the model has no such layer.
    """
    numbers = resolve_layers(encoder.config, layers)
    room = max(1, encoder.config.max_length - 2)
    windows: dict[tuple[int, ...], list[tuple[int, list[int]]]] = {}  # ids → (index of the span, its positions)
    for number, (ids, positions) in enumerate(spans):
        window, inside = window_around(ids, positions, room)
        windows.setdefault(window, []).append((number, inside))
    wanted = list(windows.values())
    vectors = torch.empty(len(spans), len(numbers), encoder.config.hidden_size)

    def take(output: Any, batch: Batch) -> list[None]:
        width = batch.input_ids.shape[1]
        here = [(row, *one) for row, place in enumerate(batch.positions) for one in wanted[place]]
        flat = [row * width + position for row, _, inside in here for position in inside]
        owner = [position for position, (_, _, inside) in enumerate(here) for _ in inside]
        sizes = torch.tensor([[len(inside)] for _, _, inside in here])
        of = torch.tensor([number for _, number, _ in here])
        for column, layer in enumerate(numbers):
            hidden = output.hidden_states[layer].flatten(0, 1)[flat].float().cpu()  # (tokens, D)
            sums = torch.zeros(len(here), hidden.shape[1]).index_add_(0, torch.tensor(owner), hidden)
            vectors[of, column] = sums / sizes
        return [None] * len(batch.positions)

    inputs = [Encoded(window) for window in windows]
    run_batches(encoder, inputs, take, hidden_states=True, bf16=bf16, progress=progress)
    return vectors


def _touched(offsets: Sequence[tuple[int, int]], sentence: str, span: tuple[int, int]) -> list[int]:
    """Positions of the tokens that overlap the characters of `span`."""
    start, end = span
    shown = repr(sentence if len(sentence) <= 60 else f"{sentence[:57]}…")
    if not 0 <= start < end <= len(sentence):
        what = f"are not inside the sentence {shown} of {len(sentence)} characters"
        raise InputError(f"characters {start} to {end} {what}")
    (positions,) = overlapping(offsets, [span])
    if not positions:
        what = f"characters {start} to {end} of {shown} ({sentence[start:end]!r})"
        raise InputError(f"{what} are dropped by the tokenizer: omit this occurrence")
    return positions


def overlapping(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """For each of several spans of a text the positions of the tokens that overlap its characters; none if the tokenizer drops them."""
    firsts, lasts = np.array(offsets).T
    # bounds that ascend, whatever the tokenizer's order, so that a long text takes no longer per span
    lasts_before = np.maximum.accumulate(lasts)
    firsts_after = np.minimum.accumulate(np.where(firsts < lasts, firsts, lasts.max() + 1)[::-1])[::-1]
    for start, end in spans:
        near = range(int(np.searchsorted(lasts_before, start, "right")), int(np.searchsorted(firsts_after, end)))
        yield [position for position in near if max(offsets[position][0], start) < min(offsets[position][1], end)]


def window_around(
    ids: Sequence[int], positions: Sequence[int], room: int, step: int = 1
) -> tuple[tuple[int, ...], list[int]]:
    """A window of `room` tokens and the special ones, around the middle of `positions`, and the positions in it. It begins at a multiple
    of `step`, at most half of `room`, so that words near each other can share one."""
    length = len(ids) - 2
    if length <= room:
        return tuple(ids), list(positions)
    middle = (positions[0] + positions[-1]) // 2 - 1
    begin = min(max(0, middle - room // 2) // step * step, length - room)
    window = (ids[0], *ids[1 + begin : 1 + begin + room], ids[-1])
    return window, [position - begin for position in positions if 1 <= position - begin <= room]


def resolve_layers(config: EncoderConfig, layers: Sequence[int] | int | None) -> list[int]:
    """Indices of layers from 0, the embeddings; all of them for None. Negative ones count from the last."""
    total = config.num_layers + 1
    if layers is None:
        return list(range(total))
    layers = [layers] if isinstance(layers, int | np.integer) else layers
    if len(layers) == 0:
        raise InputError("no layers: name at least one, or none at all for every layer")
    for layer in layers:
        if not -total <= layer < total:
            raise InputError(f"layer {layer}: the model has layers 0 (the embeddings) to {config.num_layers}")
    return [int(layer) % total for layer in layers]


def encoder_of(model: nn.Module | str | Path) -> Encoder:
    """The encoder of any of our models, or of a model folder: then on the GPU if there is one."""
    if isinstance(model, str | Path):
        return Encoder.load(model).to("cuda" if torch.cuda.is_available() else "cpu")
    encoder = model if isinstance(model, Encoder) else getattr(model, "encoder", None)
    if not isinstance(encoder, Encoder):
        raise InputError(f"{type(model).__name__} is not a model of this package: give an Encoder, or a model with one")
    return encoder


def tokenizer_of(model: nn.Module) -> Tokenizer:
    """The tokenizer of the model. Raises InputError if it has none."""
    tokenizer = encoder_of(model).tokenizer
    if tokenizer is None:
        raise InputError("this model has no tokenizer: load it from a folder that has one, or set model.tokenizer")
    return tokenizer


# ── predictions for masks ──


@torch.inference_mode()
def fill(model: MaskedLM, text: str, top: int = 5) -> list[list[Candidate]]:
    """The `top` most probable tokens for each mask in `text`, most probable first; never special or unused tokens.

    Dropout is off. Raises InputError if the model has no tokenizer, if the text has no mask token or more tokens than the model
    takes, or if `top` is less than 1.
    """
    check_arguments(fill, locals())
    tokenizer = tokenizer_of(model)
    if top < 1:
        raise InputError(f"top is {top}: give a whole number, 1 or more")
    ids = tokenizer.encode(text)
    masks = [place for place, token in enumerate(ids) if token == tokenizer.mask_id]
    if not masks:
        mask = tokenizer.mask_token
        raise InputError(f"no {mask} in {text!r}: put {mask} in place of the word to predict")
    if len(ids) > (most := model.config.max_length):
        raise InputError(f"the text is {len(ids)} tokens long and the model takes {most}: give a shorter text")
    device = next(model.parameters()).device
    masked_positions = torch.tensor([masks], device=device)
    with evaluating(model):
        logits = model(torch.tensor([ids], device=device), masked_positions=masked_positions).logits[0]  # (masks, V)
    check_finite(logits)
    probabilities = logits.float().softmax(dim=-1).cpu()
    words = torch.from_numpy(tokenizer.replacement_ids).long()  # neither special nor unused
    values, positions = probabilities[:, words].topk(min(top, len(words)), dim=-1)
    found = (zip(words[places].tolist(), row.tolist()) for places, row in zip(positions, values))
    return [[Candidate(_readable(tokenizer, i), i, probability) for i, probability in of_mask] for of_mask in found]


def _readable(tokenizer: Tokenizer, token_id: int) -> str:
    token = tokenizer.token(token_id)
    return token if tokenizer.kind == "wordpiece" else tokenizer.decode([token_id]).strip() or token
