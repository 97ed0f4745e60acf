"""A few dozen greyscale images with masks of 0 and 255, as in medicine, cross-validated.

Data: ROOT/images/NAME.png and ROOT/masks/NAME.png, not divided into splits.

  for fold in 0 1 2 3 4; do
    python -m segjax.main --config configs/small_binary.py --config.data.root=ROOT \
      --config.data.fold=$fold --workdir runs/fold$fold
  done

Every image is validated once, by the network of the fold that has not seen it. Images of one
patient belong into one fold; folds know only file names, so keep one image for each patient, or
divide the folders yourself. Expected result and cost depend on the data; not measured here.
"""

from ml_collections import ConfigDict

from segjax import defaults


def get_config() -> ConfigDict:
    """Many passes over few images, strong augmentation, and a loss for small foregrounds."""
    config = defaults.get_config()
    config.data.source = "folder"
    config.data.classes = '{"classes": ["background", "foreground"], "values": [0, 255]}'
    config.data.folds = 5
    config.data.test_fraction = 0.0
    config.data.size = (256, 256)
    config.num_epochs = 300
    config.batch_size = 8
    config.model.mobilenet_v2.width = 0.5
    config.loss.dice = 1.0
    # Grey stays grey; a scan or a microscope has no up and down.
    config.augment.update(saturation=0.0, hue=0.0, flip_vertical=True, brightness=0.3, contrast=0.3)
    config.eval.every_epochs = 10
    return config
