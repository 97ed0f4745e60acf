import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import defaults
from segjax.training import adversarial

VOID = 255
REAL, FAKE = jnp.array([2.0, -1.0]), jnp.array([0.5, -3.0])
UNDECIDED = {"vanilla": 0.0, "lsgan": 0.5, "hinge": 0.0}
every_objective = pytest.mark.parametrize("objective", UNDECIDED)


def config(**changes):
    fields = defaults.get_config().gan
    fields.objective = "hinge"
    fields.update(changes)
    return fields


def softplus(x):
    return math.log(1 + math.exp(x))


@pytest.mark.parametrize(
    ("objective", "discriminator", "segmenter"),
    [
        (
            "vanilla",
            (softplus(-2) + softplus(1)) / 4 + (softplus(0.5) + softplus(-3)) / 4,
            (softplus(-0.5) + softplus(3)) / 2,
        ),
        # real 1² and (-2)², fake 0.5² and (-3)²; the segmenter's (-0.5)² and (-4)²
        ("lsgan", (1 + 4) / 4 + (0.25 + 9) / 4, (0.25 + 16) / 2),
        # real max(0, -1) and max(0, 2), fake max(0, 1.5) and max(0, -2)
        ("hinge", (0 + 2) / 4 + (1.5 + 0) / 4, (-0.5 + 3) / 2),
    ],
)
def test_objectives_have_the_values_of_a_calculation_by_hand(objective, discriminator, segmenter):
    value = adversarial.discriminator_loss(objective, REAL, FAKE)
    np.testing.assert_allclose(value, discriminator, rtol=1e-6)
    value = adversarial.segmenter_loss(objective, FAKE)
    np.testing.assert_allclose(value, segmenter, rtol=1e-6)


@every_objective
def test_chance_is_the_loss_of_an_undecided_discriminator(objective):
    scores = jnp.full((2, 3), UNDECIDED[objective])
    loss = adversarial.discriminator_loss(objective, scores, scores)
    np.testing.assert_allclose(adversarial.CHANCE[objective], loss, atol=5e-4)  # three digits


@every_objective
def test_no_constant_score_is_better_than_chance(objective):
    losses = [
        float(adversarial.discriminator_loss(objective, x, x)) for x in jnp.linspace(-3, 3, 25)
    ]
    assert min(losses) > adversarial.CHANCE[objective] - 5e-4


@every_objective
def test_the_discriminator_parts_the_scores_and_the_segmenter_raises_its_own(objective):
    undecided = jnp.full(3, UNDECIDED[objective])
    real, fake = jax.grad(adversarial.discriminator_loss, argnums=(1, 2))(
        objective, undecided, undecided
    )
    assert (real < 0).all()
    assert (fake > 0).all()
    assert (jax.grad(adversarial.segmenter_loss, argnums=1)(objective, undecided) < 0).all()


def test_vanilla_still_teaches_a_segmenter_that_is_always_found_out():
    gradient = jax.grad(adversarial.segmenter_loss, argnums=1)("vanilla", jnp.array([-20.0]))
    np.testing.assert_allclose(gradient, -1, rtol=1e-6)


def test_the_verdict_is_a_probability_for_vanilla_only():
    scores = jnp.array([0.0, math.log(3)])
    np.testing.assert_allclose(adversarial.verdict("vanilla", scores), (0.5 + 0.75) / 2, rtol=1e-6)
    for objective in ("lsgan", "hinge"):
        np.testing.assert_allclose(
            adversarial.verdict(objective, scores), math.log(3) / 2, rtol=1e-6
        )


@pytest.fixture
def example():
    """Labels [2, 4, 5], some of them void, and probabilities of 4 classes, some nearly certain."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, (2, 4, 5)).astype(np.uint8)
    label[0, :2] = VOID
    label[1, 0, 0] = 4  # is no class either
    return label, jax.nn.softmax(jnp.asarray(rng.normal(0, 4, (2, 4, 5, 4)), jnp.float32))


def picked(x, label):
    return np.take_along_axis(np.asarray(x), np.minimum(label, 3)[..., None], axis=-1)[..., 0]


def test_softened_labels_are_at_least_as_certain_as_asked_and_as_the_segmenter(example):
    label, probabilities = example
    labelled = label < 4
    certain = picked(adversarial.soften(label, probabilities, 0.9), label)[labelled]
    own = picked(probabilities, label)[labelled]
    assert (own > 0.9).any()
    assert (own < 0.9).any()
    np.testing.assert_array_equal(certain, np.maximum(own, np.float32(0.9)))


def test_softened_labels_are_distributions_and_void_is_zero_as_the_segmenter_s(example):
    label, probabilities = example
    real = np.asarray(adversarial.soften(label, probabilities, 0.9))
    fake = np.asarray(adversarial.mask_void(probabilities, label))
    np.testing.assert_allclose(real[label < 4].sum(-1), 1, rtol=1e-6)
    assert (real >= 0).all()
    np.testing.assert_array_equal(fake[label < 4], np.asarray(probabilities)[label < 4])
    for masked in (real, fake):
        assert not masked[label >= 4].any()


def test_softened_labels_share_the_rest_as_the_segmenter_does(example):
    label, probabilities = example
    real = np.asarray(adversarial.soften(label, probabilities, 0.9))
    own = np.asarray(probabilities)
    for pixel in np.argwhere(label < 4):
        others = [c for c in range(4) if c != label[tuple(pixel)]]
        ratio = real[tuple(pixel)][others] / own[tuple(pixel)][others]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)


def test_an_amount_of_one_gives_one_hot_labels(example):
    label, probabilities = example
    np.testing.assert_allclose(
        adversarial.soften(label, probabilities, 1.0), jax.nn.one_hot(label, 4), atol=1e-6
    )


def test_softening_is_finite_where_the_segmenter_is_certain():
    label = np.array([[[0, 0]]])
    right, wrong = [1.0, 0, 0], [0, 0, 1.0]
    real = adversarial.soften(label, jnp.array([[[right, wrong]]]), 0.9)
    np.testing.assert_allclose(real, [[[right, [0.9, 0, 0.1]]]], rtol=1e-6)


def test_scores_that_do_not_count_change_neither_loss():
    counted = jnp.array([1.0, 0.0])
    for objective in UNDECIDED:
        alone = adversarial.discriminator_loss(objective, REAL[:1], FAKE[:1])
        both = adversarial.discriminator_loss(objective, REAL, FAKE, None, counted)
        np.testing.assert_allclose(both, alone, rtol=1e-6)
        alone = adversarial.segmenter_loss(objective, FAKE[:1])
        value, gradient = jax.value_and_grad(adversarial.segmenter_loss, argnums=1)(
            objective, FAKE, None, counted
        )
        np.testing.assert_allclose(value, alone, rtol=1e-6)
        assert gradient[1] == 0 != gradient[0]
        value, gradient = jax.value_and_grad(adversarial.segmenter_loss, argnums=1)(
            objective, FAKE, None, jnp.zeros(2)
        )
        assert value == 0 and not gradient.any()


def test_a_score_counts_that_sits_on_an_edge_between_classes():
    label = np.zeros((3, 16, 16), np.uint8)
    label[0, :, 8:] = 1  # the boundary loss counts the columns 5 to 10
    label[1, 8:] = VOID
    label[2, 2, 2] = 1
    # Six scores a side, on pairs of pixels from the third one on.
    counted = adversarial.on_edges(jnp.array(label), 2, num_channels=2)
    np.testing.assert_array_equal(counted[0], [[0, 1, 1, 1, 1, 0]] * 6)
    assert not counted[1].any()
    corner = np.zeros((6, 6))
    corner[:2, :2] = 1
    np.testing.assert_array_equal(counted[2], corner)


def test_the_gradient_penalty_of_a_linear_discriminator_by_hand():
    """Scores of rows of pixels, which do not overlap: the squared norm of the weights."""
    weights = jnp.array([[1.0, -2.0], [0.5, 3.0]])  # of two pixels of two classes
    real = jax.random.uniform(jax.random.key(0), (3, 4, 2, 2))

    def penalty(weights, counted=None):
        def scores_of(x):
            return jnp.einsum("bhwc,wc->bh", x, weights)

        return adversarial.gradient_penalty(scores_of, real, None, counted)

    value, gradient = jax.value_and_grad(penalty)(weights)
    np.testing.assert_allclose(value, 1 + 4 + 0.25 + 9, rtol=1e-6)
    np.testing.assert_allclose(gradient, 2 * weights, rtol=1e-6)
    some = jnp.zeros((3, 4)).at[1, :2].set(1)
    np.testing.assert_allclose(penalty(weights, some), 1 + 4 + 0.25 + 9, rtol=1e-6)
    assert penalty(weights, jnp.zeros((3, 4))) == 0


def test_the_gradient_penalty_of_a_square_depends_on_the_example():
    real = jnp.array([1.0, 3.0])[:, None, None, None]
    value = adversarial.gradient_penalty(lambda x: x[..., 0] ** 2, real)
    np.testing.assert_allclose(value, (2**2 + 6**2) / 2)


def test_feature_matching_is_the_mean_over_layers_of_mean_differences():
    labels = [jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1.0])]
    predictions = [jnp.array([[1.0, 0.0], [3.0, 8.0]]), jnp.array([0.5])]
    value, gradient = jax.value_and_grad(adversarial.feature_matching)(predictions, labels)
    np.testing.assert_allclose(value, ((2 + 4) / 4 + 0.5) / 2)
    np.testing.assert_allclose(gradient[0], [[0, -1 / 8], [0, 1 / 8]])
    np.testing.assert_allclose(gradient[1], [-1 / 2])
    half = [x.astype(jnp.bfloat16) for x in predictions]
    assert adversarial.feature_matching(half, half).dtype == jnp.float32


@pytest.mark.parametrize(
    ("ramp_epochs", "expected"),
    # Epochs of four steps; the weight belongs to the step after `updates` of them.
    [
        (0.0, {0: 0, 3: 0, 4: 1, 5: 1, 100: 1}),
        (1.0, {0: 0, 3: 0, 4: 0.25, 5: 0.5, 6: 0.75, 7: 1, 8: 1}),
        (2.5, {3: 0, 4: 0.1, 8: 0.5, 13: 1, 14: 1}),
    ],
)
def test_the_weight_is_zero_before_the_start_and_then_rises_linearly(ramp_epochs, expected):
    weight = adversarial.build_weight(
        config(weight=0.2, start_epoch=1, ramp_epochs=ramp_epochs), steps_per_epoch=4
    )
    compiled = jax.jit(weight)
    for updates, share in expected.items():
        np.testing.assert_allclose(weight(updates), 0.2 * share, rtol=1e-6)
        np.testing.assert_allclose(compiled(jnp.int32(updates)), 0.2 * share, rtol=1e-6)


@every_objective
def test_the_discriminator_has_won_far_below_chance_only(objective):
    chance = adversarial.CHANCE[objective]
    assert not adversarial.has_won(objective, chance)
    assert not adversarial.has_won(objective, chance * adversarial.WON * 1.01)
    assert adversarial.has_won(objective, chance * adversarial.WON * 0.99)
