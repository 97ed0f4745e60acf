"""Models, built from `config.model`."""

import jax.numpy as jnp
from ml_collections import ConfigDict

from segjax.errors import ConfigError
from segjax.models.mobilenet_v2 import WIDTHS, MobileNetV2
from segjax.models.patchgan import NORMS, PatchGAN
from segjax.models.unet import Decoder, UNet

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
UPSAMPLE = ("nearest", "bilinear", "transpose")
PADDING = ("symmetric", "same")


def build(config: ConfigDict, num_classes: int, axis_name: str | None = None) -> UNet:
    """The network of `config.model`.

    `axis_name` is the pmap axis over which batch norm shares its statistics; None under jit.
    Raises ConfigError for a value that no network has.
    """
    choices = (
        ("width", WIDTHS),
        ("dtype", tuple(DTYPES)),
        ("upsample", UPSAMPLE),
        ("padding", PADDING),
    )
    for field, allowed in choices:
        if config[field] not in allowed:
            raise ConfigError(f"config.model.{field} is {config[field]!r}; choose one of {allowed}")
    if len(config.decoder_channels) != 5 or min(config.decoder_channels) < 1:
        raise ConfigError(
            "config.model.decoder_channels needs five positive numbers, one for each doubling of "
            f"the resolution; it is {tuple(config.decoder_channels)}"
        )
    shared = dict(axis_name=axis_name, dtype=DTYPES[config.dtype])
    return UNet(
        encoder=MobileNetV2(
            config.width, epsilon=config.norm_epsilon, padding=config.padding, **shared
        ),
        decoder=Decoder(tuple(config.decoder_channels), config.upsample, **shared),
        num_classes=num_classes,
        mean=tuple(config.mean),
        std=tuple(config.std),
        freeze_encoder=config.freeze_encoder,
        dtype=DTYPES[config.dtype],
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
