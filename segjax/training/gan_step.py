"""The training step of a segmenter and its discriminator; see `steps`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from segjax.evaluation.iou import confusion_matrix
from segjax.evaluation.loss import Loss
from segjax.run.state import DiscriminatorState, GanState
from segjax.runtime.devices import psum
from segjax.training import adversarial
from segjax.training.steps import Augment, Batch, updated


def gan_train_step(
    state: GanState,
    batch: Batch,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    augment: Augment,
    discriminator: nn.Module,
    discriminator_optimizer: optax.GradientTransformation,
    objective: str,
    weight: Callable[[jax.Array], jax.Array],
    softening: float,
    ema_decay: float = 0.0,
    axis_name: str | None = None,
) -> tuple[GanState, dict[str, jax.Array]]:
    """One update of the segmenter and one of the discriminator, from one batch and one forward.

    Both gradients are those of the networks as they were before the step. The segmenter's loss is
    `loss` + λ · adversarial loss, where λ is `weight` of the updates done.

    Args:
      objective, softening: see `adversarial`.

    Returns:
      The new state, and the metrics of `train_step`, where `loss` is without the adversarial part.
      In `gan`: `discriminator_loss` and `discriminator_grad_norm`, `d_real` and `d_fake`
      (`adversarial.verdict`), `adversarial_loss`, `weight`, and `gradient_share`, the adversarial
      part of the two gradients' norms at the logits.
    """
    image, label = augment(batch)
    segmenter, critic = state.generator, state.discriminator
    judge = partial(_judge, discriminator, image)

    def forward(params: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": segmenter.batch_stats}
        logits, updates = model.apply(variables, image, train=True, mutable=["batch_stats"])
        return logits, updates.get("batch_stats", {})

    def adversarial_loss(logits: jax.Array) -> jax.Array:
        fake = adversarial.mask_void(jax.nn.softmax(logits), label)
        scores, _ = judge(critic.variables, fake, train=False)
        return adversarial.segmenter_loss(objective, scores, axis_name)

    logits, pull_back, batch_stats = jax.vjp(forward, segmenter.params, has_aux=True)
    value, slope = jax.value_and_grad(loss)(logits, label, axis_name)
    adversarial_value, adversarial_slope = jax.value_and_grad(adversarial_loss)(logits)
    factor = weight(segmenter.step)
    adversarial_slope = factor * adversarial_slope
    gradients, confusion = psum(
        (
            pull_back(slope + adversarial_slope)[0],
            confusion_matrix(label, logits.argmax(-1), model.num_classes),
        ),
        axis_name,
    )
    new_segmenter = updated(segmenter, gradients, batch_stats, optimizer, ema_decay)
    new_critic, seen = _updated_discriminator(
        critic,
        jax.lax.stop_gradient(jax.nn.softmax(logits)),
        label,
        judge=judge,
        optimizer=discriminator_optimizer,
        objective=objective,
        softening=softening,
        axis_name=axis_name,
    )
    norm, adversarial_norm = (
        jnp.sqrt(psum((s**2).sum(), axis_name)) for s in (slope, adversarial_slope)
    )
    metrics = {
        "loss": value,
        "grad_norm": optax.global_norm(gradients),
        "confusion": confusion,
        "gan": {
            **seen,
            "adversarial_loss": adversarial_value,
            "weight": factor,
            "gradient_share": adversarial_norm / jnp.maximum(norm + adversarial_norm, 1e-12),
        },
    }
    return GanState(new_segmenter, new_critic), metrics


def _judge(
    discriminator: nn.Module,
    image: jax.Array,
    variables: Any,
    probabilities: jax.Array,
    train: bool,
) -> tuple[jax.Array, Any]:
    scores, updates = discriminator.apply(
        variables, image, probabilities, train=train, mutable=["batch_stats"]
    )
    return scores, updates.get("batch_stats", {})


def _updated_discriminator(
    critic: DiscriminatorState,
    probabilities: jax.Array,
    label: jax.Array,
    *,
    judge: Callable,
    optimizer: optax.GradientTransformation,
    objective: str,
    softening: float,
    axis_name: str | None,
) -> tuple[DiscriminatorState, dict[str, jax.Array]]:
    """One update from labels as the real ones and the segmenter's probabilities as fakes."""

    def discriminator_loss(params: Any) -> tuple:
        real = adversarial.soften(label, probabilities, softening)
        fake = adversarial.mask_void(probabilities, label)
        variables = critic.variables | {"params": params}
        real, batch_stats = judge(variables, real, train=True)
        fake, batch_stats = judge(variables | {"batch_stats": batch_stats}, fake, train=True)
        seen = {
            "d_real": adversarial.verdict(objective, real, axis_name),
            "d_fake": adversarial.verdict(objective, fake, axis_name),
        }
        return adversarial.discriminator_loss(objective, real, fake, axis_name), (batch_stats, seen)

    (value, (batch_stats, seen)), gradients = jax.value_and_grad(discriminator_loss, has_aux=True)(
        critic.params
    )
    gradients = psum(gradients, axis_name)
    updates, opt_state = optimizer.update(gradients, critic.opt_state, critic.params)
    params = optax.apply_updates(critic.params, updates)
    return (
        DiscriminatorState(params, batch_stats, opt_state),
        {
            "discriminator_loss": value,
            "discriminator_grad_norm": optax.global_norm(gradients),
            **seen,
        },
    )
