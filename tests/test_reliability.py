"""A run that meets a full disk, a vanished file or a weight that is no number loses nothing."""

import resource
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import assert_equal_trees, write_folder

from segjax.errors import DataError, TrainingError
from segjax.run.checkpoints import Checkpoints
from segjax.run.state import TrainState
from segjax.training import loop, losses, steps


def state_of(step, size):
    small = {"a": np.zeros(3, np.float32)}
    params = {"a": np.random.default_rng(step).random(size, np.float32)}
    return TrainState(np.array(step, np.int32), params, small, small, small)


@pytest.fixture
def full_disk():
    """No file may grow beyond 1 MiB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_told_and_leaves_earlier_checkpoints_intact(tmp_path, full_disk):
    checkpoints = Checkpoints(tmp_path)
    first = state_of(1, 1000)
    checkpoints.save(first, {"history": []}, 0.5)
    checkpoints.save(state_of(2, 10_000_000), {"history": []}, 0.6)
    with pytest.raises(TrainingError, match=r"not written \(.*\); those of the steps \[1\] are"):
        checkpoints.close()
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest_step == 1
    restored, _ = checkpoints.restore(first, 1)
    assert_equal_trees(restored, first)
    checkpoints.close()


def test_a_file_that_vanishes_while_training_costs_no_step(tiny_config, tmp_path, monkeypatch):
    write_folder(tmp_path / "data", [(32, 32)] * 8)
    tiny_config.data.update(source="folder", root=str(tmp_path / "data"), cache_gb=0.0)
    whole, _ = loop.train_and_evaluate(tiny_config, tmp_path / "whole")

    file, elsewhere = tmp_path / "data" / "train" / "images" / "3.png", tmp_path / "3.png"
    original = loop.Trainer.batches

    def batches(run):
        file.rename(elsewhere)
        return original(run)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "batches", batches)
        with pytest.raises(DataError, match=r"3\.png"):
            loop.train_and_evaluate(tiny_config, tmp_path / "run")
    elsewhere.rename(file)
    resumed, _ = loop.train_and_evaluate(tiny_config, tmp_path / "run")
    assert_equal_trees(resumed, whole)


def test_a_weight_that_is_not_a_number_stops_the_run_at_its_step(
    tiny_config, tmp_path, monkeypatch
):
    original = steps.train_step

    def poisoned(state, batch, **kwargs):
        broken = jnp.where(state.step == 5, jnp.nan, 0.0)
        params = jax.tree.map(lambda p: p + broken, state.params)
        return original(state.replace(params=params), batch, **kwargs)

    monkeypatch.setattr(steps, "train_step", poisoned)
    with pytest.raises(TrainingError, match=r"^loss nan, grad_norm nan at step 6; .* is step 4"):
        loop.train_and_evaluate(tiny_config, tmp_path)
    assert (tmp_path / "checkpoints" / "4").is_dir()


@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "dice", "lovasz"])
def test_losses_of_huge_bfloat16_logits_are_finite(loss, tiny_config):
    tiny_config.loss.update(cross_entropy=0.0, focal=0.0, dice=0.0, lovasz=0.0)
    tiny_config.loss[loss] = 1.0
    function = losses.build(tiny_config.loss, np.ones(3))
    logits = jnp.broadcast_to(jnp.array([1e4, -1e4, 1e30], jnp.bfloat16), (1, 2, 2, 3))
    label = jnp.array([[[0, 1], [2, 255]]], jnp.uint8)
    value, gradient = jax.value_and_grad(lambda x: function(x, label, None))(logits)
    assert jnp.isfinite(value) and jnp.isfinite(gradient).all()
