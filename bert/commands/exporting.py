"""`bert export`: parse, call, print."""

from collections.abc import Sequence
from typing import Literal

from bert.commands.finetuning import add_columns, data_config
from bert.errors import InputError
from bert.flags import Parser

_BELONGS = {"verify": ("onnx", "torch"), "quantize": ("onnx",), "eval": ("onnx",), "license": ("hf",)}


def _export(arguments: Sequence[str]) -> None:
    """Write a model for other tools: an ONNX file, a torch.export program or a Hugging Face folder.

    Batch and length stay free. An ONNX file runs in onnxruntime without PyTorch and without this package."""
    out = "folder to write, with config and tokenizer beside; not given: MODEL/onnx or MODEL/torch; hf needs it"
    verify = "onnx, torch: compare with the model on five shapes first; differences above 1e-4 are an error"
    rows = "with --quantize: labelled rows on which a classifier or tagger is measured before and after"
    licence = "hf: licence that the model card names, as the Hub spells it: apache-2.0, mit, cc-by-4.0, …"
    parser = Parser(_export)
    parser.add("model", "model folder")
    parser.add("--to", "torch: a torch.export program", Literal["onnx", "torch", "hf"], required=True)
    parser.add("--out", out)
    parser.add("--verify", verify, bool)
    parser.add("--quantize", "onnx: int8 weights too, in model_quantized.onnx", bool)
    parser.add("--eval", rows, metavar="FILE")
    parser.add("--license", licence, metavar="NAME")
    add_columns(parser)
    options = parser.parse(arguments)
    for option, fitting in _BELONGS.items():
        if getattr(options, option) and options.to not in fitting:
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


COMMANDS = (_export,)
