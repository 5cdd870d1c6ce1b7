"""`bert finetune`, `evaluate` and `predict`: parse, call, print."""

from collections.abc import Callable, Sequence

from bert.verbs.options import verb_parser


def _evaluate(arguments: Sequence[str]) -> None:
    """Measure a model: a masked LM on rows with fixed masks."""
    from bert.recipe import parse

    parser = verb_parser("evaluate", _evaluate)
    parser.add_argument("model", type=str, help="model folder")
    parser.add_argument(
        "--masked", type=str, required=True, help=".npz with masked input_ids and labels, both (rows, length)"
    )
    options = parse(parser, arguments)
    from bert.evaluate import evaluate_masked

    evaluate_masked(options.model, options.masked)


VERBS: dict[str, Callable[[Sequence[str]], None]] = {
    "evaluate": _evaluate,
}
