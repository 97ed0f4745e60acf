"""A run is alone in its work directory, is saved as time passes, and never with broken numbers."""

import errno
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from families import SEGFORMER, use
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_reliability import state_of
from test_train import assert_equal_trees

from segjax import models
from segjax.errors import ConfigError, DataError, InUseError, TrainingError
from segjax.run import lock, progress, state
from segjax.run.checkpoints import Checkpoints
from segjax.runtime.signals import catch_signals
from segjax.training import loop, losses, steps
from segjax.training.totals import Totals
from segjax.weights import pretrained, runs

ALONE = SimpleNamespace(is_first=True, any=lambda flag: flag)
TESTS = Path(__file__).parent
HELD = """
import sys, time
sys.path[:0] = [{tests!r}, {root!r}]
import conftest, test_run
from segjax import models
from segjax.training import loop
models.build = test_run.build
config = conftest._tiny_config()
test_run.use(config, *{network!r})
config.checkpoint_minutes = 1e-9
count, step = iter(range(1, 100)), loop.Progress.step
def wait(self, compiled):
    if next(count) == 6:
        time.sleep(600)
    step(self, compiled)
loop.Progress.step = wait
loop.train_and_evaluate(config, {folder!r})
"""


class Plain(nn.Module):
    """A segmenter without batch statistics."""

    num_classes: int
    in_channels = 3

    @nn.compact
    def __call__(self, image, train=False):
        x = nn.relu(nn.Conv(8, (3, 3), name="conv")(image.astype(jnp.float32) / 255))
        return nn.Conv(self.num_classes, (1, 1), name="head")(x)


PLAIN, BUILD = ("mobilenet_v2", "unet"), models.build


def build(config, num_classes, axis_name=None, channels=3):
    """`Plain` in place of the first family."""
    is_plain = (config.encoder, config.name) == PLAIN
    return Plain(num_classes) if is_plain else BUILD(config, num_classes, axis_name)


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    monkeypatch.setattr(models, "build", build)


def history(folder, like):
    with closing(Checkpoints(folder)) as checkpoints:
        return checkpoints.restore(like, 8)[1]["history"]


def as_if_pretrained(config, folder):
    config = config.copy_and_resolve_references()
    if config.model.encoder == "mobilenet_v2":  # which `Plain` does not have
        config.model.mobilenet_v2.norm_epsilon = 0.00123
    return config


@pytest.mark.parametrize(
    "network",
    [PLAIN, pytest.param(SEGFORMER, marks=pytest.mark.slow)],
    ids=["plain", "segformer"],
)
def test_a_killed_run_kept_others_out_and_goes_on_from_between_its_evaluations(
    network, tiny_config, tmp_path, monkeypatch, caplog
):
    use(tiny_config, *network)
    caplog.set_level(logging.INFO, "segjax")
    with monkeypatch.context() as patch:
        patch.setattr(pretrained, "with_conventions", as_if_pretrained)
        whole, _ = loop.train_and_evaluate(tiny_config, tmp_path / "whole")
    assert (whole.batch_stats == {}) == (network == PLAIN)
    lines = [record.message.partition("  ")[0] for record in caplog.records]
    order = ["Compiling the training step", "step 1/8", "step 4/8", "Compiling the evaluation"]
    at = [next(i for i, line in enumerate(lines) if line.startswith(text)) for text in order]
    assert at == sorted(at) and sum(line.startswith("Compiling") for line in lines) == 2
    events = EventAccumulator(str(tmp_path / "whole" / "tensorboard")).Reload()
    (text,) = events.Tensors("config/text_summary")
    is_recorded = b"norm_epsilon: 0.00123" in text.tensor_proto.string_val[0]
    assert is_recorded == (network == PLAIN)
    assert [point.step for point in events.Scalars("train/loss")] == [1, 4, 8]
    assert [point.step for point in events.Scalars("train/images_per_s")] == [4, 8]

    folder = tmp_path / "killed"
    script = HELD.format(
        tests=str(TESTS), root=str(TESTS.parent), folder=str(folder), network=network
    )
    environment = {"JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir}
    with subprocess.Popen([sys.executable, "-c", script], env=os.environ | environment) as holder:
        while not (folder / "checkpoints" / "5").is_dir():
            assert holder.poll() is None
            time.sleep(0.1)
        with pytest.raises(InUseError, match=f"in use by process {holder.pid} on .*remove .*lock"):
            loop.train_and_evaluate(tiny_config, folder)
        assert (folder / "checkpoints" / "5").is_dir()
        holder.send_signal(signal.SIGKILL)
    with closing(Checkpoints(folder, reads_only=True)) as checkpoints:
        assert (checkpoints.find("best"), checkpoints.find("latest")) == (4, 5)
    parts, _ = loop.train_and_evaluate(tiny_config, folder)
    assert_equal_trees(parts, whole)
    assert history(folder, whole) == history(tmp_path / "whole", whole)
    assert not (folder / "lock").exists()

    tiny_config.init_from = str(folder)
    warm = loop.Trainer(tiny_config, tmp_path / "warm")
    warm.checkpoints.close()
    assert_equal_trees(warm.start_state.ema, runs.restore(folder).variables)


@pytest.mark.parametrize(("field", "value"), [("batch_size", 32), ("init_from", "absent")])
def test_a_start_that_fails_leaves_nothing(field, value, tiny_config, tmp_path):
    tiny_config[field] = value
    with pytest.raises((ConfigError, DataError), match=f"config.{field} is {value!r}"):
        loop.train_and_evaluate(tiny_config, tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises((ConfigError, DataError)):
        loop.train_and_evaluate(tiny_config, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} <= {"note.txt", "data.json"}


def test_a_lock_is_free_again_whatever_ended_its_run(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), lock.hold(tmp_path, ALONE):
            with pytest.raises(InUseError, match=f"process {os.getpid()}"):
                lock.hold(tmp_path, ALONE).__enter__()
            raise KeyboardInterrupt
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "lock").write_text("process 1 on a machine that was killed")
    with lock.hold(tmp_path, ALONE):
        pass
    with pytest.raises(ConfigError, match="the first process cannot use it"):
        other = SimpleNamespace(is_first=False, any=lambda flag: True)
        lock.hold(tmp_path, other).__enter__()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    with lock.hold(tmp_path, ALONE):
        assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no locks (Operation not supported)" in caplog.text


def test_outside_the_main_thread_signals_stay_as_they_are():
    handlers, found = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)], []

    def context():
        with catch_signals() as received:
            found.append(received)
            found.extend(signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM))

    thread = threading.Thread(target=context)
    thread.start()
    thread.join()
    assert found == [[], *handlers]


def test_a_state_with_a_broken_number_is_not_saved(tiny_config, tmp_path, monkeypatch):
    original = steps.train_step

    def poisoned(train_state, batch, **kwargs):
        train_state, metrics = original(train_state, batch, **kwargs)
        broken = jnp.where(train_state.step == 8, jnp.inf, 0.0)
        opt_state = jax.tree.map(lambda x: x + broken.astype(x.dtype), train_state.opt_state)
        return train_state.replace(opt_state=opt_state), metrics

    monkeypatch.setattr(steps, "train_step", poisoned)
    with pytest.raises(TrainingError, match=r"in opt_state at step 8; .* checkpoint is step 4"):
        loop.train_and_evaluate(tiny_config, tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["4"]


class Normed(nn.Module):
    num_classes: int = 2

    @nn.compact
    def __call__(self, image, train=False):
        x = nn.BatchNorm(not train, name="norm")(image.astype(jnp.float32))
        return nn.Conv(self.num_classes, (1, 1), name="head")(x)


@pytest.mark.parametrize(
    "network",
    [None, pytest.param(SEGFORMER, marks=pytest.mark.slow)],
    ids=["normed", "segformer"],
)
def test_evaluated_is_the_moving_average_of_parameters_and_batch_statistics(network, tiny_config):
    model = Normed()
    if network:
        use(tiny_config, *network)
        model = BUILD(tiny_config.model, num_classes=2)
    optimizer, decay = optax.sgd(0.5), 0.15
    step = partial(
        steps.train_step,
        model=model,
        optimizer=optimizer,
        loss=losses.build(tiny_config.loss, np.ones(2)),
        augment=lambda batch: (batch["image"], batch["label"]),
        ema_decay=decay,
    )
    step, current = jax.jit(step), state.create(model, optimizer, seed=0)
    average = jax.tree.map(np.float64, current.variables)
    assert_equal_trees(current.ema, current.variables)
    rng = np.random.default_rng(0)
    for updates in range(4):
        image = rng.integers(0, 256, (2, 4, 4, 3), np.uint8)
        batch = {"image": image, "label": image[..., 0] // 128}
        current, _ = step(current, batch | {"index": np.arange(2, dtype=np.int32)})
        d = min(decay, (1 + updates) / (10 + updates))  # 0.1, then 0.15
        average = jax.tree.map(lambda a, v, d=d: d * a + (1 - d) * v, average, current.variables)
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-8)
    jax.tree.map(close, current.ema, average)
    apart = jax.tree.map(lambda a, v: np.abs(a - v).max(), average, current.variables)
    learned = apart["batch_stats"], apart["params"]["head"]
    assert min(jax.tree.leaves(learned)) > 1e-4  # a copy would not pass


def test_broken_parts_are_named():
    good = state_of(1, 3)
    assert state.not_finite(good) == []
    broken = {"a": np.array([1, np.nan], np.float32), "b": np.zeros(2, jnp.bfloat16)}
    critic = state.DiscriminatorState(params=broken, batch_stats={}, opt_state=())
    assert state.not_finite(state.GanState(good.replace(ema=broken), critic)) == [
        "ema",
        "discriminator",
    ]


def test_what_was_not_evaluated_is_best_only_while_nothing_was(tmp_path):
    with closing(Checkpoints(tmp_path)) as checkpoints:
        rows = []
        for step, score in ((1, None), (2, None)):
            checkpoints.save(state_of(step, 3), {"history": rows}, score)
            rows.append(step)  # while the checkpoint may still be written
        assert (checkpoints.find("best"), checkpoints.find("latest")) == (2, 2)
        for step, score in ((3, 0.0), (4, None), (5, None)):
            checkpoints.save(state_of(step, 3), {"history": rows}, score)
        with pytest.raises(DataError, match="step 5 was not saved, step 5 is there"):
            checkpoints.save(state_of(5, 3), {}, 0.9)  # a score that would be lost
    with closing(Checkpoints(tmp_path)) as checkpoints:
        assert (checkpoints.find("best"), checkpoints.find("latest")) == (3, 5)
        assert sorted(int(p.name) for p in checkpoints.folder.iterdir()) == [3, 5]
        assert checkpoints.restore(state_of(3, 3), 3)[1] == {"history": [1, 2]}


def test_a_step_that_was_compiled_counts_for_nothing(monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    caplog.set_level(logging.INFO, "segjax")

    def batches():
        while True:
            now[0] += 0.25
            yield

    with progress.Progress(0, 10, 5, batch_size=4) as shown:
        timed = shown.timed(batches())
        for step, seconds in ((1, 60.0), (2, 0.75), (3, 0.75)):
            next(timed)
            now[0] += seconds
            shown.step(step == 1)
            if step != 2:
                speed = shown.show(step, 1.0, 0.5)
                assert np.isnan(speed["images_per_s"]) == np.isnan(speed["data_wait"]) == (step < 3)
    first, second = (record.message for record in caplog.records)
    assert first == "step 1/10  epoch 1  loss 1.0000  accuracy 0.500"
    assert second.endswith("4.0 images/s  waiting for data 25 %  ETA 00:07")


@pytest.mark.parametrize(("start", "compiled"), [(0, [1, 5]), (2, [3, 5]), (4, [5]), (6, [7])])
def test_both_programs_of_a_run_with_a_discriminator_are_announced(start, compiled):
    steps = SimpleNamespace(gan=SimpleNamespace(start_step=4))
    run = SimpleNamespace(start_step=start, compiled=steps)
    assert [n for n in range(start + 1, 9) if loop.Trainer.compiles(run, n)] == compiled


def test_a_mean_is_of_whole_epochs():
    metrics = {"loss": 1.0, "confusion": np.eye(2, dtype=int), "gan": {"weight": 1.0, "new": 3.0}}
    held = Totals()
    for _ in range(2):
        held.add(metrics)
    assert held.scores()["gan/new"] == 3
    held = json.loads(json.dumps(held.to_json()))
    del held["gan"]["new"]  # an earlier version's
    resumed = Totals.from_json(held)
    resumed.add(metrics)
    assert resumed.scores()["gan/weight"] == 1 and "gan/new" not in resumed.scores()
