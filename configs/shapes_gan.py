"""The quick start's network, trained on with a discriminator for one more epoch.

  python -m segjax.main --config configs/quickstart.py
  python -m segjax.main --config configs/shapes_gan.py

Expected result and cost: experiments/gan_refinement.
"""

from ml_collections import ConfigDict

from segjax.runtime import recipes


def get_config() -> ConfigDict:
    """Starts from the weights in runs/quickstart, at a lower learning rate."""
    config = recipes.load("quickstart")
    config.init_from = "runs/quickstart"
    config.num_epochs = 1
    config.optim.learning_rate /= 4
    config.gan.objective = "hinge"
    config.gan.channels = (32, 64, 128, 256)
    return config
