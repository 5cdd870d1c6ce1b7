"""The model card, `README.md` of a model folder: what the model is, how to open it, how it came to be.

A card is Markdown after a YAML header that the Hugging Face Hub reads. The part that follows from the model is written here;
callers add text, and a header with further keys (license, data, metrics).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import yaml

from bert.errors import InputError
from bert.hf.families import Kind
from bert.hub import local_folder
from bert.model.config import PROBLEM_TYPES, EncoderConfig, Seq2SeqConfig, TaskHeadConfig
from bert.recipe import differences
from bert.untrusted import parse_yaml, read_yaml_text

CARD = "README.md"
LINE = "---\n"
UNKNOWN_LICENSE = "unknown"
PIPELINES: dict[Kind, tuple[str, str | None, str]] = {  # title, task of the Hub, class of transformers
    "Encoder": ("Encoder", "feature-extraction", "AutoModel"),
    "MaskedLM": ("Masked-language model", "fill-mask", "AutoModelForMaskedLM"),
    "SequenceClassifier": ("Text classifier", "text-classification", "AutoModelForSequenceClassification"),
    "TokenClassifier": ("Token classifier", "token-classification", "AutoModelForTokenClassification"),
    "Discriminator": ("Discriminator of replaced tokens", None, "AutoModelForPreTraining"),
    "Seq2Seq": ("Sequence-to-sequence model", "translation", "AutoModelForSeq2SeqLM"),
}
FIRST_TOKEN = """Only the first token of a word has learned its tag, so that a pipeline needs `aggregation_strategy="first"`: with
`"simple"`, the tokens of a word become spans of their own."""
PROBLEMS = {"multi_label_classification": "Multi-label text classifier", "regression": "Text regression"}
"""titles of models by their problem type"""


def model_card(
    kind: Kind,
    config: EncoderConfig,
    head: TaskHeadConfig | Seq2SeqConfig | None,
    obstacles: list[str],
    numbers: int,
    more: str = "",
) -> str:
    """The card of a model; `head` is its head for a task, or its decoder, if any. `obstacles` are the reasons why no architecture of
    transformers computes the same, empty if one does; `numbers` is the number of its parameters; `more` is text for the end,
    with a header of its own if it begins with `---`."""
    title, pipeline, auto = PIPELINES[kind]
    labels = head.labels if isinstance(head, TaskHeadConfig) else ()
    if isinstance(head, TaskHeadConfig) and head.problem_type in PROBLEM_TYPES:
        title = PROBLEMS.get(head.problem_type, title)
    elif isinstance(head, TaskHeadConfig):  # a pipeline would read the scores as those of classes
        title, pipeline = f"Text model: {head.problem_type.replace('_', ' ')}", None
    own: dict[str, Any] = {} if obstacles else {"library_name": "transformers"}
    own |= {"license": UNKNOWN_LICENSE, "tags": ["bert"]} | ({"pipeline_tag": pipeline} if pipeline else {})
    added, text = _parted(more)
    sides = [config] + ([head.decoder] if isinstance(head, Seq2SeqConfig) else [])
    shapes = [f"{side.num_layers} layers of width {side.hidden_size}, {side.num_heads} heads" for side in sides]
    limits = f"a vocabulary of {config.vocab_size}, up to {config.max_length} tokens"
    blocks = [
        f"# {title}",
        f"{'; a decoder of '.join(shapes)}, {limits}; {numbers:,} parameters in `model.safetensors`.",
    ]
    if len(labels) > 1:
        shown = ", ".join(f"`{label}`" for label in labels[:30])
        blocks.append(f"{len(labels)} labels: {shown}{f' and {len(labels) - 30} more' if len(labels) > 30 else ''}.")
    code = f'from bert import {kind}  # the package bert-kit\n\nmodel = {kind}.load("path/to/this/folder")'
    if not obstacles:
        code += f'\n\nfrom transformers import {auto}\n\nmodel = {auto}.from_pretrained("path/to/this/folder")'
    blocks.append(f"```python\n{code}\n```")
    blocks += [FIRST_TOKEN] if kind == "TokenClassifier" and not obstacles else []
    if obstacles:
        blocks.append(f"No architecture of Hugging Face transformers computes this: {'; '.join(obstacles)}.")
    return card_header(**(own | added)) + "\n" + "\n\n".join(blocks) + "\n" + (f"\n{text}" if text else "")


def card_header(**values: Any) -> str:
    """A YAML header with these keys: https://huggingface.co/docs/hub/model-cards."""
    return LINE + yaml.safe_dump(values, sort_keys=True, allow_unicode=True) + LINE if values else ""


def measured(task: str, data: str, values: Mapping[str, float]) -> dict[str, Any]:
    """The keys of a header for metrics: `model-index`, which the Hub displays, and `metrics`."""
    from huggingface_hub import EvalResult, ModelCardData

    if not values:
        return {}
    known: dict[str, Any] = {"task_type": task, "dataset_type": "file", "dataset_name": data}
    results = [EvalResult(**known, metric_type=name, metric_value=round(value, 4)) for name, value in values.items()]
    header = ModelCardData(model_name="model", eval_results=results).to_dict()
    return {"metrics": list(values), "model-index": header["model-index"]}


def inherited(base: str) -> dict[str, Any]:
    """The keys of a header that a model inherits from the model it was initialized from: its license, if its card names one,
    and its name on the Hub, if it has one."""
    folder = local_folder(base)
    license = _read_card(folder)[0].get("license", UNKNOWN_LICENSE)
    return {"license": license} | ({"base_model": base} if folder != Path(base).expanduser() else {})


def written_before(folder: Path, license: str | None = None) -> str:
    """The part of a folder's card that does not follow from its model, as `more` of the next card: the header, with `license`
    if given, and the text from the first heading of level 2. Empty if there is neither."""
    header, text = _read_card(folder)
    header |= {} if license is None else {"license": license}
    _, heading, rest = f"\n{text}".partition("\n## ")
    from_model = ("library_name", "pipeline_tag", "tags")
    kept = card_header(**{key: value for key, value in header.items() if key not in from_model})
    return f"{kept}## {rest}" if heading else kept


def _read_card(folder: Path) -> tuple[dict[str, Any], str]:
    """Header and text of the card in a folder; empty if it cannot be read."""
    try:
        return _parted(read_yaml_text(folder / CARD))
    except (OSError, ValueError):
        return {}, ""


def _parted(text: str) -> tuple[dict[str, Any], str]:
    """Header and text of a card, separated as the Hub does it, and with limits for untrusted text, which
    `huggingface_hub.ModelCard` has not."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    if (block := REGEX_YAML_BLOCK.search(text)) is None:
        return {}, text
    try:
        values = parse_yaml(block[2]) or {}
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"the header of the model card is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InputError("the header of the model card is not YAML with a mapping of names")
    return values, text[block.end() :].lstrip("\n")


def training_card(
    text: Sequence[str], recipe: Any, task: str, data: str, figures: Mapping[str, float], base: str | None = None
) -> str:
    """The part of a model card about training: `text`, then each field of `recipe` that differs from its default.

    `figures` are metrics on `data`, of a `task` as the Hub names it, for the header. Local paths are not published, only their last part.
    `base` is the model that training started from.
    """
    fields = [f"{_shown_key(key)}: {_shown(value)}" for key, _, value in differences(type(recipe)(), recipe)]
    lines = [*text, "", "## Recipe", "fields that differ from the defaults of `bert`", "", "```yaml", *fields, "```"]
    header = measured(task, data, figures) | ({} if base is None else inherited(base))
    return card_header(**header) + "\n".join(lines) + "\n"


def _shown_key(key: str) -> str:
    """A key; the source of a mixture is a path within it."""
    group, mixture, source = key.partition("data.mixture.")
    return group + mixture + PurePath(source).name if mixture else key


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_shown(part)}' for key, part in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(_shown(part) for part in value)}]"
    return "null" if value is None else PurePath(value).name if isinstance(value, str) else str(value)
