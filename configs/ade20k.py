"""ADE20K scene parsing: 150 classes, 20,210 / 2,000 images of many sizes.

Data: ADEChallengeData2016.zip (sceneparsing.csail.mit.edu), unpacked in DIR; ROOT becomes a folder
of links into it.

  python -m segjax.prepare ade20k --source DIR --output ROOT
  python -m segjax.main --config configs/ade20k.py --config.data.root=ROOT

Expected, from MMSegmentation's table of MobileNetV2 encoders with ImageNet weights: 0.20 (FCN) to
0.34 (DeepLabV3) val mIoU. From random weights, as here by default: less. Not measured here.
"""

from ml_collections import ConfigDict

from segjax import defaults


def get_config() -> ConfigDict:
    """Images stretched to 512×512, AdamW."""
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
    return config
