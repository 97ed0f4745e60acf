"""Searches fields of a configuration for the best validation mIoU, with Optuna.

  python -m segjax.sweep --config configs/quickstart.py --trials 20 \
    --search optim.learning_rate=log:1e-4:1e-1 --search loss.dice=float:0:2 \
    --search model.unet.upsample=nearest,bilinear --search batch_size=int:4:16:4

FIELD=float:LOW:HIGH, FIELD=log:LOW:HIGH (as likely in every decade), FIELD=int:LOW:HIGH[:STEP], or
FIELD=A,B,C. --config.FIELD=VALUE fixes any other field. The same command resumes a sweep that was
stopped or killed, and may run several times at once (on GPUs: one each, by CUDA_VISIBLE_DEVICES)
until --trials trials are complete or pruned. In --study: sweep.json, sweep.png, trials/NUMBER.
"""

from absl import flags

from segjax.errors import ConfigError
from segjax.runtime import cli, process
from segjax.tuning import SYNTAX

cli.define_config()
flags.DEFINE_multi_string("search", [], f"Once for each field: {SYNTAX}.")
flags.DEFINE_integer("trials", 20, "Complete or pruned ones, of all processes.", 1)
flags.DEFINE_string("study", None, "Its folder; runs/sweep/<config name> by default.")
flags.DEFINE_string("storage", "", "An Optuna storage URL; SQLite in --study by default.")
flags.DEFINE_integer("seed", 0, "Of what is tried; config.seed is that of the training.", 0)
flags.DEFINE_bool("prune", True, "End trials that are below the median of those before.")
flags.DEFINE_integer("grace", 60, "Seconds of silence after which a process is dead.", 4)


def main() -> None:
    """Checks what can be checked before anything is trained, searches, and names the best."""
    config, values = cli.config(), flags.FLAGS
    try:
        from segjax.tuning import trials  # late: JAX takes seconds to import, --help should not
    except ModuleNotFoundError as error:
        raise ConfigError(f"the sweep needs Optuna ({error}); pip install optuna") from error

    process.use_kept_memory()
    trials.search(
        config,
        values.search,
        values.study or f"runs/sweep/{cli.config_name()}",
        **cli.values(("trials", "storage", "seed", "prune", "grace")),
    )


if __name__ == "__main__":
    cli.run(main)
