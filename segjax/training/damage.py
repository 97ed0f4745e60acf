"""Damaged labels: what a segmentation that nobody trained on could look like, from a key.

As in CascadePSP (Cheng et al., CVPR 2020, section 3.2), whose refiner never sees a prediction in
training, and for any number of classes. Each kind of damage comes in with a probability of its own
and a random strength: edges are moved by a smooth field, a class grows or shrinks, outlines become
polygons, and parts are lost to another class. Masks of other programs may have void, too.
"""

import jax
import jax.numpy as jnp

from segjax.data.label_table import VOID

MAX_SHIFT = 12.0  # of an edge, in pixels
MAX_GROWTH = 6  # pixels that a class grows or shrinks by, at most
SIDES = (4.0, 24.0)  # of polygons, in pixels
MAX_LOST = 0.3  # share of an image that parts are lost from


def damage(key: jax.Array, label: jax.Array, num_classes: int) -> jax.Array:
    """A label, uint8 [H, W], damaged: uint8 [H, W].

    Void becomes a class drawn at random, or stays void: half of the labels each.

    key: a typed PRNG key.
    """
    fill_key, void_key, *keys = jax.random.split(key, 6)
    filler, is_void = jax.random.randint(fill_key, (), 0, num_classes), label >= num_classes
    label = jnp.where(is_void, filler, label).astype(jnp.int32)
    kinds = (_shifted, _grown, _as_polygons, _lost)
    for kind, kind_key in zip(kinds, keys, strict=True):
        use_key, kind_key = jax.random.split(kind_key)
        label = jnp.where(jax.random.bernoulli(use_key), kind(kind_key, label), label)
    label = jnp.where(is_void & jax.random.bernoulli(void_key), VOID, label)
    return label.astype(jnp.uint8)


def smooth_noise(key: jax.Array, shape: tuple[int, int], cell: int) -> jax.Array:
    """Standard normal numbers, one for `cell` pixels, interpolated: float32 [H, W]."""
    coarse = jax.random.normal(key, tuple(-(-n // cell) + 1 for n in shape))
    return jax.image.resize(coarse, shape, "linear")


def _taken(label: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """The pixels nearest to float positions [H, W]; beyond the border its pixels are repeated."""
    rows, columns = (
        jnp.rint(at).astype(jnp.int32).clip(0, length - 1)
        for at, length in zip((rows, columns), label.shape, strict=True)
    )
    return label[rows, columns]


def _grid(shape: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    rows, columns = (jnp.arange(n, dtype=jnp.float32) for n in shape)
    return jnp.broadcast_to(rows[:, None], shape), jnp.broadcast_to(columns[None], shape)


def _shifted(key: jax.Array, label: jax.Array) -> jax.Array:
    """Every edge somewhere else: a smooth displacement."""
    strength_key, row_key, column_key = jax.random.split(key, 3)
    strength = jax.random.uniform(strength_key) * MAX_SHIFT / 2  # two standard deviations
    rows, columns = _grid(label.shape)
    rows += strength * smooth_noise(row_key, label.shape, 16)
    columns += strength * smooth_noise(column_key, label.shape, 16)
    return _taken(label, rows, columns)


def _grown(key: jax.Array, label: jax.Array) -> jax.Array:
    """One class grows over its neighbours, or shrinks and leaves the place to them."""
    class_key, growth_key = jax.random.split(key)
    chosen = _some_class(class_key, label)
    growth = jax.random.randint(growth_key, (), -MAX_GROWTH, MAX_GROWTH + 1)

    def grow(i: int, label: jax.Array) -> jax.Array:
        mask = label == chosen
        grown = jnp.where(_any_beside(mask), chosen, label)
        others = _largest_beside(jnp.where(mask, -1, label))
        shrunk = jnp.where(mask & (others >= 0), others, label)
        return jnp.where(i < jnp.abs(growth), jnp.where(growth > 0, grown, shrunk), label)

    return jax.lax.fori_loop(0, MAX_GROWTH, grow, label)


def _largest_beside(x: jax.Array) -> jax.Array:
    """The largest of 3×3 values, int32 [H, W]."""
    low = jnp.iinfo(jnp.int32).min
    return jax.lax.reduce_window(x, low, jax.lax.max, (3, 3), (1, 1), "SAME")


def _any_beside(mask: jax.Array) -> jax.Array:
    return _largest_beside(mask.astype(jnp.int32)) > 0


def _as_polygons(key: jax.Array, label: jax.Array) -> jax.Array:
    """Outlines with straight sides: the class at the points of a coarse grid, and between them the
    one that has the largest share of the four around.
    """
    side_key, offset_key = jax.random.split(key)
    low, high = SIDES
    side = low * (high / low) ** jax.random.uniform(side_key)
    offsets = jax.random.uniform(offset_key, (2,)) * side
    rows, columns = _grid(label.shape)
    corners, shares = [], []
    for at, offset in zip((rows, columns), offsets, strict=True):
        first = jnp.floor((at + offset) / side) * side - offset
        corners.append((first, first + side))
        shares.append((at - first) / side)
    at_corners = [
        (_taken(label, row, column), row_share * column_share)
        for row, row_share in zip(corners[0], (1 - shares[0], shares[0]), strict=True)
        for column, column_share in zip(corners[1], (1 - shares[1], shares[1]), strict=True)
    ]
    # The class of a corner has the shares of all corners of the class.
    votes = [
        sum(jnp.where(other == own, share, 0.0) for other, share in at_corners)
        for own, _ in at_corners
    ]
    winner = jnp.argmax(jnp.stack(votes), axis=0)
    return jnp.choose(winner, [own for own, _ in at_corners], mode="clip")


def _lost(key: jax.Array, label: jax.Array) -> jax.Array:
    """Blobs of one class, or of all, are taken for the class of another pixel."""
    share_key, noise_key, class_key, other_key, all_key = jax.random.split(key, 5)
    noise = smooth_noise(noise_key, label.shape, 24)
    share = jax.random.uniform(share_key) * MAX_LOST
    blobs = noise > jnp.quantile(noise, 1 - share)
    chosen = (label == _some_class(class_key, label)) | jax.random.bernoulli(all_key)
    return jnp.where(blobs & chosen, _some_class(other_key, label), label)


def _some_class(key: jax.Array, label: jax.Array) -> jax.Array:
    """The class of a pixel drawn at random."""
    return label.ravel()[jax.random.randint(key, (), 0, label.size)]
