"""What a refiner is trained on: windows of images beside a coarse segmentation with errors in it.

On the images that it was trained on a segmenter errs too little. So it sees them disturbed, and a
share of the examples have in its place a label that is damaged (`damage`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from segjax.data.fitting import at_size
from segjax.data.refining import coarse_of_label, coarse_of_logits
from segjax.training.augment import (
    RGB,
    Light,
    Options,
    draw_placement,
    examples_and_keys,
    photometric,
    scale_and_crop,
)
from segjax.training.damage import damage

MAX_NOISE = 16.0 / 255  # standard deviation, over what is between black and white
MAX_HIDDEN = 0.4  # of height and width, by a rectangle
NUM_RECTANGLES = 2


class Refinement(NamedTuple):
    """coarse: of the segmenter's variables and images float32 [B, h, w, c], to logits [B, h, w, C].

    damage: share of examples with a damaged label; disturbance: of what the segmenter sees.
    """

    coarse: Callable[[Any, jax.Array], jax.Array]
    num_classes: int
    damage: float
    disturbance: float


def augment(
    seed: int,
    batch: dict[str, Any],
    out: tuple[int, int],
    options: Options,
    refinement: Refinement,
    light: Light = RGB,
) -> tuple[jax.Array, jax.Array]:
    """A training batch to what the refiner takes, float32 [B, h, w, c + C], and labels [B, h, w].

    batch: as for `augment.augment`; also `small`, the image as the segmenter takes it,
      [B, h', w', c], and `segmenter`, its variables.
    """
    examples, keys = examples_and_keys(seed, batch, ("image", "label", "size", "small"))
    keys, disturb_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
    small = examples.pop("small").astype(jnp.float32)
    if refinement.disturbance:
        disturbed = partial(disturb, strength=refinement.disturbance, light=light)
        small = jax.vmap(disturbed)(disturb_keys, small)
    examples["scores"] = refinement.coarse(batch["segmenter"], small)
    one = partial(_augment_example, out=out, options=options, refinement=refinement, light=light)
    return jax.vmap(one)(keys, examples)


def _augment_example(
    key: jax.Array,
    example: dict[str, jax.Array],
    out: tuple[int, int],
    options: Options,
    refinement: Refinement,
    light: Light,
) -> tuple[jax.Array, jax.Array]:
    placement, key = draw_placement(key, options)
    color_key, use_key, damage_key = jax.random.split(key, 3)
    size, place = example["size"], placement[:2]
    image, label = scale_and_crop(example["image"], example["label"], size, *place, out, light.fill)
    coarse = coarse_of_logits(_window(example["scores"], size, *place, out))
    if refinement.damage:
        damaged = damage(damage_key, label, refinement.num_classes)
        damaged = coarse_of_label(damaged, refinement.num_classes)
        coarse = jnp.where(jax.random.bernoulli(use_key, refinement.damage), damaged, coarse)
    image = photometric(color_key, image, options, light)
    x = jnp.concatenate([image, coarse], axis=-1)
    return placement.mirrored(x), placement.mirrored(label)


def _window(
    scores: jax.Array,
    size: jax.Array,
    scale: jax.Array,
    position: jax.Array,
    out: tuple[int, int],
) -> jax.Array:
    """Logits [h, w, C] of a stretched image in the window that `scale_and_crop` takes."""
    scaled = size * scale
    return at_size(scores, scaled, out, *(position * (scaled - jnp.array(out))))


def disturb(key: jax.Array, image: jax.Array, strength: float, light: Light = RGB) -> jax.Array:
    """An image float32 [H, W, channels] in other light, with noise, rectangles hidden.

    strength: 0 changes nothing; 1 is what segmenters commonly err over.
    """
    color_key, noise_key, level_key, *rectangle_keys = jax.random.split(key, 3 + NUM_RECTANGLES)
    share = min(0.3 * strength, 0.9)
    changes = Options((1, 1), False, False, share, share, share, 0.03 * strength, share)
    image = photometric(color_key, image, changes, light)
    noise = jax.random.normal(noise_key, image.shape) * jax.random.uniform(level_key)
    image = light.from_unit(light.to_unit(image) + MAX_NOISE * strength * noise)
    for rectangle_key in rectangle_keys:
        hidden = _rectangle(rectangle_key, image.shape[:2], MAX_HIDDEN * strength)
        image = jnp.where(hidden[..., None], jnp.array(light.fill, jnp.float32)[None, None], image)
    return image


def _rectangle(key: jax.Array, shape: tuple[int, int], largest: float) -> jax.Array:
    """bool [H, W], True in a rectangle of at most this share of height and width."""
    middle_key, side_key = jax.random.split(key)
    middles = jax.random.uniform(middle_key, (2,))
    sides = jax.random.uniform(side_key, (2,), maxval=largest)
    rows, columns = (
        jnp.abs((jnp.arange(n) + 0.5) / n - middle) < side / 2
        for n, middle, side in zip(shape, middles, sides, strict=True)
    )
    return rows[:, None] & columns[None]
