"""One masked step is the same update on one device, on a mesh and under pmap."""

import tracemalloc

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from families import SEGFORMER, UNET, use

from segjax import models
from segjax.errors import ConfigError
from segjax.evaluation import boundary
from segjax.run import state
from segjax.runtime.devices import Parallel
from segjax.training import build, steps

NUM_CLASSES = 3


def batch_with_uneven_void(seed=0, batch_size=8, size=64):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, NUM_CLASSES, (batch_size, size, size)).astype(np.uint8)
    for i in range(batch_size):
        label[i, : i * size // batch_size] = 255
    return {
        "image": rng.integers(0, 256, (batch_size, size, size, 3)).astype(np.uint8),
        "label": label,
        "size": np.full((batch_size, 2), size, np.int32),
        "index": np.arange(batch_size, dtype=np.int32),
    }


def one_step(config, mode, count):
    devices = Parallel(mode, jax.devices()[:count])
    compiled = build.compile_steps(
        config, devices, NUM_CLASSES, np.array([100, 10, 1]), total_steps=10
    )
    start = state.create(compiled.model, compiled.optimizer, config.seed)
    batch = batch_with_uneven_void()
    placed = devices.replicate(start), devices.shard(batch)
    scored = devices.shard(batch | {"widths": boundary.widths(batch["size"])})
    with jax.transfer_guard("disallow"):
        after, metrics = compiled.train_step(*placed)
        sums, prediction = compiled.eval_step(after.ema, scored)
    scores = devices.unreplicate(sums)
    scores["loss"] = compiled.loss.value(scores["loss"])
    return (
        devices.unreplicate(after),
        devices.unreplicate(metrics),
        scores,
        devices.unshard(prediction),
    )


@pytest.fixture
def sgd_config(tiny_config):
    """SGD, whose update is proportional to the gradient; Adam's first one is its sign only.

    At 64×64 batch norm sees 32 values at stride 32; at 32×32 it would see 8, and differences of
    rounding would grow a hundredfold on their way.
    """
    tiny_config.data.size = (64, 64)
    tiny_config.augment.scale = (1.0, 1.0)
    tiny_config.optim.name = "sgd"
    tiny_config.optim.warmup_fraction = 0.0
    tiny_config.optim.learning_rate = 0.1
    tiny_config.loss.dice = 1.0
    tiny_config.loss.class_weights = "auto"
    return tiny_config


def assert_close(a, b, tolerance):
    """Largest difference of every leaf, relative to the leaf's largest value."""
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        scale = max(1e-2, float(np.abs(x).max()))
        difference = float(np.abs(np.asarray(x, np.float64) - y).max()) / scale
        assert difference < tolerance, (jax.tree_util.keystr(path), difference)


def assert_same_update(a, b, start):
    """The change of every leaf, to a hundredth of it, or of a thousandth of all changes, in L2.

    Rounding moves the sign of a ReLU here and there, and with it single numbers of a gradient. A
    mean of the devices' means in place of the mean moves most leaves by half.
    """
    ours, theirs = (
        jax.tree.map(lambda x, old: np.asarray(x, np.float64) - old, tree, start) for tree in (a, b)
    )
    least = 1e-3 * np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(ours)))
    for (path, x), y in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        difference = np.linalg.norm(x - y) / max(np.linalg.norm(x), least)
        assert difference < 1e-2, (jax.tree_util.keystr(path), difference)


@pytest.mark.parametrize(
    "network", [UNET, pytest.param(SEGFORMER, marks=pytest.mark.slow)], ids=" under ".join
)
def test_mesh_and_pmap_of_four_devices_equal_one_device(network, sgd_config, optimized):
    use(sgd_config, *network)
    compiled = build.compile_steps(
        sgd_config, Parallel("jit"), NUM_CLASSES, np.ones(3), total_steps=10
    )
    start = state.create(compiled.model, compiled.optimizer, sgd_config.seed).params
    expected, metrics, scores, prediction = one_step(sgd_config, "jit", 1)
    assert metrics["confusion"].sum() == (batch_with_uneven_void()["label"] < NUM_CLASSES).sum()
    for mode in ("jit", "pmap"):
        got, got_metrics, got_scores, got_prediction = one_step(sgd_config, mode, 4)
        assert_same_update(expected.params, got.params, start)
        assert_close(expected.batch_stats, got.batch_stats, 2e-5)
        np.testing.assert_allclose(metrics["loss"], got_metrics["loss"], rtol=1e-6)
        np.testing.assert_allclose(metrics["grad_norm"], got_metrics["grad_norm"], rtol=1e-4)
        np.testing.assert_allclose(scores["loss"], got_scores["loss"], rtol=1e-4)
        assert scores["confusion"].sum() == got_scores["confusion"].sum()
        # A pixel in a thousand may be another class, below, and moves the edges around it.
        for ours, theirs in zip(*map(jax.tree.leaves, (scores["boundary"], got_scores["boundary"])),
                                strict=True):  # fmt: skip
            np.testing.assert_allclose(ours, theirs, rtol=0.02, atol=20)
        assert (prediction == got_prediction).mean() > 0.999


@pytest.mark.parametrize(
    ("network", "field", "channels"),
    [
        (UNET, "unet", (64, 64, 64, 32, 32)),
        pytest.param(SEGFORMER, "segformer", 64, marks=pytest.mark.slow),
    ],
    ids=["unet", "segformer"],
)
def test_a_mesh_gathers_no_activations(network, field, channels, sgd_config):
    use(sgd_config, *network)
    sgd_config.model[field].channels = channels  # wide enough for every form
    devices = Parallel("jit", jax.devices()[:4])
    compiled = build.compile_steps(sgd_config, devices, NUM_CLASSES, np.ones(3), total_steps=10)
    start = devices.replicate(state.create(compiled.model, compiled.optimizer, 0))
    batch = devices.shard(batch_with_uneven_void())
    program = compiled.train_step.lower(start, batch).compile().as_text()
    assert "all-reduce" in program
    assert "all-gather" not in program


def test_a_step_lowers_for_a_gpu_with_plain_convolutions(sgd_config):
    """Which no processor can run; on one, the forms of `models.convolutions` have loops."""
    sgd_config.model.dtype = "bfloat16"
    sgd_config.model.unet.channels = (64, 64, 64, 32, 32)
    devices = Parallel("jit", jax.devices()[:1])
    compiled = build.compile_steps(sgd_config, devices, NUM_CLASSES, np.ones(3), total_steps=10)
    start = devices.replicate(state.create(compiled.model, compiled.optimizer, 0))
    traced = compiled.train_step.trace(start, devices.shard(batch_with_uneven_void()))
    programs = {p: traced.lower(lowering_platforms=(p,)).as_text() for p in ("cuda", "cpu")}
    loops, convolutions = (
        {platform: text.count(f"stablehlo.{what}") for platform, text in programs.items()}
        for what in ("while", "convolution")
    )
    assert loops["cuda"] < loops["cpu"]
    assert convolutions["cuda"] > convolutions["cpu"]


def test_a_step_moves_every_parameter_and_statistic(sgd_config):
    devices = Parallel("jit", jax.devices()[:1])
    compiled = build.compile_steps(sgd_config, devices, NUM_CLASSES, np.ones(3), total_steps=10)
    start = state.create(compiled.model, compiled.optimizer, sgd_config.seed)
    old = jax.tree.map(np.array, start.variables)
    batch = devices.shard(batch_with_uneven_void())
    after, _ = compiled.train_step(devices.replicate(start), batch)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), after.variables, old)
    assert all(jax.tree.leaves(moved))
    assert int(after.step) == 1


class Network(nn.Module):
    """A segmenter whose batch statistics do not move: a batch may be cut into any parts."""

    num_classes: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, image, train=False):
        self.variable("batch_stats", "mean", jnp.zeros, (1,))
        return nn.Conv(self.num_classes, (3, 3), name="head")(image / 50.0)


@pytest.mark.parametrize(
    ("mode", "count", "dice"), [("jit", 1, 0.0), ("jit", 4, 1.0), ("pmap", 4, 1.0)]
)
def test_accumulated_parts_count_by_their_labelled_pixels(
    mode, count, dice, sgd_config, monkeypatch
):
    """Of cross entropy that is the gradient of the whole batch, however uneven its void is."""
    monkeypatch.setattr(models, "build", lambda _, *shape: Network(*shape[:2]))
    sgd_config.data.size = (16, 16)
    sgd_config.loss.update(dice=dice, class_weights="none")
    sgd_config.optim.accumulate = 2
    devices = Parallel(mode, jax.devices()[:count])
    compiled = build.compile_steps(sgd_config, devices, NUM_CLASSES, np.ones(3), total_steps=10)
    start = state.create(compiled.model, compiled.optimizer, 0)
    batch = batch_with_uneven_void(size=16)
    batch["label"][::2, 2:] = 255  # hardly a pixel of part 0
    after, metrics = compiled.train_step(devices.replicate(start), devices.shard(batch))
    after, metrics = devices.unreplicate((after, metrics))

    image, label = jax.jit(compiled.train_step.__wrapped__.keywords["augment"])(batch)
    parts = [(image[i::2], label[i::2]) for i in (0, 1)]
    shares = [(part < NUM_CLASSES).sum() / (label < NUM_CLASSES).sum() for _, part in parts]
    assert shares[0] < 0.2

    def loss(params, image, label):
        variables = start.variables | {"params": params}
        return compiled.loss(Network(NUM_CLASSES).apply(variables, image), label)

    @jax.jit
    def updated(parts, shares):
        values, gradients = zip(
            *(jax.value_and_grad(loss)(start.params, *part) for part in parts), strict=True
        )
        gradient = jax.tree.map(
            lambda *each: sum(s * g for s, g in zip(shares, each, strict=True)), *gradients
        )
        updates, _ = compiled.optimizer.update(gradient, start.opt_state, start.params)
        return optax.apply_updates(start.params, updates), sum(
            s * v for s, v in zip(shares, values, strict=True)
        )

    params, value = updated(parts, shares)
    assert_close(params, after.params, 1e-5)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    if not dice:
        assert_close(updated([(image, label)], [1.0])[0], after.params, 1e-5)


class Noisy(nn.Module):
    """A stochastic segmenter without batch statistics: dropout by every example's key."""

    num_classes: int
    axis_name: str | None = None
    stochastic = True

    @nn.compact
    def __call__(self, image, train=False, keys=None):
        x = image / 50.0
        if train:
            x = x * jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, x.shape[1:]))(keys)
        return nn.Conv(self.num_classes, (3, 3), name="head")(x)


def noisy_step(config, mode, count, **changes):
    """Parameters, metrics and keys of a step with a stochastic network."""
    devices = Parallel(mode, jax.devices()[:count])
    compiled = build.compile_steps(config, devices, NUM_CLASSES, np.ones(3), total_steps=10)
    start = state.create(compiled.model, compiled.optimizer, 0)
    batch = batch_with_uneven_void(size=16) | changes
    after, metrics = compiled.train_step(devices.replicate(start), devices.shard(batch))
    return devices.unreplicate((after.params, metrics["loss"])), start.params


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_stochastic_network_draws_the_same_on_any_number_of_devices(
    accumulate, sgd_config, monkeypatch
):
    monkeypatch.setattr(models, "build", lambda _, *shape: Noisy(*shape[:2]))
    sgd_config.data.size = (16, 16)
    sgd_config.optim.accumulate = accumulate
    sgd_config.loss.update(dice=0.0, class_weights="none")
    (params, loss), start = noisy_step(sgd_config, "jit", 1)
    for mode in ("jit", "pmap"):
        (same, same_loss), _ = noisy_step(sgd_config, mode, 4)
        assert_same_update(params, same, start)
        np.testing.assert_allclose(loss, same_loss, rtol=1e-5)
    later = {"index": np.arange(8, 16, dtype=np.int32)}  # the next step's examples
    assert abs(noisy_step(sgd_config, "jit", 1, **later)[0][1] - loss) > 1e-4


def test_keys_of_a_network_are_functions_of_seed_and_example():
    batch = {"index": np.array([3, 0, 2**31 - 1], np.int32)}
    keys = steps.example_keys(Noisy(2), 7, batch)
    assert keys.shape == (3,)
    assert len({str(jax.random.key_data(k)) for k in keys}) == 3
    alone = steps.example_keys(Noisy(2), 7, {"index": batch["index"][1:2]})
    assert alone[0] == keys[1]
    assert (steps.example_keys(Noisy(2), 8, batch) != keys).all()
    assert steps.example_keys(Network(2), 7, batch) is None


@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_replicating_copies_nothing_in_the_host_s_memory(mode):
    devices, tree = Parallel(mode), {"image": np.zeros((1000, 1000), np.uint8)}
    devices.replicate({"image": tree["image"][:1]})  # what JAX keeps of a first call
    tracemalloc.start()
    placed = devices.replicate(tree)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert placed["image"].addressable_data(3).size == 1_000_000
    assert peak < 200_000


@pytest.mark.parametrize(("mode", "count"), [("jit", 1), ("jit", 4), ("pmap", 4)])
def test_a_donated_copy_leaves_the_host_s_array_and_the_other_copies_alone(mode, count):
    devices = Parallel(mode, jax.devices()[:count])
    tree = {"x": np.arange(1024, dtype=np.float32), "step": np.zeros((), np.int32)}
    step = devices.compile(lambda t, y: jax.tree.map(lambda x: x + y, t), donate_state=True)
    once = step(devices.replicate(tree), devices.replicate(np.int32(1)))
    np.testing.assert_array_equal(tree["x"], np.arange(1024))
    for shard in once["x"].addressable_shards:
        np.testing.assert_array_equal(np.ravel(shard.data), np.arange(1, 1025))


def test_train_step_is_traced_once(tiny_config):
    devices = Parallel("jit", jax.devices()[:1])
    compiled = build.compile_steps(tiny_config, devices, NUM_CLASSES, np.ones(3), total_steps=10)
    current = devices.replicate(state.create(compiled.model, compiled.optimizer, 0))
    for seed in range(3):
        batch = devices.shard(batch_with_uneven_void(seed))
        current, _ = compiled.train_step(current, batch)
    assert compiled.train_step._cache_size() == 1


def test_state_survives_replication_bit_for_bit():
    tree = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "step": np.int32(3)}
    for mode in ("jit", "pmap"):
        devices = Parallel(mode)
        back = devices.unreplicate(devices.replicate(tree))
        jax.tree.map(np.testing.assert_array_equal, back, tree)


def test_prefetch_returns_every_batch_in_order():
    devices = Parallel("jit")
    batches = [{"x": np.full((4, 1), i)} for i in range(5)]
    got = [int(devices.unshard(b["x"])[0, 0]) for b in devices.prefetch(batches)]
    assert got == [0, 1, 2, 3, 4]


def test_bad_mode_and_uneven_batches_are_refused():
    with pytest.raises(ConfigError, match=r"config\.parallel"):
        Parallel("tpu")
    with pytest.raises(ConfigError, match=r"config\.batch_size is 6"):
        Parallel("pmap", jax.devices()[:4]).check_batch_size(6)


def test_auto_is_jit_on_any_number_of_devices():
    assert Parallel("auto", jax.devices()[:1]).mode == "jit"
    assert Parallel("auto", jax.devices()[:4]).mode == "jit"
