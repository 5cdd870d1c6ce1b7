"""The page of `bert predict --html`: texts with their spans marked."""

from collections import Counter
from collections.abc import Sequence

from bert.finetuning.tasks.tag import TagPrediction
from bert.report import page
from bert.report.charts import SpannedText, spanned

MOST = 500
"""texts on a page"""


def texts_with_spans(predictions: Sequence[TagPrediction]) -> str:
    """Texts with their spans marked, in one color for each type, and the number of spans of each type."""
    return spanned(
        [SpannedText(one.text, [(span.start, span.end, span.type) for span in one.spans]) for one in predictions]
    )


def spans_page(predictions: Sequence[TagPrediction], model: str, file: str, count: int) -> str:
    """A page of the first predictions for a file of `count` texts."""
    kinds = Counter(span.type for one in predictions for span in one.spans)
    shown = f"{len(predictions):,} of {count:,} texts" if len(predictions) < count else f"{count:,} texts"
    found = [(kind, f"{number:,}", "in these texts") for kind, number in kinds.most_common(8)]
    body = texts_with_spans(predictions)
    section = page.Section("Texts", body, "A span has the color of its type, which follows it.")
    return page.page(
        "Spans in a text", f"{shown} of {file}, tagged by {model}", [section], metrics=page.key_metrics(found)
    )
