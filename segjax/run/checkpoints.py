"""Checkpoints by Orbax: the latest and the best (by validation mIoU) of a work directory.

A checkpoint is the state, unreplicated, and `progress`: what the loop remembers besides the state,
as JSON. It holds no code, and can be restored on any number of devices. With a discriminator it has
that as one more item: what reads the segmenter need not know.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from segjax.errors import DataError, TrainingError
from segjax.run.state import DiscriminatorState, GanState, TrainState, items

METRIC = "mean_iou"
UNSCORED = -1.0  # below every mIoU; Orbax never removes a step without a metric
State = TypeVar("State", TrainState, GanState)


def _score(metrics: dict[str, float] | None) -> float:
    # Orbax would let NaN evict the true best.
    value = (metrics or {}).get(METRIC, UNSCORED)
    return value if math.isfinite(value) else UNSCORED


class Checkpoints:
    """The checkpoints of `workdir`/checkpoints; labels are `state.step`, updates done."""

    def __init__(self, workdir: str | Path, reads_only: bool = False) -> None:
        """Opens them; with `reads_only` another process may be writing at the same time.

        Raises DataError where there is nothing to read, or what is there is damaged.
        """
        self.folder = Path(workdir).absolute() / "checkpoints"
        if reads_only and not self.folder.is_dir():
            raise DataError(f"{self.folder}: no checkpoint is there; train first")
        keep = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(1),
                preservation_policy.BestN(get_metric_fn=_score, n=1),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep,
            best_fn=_score,
            best_mode="max",
            create=not reads_only,
            cleanup_tmp_directories=not reads_only,  # what a killed run had half written
        )
        try:
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        except (ValueError, KeyError, OSError) as error:
            raise DataError(
                f"{self.folder} cannot be opened ({str(error).splitlines()[0]}); a checkpoint in "
                "it is damaged: restore its files, or remove its folder"
            ) from error

    @property
    def latest_step(self) -> int | None:
        """The newest checkpoint's step; None where there is none."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """The step of the highest validation mIoU; the latest where none was evaluated yet."""
        return self._manager.best_step()

    def find(self, which: str) -> int:
        """The step of the `best` or the `latest` checkpoint; DataError where there is none."""
        step = self.best_step if which == "best" else self.latest_step
        if step is None:
            raise DataError(f"{self.folder}: no checkpoint is there; train first")
        return step

    def save(
        self,
        state: TrainState | GanState,
        progress: dict[str, Any],
        mean_iou: float | None = None,
    ) -> None:
        """Saves host arrays, in the background, which later changes of `progress` do not reach.

        mean_iou: of the validation split at this step; None if it was not evaluated. Such a step is
          the best only while none was.
        """
        step = int(state.step)
        arguments = {name: ocp.args.StandardSave(item) for name, item in _filled(state).items()}
        with self._writing():
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(
                    **arguments, progress=ocp.args.JsonSave(copy.deepcopy(progress))
                ),
                metrics={METRIC: UNSCORED if mean_iou is None else _score({METRIC: mean_iou})},
            )
        if not saved:
            raise DataError(
                f"{self.folder}: step {step} was not saved, step {self.latest_step} is there; use "
                "another --workdir"
            )

    def restore(self, like: State, step: int) -> tuple[State, dict[str, Any]]:
        """State and progress of a step; `like` gives structure, shapes and dtypes."""
        arguments = {name: _restore_like(item) for name, item in _filled(like).items()}
        found = self._restore(step, arguments | {"progress": ocp.args.JsonRestore()})
        restored = items(like) | {name: found[name] for name in arguments}
        discriminator = restored.pop("discriminator", None)
        state = TrainState(**restored)
        if discriminator:
            state = GanState(state, DiscriminatorState(**discriminator))
        return state, found["progress"]

    def restore_ema(self, like: dict[str, Any], step: int) -> dict[str, Any]:
        """Only the averaged variables of a step: what evaluation, prediction and export need."""
        return self._restore(step, {"ema": _restore_like(like)})["ema"]

    def _restore(self, step: int, items: dict[str, Any]) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except (ValueError, KeyError, OSError) as error:
            raise DataError(
                f"{self.folder / str(step)} cannot be restored "
                f"({str(error).splitlines()[0]}); remove that folder to use another checkpoint"
            ) from error

    def close(self) -> None:
        """Waits until everything is on disk; TrainingError if it cannot be written."""
        with self._writing():
            self._manager.wait_until_finished()
        self._manager.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        # A checkpoint is written under another name, beside the earlier ones, and renamed at last.
        try:
            yield
        except (ValueError, OSError) as error:
            reason = str(error).splitlines()[0].split(" [")[0].rsplit(": ", 1)[-1]
            kept = sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdigit())
            raise TrainingError(
                f"{self.folder}: the checkpoint was not written ({reason}); those of the steps "
                f"{kept} are intact. Mend the disk (or the packages: pip install -r "
                "requirements.txt), and the same command goes on from there"
            ) from error


def _filled(state: TrainState | GanState) -> dict[str, Any]:
    # Orbax takes no empty ones: the batch statistics of a network that has none.
    return {name: item for name, item in items(state).items() if jax.tree.leaves(item)}


def _restore_like(tree: Any) -> ocp.args.StandardRestore:
    return ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, tree))
