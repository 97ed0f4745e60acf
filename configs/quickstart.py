"""Twenty classes of procedural shapes: minutes on two processor cores, nothing to download.

  python -m segjax.main --config configs/quickstart.py
  python -m segjax.main --config configs/quickstart.py:segformer

Expected: validation mIoU 0.94 after 3 minutes on 2 CPU cores, and 0.87 with the variant `segformer`
(experiments/quickstart).
"""

from ml_collections import ConfigDict

from segjax import defaults
from segjax.errors import ConfigError


def get_config(variant: str = "") -> ConfigDict:
    """A small network on small images; `segformer` is the smallest published SegFormer, B0."""
    if variant not in ("", "segformer"):
        raise ConfigError(
            f"configs/quickstart.py has no variant {variant!r}; there is only :segformer"
        )
    config = defaults.get_config()
    config.data.source = "shapes"
    config.data.size = (64, 64)
    config.data.num_train = 4000
    config.data.num_val = 200
    config.num_epochs = 4
    config.log_every = 50
    config.batch_size = 8
    # Every image is drawn at random already; a mirrored one is as likely.
    config.augment.update(
        scale=(1.0, 1.0), brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, gamma=0.0
    )
    if variant == "segformer":
        config.model.update(encoder="mit", name="segformer")
        config.optim.learning_rate = 1e-3
    else:
        config.model.mobilenet_v2.width = 0.35
        config.model.unet.channels = (64, 48, 32, 24, 16)
        config.model.unet.upsample = "bilinear"
        config.optim.learning_rate = 8e-3
    return config
