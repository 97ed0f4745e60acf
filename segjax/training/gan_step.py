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
from segjax.training.adversarial import Adversary
from segjax.training.augment import RGB, Light
from segjax.training.steps import Augment, Batch, apply_gradients, example_keys, forward


def gan_train_step(
    state: GanState,
    batch: Batch,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    augment: Augment,
    adversary: Adversary,
    light: Light = RGB,
    seed: int = 0,
    ema_decay: float = 0.0,
    axis_name: str | None = None,
) -> tuple[GanState, dict[str, jax.Array]]:
    """One update of the segmenter and one of the discriminator, from one batch and one forward.

    Both gradients are those of the networks as they were before the step.

    Returns:
      The new state, and the metrics of `train_step`, where `loss` is without the adversarial part,
      and `gan`, those of `_logits_cotangent` and `_update_discriminator`.
    """
    image, label = augment(batch)
    keys = example_keys(model, seed, batch)
    segmenter, critic = state.generator, state.discriminator
    pixels = image[..., : light.channels]  # a refiner's input has more
    judge = partial(_judge, adversary.discriminator, light.to_255(pixels))

    def logits_of(params: Any) -> tuple[jax.Array, Any]:
        return forward(model, params, segmenter.batch_stats, image, keys)

    logits, pull_back, batch_stats = jax.vjp(logits_of, segmenter.params, has_aux=True)
    cotangent, value, seen = _logits_cotangent(
        state, logits, label, judge, loss, adversary, axis_name
    )
    confusion = confusion_matrix(label, logits.argmax(-1), model.num_classes)
    gradients, confusion = psum((pull_back(cotangent)[0], confusion), axis_name)
    segmenter = apply_gradients(segmenter, gradients, batch_stats, optimizer, ema_decay)
    critic, critic_seen = _update_discriminator(critic, logits, label, judge, adversary, axis_name)
    metrics = {"loss": value, "grad_norm": optax.global_norm(gradients), "confusion": confusion}
    return GanState(segmenter, critic), {**metrics, "gan": {**critic_seen, **seen}}


def _judge(
    discriminator: nn.Module,
    image: jax.Array,
    variables: Any,
    probabilities: jax.Array,
    train: bool,
) -> tuple[jax.Array, tuple[jax.Array, ...], Any]:
    """The discriminator's scores of patches, its layers' features, its new batch statistics."""
    scores, updates = discriminator.apply(
        variables, image, probabilities, train=train, mutable=["batch_stats", "intermediates"]
    )
    return scores, updates["intermediates"]["features"], updates.get("batch_stats", {})


def _logits_cotangent(
    state: GanState,
    logits: jax.Array,
    label: jax.Array,
    judge: Callable,
    loss: Loss,
    adversary: Adversary,
    axis_name: str | None,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """The gradient of loss + λ · adversarial loss at the logits, where λ is that of the step.

    Returns:
      The gradient [B, H, W, C], the loss without the adversarial part, and of the latter what
      `_adversarial_loss` says, `weight` (λ) and `gradient_share`, its part of the two gradients'
      norms.
    """
    critic = partial(judge, state.discriminator.variables, train=False)
    value, cotangent = jax.value_and_grad(loss)(logits, label, axis_name)
    adversarial_cotangent, seen = jax.grad(_adversarial_loss, has_aux=True)(
        logits, label, critic, adversary, axis_name
    )
    weight = adversary.weight(state.step)
    adversarial_cotangent = weight * adversarial_cotangent
    norm, adversarial_norm = (
        jnp.sqrt(psum((c**2).sum(), axis_name)) for c in (cotangent, adversarial_cotangent)
    )
    seen |= {
        "weight": weight,
        "gradient_share": adversarial_norm / jnp.maximum(norm + adversarial_norm, 1e-12),
    }
    return cotangent + adversarial_cotangent, value, seen


def _adversarial_loss(
    logits: jax.Array,
    label: jax.Array,
    critic: Callable,
    adversary: Adversary,
    axis_name: str | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """What λ is the weight of, and its parts: `adversarial_loss`, and `feature_matching` if any."""
    probabilities = jax.nn.softmax(logits)
    scores, features, _ = critic(adversarial.mask_void(probabilities, label))
    counted = adversary.counted(label, logits.shape[-1])
    value = adversarial.segmenter_loss(adversary.objective, scores, axis_name, counted)
    seen = {"adversarial_loss": value}
    if adversary.feature_matching:
        probabilities = jax.lax.stop_gradient(probabilities)
        _, wanted, _ = critic(adversarial.soften(label, probabilities, adversary.softening))
        seen["feature_matching"] = adversarial.feature_matching(features, wanted, axis_name)
        value += adversary.feature_matching * seen["feature_matching"]
    return value, seen


def _update_discriminator(
    critic: DiscriminatorState,
    logits: jax.Array,
    label: jax.Array,
    judge: Callable,
    adversary: Adversary,
    axis_name: str | None,
) -> tuple[DiscriminatorState, dict[str, jax.Array]]:
    """One update from labels as the real ones and the segmenter's probabilities as fakes.

    Returns:
      The new state, what `_discriminator_loss` says, and `discriminator_grad_norm`.
    """
    probabilities = jax.lax.stop_gradient(jax.nn.softmax(logits))

    gradients, (batch_stats, seen) = jax.grad(_discriminator_loss, has_aux=True)(
        critic.params, critic, probabilities, label, judge, adversary, axis_name
    )
    gradients = psum(gradients, axis_name)
    updates, opt_state = adversary.optimizer.update(gradients, critic.opt_state, critic.params)
    seen["discriminator_grad_norm"] = optax.global_norm(gradients)
    params = optax.apply_updates(critic.params, updates)
    return DiscriminatorState(params, batch_stats, opt_state), seen


def _discriminator_loss(
    params: Any,
    critic: DiscriminatorState,
    probabilities: jax.Array,
    label: jax.Array,
    judge: Callable,
    adversary: Adversary,
    axis_name: str | None,
) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
    """The loss of a discriminator of these parameters, its new batch statistics, and what is shown:
    `discriminator_loss`, `d_real` and `d_fake`, see `adversarial.verdict`, and `r1` if any.
    """
    variables, objective = critic.variables | {"params": params}, adversary.objective
    labels = adversarial.soften(label, probabilities, adversary.softening)
    real, _, batch_stats = judge(variables, labels, train=True)
    fake = adversarial.mask_void(probabilities, label)
    fake, _, batch_stats = judge(variables | {"batch_stats": batch_stats}, fake, train=True)
    counts = axis_name, adversary.counted(label, probabilities.shape[-1])
    value = adversarial.discriminator_loss(objective, real, fake, *counts)
    seen = {"discriminator_loss": value}
    for name, scores in (("d_real", real), ("d_fake", fake)):
        seen[name] = adversarial.verdict(objective, scores, *counts)
    if adversary.r1:

        def scores_of(x: jax.Array) -> jax.Array:
            return judge(variables, adversarial.mask_void(x, label), train=True)[0]

        penalty = adversarial.gradient_penalty(scores_of, labels, *counts)
        seen["r1"] = adversary.r1 / 2 * penalty
        value += seen["r1"]
    return value, (batch_stats, seen)
