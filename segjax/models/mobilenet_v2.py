"""MobileNetV2 as an encoder: features at strides 2, 4, 8, 16 and 32.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, table 2.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from segjax.errors import ConfigError
from segjax.models.layers.blocks import EPSILON, ConvNormAct, identity

# (expansion, channels, repeats, stride of the first): table 2 of the paper.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
PADDING = ("symmetric", "same")
LAST = 1280  # channels of the last convolution


def scaled(channels: int, width: float) -> int:
    """Channels times width, rounded to a multiple of 8, never down by more than 10 %."""
    rounded = max(8, int(channels * width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels * width else rounded + 8


class InvertedResidual(nn.Module):
    """Expand by a 1×1, filter depthwise by a 3×3, project by a linear 1×1; add if shapes allow."""

    features: int
    stride: int
    expansion: int
    shared: Mapping[str, Any]  # fields of every ConvNormAct

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        layer = partial(ConvNormAct, **self.shared)
        hidden = x.shape[-1] * self.expansion
        y = x
        if self.expansion > 1:
            y = layer(hidden, 1, act=nn.relu6, name="expand")(y, train)
        depthwise = layer(hidden, 3, self.stride, depthwise=True, act=nn.relu6, name="depthwise")
        y = depthwise(y, train)
        y = layer(self.features, 1, act=identity, name="project")(y, train)
        return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """Images [B, H, W, 3], H and W multiples of 32, to five features [B, H/s, W/s, c].

    These have `strides` s and `channels` c; at width 1.0 those are 16, 24, 32, 96 and 1280, and the
    whole has 2,223,872 parameters. `epsilon` and `padding` are PyTorch's, or
    those of the library that the weights come from (see `layers.blocks.zeros_around`).
    """

    width: float = 1.0
    axis_name: str | None = None
    dtype: Any = jnp.float32
    epsilon: float = EPSILON
    padding: str = "symmetric"
    strides = (2, 4, 8, 16, 32)

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the features: those before each stage that halves the resolution, and of the last."""
        before = [STAGES[i - 1][1] for i, stage in enumerate(STAGES) if stage[3] == 2]
        return *(scaled(c, self.width) for c in before), scaled(LAST, max(1.0, self.width))

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        shared = dict(
            axis_name=self.axis_name, dtype=self.dtype, epsilon=self.epsilon, padding=self.padding
        )
        stem = ConvNormAct(scaled(32, self.width), 3, 2, act=nn.relu6, name="stem", **shared)
        x = stem(x, train)
        features = []
        for stage, (expansion, channels, repeats, first_stride) in enumerate(STAGES):
            if first_stride == 2:
                features.append(x)
            for block in range(repeats):
                x = InvertedResidual(
                    scaled(channels, self.width),
                    first_stride if block == 0 else 1,
                    expansion,
                    shared,
                    name=f"stage{stage}_block{block}",
                )(x, train)
        # Narrow networks keep all of these channels (paper, section 4.1).
        last = ConvNormAct(self.channels[-1], 1, act=nn.relu6, name="last", **shared)
        return [*features, last(x, train)]


def build(config: ConfigDict, **shared: Any) -> MobileNetV2:
    """The encoder of `config.model.mobilenet_v2`.

    `shared` are axis_name and dtype of the layers. Raises ConfigError for a value that none has.
    """
    for field, allowed in (("width", WIDTHS), ("padding", PADDING)):
        if config[field] not in allowed:
            raise ConfigError(
                f"config.model.mobilenet_v2.{field} is {config[field]!r}; choose one of {allowed}"
            )
    if config.norm_epsilon <= 0:
        raise ConfigError(
            f"config.model.mobilenet_v2.norm_epsilon is {config.norm_epsilon}; it must be above 0"
        )
    return MobileNetV2(config.width, epsilon=config.norm_epsilon, padding=config.padding, **shared)
