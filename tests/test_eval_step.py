"""A split's loss is that of the whole split, however it is cut into batches and over devices."""

from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from segjax import models
from segjax.data import pipeline
from segjax.evaluation.evaluator import evaluate
from segjax.runtime.devices import Parallel
from segjax.training import build

NUM_CLASSES, VOID = 3, 255


class Split:
    """Seven images; class 2 is in the first alone, and every one has another share of void."""

    table = SimpleNamespace(names=("a", "b", "c"))

    def __len__(self):
        return 7

    def __getitem__(self, i):
        rng = np.random.default_rng(i)
        label = rng.integers(0, 3 if i == 0 else 2, (8, 8)).astype(np.uint8)
        label[:i] = VOID
        return {"image": rng.integers(0, 256, (8, 8, 3)).astype(np.uint8), "label": label}


class Network(nn.Module):
    """A convolution with large weights: the losses of the images are far apart."""

    @property
    def num_classes(self):
        return NUM_CLASSES

    @nn.compact
    def __call__(self, image, train=False):
        return nn.Conv(NUM_CLASSES, (3, 3), name="head")(image / 50.0)


def test_validation_loss_is_the_same_in_batches_of_any_size(tiny_config, monkeypatch):
    monkeypatch.setattr(models, "build", lambda *_: Network())
    tiny_config.loss.update(focal=1.0, dice=1.0, lovasz=1.0, class_weights="auto")
    tiny_config.data.update(size=(8, 8), fit="pad")
    examples = pipeline.EvalSplit(Split(), [(8, 8)] * 7, tiny_config.data)
    variables = Network().init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))

    def validate(mode, count, batch_size):
        devices = Parallel(mode, jax.devices()[:count])
        compiled = build.compile_steps(tiny_config, devices, NUM_CLASSES, np.array([100, 30, 1]), 1)
        return evaluate(
            devices.replicate(variables),
            examples,
            step=compiled.eval_step,
            loss=compiled.loss,
            logits=compiled.logits,
            devices=devices,
            batch_size=batch_size,
        ).loss

    whole = validate("jit", 1, 7)
    for mode, count, batch_size in (("jit", 1, 1), ("jit", 1, 3), ("jit", 4, 3), ("pmap", 4, 3)):
        np.testing.assert_allclose(validate(mode, count, batch_size), whole, rtol=1e-6)
