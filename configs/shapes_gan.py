"""The quick start's network, refined by a discriminator.

  python -m segjax.main --config configs/quickstart.py
  python -m segjax.main --config configs/shapes_gan.py --config.init_from=runs/quickstart

Without `init_from` the discriminator comes in after half of the epochs. Expected result and cost:
experiments/gan_refinement.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    """One epoch, like the quick start's at a lower learning rate."""
    config = quickstart.get_config()
    config.gan.objective = "hinge"
    config.gan.start_epoch = 2
    return config
