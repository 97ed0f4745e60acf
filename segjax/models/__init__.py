"""The table of networks: `config.model.encoder` under the decoder that `config.model.name` picks.

An encoder is a module that publishes `strides` and `channels` of the features [B, H/s, W/s, c] it
gives, a decoder one that takes any such list; each is a file here, a row below and a section of
`config.model` in segjax/defaults/networks.py. `segmenter.Segmenter` does the rest for all of them.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from segjax import defaults
from segjax.errors import ConfigError
from segjax.models import mit, mobilenet_v2, segformer, unet
from segjax.models.patchgan import NORMS, PatchGAN
from segjax.models.refiner import Refiner
from segjax.models.segmenter import Segmenter

# Of a section of config.model, the fields axis_name and dtype of all layers, and strides.
ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "mobilenet_v2": mobilenet_v2.build,
    "mit": mit.build,
}
DECODERS: dict[str, Callable[..., nn.Module]] = {
    "unet": unet.build,
    "segformer": segformer.build,
}
REFINERS = ("none", "pix2pix")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build(
    config: ConfigDict, num_classes: int, axis_name: str | None = None, channels: int = 3
) -> Segmenter:
    """The network of `config.model`, for images of so many channels.

    `axis_name` is the pmap axis over which batch norm shares its statistics; None under jit.
    Raises ConfigError for a value that no network has, and for changed fields of another family.
    """
    choices = {"name": DECODERS, "encoder": ENCODERS, "dtype": DTYPES}
    for field, table in choices.items():
        if config[field] not in table:
            raise ConfigError(
                f"config.model.{field} is {config[field]!r}; choose one of {tuple(table)}"
            )
    _require_unchanged(config, {*DECODERS, *ENCODERS} - {config.name, config.encoder})
    shared = dict(axis_name=axis_name, dtype=DTYPES[config.dtype])
    encoder = ENCODERS[config.encoder](config[config.encoder], **shared)
    return Segmenter(
        encoder=encoder,
        decoder=DECODERS[config.name](config[config.name], encoder.strides, **shared),
        num_classes=num_classes,
        mean=tuple(config.mean),
        std=tuple(config.std),
        freeze_encoder=config.freeze_encoder,
        dtype=DTYPES[config.dtype],
        in_channels=channels,
        clip=config.get("clip", False),
    )


def _require_unchanged(config: ConfigDict, others: set[str]) -> None:
    """Raises ConfigError where a field of a family is set that the network is not made of."""
    known = defaults.get_config().model
    for section in sorted(others & set(config) & set(known)):
        for field, value in config[section].items():
            value = tuple(value) if isinstance(value, list) else value  # config.json has lists
            if value != known[section][field]:
                raise ConfigError(
                    f"config.model.{section}.{field} is {value!r}, but the network is "
                    f"{config.encoder} under {config.name}; set config.model.encoder or "
                    "config.model.name, or leave the field out, also in the file of --config"
                )


def build_refiner(
    config: ConfigDict,
    model: ConfigDict,
    num_classes: int,
    axis_name: str | None = None,
    channels: int = 3,
) -> Refiner:
    """The refiner of `config.refiner`; `model` is that of its segmenter, `channels` of images."""
    return Refiner(
        num_classes=num_classes,
        mean=tuple(model.mean),
        std=tuple(model.std),
        channels=tuple(config.channels),
        features=config.features,
        axis_name=axis_name,
        dtype=DTYPES[model.dtype],
        image_channels=channels,
        clip=model.get("clip", False),
    )


def build_discriminator(config: ConfigDict, dtype: str, axis_name: str | None = None) -> PatchGAN:
    """The discriminator of `config.gan`; ConfigError for a value that none has."""
    if config.norm not in NORMS:
        raise ConfigError(f"config.gan.norm is {config.norm!r}; choose one of {NORMS}")
    if not config.channels or min(config.channels) < 1:
        raise ConfigError(
            "config.gan.channels needs positive numbers, one for each convolution; it is "
            f"{tuple(config.channels)}"
        )
    return PatchGAN(
        channels=tuple(config.channels),
        norm=config.norm,
        spectral_norm=config.spectral_norm,
        axis_name=axis_name,
        dtype=DTYPES[dtype],
    )
