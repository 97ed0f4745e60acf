"""Checks data before training: prints formats, sizes and class frequencies, or what is wrong.

  python -m segjax.check --config configs/folder.py --config.data.root=mydata

Every file is read once, and all faults are named. Training does the same before its first step.
"""

from segjax.runtime import cli

cli.define_config()


def main() -> None:
    """Checks the data of --config, and prints the report."""
    config = cli.config()
    # Late: --help and a mistyped flag answer at once.
    from segjax.data.check import check
    from segjax.data.counts import format_report
    from segjax.training.second_stage import with_segmenter
    from segjax.training.validate import validate

    validate(config)
    config, _ = with_segmenter(config)
    print(format_report(check(config.data)))


if __name__ == "__main__":
    cli.run(main)
