"""The refiner: its network, and that it sees in training what it sees where it is used."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import defaults, models
from segjax.data import fitting, refining, tiles
from segjax.data.fitting import Fit, at_size
from segjax.data.refining import FLOOR, Refined, TwoStage, coarse_of_label, coarse_of_logits
from segjax.training import augment, refinement
from segjax.training.augment import Options

SIZES = [(1, 1), (7, 5), (65, 33), (64, 32)]
STILL = Options((1.0, 1.0), False, False, 0.0, 0.0, 0.0, 0.0, 0.0)
SMALL = {"channels": (8, 12, 16), "features": 4}


@cache
def refiner(num_classes, dtype="float32", **fields):
    config = defaults.get_config()
    config.refiner.update(fields)
    config.model.dtype = dtype
    return models.build_refiner(config.refiner, config.model, num_classes)


def input_of(size, num_classes, batch=1, seed=0):
    """Pixels beside coarse log-probabilities, and the logits that these are of."""
    rng = np.random.default_rng(seed)
    logits = jnp.float32(rng.normal(0, 3, (batch, *size, num_classes)))
    pixels = jnp.float32(rng.integers(0, 256, (batch, *size, 3)))
    return jnp.concatenate([pixels, coarse_of_logits(logits)], axis=-1), logits


@pytest.mark.parametrize("num_classes", [2, 21])
@pytest.mark.parametrize("size", SIZES)
def test_before_training_it_changes_nothing(size, num_classes):
    model = refiner(num_classes, **SMALL)
    x, logits = input_of(size, num_classes)
    refined, _ = jax.jit(model.init_with_output)(jax.random.key(0), x)
    assert refined.shape == logits.shape and refined.dtype == jnp.float32
    np.testing.assert_array_equal(refined, x[..., 3:])
    np.testing.assert_array_equal(refined.argmax(-1), logits.argmax(-1))
    # A class gets at most FLOOR, and the others give it.
    change = jnp.abs(jax.nn.softmax(refined) - jax.nn.softmax(logits))
    assert change.max() <= (num_classes - 1) * FLOOR


def test_the_default_has_the_parameters_of_a_count_by_hand():
    shapes = jax.eval_shape(refiner(11).init, jax.random.key(0), jnp.zeros((1, 32, 32, 14)))
    down = 16 * (14 * 24 + 24 * 48 + 48 * 96 + 96 * 128 + 128 * 128)
    up = 9 * (256 * 128 + (128 + 96) * 96 + (96 + 48) * 48 + (48 + 24) * 24 + (24 + 14) * 16)
    norms = 2 * (24 + 48 + 96 + 128 + 128) + 2 * (128 + 96 + 48 + 24 + 16)
    head = 9 * 16 * 11 + 11
    sizes = [leaf.size for leaf in jax.tree.leaves(shapes["params"])]
    assert sum(sizes) == down + up + norms + head == 1_131_035


def training_gradients(model, params, x, label):
    """Of the cross entropy, after the head has left its zeros."""

    def loss(params):
        logits, _ = model.apply(params, x, train=True, mutable=["batch_stats"])
        return -(jax.nn.one_hot(label, model.num_classes) * jax.nn.log_softmax(logits)).mean()

    return jax.jit(jax.grad(loss))(params)["params"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_after_one_step_the_gradient_reaches_every_parameter_and_skip(dtype):
    model = refiner(3, dtype, **SMALL)
    x, _ = input_of((48, 40), 3, batch=2)
    label = np.random.default_rng(1).integers(0, 3, (2, 48, 40))
    variables = model.init(jax.random.key(0), x)
    first = training_gradients(model, variables, x, label)
    moved = {name for name, part in first.items() if any(np.any(v) for v in jax.tree.leaves(part))}
    assert moved == {"head"}
    stepped = jax.tree.map(lambda p, g: p - g, variables["params"], first)
    second = training_gradients(model, variables | {"params": stepped}, x, label)
    for path, leaf in jax.tree.leaves_with_path(second):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all() and np.any(leaf), jax.tree_util.keystr(path)
    skips = (x.shape[-1], *SMALL["channels"][:-1])
    for i, channels in enumerate(skips):
        kernel = second[f"up{i}"]["conv"]["kernel"]
        assert np.any(kernel[:, :, -channels:], axis=(0, 1, 3)).all(), i


def test_bfloat16_refines_as_float32_does_but_for_rounding():
    x, _ = input_of((33, 20), 5)
    model = refiner(5, **SMALL)
    variables = model.init(jax.random.key(0), x)
    variables["params"]["head"]["kernel"] += 0.1 * jax.random.normal(
        jax.random.key(1), (3, 3, 4, 5)
    )
    refined = model.apply(variables, x)
    rounded = refiner(5, "bfloat16", **SMALL).apply(variables, x)
    assert rounded.dtype == jnp.float32
    change = jnp.abs(refined - x[..., 3:]).max()
    assert change > 0.3 and jnp.abs(rounded - refined).max() < 0.03 * change


def test_coarse_probabilities_by_hand():
    coarse = coarse_of_logits(jnp.log(jnp.array([0.9999, 0.0001, 0.0])))
    np.testing.assert_allclose(jnp.exp(coarse), [0.9999, FLOOR, FLOOR], rtol=1e-5)
    label = jnp.array([2, 255], jnp.uint8)
    certain, unknown = jnp.exp(coarse_of_label(label, 4))
    np.testing.assert_allclose(certain, [0.025, 0.025, 0.925, 0.025], rtol=1e-5)
    np.testing.assert_allclose(unknown, [0.25] * 4, rtol=1e-5)


SIZE, GRID = (45, 70), (9, 12)


def image_and_scores(num_classes=4):
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    return image, jnp.float32(rng.normal(0, 2, (*GRID, num_classes)))


def pixelwise(x):
    """A refiner that sees every pixel by itself."""
    return x[..., 3:] * (1 + x[..., :1] / 255) + x[..., 1:2] / 100


@pytest.mark.parametrize("only_uncertain", [False, True])
def test_windows_give_what_the_whole_image_gives(only_uncertain, monkeypatch):
    image, scores = image_and_scores()
    stages = TwoStage(lambda _: scores[None], pixelwise)
    fit = Refined(Fit(GRID, resizes=True))
    ((_, whole),) = fit.bands(stages, image, 4, lambda logits: logits)
    monkeypatch.setattr(refining, "MAX_PIXELS", 0)
    monkeypatch.setattr(refining, "WINDOW", 24)
    monkeypatch.setattr(refining, "UNCERTAIN_WINDOW", 24)
    monkeypatch.setattr(refining, "MARGIN", 1.0)  # every pixel is uncertain
    bands = list(fit._replace(only_uncertain=only_uncertain).bands(stages, image, 4, jnp.asarray))
    assert len(bands) > 1
    joined = np.concatenate([band for _, band in bands])[: SIZE[0], : SIZE[1]]
    np.testing.assert_allclose(joined, whole[: SIZE[0], : SIZE[1]], atol=1e-4)


def seen_in_training(image, scores, out, num_classes=4):
    """What a refiner takes of a batch of one image that is not augmented."""
    given = refinement.Refinement(lambda _, small: scores[None], num_classes, 0.0, 0.0)
    batch = {
        "image": image[None],
        "label": np.zeros((1, *SIZE), np.uint8),
        "size": np.array([SIZE], np.int32),
        "small": np.zeros((1, *GRID, 3), np.uint8),
        "index": np.zeros(1, np.int32),
        "segmenter": {},
    }
    return jax.jit(partial(refinement.augment, 0, out=out, options=STILL, refinement=given))(batch)


def test_training_sees_what_is_refined_where_it_is_used():
    image, scores = image_and_scores()
    seen = []
    stages = TwoStage(lambda _: scores[None], lambda x: seen.append(x) or x[..., 3:])
    list(Refined(Fit(GRID, resizes=True)).bands(stages, image, 4, jnp.asarray))
    x, _ = seen_in_training(image, scores, SIZE)
    np.testing.assert_allclose(x[0], seen[0][0, : SIZE[0], : SIZE[1]], atol=1e-5)


@pytest.mark.parametrize("corner", [(0, 0), (3, 11), (13, 38)])
def test_a_training_window_has_the_coarse_logits_of_its_place(corner):
    _, scores = image_and_scores()
    out, size = (32, 32), np.array(SIZE, np.int32)
    position = jnp.array(corner) / (size - out)
    window = jax.jit(refinement._window, static_argnums=4)(scores, size, 1.0, position, out)
    np.testing.assert_allclose(window, at_size(scores, size, out, *corner), atol=1e-5)
    whole = at_size(scores, size, SIZE)
    np.testing.assert_allclose(window, tiles.part(whole, corner, out), atol=1e-5)


def test_beyond_the_image_training_and_use_repeat_the_same_edge():
    _, scores = image_and_scores()
    shape, size = fitting.padded_shape(SIZE), np.array(SIZE, np.int32)
    window = refinement._window(scores, size, 1.0, jnp.zeros(2), shape)
    np.testing.assert_allclose(window, at_size(scores, size, shape), atol=1e-5)


@pytest.mark.parametrize("scale", [0.7, 1.6])
def test_pixels_and_coarse_logits_of_a_window_lie_over_each_other(scale):
    """Scores that are the image's own smooth pixels stay equal to them in every window."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    image = np.stack([2 * rows, columns, rows + columns], -1)
    size, out, position = np.array(SIZE, np.int32), (24, 24), jnp.array([0.3, 0.8])
    place = (size, jnp.float32(scale), position, out)
    pixels, _ = augment.scale_and_crop(image, jnp.zeros(SIZE, jnp.uint8), *place)
    window = refinement._window(jnp.float32(image), *place)
    # Antialiasing weights a few pixels; they grow by 1 to 2 from one to the next.
    np.testing.assert_allclose(window, pixels, atol=0.1)


@pytest.mark.parametrize("strength", [0.0, 1.0, 2.0])
def test_a_disturbed_image_is_another_image_by_its_key(strength):
    image = jnp.float32(image_and_scores()[0])
    disturbed = jax.jit(partial(refinement.disturb, strength=strength))
    first, again, other = (disturbed(jax.random.key(k), image) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.min() >= 0 and first.max() <= 255 and first.shape == image.shape
    if strength:
        assert jnp.abs(first - image).mean() > 1 and jnp.abs(first - other).mean() > 1
    else:
        np.testing.assert_allclose(first, image, atol=1e-3)
