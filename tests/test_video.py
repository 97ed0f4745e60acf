"""Videos and cameras: every frame comes back in its colours, and whatever ends them ends well."""

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import SEGFORMER, use
from test_export import write_run

from segjax.data.fitting import Fit
from segjax.data.label_table import LabelTable
from segjax.errors import ConfigError, DataError
from segjax.inference import frames, predictor, segment, video
from segjax.inference.networks import Network
from segjax.inference.stages import ahead

TABLE = LabelTable.of_names(["dark", "bright"])
BRIGHT, DARK = (200, 100, 50), (40, 100, 220)  # by their red, so that BGR would be noticed
SHAPE = (32, 48)


@jax.jit
def by_red(images):
    red = images[..., 0].astype(jnp.float32) - 128
    return jnp.stack([-red, red], axis=-1)


def model_of(resizes=False, size=(16, 16), fixed_size=False):
    return predictor.Predictor(Network(by_red, TABLE, Fit(size, resizes, fixed_size)))


def write_video(path, colors, rate=12.5, noise=0):
    rng = np.random.default_rng(0)
    code = "MJPG" if path.suffix == ".avi" else "mp4v"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), rate, SHAPE[::-1])
    for color in colors:
        frame = np.full((*SHAPE, 3), color[::-1]) + rng.integers(-noise, noise + 1, (*SHAPE, 3))
        writer.write(frame.clip(0, 255).astype(np.uint8))
    writer.release()
    return str(path)


def read_video(path):
    """All frames, RGB, and the frame rate."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while (found := capture.read())[0]:
        frames.append(found[1][..., ::-1])
    rate = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return frames, rate


def threads():
    # The bar of the first long video starts tqdm's own, which stays.
    return {thread for thread in threading.enumerate() if thread.name != "tqdm_monitor"}


@pytest.mark.parametrize("resizes", [True, False])
@pytest.mark.parametrize("name", ["in.mp4", "in.avi"])
def test_every_frame_comes_back_with_its_classes_colours(name, resizes, tmp_path):
    colors = [BRIGHT] * 12 + [DARK] * 7
    source = write_video(tmp_path / name, colors)
    before = threads()
    summary = video.segment_video(model_of(resizes), source, tmp_path / "new" / "out.mp4")
    assert threads() == before
    frames, rate = read_video(tmp_path / "new" / "out.mp4")
    assert len(frames) == summary["frames"] == summary["expected_frames"] == 19
    assert frames[0].shape == (*SHAPE, 3) and summary["size"] == list(SHAPE)
    assert rate == pytest.approx(12.5)
    for color, frame in zip(colors, frames, strict=True):
        expected = np.add(color, TABLE.palette[int(color == BRIGHT)]) / 2
        np.testing.assert_allclose(frame.mean((0, 1)), expected, atol=8)
    assert summary["class_shares"] == pytest.approx({"dark": 7 / 19, "bright": 12 / 19}, abs=1e-5)
    assert not summary["interrupted"]
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p95"]
    assert summary["frames_per_s"] > 0 and set(summary["busy"]) == {"decode", "network", "encode"}


@pytest.mark.parametrize("resizes", [True, False])
def test_a_frame_s_classes_lie_where_they_are(resizes, tmp_path):
    half = np.full((*SHAPE, 3), DARK[::-1], np.uint8)
    half[:, 32:] = BRIGHT[::-1]
    writer = cv2.VideoWriter(
        str(tmp_path / "in.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, SHAPE[::-1]
    )
    writer.write(half)
    writer.release()
    summary = video.segment_video(model_of(resizes), str(tmp_path / "in.mp4"), tmp_path / "out.mp4")
    assert summary["class_shares"]["bright"] == pytest.approx(1 / 3, abs=0.03)
    (frame,) = read_video(tmp_path / "out.mp4")[0]
    for columns, color, class_id in ((slice(0, 28), DARK, 0), (slice(36, 48), BRIGHT, 1)):
        expected = np.add(color, TABLE.palette[class_id]) / 2
        np.testing.assert_allclose(frame[:, columns].mean((0, 1)), expected, atol=12)


@pytest.mark.parametrize("network", ["by red, resized", "by red", SEGFORMER], ids=str)
def test_a_frame_gets_the_classes_that_it_gets_as_an_image(network, tiny_config, tmp_path):
    source = write_video(tmp_path / "in.mp4", [(128, 100, 50)] * 3, noise=60)
    if network == SEGFORMER:
        use(tiny_config, *network)
        write_run(tmp_path / "run", tiny_config, TABLE, seed=5)
        model = predictor.load(tmp_path / "run")
    else:
        model = model_of("resized" in network, size=(13, 21))
    labels = [model.label(np.ascontiguousarray(frame)) for frame in read_video(source)[0]]
    summary = video.segment_video(model, source, tmp_path / "out.mp4")
    assert 0.05 < np.mean(labels) < 0.95
    assert summary["class_shares"]["bright"] == pytest.approx(np.mean(labels), abs=1e-6)


def test_frames_of_odd_size_are_written_whole(tmp_path):
    code = cv2.VideoWriter_fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(tmp_path / "in.avi"), cv2.CAP_OPENCV_MJPEG, code, 10, (47, 31))
    for _ in range(3):
        writer.write(np.full((31, 47, 3), BRIGHT[::-1], np.uint8))
    writer.release()
    summary = video.segment_video(model_of(), str(tmp_path / "in.avi"), tmp_path / "out.mp4")
    frames, _ = read_video(tmp_path / "out.mp4")
    assert summary["size"] == [31, 47]
    assert [frame.shape for frame in frames] == [(32, 48, 3)] * 3
    expected = np.add(BRIGHT, TABLE.palette[1]) / 2
    np.testing.assert_allclose(np.median(frames[0], (0, 1)), expected, atol=8)


def test_a_frame_rate_that_is_not_believed_becomes_the_usual_one(tmp_path, monkeypatch):
    source = write_video(tmp_path / "in.mp4", [DARK] * 3, rate=12.5)
    monkeypatch.setattr(frames, "RATES", (20, 240))
    video.segment_video(model_of(), source, tmp_path / "out.mp4")
    assert read_video(tmp_path / "out.mp4")[1] == pytest.approx(frames.DEFAULT_RATE)


def test_smoothing_keeps_a_class_until_the_frames_before_weigh_less_than_half(tmp_path):
    source = write_video(tmp_path / "in.mp4", [BRIGHT] * 10 + [DARK] * 10)
    for smoothing, bright in ((0.0, 10), (0.5, 10), (0.9, 16)):  # 0.9 ** 6 > 0.5 > 0.9 ** 7
        summary = video.segment_video(model_of(), source, tmp_path / "out.mp4", smoothing=smoothing)
        assert summary["class_shares"]["bright"] == pytest.approx(bright / 20)


def test_smoothing_averages_probabilities(tmp_path):
    @jax.jit
    def unsure(images):
        return by_red(images) * jnp.where(images[..., :1] > 128, 1.0, 0.001)

    source = write_video(tmp_path / "in.mp4", [BRIGHT] + [DARK] * 9)
    model = predictor.Predictor(Network(unsure, TABLE, Fit((16, 16), resizes=False)))
    # Dark frames have p ≈ 0.46 for bright: 0.5 ** n + (1 - 0.5 ** n) 0.46 < 0.5 from n = 4 on.
    summary = video.segment_video(model, source, tmp_path / "out.mp4", smoothing=0.5)
    assert summary["class_shares"]["bright"] == pytest.approx(4 / 10)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, 2.0, float("nan")])
def test_a_smoothing_that_is_no_share_is_reported(smoothing, tmp_path):
    source = write_video(tmp_path / "in.mp4", [DARK])
    with pytest.raises(ConfigError, match="--smoothing is"):
        video.segment_video(model_of(), source, tmp_path / "out.mp4", smoothing=smoothing)
    assert not (tmp_path / "out.mp4").exists()


class Counted:
    """A generator of numbers that remembers how far it went and whether it was closed."""

    def __init__(self, length=None, error=None):
        self.made, self.closed = 0, False
        self.length, self.error = length, error

    def items(self):
        try:
            for number in itertools.count() if self.length is None else range(self.length):
                self.made += 1
                yield number
            if self.error:
                raise self.error
        finally:
            self.closed = True


@pytest.mark.parametrize("size", [1, 3])
def test_ahead_gives_everything_in_order(size):
    before, counted = threads(), Counted(200)
    assert list(ahead(counted.items(), size)) == list(range(200))
    assert list(ahead(Counted(0).items(), size)) == []
    assert counted.closed and threads() == before


def test_ahead_passes_tuples_and_none_on():
    items = [(None, 1), None, (object(), None), (ValueError(), ValueError())]
    assert list(ahead((item for item in items), 2)) == items


def test_ahead_raises_what_the_generator_raises():
    before, counted, got = threads(), Counted(5, ValueError("damaged")), []
    with pytest.raises(ValueError, match="damaged"):
        got.extend(ahead(counted.items(), 2))
    for number in ahead(Counted(5).items(), 2):
        got.append(number)
    assert got[-5:] == list(range(5)) and counted.closed and threads() == before


def test_ahead_runs_no_further_than_it_should():
    counted = Counted()
    with closing(ahead(counted.items(), 3)) as items:
        for asked in range(1, 4):
            next(items)
            deadline = time.monotonic() + 10
            while counted.made < asked + 4 and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.05)
            assert counted.made == asked + 4  # three wait in the queue, one before it


@pytest.mark.parametrize("error", [GeneratorExit, KeyboardInterrupt, ValueError])
def test_ahead_closes_the_generator_when_it_is_ended_early(error):
    before, counted = threads(), Counted()
    generator = counted.items()  # kept, or Python would close it by itself
    items = ahead(generator, 2)
    assert [next(items), next(items)] == [0, 1]
    assert len(threads() - before) == 1
    with pytest.raises(error):
        items.throw(error)
    assert counted.closed and threads() == before


def test_a_video_that_is_cut_off_gives_the_frames_there_are(tmp_path):
    source = Path(write_video(tmp_path / "in.avi", [BRIGHT] * 40, noise=50))
    content = source.read_bytes()
    source.write_bytes(content[: len(content) // 2])
    summary = video.segment_video(model_of(), str(source), tmp_path / "out.mp4")
    assert 10 < summary["frames"] < summary["expected_frames"] == 40
    assert len(read_video(tmp_path / "out.mp4")[0]) == summary["frames"]
    assert not summary["interrupted"]


@pytest.mark.parametrize("name", ["text.mp4", "empty.avi", "half.mp4", "absent.mp4", "99"])
def test_what_is_no_video_is_named(name, tmp_path):
    (tmp_path / "text.mp4").write_text("a text\n" * 100)
    (tmp_path / "empty.avi").touch()
    content = Path(write_video(tmp_path / "half.mp4", [BRIGHT] * 9)).read_bytes()
    (tmp_path / "half.mp4").write_bytes(content[: len(content) // 2])
    source = name if name.isdigit() else str(tmp_path / name)
    with pytest.raises(DataError) as raised:
        video.segment_video(model_of(), source, tmp_path / "out.mp4")
    reasons = {"99": "no camera of this number", "absent.mp4": "no such video"}
    assert source in str(raised.value)
    assert reasons.get(name, "cannot be read as a video") in str(raised.value)
    assert not (tmp_path / "out.mp4").exists()


def test_a_result_that_cannot_be_written_is_named(tmp_path):
    source = write_video(tmp_path / "in.mp4", [DARK])
    (tmp_path / "out.mp4").mkdir()
    with pytest.raises(DataError, match=r"out\.mp4 cannot be written"):
        video.segment_video(model_of(), source, tmp_path / "out.mp4")


def test_a_network_of_one_size_gets_larger_frames_in_tiles_which_are_not_smoothed(tmp_path):
    source = write_video(tmp_path / "in.mp4", [BRIGHT] * 3)
    output = tmp_path / "out.mp4"
    tiled = model_of(fixed_size=True)
    with pytest.raises(ConfigError, match="--smoothing: frames of 32×48 are cut into tiles"):
        video.segment_video(tiled, source, output, smoothing=0.5)
    assert not output.exists()
    whole = model_of(size=SHAPE, fixed_size=True), model_of(resizes=True, fixed_size=True)
    for model in (tiled, *whole):
        summary = video.segment_video(model, source, output)
        assert summary["frames"] == 3 and summary["class_shares"]["bright"] == 1


def test_ctrl_c_leaves_a_video_of_the_frames_so_far(tmp_path, monkeypatch):
    source = write_video(tmp_path / "in.mp4", [BRIGHT] * 30)
    model, calls, before = model_of(), itertools.count(1), threads()
    overlay = model.overlay

    def interrupted(image, label):
        if next(calls) == 8:
            raise KeyboardInterrupt
        return overlay(image, label)

    monkeypatch.setattr(model, "overlay", interrupted)
    summary = video.segment_video(model, source, tmp_path / "out.mp4")
    assert summary["interrupted"] and summary["frames"] == 7
    assert len(read_video(tmp_path / "out.mp4")[0]) == 7
    assert threads() == before


@pytest.mark.parametrize("stage", ["network", "encode"])
def test_an_error_on_the_way_is_raised_and_ends_every_thread(stage, tmp_path, monkeypatch):
    source = write_video(tmp_path / "in.mp4", [BRIGHT] * 30)
    calls, before = itertools.count(1), threads()

    def failing(images, *_):
        if next(calls) == 10:
            raise ValueError("out of memory")
        return by_red(images) if stage == "network" else images

    model = model_of()
    if stage == "network":
        model.network = model.network._replace(logits=failing)
    else:
        monkeypatch.setattr(model, "overlay", failing)
    with pytest.raises(ValueError, match="out of memory") as raised:
        video.segment_video(model, source, tmp_path / "out.mp4")
    assert threads() == before and raised.tb  # whose frames hold every generator


def test_a_window_needs_an_opencv_with_windows(tmp_path):
    source = write_video(tmp_path / "in.mp4", [DARK])
    with pytest.raises(ConfigError, match="this OpenCV has no windows"):
        video.segment_video(model_of(), source, tmp_path / "out.mp4", show=True)
    assert not (tmp_path / "out.mp4").exists()  # or it would have replaced an earlier result


def test_q_in_the_window_ends_the_video(tmp_path, monkeypatch):
    source, shown, closed = write_video(tmp_path / "in.mp4", [BRIGHT] * 9), [], []
    monkeypatch.setattr(cv2, "namedWindow", lambda name: None)
    monkeypatch.setattr(cv2, "imshow", lambda name, picture: shown.append(picture))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: ord("q") if len(shown) == 4 else -1)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: closed.append(True))
    summary = video.segment_video(model_of(), source, tmp_path / "out.mp4", show=True)
    assert summary["interrupted"] and summary["frames"] == len(shown) == 4
    assert len(read_video(tmp_path / "out.mp4")[0]) == 4 and closed


@pytest.fixture
def main(monkeypatch):
    """What the entry point calls, with a network that needs no files."""
    monkeypatch.setattr(predictor, "load", lambda *_: model_of())

    def main(input, output, workdir=None, model=None, **options):
        chosen = segment.choose(workdir=workdir, model=model)
        segment.report(segment.segment(chosen, str(input), output, **options), output)

    return main


def test_a_video_becomes_a_video_and_a_summary(main, tmp_path, capsys):
    write_video(tmp_path / "in.mp4", [BRIGHT] * 5)
    main(workdir=tmp_path, input=tmp_path / "in.mp4", output=tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["output"] == str(tmp_path / "out" / "in.mp4")
    assert len(read_video(summary["output"])[0]) == summary["frames"] == 5
    assert f"{summary['output']}: 5 frames, " in capsys.readouterr().out


def test_images_become_class_ids_and_what_is_not_used_is_reported(main, tmp_path, capsys):
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "data" / folder / "a.png"), np.full((*SHAPE, 3), BRIGHT[::-1]))
    (tmp_path / "data" / "notes.txt").write_text("")
    main(workdir=tmp_path, input=tmp_path / "data", output=tmp_path / "out", overlay=True,
         opacity=1.0)  # fmt: skip
    expected = capsys.readouterr().out
    assert f"not used: {tmp_path}/data/masks: 1 masks of the images beside it\n" in expected
    assert "1 images segmented, 0 skipped, 2 unused: " in expected
    overlay = cv2.imread(str(tmp_path / "out" / "images" / "a_overlay.png"))[..., ::-1]
    np.testing.assert_array_equal(overlay, np.broadcast_to(TABLE.palette[1], overlay.shape))


def test_a_camera_is_a_video_without_an_end(main, tmp_path, monkeypatch):
    source, opened = write_video(tmp_path / "in.mp4", [DARK] * 6), cv2.VideoCapture
    cameras = {7: source}
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: opened(cameras[number]))
    main(workdir=tmp_path, input="7", output=tmp_path / "out")
    monkeypatch.undo()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["input"], summary["frames"], summary["expected_frames"]) == ("7", 6, 0)
    assert len(read_video(tmp_path / "out" / "camera7.mp4")[0]) == 6


def test_a_stream_is_a_video_by_its_address(main, tmp_path, monkeypatch):
    source, opened = write_video(tmp_path / "in.mp4", [BRIGHT] * 4), cv2.VideoCapture
    streams = {"rtsp://user:word@host/street?track=1": source}
    monkeypatch.setattr(cv2, "VideoCapture", lambda address: opened(streams[address]))
    main(workdir=tmp_path, input=next(iter(streams)), output=tmp_path / "out", opacity=1.0)
    monkeypatch.undo()
    (frame, *_), _ = read_video(tmp_path / "out" / "street.mp4")
    np.testing.assert_allclose(frame.mean((0, 1)), TABLE.palette[1], atol=8)
    summary = (tmp_path / "out" / "summary.json").read_text()
    assert "rtsp://host/street" in summary and "word" not in summary
    with pytest.raises(DataError, match=r"rtsp://127\.0\.0\.1:9/none: no stream"):
        video.segment_video(model_of(), "rtsp://127.0.0.1:9/none", tmp_path / "out.mp4")


def test_a_video_that_ends_early_is_an_error_after_its_summary(main, tmp_path, monkeypatch):
    source = Path(write_video(tmp_path / "in.avi", [BRIGHT] * 40, noise=50))
    content = source.read_bytes()
    source.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"in\.avi ended after \d+ of 40 frames"):
        main(workdir=tmp_path, input=source, output=tmp_path / "out")
    frames = json.loads((tmp_path / "out" / "summary.json").read_text())["frames"]
    assert 0 < frames < 40

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(predictor.Predictor, "overlay", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(workdir=tmp_path, input=source, output=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["interrupted"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "give --workdir, the folder of a run, or --model"),
        ({"workdir": ".", "model": "in.mp4"}, "--workdir and --model are given together"),
        ({"workdir": ".", "probabilities": True}, "--probabilities is for images"),
        ({"workdir": ".", "output": "."}, "would replace the video"),
        ({"workdir": ".", "input": "photos", "show": True}, "--show is for a video"),
        ({"workdir": ".", "input": "photos", "smoothing": 0.5}, "--smoothing is for a video"),
        ({"workdir": ".", "input": "photos", "contours": True}, "change overlays; add --overlay"),
        ({"workdir": ".", "opacity": 2.0}, "--opacity is 2.0; give 0"),
        ({"workdir": ".", "input": "*.mp4"}, "names 2 videos, in.mp4 to other.mp4"),
    ],
)
def test_flags_that_do_not_go_together_are_reported(main, values, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = Path(write_video(tmp_path / "in.mp4", [DARK])).read_bytes()
    (tmp_path / "other.mp4").write_bytes(content)
    with pytest.raises(ConfigError, match=expected):
        main(**{"input": "in.mp4", "output": "out"} | values)
    assert not Path("out").exists() and Path("in.mp4").read_bytes() == content


@pytest.mark.parametrize("name", ["workdir", "model"])
def test_a_run_or_a_file_that_is_not_there_is_named(main, name, tmp_path):
    source = write_video(tmp_path / "in.mp4", [DARK])
    with pytest.raises(DataError, match=f"--{name} {tmp_path}/absent: no such"):
        main(input=source, output=tmp_path / "out", **{name: tmp_path / "absent"})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--input=in.mp4", "--output=out"],
            "give --workdir, the folder of a run, or --model, an exported file, or --pretrained, "
            "weights of another library",
        ),
        (["--workdir=.", "--output=out"], "--input is missing; see --help"),
        (["--workdir=.", "--input=in.mp4"], "--output is missing; see --help"),
    ],
)
def test_the_command_line_tells_a_mistake_in_one_line(arguments, expected):
    done = subprocess.run(
        [sys.executable, "-m", "segjax.predict", *arguments],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"ConfigError: {expected}"]
