"""Procedural images with exact labels: the data embedded in segjax, without a download.

Twenty classes are five shapes times four textures, so that neither outline nor texture alone tells
the class. As in nature, a texture has its typical colours. Objects occlude one another over a
textured, noisy, unevenly lit background.
"""

import colorsys

import numpy as np

from segjax.data.label_table import LabelTable

SHAPES = ("disk", "square", "triangle", "cross", "ring")
TEXTURES = ("plain", "stripes", "checks", "dots")
CLASSES = ("background", *(f"{texture} {shape}" for shape in SHAPES for texture in TEXTURES))
# Splits are ranges of the same endless sequence of images, far apart.
FIRST_IMAGE = {"train": 0, "val": 10_000_000, "test": 20_000_000}


def table() -> LabelTable:
    """The label table of the twenty classes and the background."""
    return LabelTable.of_names(CLASSES)


def _inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pixels inside a shape of radius 1 around the origin: bool [H, W]."""
    if shape == "disk":
        return x**2 + y**2 < 0.8
    if shape == "square":
        return np.maximum(abs(x), abs(y)) < 0.75
    if shape == "triangle":
        return (y > -0.6) & (y < 1.0 - 1.75 * abs(x))
    if shape == "cross":
        return (np.minimum(abs(x), abs(y)) < 0.3) & (np.maximum(abs(x), abs(y)) < 0.95)
    radius = x**2 + y**2
    return (radius < 1.0) & (radius > 0.25)


def _pattern(texture: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Where the second colour goes, for coordinates in periods of the texture: bool [H, W]."""
    if texture == "plain":
        return np.zeros(u.shape, bool)
    if texture == "stripes":
        return u % 1 < 0.5
    if texture == "checks":
        return (u % 1 < 0.5) ^ (v % 1 < 0.5)
    return (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.09


def _colors(rng: np.random.Generator, hue: float) -> np.ndarray:
    """Two colours near a hue, one darker than the other: float [2, 3] in 0 … 255."""
    hues = hue + rng.uniform(-0.08, 0.08, 2)
    bright = rng.uniform(0.75, 1)
    values = rng.permutation([bright, bright * rng.uniform(0.5, 0.7)])
    pairs = zip(hues, rng.uniform(0.5, 1, 2), values, strict=True)
    return 255 * np.array([colorsys.hsv_to_rgb(h % 1, s, v) for h, s, v in pairs])


def _background(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A wavy texture between two close colours, float [H, W, 3]."""
    base = rng.uniform(60, 195) + rng.uniform(-15, 15, 3)
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 12)
    wave = np.sin((np.cos(angle) * x + np.sin(angle) * y) * 2 * np.pi / period)
    return base + (wave * rng.uniform(5, 25))[..., None] * rng.uniform(0.3, 1, 3)


def draw(seed: int, index: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Image `index`: uint8 [H, W, 3] and its label uint8 [H, W], a function of the arguments."""
    rng = np.random.default_rng((seed, index))
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    image = _background(rng, y, x)
    label = np.zeros(size, np.uint8)
    # One object near the middle of each quarter, in random order: they overlap, but none is hidden.
    for quarter in rng.permutation(4):
        shape, texture = rng.integers(len(SHAPES)), rng.integers(len(TEXTURES))
        radius = rng.uniform(0.17, 0.26) * min(size)
        middle = (np.array(divmod(quarter, 2)) + rng.uniform(0.25, 0.85, 2)) / 2
        dy, dx = y - middle[0] * height, x - middle[1] * width
        tilt = rng.uniform(-0.15, 0.15)
        v = (np.cos(tilt) * dy - np.sin(tilt) * dx) / radius
        u = (np.sin(tilt) * dy + np.cos(tilt) * dx) / radius
        periods = radius / rng.uniform(5, 7)
        second = _pattern(TEXTURES[texture], u * periods, v * periods)
        first_color, second_color = _colors(rng, texture / len(TEXTURES))
        inside = _inside(SHAPES[shape], u, v)
        image[inside] = np.where(second[..., None], second_color, first_color)[inside]
        label[inside] = 1 + shape * len(TEXTURES) + texture
    gradient = rng.uniform(-0.3, 0.3, 2)
    light = 1 + gradient[0] * (2 * y / height - 1) + gradient[1] * (2 * x / width - 1)
    image = image * light[..., None] + rng.normal(0, rng.uniform(2, 12), image.shape)
    return {"image": image.clip(0, 255).astype(np.uint8), "label": label}


class ShapesSource:
    """Random access to the images of one split."""

    def __init__(self, split: str, num_images: int, size: tuple[int, int], seed: int) -> None:
        self.table = table()
        self.num_images, self.size, self.seed, self.split = num_images, size, seed, split

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        return draw(self.seed, FIRST_IMAGE[self.split] + i, self.size)

    def name(self, i: int) -> str:
        return f"shapes/{self.split}[{i}]"
