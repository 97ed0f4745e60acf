"""Tiny networks of every family, for tests of what has to work for all of them."""

from ml_collections import ConfigDict

from segjax import defaults
from segjax.models import mit

mit.VARIANTS["tiny"] = mit.Variant((1, 1, 1, 1), (8, 16, 40, 64))
FIELDS = {
    "mobilenet_v2": {"width": 0.35},
    "mit": {"variant": "tiny", "drop_path": 0.25},
    "unet": {"channels": (8,) * 5},
    "segformer": {"channels": 8},
}
# Encoder and decoder.
UNET, SEGFORMER = ("mobilenet_v2", "unet"), ("mit", "segformer")
MIXED = (("mit", "unet"), ("mobilenet_v2", "segformer"))


def use(config, encoder, decoder):
    """Sets a tiny network; the fields of all others are the defaults."""
    config.model = defaults.get_config().model
    for family in (encoder, decoder):
        with config.unlocked():
            config.model[family] = ConfigDict({**config.model.get(family, {}), **FIELDS[family]})
    config.model.update(encoder=encoder, name=decoder)
