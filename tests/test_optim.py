import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from segjax import defaults
from segjax.models.segmenter import has_several_axes
from segjax.training import optim

STEPS = 100
PEAK = 0.5


def config(**changes):
    fields = defaults.get_config().optim
    fields.update({"learning_rate": PEAK, "schedule": "constant", "warmup_fraction": 0.0} | changes)
    return fields


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    layer = {"kernel": (3, 3, 2, 4), "scale": (4,), "bias": (4,)}
    return {
        part: {
            name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in layer.items()
        }
        for part in ("encoder", "decoder")
    }


def updates_of(params, gradients=None, freeze=False, **changes):
    """The third of three updates with the same gradients, by default the parameters themselves."""
    optimizer, _ = optim.build(config(**changes), STEPS, has_several_axes, freeze)
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(params if gradients is None else gradients, state, params)
    return updates


@pytest.mark.parametrize(
    ("schedule", "middle", "end"),
    [
        ("cosine", PEAK / 2, 0.0),
        ("poly", PEAK * 0.5**0.9, 0.0),
        ("constant", PEAK, PEAK),
    ],
)
def test_schedules_warm_up_then_decay(schedule, middle, end):
    rate = optim.build_schedule(config(schedule=schedule, warmup_fraction=0.2), STEPS)
    steps = (0, 10, 20, 60, 100)
    values = [float(rate(step)) for step in steps]
    np.testing.assert_allclose(values, [0, PEAK / 2, PEAK, middle, end], rtol=1e-6, atol=1e-7)


def test_a_published_schedule_counts_its_warm_up_in_steps_and_has_a_power_of_its_own():
    """SegFormer's: 1,500 steps, then linear; here of another length."""
    fields = {"schedule": "poly", "poly_power": 1.0, "warmup_steps": 10, "warmup_fraction": 0.5}
    rate = optim.build_schedule(config(**fields), STEPS)
    values = [float(rate(step)) for step in (5, 10, 55, 100)]
    np.testing.assert_allclose(values, [PEAK / 2, PEAK, PEAK / 2, 0], rtol=1e-6, atol=1e-7)


def test_without_warm_up_the_first_step_has_the_full_rate():
    rate = optim.build_schedule(config(schedule="poly"), STEPS)
    np.testing.assert_allclose(
        [float(rate(step)) for step in (0, 50, 100)], [PEAK, PEAK * 0.5**0.9, 0], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("options", "factor"),
    [
        ({"name": "adamw"}, 1),
        ({"name": "sgd", "sgd_decay": "decoupled"}, 1),
        # The third buffer of equal gradients g is g (1 + m + m²); Nesterov adds m of it to g.
        ({"name": "sgd"}, 1 + 0.9 * (1 + 0.9 + 0.9**2)),
    ],
)
def test_weight_decay_shrinks_kernels_and_nothing_else(params, options, factor):
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates = updates_of(params, zeros, weight_decay=0.1, **options)
    for part in params:
        np.testing.assert_allclose(
            updates[part]["kernel"], -PEAK * 0.1 * factor * params[part]["kernel"], rtol=1e-6
        )
        assert (updates[part]["scale"] == 0).all() and (updates[part]["bias"] == 0).all()


def test_sgd_is_that_of_pytorch(params):
    """torch.optim.SGD(lr, momentum, weight_decay, nesterov=True) after clip_grad_norm_.

    With two groups of parameters: the encoder has a tenth of the learning rate, and norms and
    biases no decay.
    """
    momentum, decay, clip, steps = 0.9, 0.05, 3.0, 6
    optimizer, _ = optim.build(
        config(
            name="sgd", momentum=momentum, weight_decay=decay, grad_clip=clip, encoder_lr_ratio=0.1
        ),
        STEPS,
        has_several_axes,
    )
    state, ours = optimizer.init(params), params
    theirs = jax.tree.map(lambda p: np.array(p, np.float64), params)
    buffers = jax.tree.map(np.zeros_like, theirs)
    rng = np.random.default_rng(1)
    for _ in range(steps):
        gradients = jax.tree.map(lambda p: rng.normal(0, 0.3, p.shape), theirs)
        norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradients)))
        updates, state = optimizer.update(
            jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), gradients), state, ours
        )
        ours = optax.apply_updates(ours, updates)
        for part, name in itertools.product(theirs, ("kernel", "scale", "bias")):
            gradient = gradients[part][name] * min(1, clip / norm)
            if name == "kernel":
                gradient = gradient + decay * theirs[part][name]
            buffers[part][name] = momentum * buffers[part][name] + gradient
            rate = PEAK * (0.1 if part == "encoder" else 1)
            theirs[part][name] -= rate * (gradient + momentum * buffers[part][name])
        assert norm > clip
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_encoder_lr_ratio_scales_the_updates_of_the_encoder_alone(params, name):
    full = updates_of(params, name=name)
    tenth = updates_of(params, name=name, encoder_lr_ratio=0.1)
    jax.tree.map(np.testing.assert_array_equal, tenth["decoder"], full["decoder"])
    scaled = jax.tree.map(lambda u: u * jnp.float32(0.1), full["encoder"])
    jax.tree.map(np.testing.assert_array_equal, tenth["encoder"], scaled)
    assert all((u != 0).all() for u in jax.tree.leaves(tenth))


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_a_frozen_encoder_does_not_move(params, name):
    updates = updates_of(params, freeze=True, name=name, weight_decay=0.1)
    assert all((u == 0).all() for u in jax.tree.leaves(updates["encoder"]))
    assert all((u != 0).all() for u in jax.tree.leaves(updates["decoder"]))


def test_gradients_are_clipped_by_their_global_norm(params):
    options = dict(name="sgd", momentum=0.0, weight_decay=0.0, learning_rate=1.0)
    updates = updates_of(params, grad_clip=0.01, **options)
    np.testing.assert_allclose(optax.global_norm(updates), 0.01, rtol=1e-5)
    loose = updates_of(params, grad_clip=1e6, **options)
    jax.tree.map(lambda u, g: np.testing.assert_array_equal(u, -g), loose, params)
