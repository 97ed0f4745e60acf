"""The loop: it learns, it resumes exactly, it stops when it must, and bad input costs nothing."""

import itertools
import json
import os
import signal
import sys
from functools import partial

import cv2
import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segjax.data import sources
from segjax.errors import ConfigError, DataError, Interrupted, TrainingError
from segjax.inference import networks
from segjax.run.checkpoints import Checkpoints
from segjax.training import augment, loop, steps
from segjax.training.evaluate_run import evaluate_run
from segjax.weights import runs


def assert_equal_trees(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def interrupt_after(monkeypatch, count, number=signal.SIGINT):
    """A signal to this process after `count` steps, by default what Ctrl-C sends."""
    calls = iter(range(1, 1000))
    original = loop.Progress.step

    def step(self, compiled):
        if next(calls) == count:
            os.kill(os.getpid(), number)
        original(self, compiled)

    monkeypatch.setattr(loop.Progress, "step", step)


def mean_iou_by_hand(folder):
    """Of the best checkpoint's predictions on the validation split, class by class."""
    trained = runs.restore(folder)
    source = sources.build_source(trained.config.data, "val")
    examples = [source[i] for i in range(len(source))]
    label = np.stack([example["label"] for example in examples])
    logits = networks.of(trained).logits(np.stack([example["image"] for example in examples]))
    prediction = np.asarray(logits).argmax(-1)
    ious = []
    for number in range(len(trained.table.names)):
        truth, found = (label == number), (prediction == number) & (label != 255)
        if (truth | found).any():
            ious.append((truth & found).sum() / (truth | found).sum())
    return np.mean(ious)


def test_a_run_leaves_everything_it_promises(tiny_config, tmp_path):
    state, report = loop.train_and_evaluate(tiny_config, tmp_path)
    assert int(state.step) == 8
    assert json.loads((tmp_path / "report" / "val.json").read_text())["num_images"] == 6
    assert report["checkpoint_step"] in (4, 8)
    np.testing.assert_allclose(report["mean_iou"], mean_iou_by_hand(tmp_path), rtol=1e-9)
    for name in ("training_curves.png", "predictions.png", "confusion.png"):
        assert (tmp_path / "report" / name).stat().st_size > 1000
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    train_tags = ("loss", "accuracy", "mean_iou", "learning_rate", "grad_norm", "images_per_s")
    assert {f"train/{name}" for name in (*train_tags, "data_wait")} <= tags
    assert {"val/loss", "val/accuracy", "val/mean_iou", "val_iou/background"} <= tags
    assert events.Tags()["images"]

    # The entry point, from the work directory alone, gives the numbers that training gave.
    again = evaluate_run(tmp_path, "val")
    assert json.dumps(again) == json.dumps(report)
    assert evaluate_run(tmp_path, "test")["num_images"] == 6
    assert "tensorflow" not in sys.modules

    # The same command on a finished run trains no further.
    state_again, report_again = loop.train_and_evaluate(tiny_config, tmp_path)
    assert_equal_trees(state_again, state)
    assert json.dumps(report_again) == json.dumps(report)

    (tmp_path / "pixel_counts.json").write_text(
        (tmp_path / "pixel_counts.json").read_text().replace('"background": ', '"background": 1')
    )
    with pytest.raises(ConfigError, match="trained on other data"):
        loop.train_and_evaluate(tiny_config, tmp_path)

    tiny_config.optim.learning_rate = 0.5
    with pytest.raises(ConfigError, match=r"optim.learning_rate was 0.001, is 0.5"):
        loop.train_and_evaluate(tiny_config, tmp_path)

    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config\.json is damaged"):
        evaluate_run(tmp_path, "val")


def write_folder(root, sizes):
    """Images whose left half is class 0, black, and whose right half is class 1, white."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for i, (height, width) in enumerate(sizes):
            label = np.zeros((height, width), np.uint8)
            label[:, width // 2 :] = 1
            noise = rng.integers(0, 20, (height, width, 3), np.uint8)
            cv2.imwrite(str(root / split / "images" / f"{i}.png"), label[..., None] * 200 + noise)
            cv2.imwrite(str(root / split / "masks" / f"{i}.png"), label)
    (root / "classes.json").write_text('{"classes": ["left", "right"]}')


@pytest.mark.parametrize("fit", ["resize", "pad"])
def test_a_folder_of_images_of_many_sizes_is_trained_and_scored_natively(
    fit, tiny_config, tmp_path
):
    sizes = [(32, 32), (20, 30), (24, 48), (33, 17)]
    write_folder(tmp_path / "data", sizes)
    tiny_config.data.update(source="folder", root=str(tmp_path / "data"), fit=fit)
    tiny_config.num_epochs = 1
    loop.train_and_evaluate(tiny_config, tmp_path / "run")
    report = json.loads((tmp_path / "run" / "report" / "val.json").read_text())
    pixels = sum(height * width for height, width in sizes)
    assert sum(row["pixels"] for row in report["per_class"].values()) == pixels
    assert (tmp_path / "run" / "report" / "predictions.png").is_file()

    tiny_config.batch_size = 8
    with pytest.raises(ConfigError, match="more than the 4 training images"):
        loop.train_and_evaluate(tiny_config, tmp_path / "other")


def test_an_interrupted_run_ends_as_if_it_had_not_been(tiny_config, tmp_path, monkeypatch):
    tiny_config.loss.dice = 1.0
    whole, _ = loop.train_and_evaluate(tiny_config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        with pytest.raises(Interrupted, match="stopped at step 3") as stopped:
            loop.train_and_evaluate(tiny_config, tmp_path / "parts")
    assert stopped.value.exit_code == 130
    parts, _ = loop.train_and_evaluate(tiny_config, tmp_path / "parts")
    assert_equal_trees(parts, whole)
    histories = []
    for name in ("whole", "parts"):
        checkpoints = Checkpoints(tmp_path / name)
        histories.append(checkpoints.restore(whole, 8)[1]["history"])
        checkpoints.close()
    assert histories[0] == histories[1]


def test_a_loss_that_is_not_finite_stops_with_its_step_and_keeps_the_checkpoint(
    tiny_config, tmp_path, monkeypatch
):
    original = steps.train_step

    def poisoned(state, batch, **kwargs):
        state, metrics = original(state, batch, **kwargs)
        loss = jax.numpy.where(state.step == 6, jax.numpy.nan, metrics["loss"])
        return state, {**metrics, "loss": loss}

    monkeypatch.setattr(steps, "train_step", poisoned)
    with pytest.raises(TrainingError, match=r"loss nan .* step 6; .* checkpoint is step 4"):
        loop.train_and_evaluate(tiny_config, tmp_path)
    assert (tmp_path / "checkpoints" / "4").is_dir()


def test_a_work_directory_that_cannot_be_written_is_refused(tiny_config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        loop.train_and_evaluate(tiny_config, tmp_path / "file")


def test_latest_and_best_checkpoints_are_kept_and_nan_is_never_best(tiny_config, tmp_path):
    from segjax.run import state as state_lib
    from segjax.runtime.devices import Parallel
    from segjax.training import build

    compiled = build.compile_steps(tiny_config, Parallel("jit"), 3, np.ones(3), total_steps=10)
    fresh = jax.device_get(state_lib.create(compiled.model, compiled.optimizer, 0))
    checkpoints = Checkpoints(tmp_path)
    for step, score in ((1, 0.5), (2, 0.7), (3, float("nan")), (4, 0.6)):
        checkpoints.save(fresh.replace(step=np.array(step, np.int32)), {"history": [step]}, score)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path)
    assert (checkpoints.find("best"), checkpoints.find("latest")) == (2, 4)
    assert sorted(p.name for p in checkpoints.folder.iterdir() if p.is_dir()) == ["2", "4"]
    restored, progress = checkpoints.restore(fresh, 4)
    assert progress == {"history": [4]}
    assert_equal_trees(restored.replace(step=fresh.step), fresh)
    checkpoints.close()


@pytest.mark.slow
def test_a_few_images_are_overfitted(tiny_config, tmp_path):
    """Eight images seen 100 times each: the network reproduces their labels."""
    tiny_config.data.num_train = 8
    tiny_config.data.num_val = 8
    tiny_config.batch_size = 8
    tiny_config.num_epochs = 200
    tiny_config.eval.every_epochs = 200
    tiny_config.model.unet.channels = (64, 32, 32, 32, 32)
    tiny_config.optim.learning_rate = 3e-3
    tiny_config.augment.scale = (1.0, 1.0)
    tiny_config.augment.flip_horizontal = False
    loop.train_and_evaluate(tiny_config, tmp_path)
    assert evaluate_run(tmp_path, "train")["mean_iou"] > 0.9


@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_examples_kept_on_the_devices_make_the_batches_that_are_loaded(mode, tiny_config, tmp_path):
    tiny_config.parallel = mode
    batches = {}
    for place, gigabytes in (("devices", 1.0), ("host", 0.0)):
        tiny_config.data.device_gb = gigabytes
        run = loop.Trainer(tiny_config, tmp_path / place)
        # The second batch of the second epoch: shuffled anew.
        batch = next(itertools.islice(run.batches(), 5, None))
        assert ("image" in batch) == (place == "host")
        options = augment.Options(**tiny_config.augment)
        augmented = partial(augment.augment, out=(32, 32), options=options)
        seed = run.devices.replicate(np.int32(0))
        image, label = run.devices.compile(augmented, split=True)(seed, batch)
        # Dropout has its keys of the index, as augmentation has.
        batches[place] = [run.devices.unshard(x) for x in (image, label, batch["index"])]
        run.checkpoints.close()
    assert_equal_trees(batches["devices"], batches["host"])
