"""Trains, or resumes, the run of a work directory.

  python -m segjax.main --config configs/quickstart.py
  python -m segjax.main --config configs/camvid.py:cpu --config.data.root=DIR --workdir runs/camvid

A work directory that holds a checkpoint of the same configuration is resumed from it.
"""

from absl import flags

from segjax.runtime import cli, process

cli.define_config()
cli.define_multihost()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where checkpoints, summaries and reports go; runs/<config name> by default."
)
_PROFILE = flags.DEFINE_integer(
    "profile",
    0,
    "Trace so many training steps for TensorBoard's profile plugin or Perfetto, after the first.",
    0,
)


def main() -> None:
    """Hands the configuration and the work directory to the training loop."""
    config = cli.config()
    workdir = _WORKDIR.value or f"runs/{cli.config_name()}"
    from segjax.training import loop  # late: JAX takes seconds to import, --help should not

    process.use_kept_memory()
    loop.train_and_evaluate(config, workdir, profile_steps=_PROFILE.value)


if __name__ == "__main__":
    cli.run(main)
