"""Pascal VOC 2012: objects in photographs, 21 classes, 1,464 / 1,449 images of up to 500×500.

Data: VOCtrainval_11-May-2012.tar (host.robots.ox.ac.uk/pascal/VOC/voc2012), or its VOCdevkit, in
DIR; for the variant `trainaug` (10,582 images) also the folder SegmentationClassAug, the masks of
the Semantic Boundaries Dataset.

  python -m segjax.prepare voc2012 --source DIR
  python -m segjax.main --config configs/voc2012.py
  python -m segjax.main --config configs/voc2012.py:trainaug

Expected, from the literature, for MobileNetV2 encoders with ImageNet weights: 0.60 to 0.70 val mIoU
(DeepLab, with COCO besides: 0.75). From random weights, as here by default: far less. Not measured
here.
"""

from ml_collections import ConfigDict

from segjax import defaults
from segjax.errors import ConfigError


def get_config(variant: str = "") -> ConfigDict:
    """DeepLab's recipe: windows of 512, scales 0.5 to 2, SGD with poly decay.

    Other than there: Nesterov momentum, warm-up, clipping and averaged weights, and depthwise
    kernels decay, too.
    """
    if variant not in ("", "trainaug"):
        raise ConfigError(f"configs/voc2012.py has no variant {variant!r}; there is only :trainaug")
    config = defaults.get_config()
    config.data.source = "tfds"
    config.data.name = "voc2012"
    config.data.classes = "voc"
    config.data.label_key = "label"
    config.data.fit = "pad"
    config.data.size = (512, 512)
    # As many updates with either: about 36,000 and 33,000.
    config.num_epochs = 400
    if variant == "trainaug":
        config.data.splits.train = "trainaug"
        config.num_epochs = 50
    config.batch_size = 16
    config.model.dtype = "bfloat16"
    config.augment.scale = (0.5, 2.0)
    config.optim.name = "sgd"
    config.optim.learning_rate = 0.007
    config.optim.schedule = "poly"
    config.optim.weight_decay = 4e-5
    config.eval.every_epochs = 10
    return config
