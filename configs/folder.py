"""Your own images and masks.

Data: ROOT/{train,val,test}/{images,masks}/NAME.*, or one folder ROOT/{images,masks} that is divided
by a seed, and ROOT/classes.json, such as {"classes": ["background", "cell"], "values": [0, 255]}.
NAME may lie in folders of images/ and masks/. Hidden files (.*, Thumbs.db) are not looked at; what
else is not used is named by the check.

  python -m segjax.check --config configs/folder.py --config.data.root=ROOT
  python -m segjax.main --config configs/folder.py --config.data.root=ROOT --workdir runs/mine

Expected result and cost depend on the data.
"""

from ml_collections import ConfigDict

from segjax import defaults


def get_config() -> ConfigDict:
    """The defaults, with a loss that does not forget small classes."""
    config = defaults.get_config()
    config.data.source = "folder"
    config.loss.dice = 1.0
    return config
