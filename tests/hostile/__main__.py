"""`python -m tests.hostile`: run many cases, or one again."""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

# Before anything is imported: no thread may live in the process that forks, and nothing may ask the network.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
os.environ |= {
    "TOKENIZERS_PARALLELISM": "false",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "HF_HUB_OFFLINE": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
sys.dont_write_bytecode = True


def main() -> int:
    """Run what the command line asks for; 1 where there are faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("loader", nargs="?", help="of a case to run again; alone: all its cases")
    parser.add_argument("number", nargs="?", type=int)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--work", type=Path, help="folder to work in, whose good inputs are used again; not given: a temporary one"
    )
    parser.add_argument("--minutes", type=float, help="stop after so many")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hostile-") as temporary:
        work = (options.work or Path(temporary)).resolve()
        os.environ |= {
            "HOME": str(work / "home"),
            "HF_HOME": str(work / "caches"),
            "MPLCONFIGDIR": str(work / "caches"),
        }
        (work / "caches").mkdir(parents=True, exist_ok=True)
        from tests.hostile.campaign import Campaign, dealt, named, summary
        from tests.hostile.loaders import LOADERS

        campaign = Campaign(work, options.seed)
        loaders = LOADERS if options.loader is None else (named(options.loader),)
        begun = time.monotonic()
        campaign.warm_up(loaders)
        print(f"warm after {time.monotonic() - begun:.0f} s, {len(os.listdir('/proc/self/task'))} thread", flush=True)
        if options.number is not None:
            case = campaign.run(loaders[0], options.number)
            result = case.result
            print(
                *case.changes,
                f"{result.kind}: {result.detail} {result.where}",
                "── standard output",
                result.output,
                sep="\n",
            )
            print("── standard error", result.errors, sep="\n")
            return int(result.is_fault)
        cases = []
        for loader, number in dealt(options.cases, loaders):
            if options.minutes and time.monotonic() - begun > 60 * options.minutes:
                break
            cases.append(case := campaign.run(loader, number))
            if case.result.is_fault:
                print(
                    f"{case.name}: {case.result.kind}: {case.result.detail[:150]} ({'; '.join(case.changes)})",
                    flush=True,
                )
        print(summary(cases))
        faults = sum(case.result.is_fault for case in cases)
        print(f"{len(cases):,} cases, {faults:,} faults, {time.monotonic() - begun:.0f} s")
        return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
