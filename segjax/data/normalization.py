"""What a network subtracts and divides by, inside it, and what follows from that outside of it."""

import numpy as np
from ml_collections import ConfigDict

from segjax.data import pixels
from segjax.data.fitting import FILL, Fill, Fit
from segjax.errors import ConfigError

CHOICES = ("auto", "given", "dataset", "image", "window")
MEASURED = ("dataset", "image")  # of which the check finds mean and standard deviation


def with_normalization(config: ConfigDict) -> ConfigDict:
    """The configuration with what `config.data.normalize` says of the network's input.

    config: with a resolved data section, see `sources.resolved`. Mean and standard deviation of
      what is MEASURED are those of `config` until `measured` is called.

    Raises ConfigError where the numbers that are given do not fit the channels.
    """
    config = config.copy_and_resolve_references()
    data, model = config.data, config.model
    if data.normalize == "auto":
        data.normalize = "given" if data.bands == "rgb" else "dataset"
    if data.normalize in MEASURED:
        if len(model.mean) != data.channels:
            model.mean, model.std = (0.0,) * data.channels, (1.0,) * data.channels
        return config
    if data.normalize == "window":
        levels, widths = tuple(data.windows[::2]), tuple(data.windows[1::2])
        model.mean, model.std = levels, tuple(width / 2 for width in widths)
        model.clip = True
    several = data.normalize == "window" and data.channels == 1
    if len(model.mean) != data.channels and not several:
        field = "data.windows" if data.normalize == "window" else "model.mean"
        raise ConfigError(
            f"config.{field}: {len(model.mean)} given, and images have {data.channels} channels; "
            "give one for each, or set config.data.normalize=dataset to have them measured"
        )
    return config


def measured(config: ConfigDict, statistics: dict[str, list[float]]) -> ConfigDict:
    """The configuration with the training split's mean and standard deviation of every channel.

    Where a channel never changes, its standard deviation is 1.
    """
    config = config.copy_and_resolve_references()
    config.model.mean = tuple(float(f"{mean:.6g}") for mean in statistics["mean"])
    config.model.std = tuple(float(f"{std:.6g}") if std else 1.0 for std in statistics["std"])
    return config


def fill(config: ConfigDict) -> Fill:
    """What padding holds: of colours FILL, of other channels the mean that normalisation takes."""
    kind = pixels.of(config.data)
    if kind.is_rgb:
        return FILL
    values = np.array(config.model.mean[: kind.channels])
    if kind.type.kind == "f":
        return tuple(values.tolist())
    limits = np.iinfo(kind.type)  # the level of a window may lie outside
    return tuple(np.rint(values).clip(limits.min, limits.max).astype(int).tolist())


def limits(config: ConfigDict) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What is black and white in every channel, to changes of light.

    Those of the type with 8 bits, of windows all that they show, else two standard deviations
    around the mean.
    """
    kind = pixels.of(config.data)
    mean, std = np.array(config.model.mean), np.array(config.model.std)
    if config.data.get("normalize") == "window":
        low, high = mean - std, mean + std
        if kind.channels == 1:
            low, high = low.min(keepdims=True), high.max(keepdims=True)
    elif kind.type == np.uint8:
        low, high = np.zeros(kind.channels), np.full(kind.channels, 255.0)
    else:
        low, high = mean - 2 * std, mean + 2 * std
    return tuple(low.tolist()), tuple(high.tolist())


def fit(config: ConfigDict) -> Fit:
    """How an image meets the network of a configuration."""
    return Fit(tuple(config.data.size), config.data.fit == "resize", fill=fill(config))
