"""`bert export`: parse, call, print."""

from collections.abc import Sequence
from typing import Literal

from bert.commands.finetuning import add_columns, data_config
from bert.errors import InputError
from bert.flags import Parser

_BELONGS = {"verify": ("onnx", "torch"), "quantize": ("onnx",), "eval": ("onnx",), "license": ("hf",)}


def _export(arguments: Sequence[str]) -> None:
    """Export a model for other tools: an ONNX file, a torch.export program or a Hugging Face folder.

    Batch size and length stay dynamic. An ONNX file runs in onnxruntime without PyTorch and without this package.

    $ bert export runs/topics/model --to onnx --verify --quantize --eval test.csv
    $ bert export runs/mine/model --to hf --out published --license apache-2.0
    """
    out = "folder to write, with config and tokenizer; default: MODEL/onnx or MODEL/torch; required for hf"
    verify = "onnx, torch: compare with the model on five shapes; a difference above 1e-4 is an error"
    rows = "with --quantize: labeled rows on which a classifier or tagger is measured before and after"
    license_name = "hf: license in the model card, as spelled on the Hub: apache-2.0, mit, cc-by-4.0, …"
    parser = Parser(_export)
    parser.add("model", "model folder")
    parser.add("--to", "format; torch is a torch.export program", Literal["onnx", "torch", "hf"], required=True)
    parser.add("--out", out)
    parser.add("--verify", verify, bool)
    parser.add("--quantize", "onnx: also write model_quantized.onnx, with int8 weights", bool)
    parser.add("--eval", rows, metavar="FILE")
    parser.add("--license", license_name, metavar="NAME")
    add_columns(parser)
    options = parser.parse(arguments)
    for option, fitting in _BELONGS.items():
        if getattr(options, option) and options.to not in fitting:
            raise InputError(f"--{option} is for --to {' and '.join(fitting)}, not {options.to}: remove it")
    if options.to == "hf" and options.out is None:
        raise InputError("--to hf writes a new folder: specify it with --out DIR")
    from bert.export import export_hf, export_onnx, export_torch

    if options.to == "hf":
        export_hf(options.model, options.out, options.license)
    elif options.to == "torch":
        export_torch(options.model, options.out, options.verify)
    else:
        export_onnx(options.model, options.out, options.verify, options.quantize, options.eval, data_config(options))


COMMANDS = (_export,)
