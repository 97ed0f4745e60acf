"""ADE20K scene parsing: 150 classes, 20,210 / 2,000 images of many sizes.

Data: ADEChallengeData2016.zip (sceneparsing.csail.mit.edu), unpacked in DIR; ROOT becomes a folder
of links into it.

  python -m segjax.prepare ade20k --source DIR --output ROOT
  python -m segjax.main --config configs/ade20k.py --config.data.root=ROOT
  python -m segjax.main --config configs/ade20k.py:segformer_b0 --config.data.root=ROOT \
    --config.pretrained.path=mit_b0.pth

Expected, from MMSegmentation's table of MobileNetV2 encoders with ImageNet weights: 0.20 (FCN) to
0.34 (DeepLabV3) val mIoU; segformer_b0 to segformer_b5, from weights of ImageNet and with windows
of images that keep their shape: 0.374, 0.410, 0.456, 0.478, 0.485, 0.491. From random weights, as
here by default: less. Not measured here.
"""

from ml_collections import ConfigDict

from segjax import defaults
from segjax.defaults import segformer
from segjax.errors import ConfigError


def get_config(variant: str = "") -> ConfigDict:
    """Images stretched to 512×512, AdamW.

    segformer_b0 to segformer_b5 have the recipe of segjax/defaults/segformer.py.
    """
    if variant not in ("", *segformer.VARIANTS):
        known = ", ".join(segformer.VARIANTS)
        raise ConfigError(f"configs/ade20k.py has no variant {variant!r}; there are {known}")
    config = defaults.get_config()
    config.data.source = "folder"
    config.data.root = "data/ade20k"
    config.data.classes = "ade20k"
    # Not pad: every image would be padded to the greatest height and width of all 20,210.
    config.data.fit = "resize"
    config.data.size = (512, 512)
    # Photographs were collected from the web: one that is in val too is left out of training.
    config.data.on_error = "skip"
    config.num_epochs = 64  # 80,000 updates
    config.batch_size = 16
    config.model.dtype = "bfloat16"
    config.augment.scale = (0.5, 2.0)
    config.eval.every_epochs = 8
    # Scores at the images' own sizes, of 150 classes, need gigabytes a batch.
    config.eval.batch_size = 4
    if variant:
        segformer.use(config, variant)
        config.num_epochs = 127  # 160,000 updates
    return config
