"""segjax: semantic segmentation in JAX.

  segjax train --config quickstart
  segjax evaluate --workdir runs/quickstart --split test
  segjax COMMAND --help

`python -m segjax COMMAND` is the same, and so is `python -m segjax.COMMAND` (train: segjax.main).
"""

import os
import runpy
import sys
from difflib import get_close_matches

import segjax

COMMANDS = {
    "train": "train, or resume, the run of a work directory",
    "evaluate": "score a run on a split, or on other labelled data",
    "predict": "segment images or a video",
    "export": "write a trained network as one file: StableHLO, ONNX or safetensors",
    "check": "check data before training",
    "prepare": "prepare a published dataset, or the export of an annotation tool",
    "annotate": "write masks as annotations of another tool",
    "sweep": "search fields of a configuration for the best score",
}


def main() -> None:
    """Runs the entry point that the first argument names."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command == "--version":
        print(f"segjax {segjax.__version__}")
    elif command in COMMANDS:
        module = "main" if command == "train" else command
        sys.argv[1:] = arguments
        sys.path.insert(0, os.getcwd())  # for the imports of a configuration, as with python -m
        runpy.run_module(f"segjax.{module}", run_name="__main__", alter_sys=True)
    elif command in ("--help", "-h", "help"):
        table = "\n".join(f"  {name:<10}{does}" for name, does in COMMANDS.items())
        print(f"{__doc__}\n{table}\n  --version")
    else:
        alike = get_close_matches(command, COMMANDS, 1)
        hint = f"; did you mean {alike[0]}?" if alike else ""
        sys.exit(f"Error: no command {command!r}{hint}\nSee segjax --help.")


if __name__ == "__main__":
    main()
