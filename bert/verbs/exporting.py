"""`bert export`: parse, call, print."""

from collections.abc import Callable, Sequence

from bert.errors import InputError, did_you_mean
from bert.recipe import parse
from bert.verbs.finetuning import add_columns, data_config
from bert.verbs.options import verb_parser

_TARGETS = ("onnx", "torch", "hf")
_BELONGS = {"verify": ("onnx", "torch"), "quantize": ("onnx",), "eval": ("onnx",), "license": ("hf",)}


def _export(arguments: Sequence[str]) -> None:
    """Write a model for other tools: an ONNX file, a torch.export program or a Hugging Face folder.

    Batch and length stay free. An ONNX file runs in onnxruntime without PyTorch and without this package."""
    parser = verb_parser("export", _export)
    add = parser.add_argument
    add("model", type=str, help="model folder")
    add("--to", type=str, required=True, help="onnx, torch (a torch.export program) or hf")
    add(
        "--out",
        type=str | None,
        default=None,
        help="folder to write, with config and tokenizer beside; not given: MODEL/onnx or MODEL/torch; hf needs it",
    )
    add(
        "--verify",
        action="store_true",
        help="onnx, torch: compare with the model on five shapes first; differences above 1e-4 are an error",
    )
    add("--quantize", action="store_true", help="onnx: int8 weights too, in model_quantized.onnx")
    add(
        "--eval",
        type=str | None,
        default=None,
        metavar="FILE",
        help="with --quantize: labelled rows on which a classifier or tagger is measured before and after",
    )
    add(
        "--license",
        type=str | None,
        default=None,
        metavar="NAME",
        help="hf: licence that the model card names, as the Hub spells it: apache-2.0, mit, cc-by-4.0, …",
    )
    add_columns(parser)
    options = parse(parser, arguments)
    if options.to not in _TARGETS:
        raise InputError(f"--to {options.to}: give one of {', '.join(_TARGETS)}.{did_you_mean(options.to, _TARGETS)}")
    for option, fitting in _BELONGS.items():
        if options[option] and options.to not in fitting:
            raise InputError(f"--{option} belongs to --to {' and '.join(fitting)}, not {options.to}: leave it out")
    if options.to == "hf" and options.out is None:
        raise InputError("--to hf writes a folder of its own: name it as --out DIR")
    from bert.export import export_hf, export_onnx, export_torch

    if options.to == "hf":
        export_hf(options.model, options.out, options.license)
    elif options.to == "torch":
        export_torch(options.model, options.out, options.verify)
    else:
        export_onnx(options.model, options.out, options.verify, options.quantize, options.eval, data_config(options))


VERBS: dict[str, Callable[[Sequence[str]], None]] = {"export": _export}
