"""Twenty classes of procedural shapes: seconds to see it learn, minutes to the end."""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """A small network on small images."""
    config = common.get_config()
    config.data.source = "shapes"
    config.data.size = (64, 64)
    config.data.num_train = 2000
    config.data.num_val = 200
    config.num_epochs = 20
    config.batch_size = 16
    config.model.width = 0.35
    config.model.decoder_channels = (128, 64, 32, 24, 16)
    config.optim.learning_rate = 3e-3
    config.eval.every_epochs = 2
    return config
