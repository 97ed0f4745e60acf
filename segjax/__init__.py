"""segjax: semantic segmentation in JAX.

    import segjax

    segjax.train("quickstart", "runs/quickstart")
    scores = segjax.evaluate("runs/quickstart", split="test")
    model = segjax.load("runs/quickstart")
    label = model.label(image)  # image: uint8 [H, W, 3] RGB, see model.read

Importing segjax imports no JAX; the first call does. The files beside this one (main, evaluate,
predict ...) are command lines: `python -m segjax.evaluate` runs one, and nothing imports them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from segjax.inference.predictor import Predictor

__all__ = ["__version__", "evaluate", "load", "predict", "train"]
__version__ = "0.1.0"


def train(
    config: "str | ConfigDict", workdir: str | Path, changes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Trains, or resumes, the run of a work directory; `python -m segjax.main` in Python.

    Numbers differ from those of the command line by rounding, for that sets XLA's flags for CPUs.

        report = segjax.train("quickstart", "runs/quickstart", {"num_epochs": 1})
        report["mean_iou"]

    Args:
      config: NAME[:VARIANT] of a configuration of segjax, FILE.py[:VARIANT], or what
        `segjax.defaults.get_config` returned, changed.
      changes: other values of its fields: {"optim.learning_rate": 1e-3}.

    Returns the scores of the best checkpoint on the validation split, as in report/val.json.

    Raises ConfigError and DataError before the first step, for what cannot work.
    """
    from segjax.runtime import recipes
    from segjax.training import loop

    if isinstance(config, str):
        config = recipes.load(config)
    return loop.train_and_evaluate(recipes.changed(config, changes or {}), workdir)[1]


def load(
    path: str | Path,
    checkpoint: str = "best",
    tta: tuple[str, ...] = (),
    refine: str | Path | None = None,
) -> "Predictor":
    """The network of a work directory, of a file that segjax.export wrote, or of another library.

        model = segjax.load("runs/quickstart")
        label = model.label(image)  # uint8 [H, W, 3] RGB to class ids, uint8 [H, W]
        picture = model.overlay(image, label)

    Args:
      path: of another library a file of weights, or a folder with them and its config.json.
      checkpoint: best (by validation mIoU) or latest, of a work directory.
      tta: what scores are averaged over: ("flip", "0.75"); with a refiner those of its segmenter.
      refine: the work directory of a refiner that was trained on this run.

    Raises DataError where there is no run and no such file, ConfigError for another run's refiner.
    """
    from segjax.inference import predictor

    return predictor.load(path, checkpoint, tta, refine)


def predict(
    model: "str | Path | Predictor", source: str, output: str | Path, **options: Any
) -> dict[str, Any]:
    """Segments an image, a folder, a pattern or a video; `python -m segjax.predict` in Python.

        summary = segjax.predict("runs/quickstart", "photos", "out", overlay=True)
        summary["images"][0]["class_shares"]

    Args:
      model: a work directory, an exported file, or what `load` returned.
      output: the folder that the results go to.
      options: as the flags of segjax.predict.

    Returns what is in output/summary.json.
    """
    from segjax.inference import segment

    return segment.segment(model, source, output, **options)


def evaluate(workdir: str | Path, split: str = "val", **options: Any) -> dict[str, Any]:
    """Scores a run on a split or on other data; `python -m segjax.evaluate` in Python.

        report = segjax.evaluate("runs/quickstart", split="test")
        report["mean_iou"], report["per_class"]["background"]["iou"]

    Args:
      options: as the flags of segjax.evaluate: data_root, images, masks, tta, refine, ...

    Returns what is in report/<split>.json.
    """
    from segjax.training.evaluate_run import evaluate_run

    return evaluate_run(workdir, split, **options)
