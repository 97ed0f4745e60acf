"""Weights of other libraries and of other runs.

SOURCES has all files that can be read, WRITERS what can be written, by format and
`config.model.encoder`.
"""

from collections.abc import Callable

from segjax.weights import mobilenet_v2, segformer
from segjax.weights.mapping import Source

SOURCES: tuple[Source, ...] = mobilenet_v2.SOURCES + segformer.SOURCES
WRITERS: dict[tuple[str, str], Callable[..., None]] = {
    ("safetensors", "mobilenet_v2"): mobilenet_v2.write,
    ("safetensors", "mit"): segformer.write,
    ("transformers", "mit"): segformer.write_pretrained,
}
