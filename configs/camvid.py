"""CamVid."""

from ml_collections import ConfigDict

from configs import common
from segjax.errors import ConfigError


def get_config(variant: str = "") -> ConfigDict:
    """CamVid at full size, or the variant `cpu`."""
    config = common.get_config()
    config.data.source = "folder"
    config.data.root = "data/camvid"
    config.data.classes = "camvid"
    if variant not in ("", "cpu"):
        raise ConfigError(f"configs/camvid.py has no variant {variant!r}; there is only :cpu")
    if variant == "cpu":
        config.data.size = (96, 128)
        config.num_epochs = 60
        config.batch_size = 8
        config.eval.every_epochs = 5
    return config
