"""Cityscapes: driving scenes, 19 classes, 2,975 / 500 images of 1024×2048.

Data: leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip (www.cityscapes-dataset.com, with an
account), unpacked in DIR; ROOT becomes a folder of links into it. The masks are *_labelIds.png.

  python -m segjax.prepare cityscapes --source DIR --output ROOT
  python -m segjax.main --config configs/cityscapes.py --config.data.root=ROOT
  python -m segjax.main --config configs/cityscapes.py:segformer_b0 --config.data.root=ROOT \
    --config.pretrained.path=mit_b0.pth

Expected, from MMSegmentation's table of MobileNetV2 encoders with ImageNet weights: 0.62 (FCN) to
0.75 (DeepLabV3+) val mIoU; segformer_b0 to segformer_b5, from weights of ImageNet: 0.765, 0.786,
0.811, 0.819, 0.819, 0.823. From random weights, as here by default: less. Not measured here.
"""

from ml_collections import ConfigDict

from segjax import defaults
from segjax.defaults import segformer
from segjax.errors import ConfigError


def get_config(variant: str = "") -> ConfigDict:
    """MMSegmentation's: windows of 512×1024, scales 0.5 to 2, SGD; whole images in evaluation.

    As 80,000 updates of 8 images there. Other than there: Nesterov momentum, warm-up, clipping,
    averaged weights, a learning rate that ends at 0 instead of 1e-4, no decay of norms and biases.

    segformer_b0 to segformer_b5 have the recipe of segjax/defaults/segformer.py, with windows of
    1024×1024.
    """
    if variant not in ("", *segformer.VARIANTS):
        known = ", ".join(segformer.VARIANTS)
        raise ConfigError(f"configs/cityscapes.py has no variant {variant!r}; there are {known}")
    config = defaults.get_config()
    config.data.source = "folder"
    config.data.root = "data/cityscapes"
    config.data.classes = "cityscapes"
    config.data.fit = "pad"
    config.data.size = (512, 1024)
    config.num_epochs = 220  # 40,000 updates
    config.batch_size = 16
    config.model.dtype = "bfloat16"
    config.augment.scale = (0.5, 2.0)
    config.optim.name = "sgd"
    config.optim.learning_rate = 0.01
    config.optim.schedule = "poly"
    config.optim.weight_decay = 5e-4
    config.eval.every_epochs = 20
    config.eval.batch_size = 4
    if variant:
        segformer.use(config, variant)
        config.data.size = (1024, 1024)
        config.batch_size = 8
        config.num_epochs = 431  # 160,000 updates
    return config
