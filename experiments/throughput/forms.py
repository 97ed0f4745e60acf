"""The network's layers as they are written, and in the forms that they are computed in.

  python experiments/throughput/forms.py
  python experiments/throughput/forms.py --kinds=upsample --scale=2    # for images of 192×256

Medians in ms for batch 8 of 96×128, forward and with gradients, in turns, summed over the layers of
the U-Net of width 1.0 (of batch norm over six of its sizes only);
writes results/forms.json, or forms_SCALE.json.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import app, flags

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from segjax.models.layers import convolutions, norm  # noqa: E402
from segjax.runtime import process  # noqa: E402
from segjax.runtime.files import write_json  # noqa: E402

BATCH, ROUNDS = 8, 10
FLAGS = flags.FLAGS
flags.DEFINE_list("kinds", ["upsample", "depthwise", "norm_act"], "Of layers.")
flags.DEFINE_integer("scale", 1, "Multiplies height and width.")
# Height, width, channels in and out.
UPSAMPLE = ((3, 4, 1280, 256), (6, 8, 256, 128), (12, 16, 128, 64), (24, 32, 64, 32),
            (48, 64, 32, 16))  # fmt: skip
# Height, width, channels, stride.
DEPTHWISE = (
    (48, 64, 32, 1), (48, 64, 96, 2), (24, 32, 144, 1), (24, 32, 144, 2), (12, 16, 192, 1),
    (12, 16, 192, 1), (12, 16, 192, 2), *[(6, 8, 384, 1)] * 4, *[(6, 8, 576, 1)] * 2,
    (6, 8, 576, 2), *[(3, 4, 960, 1)] * 3)  # fmt: skip
NORM = ((48, 64, 96), (48, 64, 32), (96, 128, 16), (24, 32, 144), (12, 16, 192), (6, 8, 576))


def plain_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return convolutions.convolution(x, kernel, 1, convolutions.AROUND)


def plain_upsample(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return plain_conv(convolutions.upsample_nearest(x), kernel)


def grouped(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return convolutions.convolution(x, kernel, stride, "VALID", groups=x.shape[-1])


def flax_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    layer = nn.BatchNorm(use_running_average=False)
    variables = {"params": {"scale": scale, "bias": bias}}
    return nn.relu6(layer.apply(variables, x, mutable=["batch_stats"])[0])


def own_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return norm.norm_act(x, scale, bias, nn.relu6, 1e-5, None)[0]


def scaled(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a batch of images [B, H, W, C], larger ones; kernels and vectors as they are."""
    if len(shape) != 4 or shape[0] != BATCH:
        return shape
    return (BATCH, FLAGS.scale * shape[1], FLAGS.scale * shape[2], shape[3])


def cases() -> dict[str, list[tuple[dict[str, Callable], list[tuple[int, ...]]]]]:
    """By kind, for every layer: its forms, and the shapes of what they take."""
    found: dict[str, list] = {"upsample": [], "depthwise": [], "norm_act": []}
    for height, width, channels, out in UPSAMPLE:
        forms = {"plain": plain_upsample, "ours": convolutions.upsample_conv3x3}
        found["upsample"].append((forms, [(BATCH, height, width, channels), (3, 3, channels, out)]))
    for height, width, channels, stride in DEPTHWISE:
        forms = {
            "plain": partial(grouped, stride=stride),
            "shifted, gradients by JAX": partial(convolutions._depthwise, stride=stride),
            "ours": lambda x, kernel, stride=stride: convolutions.depthwise(x, kernel, stride),
        }
        shapes = [(BATCH, height + 2, width + 2, channels), (3, 3, 1, channels)]
        found["depthwise"].append((forms, shapes))
    for height, width, channels in NORM:
        forms = {"plain": flax_norm, "ours": own_norm}
        found["norm_act"].append((forms, [(BATCH, height, width, channels), *[(channels,)] * 2]))
    return found


def measured(forms: dict[str, Callable], shapes: list[tuple[int, ...]]) -> dict[str, float]:
    """Milliseconds of one layer, by form and by whether there are gradients."""
    keys = jax.random.split(jax.random.key(0), len(shapes))
    inputs = [
        jax.random.normal(key, scaled(shape)) for key, shape in zip(keys, shapes, strict=True)
    ]

    def with_gradients(function: Callable, *inputs: jax.Array) -> Any:
        value, pull_back = jax.vjp(function, *inputs)
        return value, pull_back(jnp.ones_like(value))

    calls = {}
    for name, form in forms.items():
        calls[f"{name}, forward"] = jax.jit(form)
        calls[f"{name}, with gradients"] = jax.jit(partial(with_gradients, form))
    times = {name: [] for name in calls}
    for _ in range(ROUNDS + 2):  # the first two compile and warm up
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call(*inputs))
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(each[2:]) for name, each in times.items()}


def main(_: list[str]) -> None:
    process.start_anew(__file__)
    process.use_kept_memory()
    result = {}
    for kind in FLAGS.kinds:
        rows = [measured(forms, shapes) for forms, shapes in cases()[kind]]
        result[kind] = {name: sum(row[name] for row in rows) for name in rows[0]}
    name = "forms" if FLAGS.scale == 1 else f"forms_{FLAGS.scale}"
    write_json(HERE / "results" / f"{name}.json", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    app.run(main)
