import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import defaults, models
from segjax.errors import ConfigError
from segjax.models.layers.blocks import (
    DepthwiseConv,
    PointwiseConv,
    UpsampleConv,
    as_convolution,
    convolution,
    upsample_bilinear,
    upsample_nearest,
)
from segjax.models.mobilenet_v2 import MobileNetV2, scaled
from segjax.models.unet import UPSAMPLE, Decoder


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes_of(model, *args, **kwargs):
    return jax.eval_shape(lambda key: model.init(key, *args, **kwargs), jax.random.key(0))


@pytest.mark.parametrize(
    ("width", "total"),
    # Keras: MobileNetV2(alpha=…, include_top=False).count_params(), batch statistics included.
    [(1.0, 2_257_984), (0.35, 410_208), (1.4, 4_363_712)],
)
def test_encoder_has_the_published_size(width, total):
    variables = shapes_of(MobileNetV2(width), jnp.zeros((1, 64, 64, 3)), train=False)
    assert count(variables) == total
    if width == 1.0:
        assert count(variables["params"]) == 2_223_872


def test_unet_has_the_parameters_of_segmentation_models_pytorch():
    model = models.build(defaults.get_config().model, 11)
    variables = shapes_of(model, jnp.zeros((1, 64, 64, 3), jnp.uint8))
    assert count(variables["params"]) == 6_630_395


def test_encoder_features_have_the_strides_and_channels_of_the_paper():
    encoder = MobileNetV2(1.0)
    image = jnp.zeros((2, 64, 96, 3))
    variables = shapes_of(encoder, image, train=False)
    features = jax.eval_shape(lambda v: encoder.apply(v, image, train=False), variables)
    assert tuple(64 // f.shape[1] for f in features) == encoder.strides
    assert tuple(f.shape[-1] for f in features) == encoder.channels
    assert [f.shape for f in features] == [
        (2, 32, 48, 16),
        (2, 16, 24, 24),
        (2, 8, 12, 32),
        (2, 4, 6, 96),
        (2, 2, 3, 1280),
    ]


@pytest.mark.parametrize(
    ("channels", "width", "rounded"),
    [(32, 0.35, 16), (24, 0.35, 8), (16, 0.35, 8), (32, 1.4, 48), (160, 0.75, 120)],
)
def test_scaled_channels_are_multiples_of_eight_and_at_least_ninety_per_cent(
    channels, width, rounded
):
    assert scaled(channels, width) == rounded


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_depthwise_convolution_equals_a_grouped_one(stride, size):
    x = jax.random.normal(jax.random.key(0), (2, *size, 5))
    layer = DepthwiseConv(stride)
    variables = layer.init(jax.random.key(1), x)

    def grouped(kernel, x):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=5,
        )

    def ours(kernel, x):
        return layer.apply({"params": {"kernel": kernel}}, x)

    kernel = variables["params"]["kernel"]
    np.testing.assert_allclose(ours(kernel, x), grouped(kernel, x), atol=1e-5)
    gradients = [
        jax.grad(lambda k, x, f=f: (f(k, x) ** 2).sum(), argnums=(0, 1))(kernel, x)
        for f in (ours, grouped)
    ]
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_same_padding_is_that_of_tensorflow(stride):
    x = jax.random.normal(jax.random.key(0), (2, 8, 10, 5))
    layer = DepthwiseConv(stride, padding="same")
    variables = layer.init(jax.random.key(1), x)
    expected = convolution(x, variables["params"]["kernel"], stride, "SAME", groups=5)
    np.testing.assert_allclose(layer.apply(variables, x), expected, atol=1e-5)
    with nn.intercept_methods(as_convolution):
        np.testing.assert_allclose(layer.apply(variables, x), expected, atol=1e-5)
    other = DepthwiseConv(stride).apply(variables, x)
    assert (jnp.abs(other - expected).max() > 0.1) == (stride == 2)


def test_pointwise_convolution_equals_a_convolution():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    layer = PointwiseConv(7)
    variables = layer.init(jax.random.key(1), x)
    expected = jax.lax.conv_general_dilated(
        x, variables["params"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(layer.apply(variables, x), expected, atol=1e-5)


@pytest.mark.parametrize("with_skip", [True, False])
@pytest.mark.parametrize("size", [(4, 6), (3, 1), (1, 5)])
def test_convolution_of_a_doubled_array_equals_doubling_and_convolving(size, with_skip):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, *size, 5))
    skip = jax.random.normal(keys[1], (2, 2 * size[0], 2 * size[1], 3)) if with_skip else None
    layer = UpsampleConv(4)
    kernel = layer.init(keys[2], x, skip)["params"]["kernel"]

    def ours(kernel, x, skip):
        return layer.apply({"params": {"kernel": kernel}}, x, skip)

    def plain(kernel, x, skip):
        doubled = upsample_nearest(x)
        both = doubled if skip is None else jnp.concatenate([doubled, skip], axis=-1)
        return convolution(both, kernel, 1, "SAME")

    np.testing.assert_allclose(ours(kernel, x, skip), plain(kernel, x, skip), atol=1e-5)
    which = (0, 1, 2) if with_skip else (0, 1)
    gradients = [
        jax.grad(lambda *a, f=f: (f(*a) ** 2).sum(), argnums=which)(kernel, x, skip)
        for f in (ours, plain)
    ]
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_upsampling_equals_jax_image_resize():
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 4))
    for ours, method in ((upsample_nearest, "nearest"), (upsample_bilinear, "bilinear")):
        expected = jax.image.resize(x, (2, 6, 10, 4), method)
        np.testing.assert_allclose(ours(x), expected, atol=1e-6)


@pytest.mark.parametrize("upsample", UPSAMPLE)
def test_every_skip_of_the_decoder_has_a_gradient(upsample):
    decoder = Decoder((8, 8, 8, 8, 8), upsample)
    keys = jax.random.split(jax.random.key(0), 5)
    features = [
        jax.random.normal(key, (1, 32 // 2**i, 32 // 2**i, 3 + i)) for i, key in enumerate(keys)
    ]
    variables = jax.jit(lambda: decoder.init(keys[0], features, train=False))()

    def total(features):
        return decoder.apply(variables, features, train=False).sum()

    for gradient in jax.jit(jax.grad(total))(features):
        assert (gradient != 0).mean() > 0.1


def tiny_model(**changes):
    config = defaults.get_config().model
    config.mobilenet_v2.width = 0.35
    config.unet.channels = (8, 8, 8, 8, 8)
    config.update_from_flattened_dict(changes)
    return models.build(config, 3)


@pytest.mark.parametrize("size", [(1, 1), (33, 50), (64, 31)])
def test_any_image_size_gives_logits_of_the_same_size(size):
    model = tiny_model()
    image = jnp.zeros((2, *size, 3), jnp.uint8)
    logits = jax.eval_shape(lambda v: model.apply(v, image), shapes_of(model, image))
    assert (logits.shape, logits.dtype) == ((2, *size, 3), jnp.float32)


def test_an_odd_image_is_one_with_the_mean_colour_below_and_at_the_right():
    """Padding to the stride moves no pixel; uint8 and float32 pixels mean the same."""
    model = tiny_model()
    image = jax.random.randint(jax.random.key(0), (1, 40, 50, 3), 0, 256).astype(jnp.uint8)
    variables = jax.jit(model.init)(jax.random.key(0), image)
    apply = jax.jit(model.apply)
    filled = jnp.broadcast_to(jnp.array(model.mean)[None, None, None], (1, 64, 64, 3))
    filled = filled.at[:, :40, :50].set(image)
    np.testing.assert_allclose(
        apply(variables, image), apply(variables, filled)[:, :40, :50], atol=1e-6
    )


def test_bfloat16_keeps_parameters_and_logits_in_float32():
    model = tiny_model(dtype="bfloat16")
    image = jnp.zeros((1, 32, 32, 3), jnp.uint8)
    variables = shapes_of(model, image)
    logits = jax.eval_shape(lambda v: model.apply(v, image), variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    assert logits.dtype == jnp.float32


def test_frozen_encoder_has_no_gradient_and_keeps_its_batch_statistics():
    model = tiny_model(freeze_encoder=True)
    image = jax.random.randint(jax.random.key(0), (2, 32, 32, 3), 0, 256).astype(jnp.uint8)
    variables = jax.jit(model.init)(jax.random.key(0), image)

    @jax.jit
    def step(params):
        def loss(params):
            logits, updates = model.apply(
                {**variables, "params": params}, image, train=True, mutable=["batch_stats"]
            )
            return (logits**2).sum(), updates["batch_stats"]

        return jax.grad(loss, has_aux=True)(params)

    gradients, batch_stats = step(variables["params"])
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradients["encoder"]))
    assert any((leaf != 0).any() for leaf in jax.tree.leaves(gradients["decoder"]))
    old = variables["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, batch_stats["encoder"], old["encoder"])
    moved = jax.tree.map(lambda a, b: (a != b).any(), batch_stats["decoder"], old["decoder"])
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "fpn"),
        ("encoder", "resnet"),
        ("mobilenet_v2.width", 0.6),
        ("dtype", "float16"),
        ("unet.upsample", "cubic"),
        ("mobilenet_v2.padding", "valid"),
        ("unet.channels", (8, 8)),
    ],
)
def test_impossible_models_are_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=f"config.model.{field}"):
        tiny_model(**{field: value})
