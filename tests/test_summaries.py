import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segjax.run.tensorboard import Summaries


def read(workdir):
    return EventAccumulator(str(workdir / "tensorboard"), size_guidance={"tensors": 0}).Reload()


def curve(events, name):
    return {event.step: event.value for event in events.Scalars(name)}


def test_scalars_read_back(tmp_path):
    with Summaries(tmp_path) as summaries:
        for step in (1, 2):
            summaries.scalars(step, {"train/loss": step / 4, "val_iou/Car": np.float32(0.5)})
    events = read(tmp_path)
    assert sorted(events.Tags()["scalars"]) == ["train/loss", "val_iou/Car"]
    assert curve(events, "train/loss") == {1: 0.25, 2: 0.5}
    assert curve(events, "val_iou/Car") == {1: 0.5, 2: 0.5}


def test_nan_leaves_a_gap(tmp_path):
    with Summaries(tmp_path) as summaries:
        for step, value in enumerate((0.5, float("nan"), 0.75)):
            summaries.scalars(step, {"val_iou/Car": value})
    assert curve(read(tmp_path), "val_iou/Car") == {0: 0.5, 2: 0.75}


def test_picture_and_text_read_back(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    with Summaries(tmp_path) as summaries:
        summaries.picture(3, "val/predictions", picture)
        summaries.text(0, "config", "learning rate **0.1**")
    events = read(tmp_path)
    (event,) = events.Images("val/predictions")
    (tmp_path / "picture.png").write_bytes(event.encoded_image_string)
    assert event.step == 3
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "picture.png")), picture)
    (text,) = events.Tensors("config/text_summary")
    assert text.tensor_proto.string_val == [b"learning rate **0.1**"]


def test_a_resumed_run_continues_the_curve(tmp_path):
    with Summaries(tmp_path) as summaries:
        for step in range(1, 6):
            summaries.scalars(step, {"train/loss": 1.0})
    # The last checkpoint was at step 3: steps 4 and 5 run again.
    with Summaries(tmp_path, purge_step=4) as summaries:
        for step in range(4, 8):
            summaries.scalars(step, {"train/loss": 2.0})
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    steps = [event.step for event in read(tmp_path).Scalars("train/loss")]
    assert steps == [1, 2, 3, 4, 5, 6, 7]
    assert curve(read(tmp_path), "train/loss") == dict(enumerate([1, 1, 1, 2, 2, 2, 2], start=1))


def test_another_process_than_the_first_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    with Summaries(tmp_path) as summaries:
        summaries.scalars(1, {"train/loss": 1.0})
        summaries.picture(1, "picture", np.zeros((2, 2, 3), np.uint8))
        summaries.text(1, "text", "words")
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_is_not_swallowed_and_the_file_is_complete(tmp_path):
    with pytest.raises(KeyboardInterrupt), Summaries(tmp_path) as summaries:
        summaries.scalars(1, {"train/loss": 1.0})
        raise KeyboardInterrupt
    assert curve(read(tmp_path), "train/loss") == {1: 1.0}
