"""A refiner's run: trained on a segmenter that stays as it is, resumed and scored like any run."""

import json
import shutil
import signal
from contextlib import closing

import jax
import numpy as np
import pytest
from families import SEGFORMER, UNET, use
from test_gan import copy, with_small_network
from test_parallel import assert_close, assert_same_update
from test_train import assert_equal_trees, interrupt_after

from segjax import defaults, models
from segjax.data.counts import Report
from segjax.data.fitting import Fit
from segjax.data.label_table import LabelTable
from segjax.data.refining import Refined
from segjax.errors import ConfigError, DataError, Interrupted
from segjax.run.checkpoints import Checkpoints
from segjax.runtime.devices import Parallel
from segjax.training import build, loop, second_stage
from segjax.training.evaluate_run import evaluate_run
from segjax.weights import runs


@pytest.fixture(scope="module", autouse=True)
def small_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "build", with_small_network(models.build))
        yield


@pytest.fixture(scope="module")
def segmenter(request, shared_tiny_config, tmp_path_factory):
    """A run on shapes of 32×32, which it sees at 16×16."""
    config = shared_tiny_config.copy_and_resolve_references()
    use(config, *getattr(request, "param", UNET))
    config.data.update(drawn=(32, 32), size=(16, 16))
    config.num_epochs = 1
    folder = tmp_path_factory.mktemp("segmenter")
    loop.train_and_evaluate(config, folder)
    return folder


def refiner_config(segmenter, **gan):
    """Windows of the segmenter's shapes; two epochs of four steps."""
    config = defaults.get_config()
    config.update(init_from=str(segmenter), num_epochs=2, batch_size=4, parallel="jit")
    config.data.update(fit="pad", size=(32, 32))
    config.refiner.update(name="pix2pix", channels=(8, 8), features=4)
    config.refiner.update(damage=0.25, disturbance=1.0)
    config.loss.update(dice=1.0, boundary=1.0)
    config.eval.num_pictures = 2
    config.gan.update(channels=(8, 16), **gan)
    return config


GAN = {"objective": "hinge", "weight": 0.5}


@pytest.fixture(scope="module")
def finished(segmenter, tmp_path_factory):
    """Folder, last state and report of a refiner's run without and with a discriminator."""
    made = {}
    for name, gan in (("plain", {}), ("gan", GAN)):
        folder = tmp_path_factory.mktemp(name)
        made[name] = (folder, *loop.train_and_evaluate(refiner_config(segmenter, **gan), folder))
    return made


@pytest.mark.parametrize("name", ["plain", "gan"])
def test_a_refiner_trains_and_is_scored_as_in_training(name, finished):
    folder, state, report = finished[name]
    assert int(state.step) == 8 and np.isfinite(report["mean_iou"])
    assert all(np.any(leaf) for leaf in jax.tree.leaves(state.params["head"]))
    assert json.dumps(evaluate_run(folder)) == json.dumps(report)
    assert report["resolution"] == "each label's own size"
    assert sum(row["pixels"] for row in report["per_class"].values()) == 6 * 32 * 32


def test_the_segmenter_is_copied_bit_for_bit_and_stays_as_it_is(finished, segmenter):
    expected = runs.restore(segmenter)
    trained = runs.restore(finished["plain"][0])
    assert_equal_trees(trained.segmenter.variables, expected.variables)
    assert trained.segmenter.table == expected.table
    assert trained.fit == Refined(Fit((16, 16), resizes=True))
    assert trained.config.model == expected.config.model
    kept = finished["plain"][0] / runs.COPY
    assert not {path.name for path in kept.glob("checkpoints/*/*")} & {*runs.NOT_COPIED}
    assert (kept / "config.json").read_bytes() == (segmenter / "config.json").read_bytes()


def history(folder, like):
    with closing(Checkpoints(folder)) as checkpoints:
        return checkpoints.restore(like, 8)[1]["history"]


@pytest.mark.parametrize(("name", "gan"), [("plain", {}), ("gan", GAN)])
def test_a_run_interrupted_ends_as_if_it_had_not_been_though_its_segmenter_is_gone(
    name, gan, finished, segmenter, tmp_path, monkeypatch
):
    config = refiner_config(shutil.copytree(segmenter, tmp_path / "segmenter"), **gan)
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 6, signal.SIGTERM)
        with pytest.raises(Interrupted, match="stopped at step 6"):
            loop.train_and_evaluate(config, folder)
    shutil.rmtree(tmp_path / "segmenter")
    state, report = loop.train_and_evaluate(config, folder)
    whole_folder, whole, expected = finished[name]
    assert_equal_trees(state, whole)
    assert history(folder, whole) == history(whole_folder, whole)
    assert json.dumps(report) == json.dumps(expected)


def test_a_run_is_not_resumed_with_another_segmenter(finished, segmenter, tmp_path):
    folder = shutil.copytree(finished["plain"][0], tmp_path / "run")
    other = shutil.copytree(segmenter, tmp_path / "other")
    message = f"another configuration: init_from was '{segmenter}', is '{other}'"
    with pytest.raises(ConfigError, match=message):
        loop.train_and_evaluate(refiner_config(other), folder)


def placed_step(config, trained, mode, count, step_of):
    """State and metrics after a step, and the parameters before it."""
    devices = Parallel(mode, jax.devices()[:count])
    classes = len(trained.table.names)
    compiled = build.compile_steps(
        config, devices, classes, np.ones(classes), total_steps=8, segmenter=trained
    )
    start = copy(build.create_state(compiled, classes, seed=0))
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (8, 32, 32, 3)).astype(np.uint8),
        "label": rng.integers(0, classes, (8, 8, 8)).repeat(4, 1).repeat(4, 2).astype(np.uint8),
        "size": np.full((8, 2), 32, np.int32),
        "small": rng.integers(0, 256, (8, 16, 16, 3)).astype(np.uint8),
        "index": np.arange(8, dtype=np.int32),
    }
    for i in range(8):
        batch["label"][i, : 4 * i] = 255
    batch = devices.shard(batch) | {"segmenter": devices.replicate(trained.variables)}
    placed = devices.replicate(start)
    with jax.transfer_guard("disallow"):
        after, metrics = step_of(compiled)(placed, batch)
    return *devices.unreplicate((after, metrics)), start.params


@pytest.mark.parametrize("accumulate", [1, 2])
def test_mesh_and_pmap_of_four_devices_equal_one_device(accumulate, segmenter):
    config = refiner_config(segmenter)
    config.optim.update(name="sgd", learning_rate=0.1, warmup_fraction=0.0)
    config.optim.accumulate = accumulate
    config, trained = second_stage.with_segmenter(config, segmenter / "absent")
    one, *others = (
        placed_step(config, trained, *place, lambda compiled: compiled.train_step)
        for place in (("jit", 1), ("jit", 4), ("pmap", 4))
    )
    for after, metrics, start in others:
        assert_same_update(one[0].params, after.params, start)
        assert_close(one[0].batch_stats, after.batch_stats, 1e-4)
        assert_close(one[1], metrics, 1e-4)


def test_with_a_discriminator_mesh_and_pmap_equal_one_device(segmenter):
    config = refiner_config(segmenter, objective="vanilla", weight=1.0, ramp_epochs=0.0)
    config.optim.update(name="sgd", learning_rate=0.1, warmup_fraction=0.0)
    config, trained = second_stage.with_segmenter(config, segmenter / "absent")
    one, *others = (
        placed_step(config, trained, *place, lambda compiled: compiled.gan.step)
        for place in (("jit", 1), ("jit", 4), ("pmap", 4))
    )
    for after, metrics, start in others:
        assert_same_update(one[0].params, after.params, start)
        assert_close(one[1], metrics, 1e-4)


def test_training_takes_kept_examples_as_those_that_are_read(finished, segmenter, tmp_path):
    """Kept on the device they are told by their rows."""
    config = refiner_config(segmenter)
    config.data.device_gb = 0.0
    state, _ = loop.train_and_evaluate(config, tmp_path)
    assert_equal_trees(state.params, finished["plain"][1].params)


@pytest.mark.parametrize(
    ("segmenter", "damage"),
    [(UNET, 0.0), (UNET, 1.0), pytest.param(SEGFORMER, 0.0, marks=pytest.mark.slow)],
    indirect=["segmenter"],
    ids=["undamaged", "damaged", "segformer"],
)
def test_a_refiner_at_the_bounds_of_its_fields_trains(damage, segmenter, tmp_path):
    config = refiner_config(segmenter)
    config.refiner.update(channels=(1,), features=1, damage=damage, disturbance=2 * damage)
    config.num_epochs = 1
    state, report = loop.train_and_evaluate(config, tmp_path)
    assert np.isfinite(report["loss"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def with_fields(config, **fields):
    config.update_from_flattened_dict(fields)
    return config


def changed_run(segmenter, folder, **fields):
    """A copy of the segmenter's run that was trained with other fields."""
    shutil.copytree(segmenter, folder)
    held = json.loads((folder / "config.json").read_text())
    for field, value in fields.items():
        section, name = field.split(".")
        held[section][name] = value
    (folder / "config.json").write_text(json.dumps(held))
    return folder


def test_what_no_refiner_can_be_trained_on_is_refused_by_name(finished, segmenter, tmp_path):
    padded = changed_run(segmenter, tmp_path / "padded", **{"data.fit": "pad"})
    refiner, absent = finished["plain"][0], tmp_path / "absent"
    for config, error, message in (
        (refiner_config(""), ConfigError, "init_from is ''; a refiner needs the work directory"),
        (refiner_config(absent), DataError, f"init_from is '{absent}': .*absent/config.json is mi"),
        (refiner_config(refiner), ConfigError, f"'{refiner}', a run of a refiner; give the run"),
        (refiner_config(padded), ConfigError, f"'{padded}', a run with config.data.fit='pad'"),
        (
            with_fields(refiner_config(segmenter), **{"data.fit": "resize"}),
            ConfigError,
            "data.fit is 'resize'; set it to 'pad': a refiner sees windows",
        ),
        (
            with_fields(refiner_config(segmenter), **{"model.mobilenet_v2.width": 1.4}),
            ConfigError,
            "width is 1.4, and 0.35 in the run of config.init_from",
        ),
        (
            with_fields(refiner_config(segmenter), **{"data.num_train": 99}),
            ConfigError,
            "config.data.num_train is 99, and 16 in the run of config.init_from",
        ),
    ):
        with pytest.raises(error, match=message) as caught:
            loop.Trainer(config, tmp_path / "new")
        assert "\n" not in str(caught.value) and not (tmp_path / "new").exists()


def test_data_of_other_classes_are_refused(segmenter):
    table = LabelTable.from_json('{"classes": ["sky", "road"]}', "")
    config, trained = refiner_config(segmenter), runs.restore(segmenter)
    trained, data = trained._replace(table=table), Report(trained.table)
    with pytest.raises(ConfigError, match="a run with other classes than the data: sky, road") as e:
        second_stage.require_same_data(config, trained, data, segmenter / "absent")
    assert "\n" not in str(e.value)


def test_images_that_the_segmenter_was_trained_on_do_not_become_test_images(tmp_path, segmenter):
    source = shutil.copytree(segmenter, tmp_path / "segmenter")
    (source / "splits.json").write_text('{"test": "as it was"}')
    config, trained = refiner_config(source), runs.restore(source)
    data = Report(trained.table, divided={"test": "with another image"})
    with pytest.raises(ConfigError, match="images were added, removed or renamed since, and test"):
        second_stage.require_same_data(config, trained, data, tmp_path / "refined")
    runs.copy(source, trained.step, tmp_path / "refined" / runs.COPY)
    assert (tmp_path / "refined" / runs.COPY / "splits.json").exists()


def test_a_start_that_failed_leaves_no_segmenter_to_the_next(tmp_path, segmenter):
    left, other = tmp_path / "run" / runs.COPY, tmp_path / "other"
    step = runs.restore(segmenter).step
    runs.copy(segmenter, step, left)
    config = refiner_config(other)
    with pytest.raises(DataError, match=f"config.init_from is '{other}'"):
        second_stage.with_segmenter(config, tmp_path / "run")
    shutil.copytree(segmenter, other)
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    _, trained = second_stage.with_segmenter(config, tmp_path / "run")
    second_stage.keep(config, trained, tmp_path / "run")
    assert (left / "config.json").read_text().endswith(" ")


def test_shapes_are_drawn_at_the_size_of_the_segmenter(segmenter):
    config, trained = second_stage.with_segmenter(refiner_config(segmenter))
    assert tuple(config.data.drawn) == (32, 32)
    trained.config.data.drawn = ()
    config = second_stage._with_fields_of(trained, refiner_config(segmenter))
    assert tuple(config.data.drawn) == (16, 16)
