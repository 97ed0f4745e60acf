from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import defaults, models
from segjax.errors import ConfigError
from segjax.models.patchgan import PatchGAN, num_patches, receptive_field, stride


def build(**changes):
    fields = defaults.get_config().gan
    fields.update(changes)
    return models.build_discriminator(fields, "float32")


def inputs(num_classes, size=(32, 32)):
    keys = jax.random.split(jax.random.key(0))
    image = jax.random.uniform(keys[0], (2, *size, 3), maxval=255.0)
    return image, jax.nn.softmax(jax.random.normal(keys[1], (2, *size, num_classes)))


def init(model, *args):
    return jax.jit(lambda key: model.init(key, *args, train=False))(jax.random.key(1))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("channels", "field"), [(PatchGAN.channels, 70), ((64, 128, 256), 34), ((64, 128), 16)]
)
def test_one_score_depends_on_a_square_of_the_paper_s_size(channels, field):
    model = PatchGAN(channels, norm="none")
    image, probabilities = inputs(2, size=(80, 80))
    variables = init(model, image, probabilities)

    @jax.jit
    def gradients(image, probabilities):
        def central(*args):
            scores = model.apply(variables, *args, train=False)
            return scores[0, scores.shape[1] // 2, scores.shape[2] // 2]

        return jax.grad(central, argnums=(0, 1))(image, probabilities)

    for gradient in gradients(image, probabilities):
        seen = np.argwhere((gradient[0] != 0).any(-1))
        assert (np.ptp(seen, axis=0) + 1).tolist() == [field, field]
        assert seen.min() > 0  # or the field may reach beyond the image
        assert seen.max() < 79
        assert not gradient[1].any()
    assert receptive_field(len(channels)) == field
    step, central = stride(len(channels)), num_patches(80, len(channels)) // 2
    assert (seen.min(0) + (field - step) // 2).tolist() == [(central + 1) * step] * 2


@pytest.mark.parametrize(("size", "scores"), [((64, 64), (6, 6)), ((50, 67), (4, 6))])
def test_every_score_is_of_a_patch_and_odd_sizes_are_rounded_down(size, scores):
    model, args = PatchGAN(), inputs(3, size)
    out = jax.eval_shape(lambda key: model.init_with_output(key, *args, train=False)[0],
                         jax.random.key(0))  # fmt: skip
    assert (out.shape, out.dtype) == ((2, *scores), jnp.float32)


@pytest.mark.parametrize("num_classes", [2, 11])
def test_the_default_has_the_parameters_of_the_paper(num_classes):
    args = inputs(num_classes)
    variables = jax.eval_shape(lambda: build().init(jax.random.key(0), *args, train=False))
    convolutions = (
        (4 * 4 * (3 + num_classes) * 64 + 64)
        + (4 * 4 * 64 * 128 + 128)
        + (4 * 4 * 128 * 256 + 256)
        + (4 * 4 * 256 * 512 + 512)
        + (4 * 4 * 512 * 1 + 1)
    )
    scales_and_biases = 2 * (128 + 256 + 512)
    assert count(variables["params"]) == convolutions + scales_and_biases


@pytest.mark.parametrize(
    ("norm", "spectral_norm", "num_classes"),
    [
        ("instance", False, 1),
        ("batch", False, 2),
        ("none", False, 40),
        ("instance", True, 40),
        ("batch", True, 1),
        ("none", True, 2),
    ],
)
def test_scores_are_finite_and_differ_with_every_norm(norm, spectral_norm, num_classes):
    model = build(channels=(4, 8), norm=norm, spectral_norm=spectral_norm)
    args = inputs(num_classes, size=(16, 16))

    @jax.jit
    def first_scores():
        variables = model.init(jax.random.key(1), *args, train=False)
        return model.apply(variables, *args, train=True, mutable=["batch_stats"])[0]

    scores = first_scores()
    assert scores.shape == (2, 6, 6)
    assert jnp.isfinite(scores).all()
    assert scores.std() > 0


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_the_first_convolution_has_no_norm_and_the_others_have_one(norm):
    variables = init(PatchGAN((4, 8, 8), norm), *inputs(2))
    assert set(variables["params"]) == {"conv0", "conv1", "norm1", "conv2", "norm2", "head"}


def test_its_convolutions_features_lie_beside_the_scores_where_they_are_asked_for():
    model, args = PatchGAN((4, 8, 6)), inputs(2)
    variables = init(model, *args)
    assert set(variables) == {"params"}
    plain = model.apply(variables, *args, train=True)
    scores, updates = model.apply(variables, *args, train=True, mutable=["intermediates"])
    np.testing.assert_array_equal(scores, plain)
    features = updates["intermediates"]["features"]
    assert [x.shape for x in features] == [(2, 16, 16, 4), (2, 8, 8, 8), (2, 7, 7, 6)]


@pytest.fixture(scope="module")
def spectral():
    """A compiled discriminator, its variables at the start and after many passes of training."""
    model, args = PatchGAN((4, 8), norm="none", spectral_norm=True), inputs(3)

    @partial(jax.jit, static_argnames="train")
    def judge(variables, train):
        return model.apply(variables, *args, train=train, mutable=["batch_stats"])

    fresh = init(model, *args)
    fresh["params"] = jax.tree.map(lambda p: 3 * p, fresh["params"])  # their norms are about 1
    trained = fresh
    for _ in range(200):
        trained = trained | judge(trained, train=True)[1]
    return judge, fresh, trained


def test_spectral_norm_finds_the_largest_singular_value_of_every_kernel(spectral):
    *_, variables = spectral
    for name in ("conv0", "conv1", "head"):
        kernel = variables["params"][name]["kernel"]
        sigma = variables["batch_stats"][f"{name}_spectral"][f"{name}/kernel/sigma"]
        normalized = np.reshape(kernel / sigma, (-1, kernel.shape[-1]))
        np.testing.assert_allclose(np.linalg.norm(normalized, ord=2), 1, rtol=1e-4)


def test_spectral_norm_makes_the_scores_independent_of_the_kernels_scale(spectral):
    judge, _, variables = spectral
    larger = variables | {"params": jax.tree.map(lambda p: 10 * p, variables["params"])}
    scores = [judge(v, train=False)[0] for v in (variables, larger)]  # biases are zero
    np.testing.assert_allclose(*scores, rtol=1e-4)


def test_only_training_changes_the_spectral_statistics(spectral):
    judge, fresh, trained = spectral
    _, updates = judge(fresh, train=False)
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], fresh["batch_stats"])
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), fresh, trained)
    assert all(jax.tree.leaves(moved["batch_stats"]))
    assert not any(jax.tree.leaves(moved["params"]))


@pytest.mark.parametrize(
    ("field", "value"), [("norm", "layer"), ("channels", ()), ("channels", (64, 0))]
)
def test_what_no_discriminator_has_is_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=rf"config\.gan\.{field}"):
        build(**{field: value})


def test_num_patches_is_the_side_of_the_scores():
    for num_channels in (1, 2, 4, 5):
        for size in (24, 64, 97):
            model = PatchGAN(channels=(2,) * num_channels, norm="none")
            image = jnp.zeros((1, size, size, 3))
            apply = partial(model.init_with_output, jax.random.key(0), train=False)
            scores, _ = jax.eval_shape(apply, image, image)
            assert scores.shape == (1,) + 2 * (max(0, num_patches(size, num_channels)),)
