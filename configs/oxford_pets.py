"""Oxford-IIIT Pet: cats and dogs, 3 classes (pet, background, border), about 3,310 / 370 / 3,669.

Data: images.tar.gz and annotations.tar.gz (www.robots.ox.ac.uk/~vgg/data/pets), unpacked in DIR.

  python -m segjax.prepare oxford_pets --source DIR
  python -m segjax.main --config configs/oxford_pets.py
  python -m segjax.evaluate --workdir runs/oxford_pets --split test

Not measured here. The accuracies of TensorFlow's segmentation tutorial, of pixels at 128×128, are
no comparison: the mIoU here is that of all three classes, at the images' own resolution.
"""

from ml_collections import ConfigDict

from segjax import defaults


def get_config() -> ConfigDict:
    """Images stretched to 256×256."""
    config = defaults.get_config()
    config.data.source = "tfds"
    config.data.name = "oxford_pets"
    config.data.classes = "oxford_pets"
    config.data.label_key = "label"
    config.data.size = (256, 256)
    # Photographs were collected from the web: one that is in the test too is left out of training.
    config.data.on_error = "skip"
    config.num_epochs = 60
    config.batch_size = 32
    config.model.dtype = "bfloat16"
    config.loss.dice = 1.0
    config.eval.every_epochs = 5
    return config
