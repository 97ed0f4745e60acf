"""Weights of other libraries and of other runs.

SOURCES has all files that can be read, WRITERS what can be written, by `config.model.encoder`.
"""

from collections.abc import Callable

from segjax.weights import mobilenet_v2
from segjax.weights.mapping import Source

SOURCES: tuple[Source, ...] = mobilenet_v2.SOURCES
WRITERS: dict[str, Callable[..., None]] = {"mobilenet_v2": mobilenet_v2.write}
