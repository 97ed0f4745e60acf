"""`segjax.defaults` under the name that configurations of version 0.1 import it by."""

from segjax.defaults import get_config

__all__ = ["get_config"]
