"""Paired transforms of image and label, on the accelerator, inside the training step.

Every example has its own key, so that the same example is transformed alike on any device. Images
are interpolated, labels take the nearest pixel; both use the same half-pixel convention.
"""

import math
from typing import NamedTuple

import dm_pix
import jax
import jax.numpy as jnp

from segjax.data.fitting import FILL, Fill
from segjax.data.label_table import VOID


class Options(NamedTuple):
    """`config.augment` as plain values; segjax/defaults/ says what they mean."""

    scale: tuple[float, float]
    flip_horizontal: bool
    flip_vertical: bool
    brightness: float
    contrast: float
    saturation: float
    hue: float
    gamma: float
    noise: float = 0.0
    blur: float = 0.0


class Light(NamedTuple):
    """How photometric changes take the pixels of an image.

    low, high: of every channel, or of all, what is black and white; nothing is clipped to them but
    is_rgb: red, green and blue in 0 … 255. fill: what is outside an image.
    """

    channels: int = 3
    low: tuple[float, ...] = (0.0,)
    high: tuple[float, ...] = (255.0,)
    is_rgb: bool = True
    fill: Fill = FILL

    def to_unit(self, image: jax.Array) -> jax.Array:
        """An image [..., channels], with `low` at 0 and `high` at 1."""
        if self.is_rgb:
            return image / 255
        low, high = self._limits(image.ndim)
        return (image - low) / (high - low)

    def to_255(self, image: jax.Array) -> jax.Array:
        """The same with `high` at 255."""
        return image if self.is_rgb else 255 * self.to_unit(image)

    def from_unit(self, x: jax.Array) -> jax.Array:
        """The inverse of `to_unit`."""
        if self.is_rgb:
            return x.clip(0, 1) * 255
        low, high = self._limits(x.ndim)
        return x * (high - low) + low

    def _limits(self, ndim: int) -> tuple[jax.Array, jax.Array]:
        axes = (1,) * (ndim - 1)
        return tuple(jnp.float32(limit).reshape(*axes, -1) for limit in (self.low, self.high))


RGB = Light()


def scale_and_crop(
    image: jax.Array,
    label: jax.Array,
    size: jax.Array,
    scale: jax.Array,
    position: jax.Array,
    out: tuple[int, int],
    fill: Fill = FILL,
) -> tuple[jax.Array, jax.Array]:
    """Scales an example and cuts a window out of it; where the window is larger, void surrounds it.

    Args:
      image: [H, W, channels]; label: uint8 [H, W]; size: int [2], the part that is not padding.
      scale: float scalar, or [2] for height and width.
      position: float [2] in [0, 1], from the window at the top left to the one at the bottom right.
      out: height and width of the window; fill: of the image, where it is void.

    Returns:
      float32 [h, w, channels] and uint8 [h, w].
    """
    scale = jnp.broadcast_to(scale, (2,)).astype(jnp.float32)
    offset = position * (size * scale - jnp.array(out))
    image = jax.image.scale_and_translate(
        image.astype(jnp.float32),
        (*out, image.shape[-1]),
        (0, 1),
        scale,
        -offset,
        "linear",
        antialias=True,
    )
    rows, columns = (
        jnp.floor((jnp.arange(out[axis]) + 0.5 + offset[axis]) / scale[axis]).astype(jnp.int32)
        for axis in (0, 1)
    )
    rows_inside, columns_inside = (
        (rows >= 0) & (rows < size[0]),
        (columns >= 0) & (columns < size[1]),
    )
    inside = rows_inside[:, None] & columns_inside[None]
    label = label.at[rows].get(mode="clip").at[:, columns].get(mode="clip")
    image = jnp.where(inside[..., None], image, jnp.array([[fill]], jnp.float32))
    return image, jnp.where(inside, label, VOID).astype(jnp.uint8)


def photometric(
    key: jax.Array, image: jax.Array, options: Options, light: Light = RGB
) -> jax.Array:
    """Random light, blur and noise of an image [H, W, channels].

    Colours change together: brightness, contrast, saturation, hue and gamma. Channels that are none
    change each by itself, in brightness, contrast and gamma.
    """
    change = _colors if light.is_rgb else _channels
    x = change(key, light.to_unit(image), options)
    if options.blur:
        x = _blurred(jax.random.fold_in(key, 5), x, options.blur)
    if options.noise:
        level_key, noise_key = jax.random.split(jax.random.fold_in(key, 6))
        level = jax.random.uniform(level_key, maxval=options.noise)
        x += level * jax.random.normal(noise_key, x.shape)
    return light.from_unit(x)


def _colors(key: jax.Array, image: jax.Array, options: Options) -> jax.Array:
    keys = jax.random.split(key, 5)
    if options.brightness:
        image = dm_pix.random_brightness(keys[0], image, options.brightness)
    if options.contrast:
        image = dm_pix.random_contrast(keys[1], image, 1 - options.contrast, 1 + options.contrast)
    if options.saturation:
        low, high = 1 - options.saturation, 1 + options.saturation
        image = dm_pix.random_saturation(keys[2], image, low, high)
    if options.hue:
        image = dm_pix.random_hue(keys[3], image, options.hue)
    if options.gamma:
        low, high = 1 - options.gamma, 1 / (1 - options.gamma)
        image = dm_pix.random_gamma(keys[4], image.clip(0, 1), low, high)
    return image


def _channels(key: jax.Array, x: jax.Array, options: Options) -> jax.Array:
    """Values outside [0, 1], which measurements have, keep their order."""
    keys = jax.random.split(key, 3)

    def drawn(i: int, low: float, high: float) -> jax.Array:
        return jax.random.uniform(keys[i], (1, 1, x.shape[-1]), minval=low, maxval=high)

    if options.brightness:
        x += drawn(0, -options.brightness, options.brightness)
    if options.contrast:
        mean = x.mean((0, 1), keepdims=True)
        x = mean + (x - mean) * drawn(1, 1 - options.contrast, 1 + options.contrast)
    if options.gamma:
        curved = x.clip(1e-6, 1) ** drawn(2, 1 - options.gamma, 1 / (1 - options.gamma))
        x = jnp.where((x > 0) & (x < 1), curved, x)
    return x


def _blurred(key: jax.Array, x: jax.Array, largest: float) -> jax.Array:
    """[H, W, C], blurred by a Gaussian of a standard deviation up to `largest`, in pixels."""
    sigma, radius = jax.random.uniform(key, minval=1e-3, maxval=largest), math.ceil(3 * largest)
    weights = jax.nn.softmax(-0.5 * (jnp.arange(-radius, radius + 1) / sigma) ** 2)
    for axis in (0, 1):
        around = [(radius, radius) if i == axis else (0, 0) for i in range(3)]
        padded = jnp.pad(x, around, "edge")
        shifted = (
            jax.lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis)
            for i in range(2 * radius + 1)
        )
        x = sum(weight * part for weight, part in zip(weights, shifted, strict=True))
    return x


class Placement(NamedTuple):
    """Where a window lies in a scaled example, see `scale_and_crop`, and how it is mirrored.

    flips: bool [2], along height and width.
    """

    scale: jax.Array
    position: jax.Array
    flips: list[jax.Array | None]

    def mirrored(self, array: jax.Array) -> jax.Array:
        """A window [h, w, ...], mirrored or not."""
        for axis, flip in enumerate(self.flips):
            if flip is not None:
                array = jnp.where(flip, jnp.flip(array, axis), array)
        return array


def draw_placement(key: jax.Array, options: Options) -> tuple[Placement, jax.Array]:
    """A random placement, and a key for what else is random about the example."""
    scale_key, position_key, flip_key, other_key = jax.random.split(key, 4)
    low, high = options.scale
    scale = low * (high / low) ** jax.random.uniform(scale_key)
    position = jax.random.uniform(position_key, (2,))
    flips = [
        jax.random.bernoulli(jax.random.fold_in(flip_key, axis)) if wanted else None
        for axis, wanted in enumerate((options.flip_vertical, options.flip_horizontal))
    ]
    return Placement(scale, position, flips), other_key


def augment_example(
    key: jax.Array,
    example: dict[str, jax.Array],
    out: tuple[int, int],
    options: Options,
    light: Light = RGB,
) -> tuple[jax.Array, jax.Array]:
    """One example to image float32 [h, w, channels] and label uint8 [h, w], out = (h, w)."""
    placement, color_key = draw_placement(key, options)
    image, label = scale_and_crop(
        example["image"], example["label"], example["size"], *placement[:2], out, light.fill
    )
    image, label = map(placement.mirrored, (image, label))
    return photometric(color_key, image, options, light), label


def examples_and_keys(
    seed: int, batch: dict[str, jax.Array], names: tuple[str, ...]
) -> tuple[dict[str, jax.Array], jax.Array]:
    """The arrays of a batch by these names, [B, ...], and a key [B] for each example.

    The key of an example is a function of `seed` and `batch["index"]` alone.
    """
    if "examples" in batch:
        batch = batch | {name: array[batch["row"]] for name, array in batch["examples"].items()}
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(batch["index"])
    return {name: batch[name] for name in names}, keys


def augment(
    seed: int,
    batch: dict[str, jax.Array],
    out: tuple[int, int],
    options: Options,
    light: Light = RGB,
) -> tuple[jax.Array, jax.Array]:
    """A training batch to images float32 [B, h, w, channels] and labels uint8 [B, h, w]."""
    examples, keys = examples_and_keys(seed, batch, ("image", "label", "size"))
    return jax.vmap(lambda key, example: augment_example(key, example, out, options, light))(
        keys, examples
    )
