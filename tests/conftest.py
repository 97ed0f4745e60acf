import tempfile

import jax
import pytest

from segjax import defaults

jax.config.update("jax_num_cpu_devices", 4)  # before the first use of a device
jax.config.update("jax_disable_most_optimizations", True)  # compiling takes longer than running
# Shapes that differ in rank are mostly a mistake: axes are added by hand.
jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiling is most of the time of the tests; what one has compiled serves the next.
_cache = tempfile.TemporaryDirectory()
jax.config.update("jax_compilation_cache_dir", _cache.name)


@pytest.fixture
def optimized():
    """Unoptimised sums run over one pixel after the other and round a hundred times worse."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def tiny_config():
    """A complete configuration that trains within seconds."""
    return _tiny_config()


@pytest.fixture(scope="module")
def shared_tiny_config():
    """The same for what the tests of a file share."""
    return _tiny_config()


def _tiny_config():
    config = defaults.get_config()
    config.num_epochs = 2
    config.batch_size = 4
    config.parallel = "jit"
    config.data.source = "shapes"
    config.data.size = (32, 32)
    config.data.num_train = 16
    config.data.num_val = 6
    config.data.allow_missing_classes = True
    config.model.mobilenet_v2.width = 0.35
    config.model.unet.channels = (8, 8, 8, 8, 8)
    config.eval.batch_size = 4
    config.eval.num_pictures = 2
    return config
