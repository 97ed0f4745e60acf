"""The adversarial stage: two updates from one forward pass, neither of which changes the other."""

import json
import signal
from contextlib import closing
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from families import SEGFORMER, UNET, use
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_parallel import NUM_CLASSES, assert_close, assert_same_update, batch_with_uneven_void
from test_train import assert_equal_trees, interrupt_after

from segjax import models
from segjax.data.label_table import LabelTable
from segjax.errors import ConfigError, DataError, Interrupted
from segjax.models.layers.blocks import ConvNormAct
from segjax.run import workdir
from segjax.run.checkpoints import Checkpoints
from segjax.run.state import GanState
from segjax.runtime.devices import Parallel
from segjax.training import adversarial, build, gan_step, loop
from segjax.training.evaluate_run import evaluate_run
from segjax.training.validate import validate
from segjax.weights import warm_start

small_batch = partial(batch_with_uneven_void, batch_size=4, size=32)


class Network(nn.Module):
    """A segmenter that compiles in a second; the stage does not depend on which one it is."""

    num_classes: int
    axis_name: str | None = None
    in_channels = 3

    @nn.compact
    def __call__(self, image, train=False):
        x = image.astype(jnp.float32) / 127.5 - 1
        x = ConvNormAct(8, axis_name=self.axis_name, name="conv")(x, train)
        return nn.Conv(self.num_classes, (1, 1), name="head")(x)


def with_small_network(build):
    """`models.build` with `Network` in place of the first family."""

    def build_network(config, num_classes, axis_name=None, channels=3):
        if (config.encoder, config.name) == UNET:
            return Network(num_classes, axis_name)
        return build(config, num_classes, axis_name)

    return build_network


@pytest.fixture(scope="module", autouse=True)
def small_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "build", with_small_network(models.build))
        yield


def with_discriminator(config, objective="hinge", **changes):
    config = config.copy_and_resolve_references()
    config.gan.update(objective=objective, channels=(8, 16), **changes)
    config.augment.update(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, gamma=0.0)
    config.augment.scale = (1.0, 1.0)
    return config


def build_all(config, devices):
    return build.compile_steps(config, devices, NUM_CLASSES, np.ones(NUM_CLASSES), total_steps=8)


def create_state(compiled):
    return build.create_state(compiled, NUM_CLASSES, seed=0)


def copy(tree):
    """Host arrays that a donated state does not take along."""
    return jax.tree.map(np.array, tree)


def moved(before, after):
    return [
        bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True)
    ]


@pytest.mark.parametrize(
    ("network", "is_optimized"),
    [
        (UNET, False),
        (UNET, True),
        pytest.param(SEGFORMER, False, marks=pytest.mark.slow),
    ],
    ids=["small", "small, optimized", "segformer"],
)
def test_with_a_weight_of_zero_the_segmenter_learns_as_without_a_discriminator(
    network, is_optimized, tiny_config, request
):
    use(tiny_config, *network)
    if is_optimized:
        request.getfixturevalue("optimized")
    devices = Parallel("jit", jax.devices()[:1])
    compiled = build_all(with_discriminator(tiny_config, weight=0.0), devices)
    start = create_state(compiled)
    both, plain = devices.replicate(copy(start)), devices.replicate(copy(start.generator))
    for seed in range(3):
        batch = devices.shard(small_batch(seed))
        plain, metrics = compiled.train_step(plain, batch)
        both, gan_metrics = compiled.gan.step(both, batch)
        assert gan_metrics.pop("gan")["gradient_share"] == 0
        assert_equal_trees(gan_metrics, metrics)
    assert_equal_trees(both.generator, plain)
    assert any(moved(start.discriminator.params, both.discriminator.params))
    assert compiled.gan.step._cache_size() == 1  # traced once for all batches


@pytest.fixture(scope="module")
def one(shared_tiny_config):
    """What a step is made of, a state, and a step with factors on its two learning rates and λ."""
    config = with_discriminator(shared_tiny_config, objective="vanilla")
    compiled = build_all(config, Parallel("jit", jax.devices()[:1]))
    parts = compiled.gan.step.__wrapped__.keywords
    adversary = parts["adversary"]

    def scaled(optimizer, factor):
        def update(*args):
            updates, state = optimizer.update(*args)
            return jax.tree.map(lambda u: factor * u, updates), state

        return optimizer._replace(update=update)

    @jax.jit
    def step(state, batch, segmenter_rate, discriminator_rate, weight):
        return compiled.gan.step.__wrapped__(
            state,
            batch,
            optimizer=scaled(parts["optimizer"], segmenter_rate),
            adversary=adversary._replace(
                optimizer=scaled(adversary.optimizer, discriminator_rate),
                weight=lambda _: weight,
            ),
        )

    return parts, create_state(compiled), step


def test_either_update_is_the_same_whether_or_not_the_other_is_made(one):
    _, start, step = one
    both, _ = step(start, small_batch(), 1.0, 1.0, 1.0)
    segmenter_only, _ = step(start, small_batch(), 1.0, 0.0, 1.0)
    discriminator_only, _ = step(start, small_batch(), 0.0, 1.0, 1.0)
    assert_equal_trees(both.generator, segmenter_only.generator)
    assert_equal_trees(both.discriminator, discriminator_only.discriminator)
    assert_equal_trees(segmenter_only.discriminator.params, start.discriminator.params)
    assert_equal_trees(discriminator_only.generator.params, start.generator.params)
    assert all(moved(both.generator.variables, start.generator.variables))
    assert all(moved(both.discriminator.params, start.discriminator.params))


def test_the_gradients_are_those_of_the_two_losses(one):
    parts, start, step = one
    weight, batch = 3.0, small_batch()
    after, metrics = step(start, batch, 1.0, 1.0, weight)

    @jax.jit
    def expected(generator, critic):
        image, label = parts["augment"](batch)

        def judge(params, probabilities):
            variables = {"params": params}
            return parts["adversary"].discriminator.apply(
                variables, image, probabilities, train=True
            )

        def logits_of(params):
            variables = generator.variables | {"params": params}
            return parts["model"].apply(variables, image, train=True, mutable=["batch_stats"])[0]

        def adversarial_loss(logits):
            fake = adversarial.mask_void(jax.nn.softmax(logits), label)
            return weight * adversarial.segmenter_loss("vanilla", judge(critic.params, fake))

        def segmenter_loss(params):
            logits = logits_of(params)
            return parts["loss"](logits, label) + adversarial_loss(logits)

        def discriminator_loss(params):
            probabilities = jax.nn.softmax(logits_of(generator.params))
            real = judge(
                params, adversarial.soften(label, probabilities, parts["adversary"].softening)
            )
            fake = judge(params, adversarial.mask_void(probabilities, label))
            return adversarial.discriminator_loss("vanilla", real, fake)

        logits = logits_of(generator.params)
        norms = [
            optax.global_norm(jax.grad(loss)(logits))
            for loss in (lambda x: parts["loss"](x, label), adversarial_loss)
        ]
        gradients = jax.grad(segmenter_loss)(generator.params)
        critic_gradients = jax.grad(discriminator_loss)(critic.params)
        # Into the optimisers' states: what they make of a gradient of nearly zero is its sign.
        return (
            parts["optimizer"].update(gradients, generator.opt_state, generator.params)[1],
            parts["adversary"].optimizer.update(critic_gradients, critic.opt_state)[1],
            norms[1] / sum(norms),
            optax.global_norm(critic_gradients),
        )

    opt_state, critic_opt_state, share, critic_norm = expected(start.generator, start.discriminator)
    assert_close(after.generator.opt_state, opt_state, 1e-5)
    assert_close(after.discriminator.opt_state, critic_opt_state, 1e-5)
    np.testing.assert_allclose(metrics["gan"]["gradient_share"], share, rtol=1e-5)
    norm = metrics["gan"]["discriminator_grad_norm"]
    np.testing.assert_allclose(norm, critic_norm, rtol=1e-5)
    assert 0.01 < share < 0.99


def logits_gradient(parts, start, label, logits, **changes):
    """Of the losses of one step, at the logits; and what is shown of them."""
    adversary = parts["adversary"]._replace(weight=lambda _: 1.0, **changes)
    image = small_batch()["image"]
    judge = partial(gan_step._judge, adversary.discriminator, image)
    cotangent = partial(gan_step._logits_cotangent, judge=judge, loss=lambda x, *_: 0 * x.sum())
    function = jax.jit(lambda x: cotangent(start, x, label, adversary=adversary, axis_name=None))
    gradient, _, seen = function(logits)
    return np.asarray(gradient), seen


def test_feature_matching_adds_its_share_to_the_adversarial_gradient(one):
    parts, start, _ = one
    label = small_batch()["label"]
    logits = jax.random.normal(jax.random.key(0), (*label.shape, NUM_CLASSES))
    gradients, seen = zip(
        *(
            logits_gradient(parts, start, label, logits, feature_matching=weight)
            for weight in (0.0, 1.0, 3.0)
        ),
        strict=True,
    )
    np.testing.assert_allclose(
        gradients[2] - gradients[0], 3 * (gradients[1] - gradients[0]), rtol=1e-3, atol=1e-9
    )
    assert "feature_matching" not in seen[0]
    assert seen[1]["feature_matching"] == seen[2]["feature_matching"] > 0
    assert seen[0]["adversarial_loss"] == seen[1]["adversarial_loss"]
    np.testing.assert_array_equal((gradients[1] != 0).any(-1), label < NUM_CLASSES)

    closer = logits - 200 * (gradients[1] - gradients[0])
    _, after = logits_gradient(parts, start, label, closer, feature_matching=1.0)
    assert after["feature_matching"] < seen[1]["feature_matching"]


def test_where_they_have_no_weight_features_cost_nothing_and_change_no_bit(
    tiny_config, monkeypatch
):
    def judge_alone(discriminator, image, variables, probabilities, train):
        scores, updates = discriminator.apply(
            variables, image, probabilities, train=train, mutable=["batch_stats"]
        )
        return scores, None, updates.get("batch_stats", {})

    devices, results = Parallel("jit", jax.devices()[:1]), []
    for judge in (judge_alone, gan_step._judge):
        monkeypatch.setattr(gan_step, "_judge", judge)
        compiled = build_all(with_discriminator(tiny_config), devices)
        args = devices.replicate(create_state(compiled)), devices.shard(small_batch())
        flops = compiled.gan.step.lower(*args).compile().cost_analysis()["flops"]
        results.append((*compiled.gan.step(*args), flops))
    assert_equal_trees(*results)


def critic_update(parts, start, label, logits, **changes):
    """The discriminator's gradients, by Adam's mean of them, and what is shown of its losses."""
    adversary = parts["adversary"]._replace(**changes)
    judge = partial(gan_step._judge, adversary.discriminator, small_batch()["image"])
    update = partial(gan_step._update_discriminator, judge=judge, adversary=adversary)
    after, seen = jax.jit(partial(update, axis_name=None))(start.discriminator, logits, label)
    return after.opt_state[0].mu, seen


def test_the_gradient_penalty_is_part_of_the_discriminator_s_loss_by_half_of_gamma(one):
    parts, start, _ = one
    label = small_batch()["label"]
    logits = jax.random.normal(jax.random.key(0), (*label.shape, NUM_CLASSES))
    (without, _), (some, seen), (_, twice) = (
        critic_update(parts, start, label, logits, r1=gamma) for gamma in (0.0, 1e3, 2e3)
    )
    np.testing.assert_allclose(twice["r1"], 2 * seen["r1"], rtol=1e-6)
    assert seen["discriminator_loss"] == twice["discriminator_loss"]

    adversary = parts["adversary"]

    @jax.jit
    @jax.grad
    def expected(params):
        labels = adversarial.soften(label, jax.nn.softmax(logits), adversary.softening)

        def total(x):
            return adversary.discriminator.apply(
                {"params": params}, small_batch()["image"], x, train=True
            ).sum()

        scores = 4 * 14 * 14  # of four images
        gradient = jnp.where((label < NUM_CLASSES)[..., None], jax.grad(total)(labels), 0)
        return 1e3 / 2 * (gradient**2).sum() / scores

    by_hand = expected(start.discriminator.params)
    share = jax.tree.map(lambda a, b: (a - b) / 0.5, some, without)  # 1 - beta 1 of the mean
    for tree in (by_hand, share):
        tree["conv1"].pop("bias")  # ahead of a norm: nothing but rounding
    assert_close(share, by_hand, 1e-3)


def test_only_patches_on_edges_move_either_network_where_that_is_asked(one):
    parts, start, _ = one
    label = np.zeros((4, 32, 32), np.uint8)
    logits = jax.random.normal(jax.random.key(0), (*label.shape, NUM_CLASSES))
    gradient, seen = logits_gradient(parts, start, label, logits, boundary_only=True)
    mean, shown = critic_update(parts, start, label, logits, boundary_only=True, r1=1.0)
    assert not gradient.any() and seen["adversarial_loss"] == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(mean))
    assert shown["discriminator_loss"] == shown["r1"] == 0
    label[0, :4, :4] = 1  # the patches of the scores near its edge are the first 16 pixels
    gradient, _ = logits_gradient(parts, start, label, logits, boundary_only=True)
    assert not gradient[1:].any()
    strength = np.abs(gradient[0]).sum(-1)  # instance norm brings in the rest of the image
    assert strength[:16, :16].mean() > 3 * strength[16:, 16:].mean()


def test_void_has_no_part_in_the_adversarial_gradient(one):
    parts, start, _ = one
    batch = small_batch()
    logits = jax.random.normal(jax.random.key(0), (*batch["label"].shape, NUM_CLASSES))

    @jax.jit
    @jax.grad
    def gradient(logits):
        fake = adversarial.mask_void(jax.nn.softmax(logits), batch["label"])
        variables = start.discriminator.variables
        scores = parts["adversary"].discriminator.apply(
            variables, batch["image"], fake, train=False
        )
        return adversarial.segmenter_loss("vanilla", scores)

    np.testing.assert_array_equal((gradient(logits) != 0).any(-1), batch["label"] < NUM_CLASSES)


def test_a_discriminator_learns_to_tell_labels_from_a_segmenter_that_stays_as_it_is(one):
    _, current, step = one
    for _ in range(30):
        current, metrics = step(current, small_batch(), 0.0, 10.0, 1.0)
    seen = metrics["gan"]
    assert seen["discriminator_loss"] < 0.7 * adversarial.CHANCE["vanilla"]
    assert seen["d_fake"] < 0.5 < seen["d_real"]


ALL = {"feature_matching": 5.0, "r1": 10.0, "boundary_only": True}


@pytest.mark.parametrize("changes", [{}, ALL], ids=["plain", "all"])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_mesh_and_pmap_of_four_devices_equal_one_device(norm, changes, tiny_config):
    tiny_config.optim.name = "sgd"  # whose update is proportional to the gradient
    tiny_config.optim.learning_rate = 0.1
    changes = {"norm": norm, "weight": 1.0, "ramp_epochs": 0.0, **changes}
    config = with_discriminator(tiny_config, "vanilla", **changes)
    results, start = [], None
    for mode, count in (("jit", 1), ("jit", 4), ("pmap", 4)):
        devices = Parallel(mode, jax.devices()[:count])
        compiled = build_all(config, devices)
        start = start or copy(create_state(compiled))
        batch = devices.shard(batch_with_uneven_void(size=32))
        placed = devices.replicate(start)
        with jax.transfer_guard("disallow"):
            after, metrics = compiled.gan.step(placed, batch)
        after, metrics = devices.unreplicate((after, metrics))
        # Adam's mean of the gradients; its first update would be their sign.
        mean = after.discriminator.opt_state[0].mu
        mean["conv1"].pop("bias")  # ahead of a norm: nothing but rounding
        results.append(
            {
                "params": after.generator.params,
                "gradient": mean,
                "others": (after.generator.batch_stats, after.discriminator.batch_stats, metrics),
            }
        )
    one_device, *others = results
    assert one_device["others"][-1]["gan"]["weight"] == 1
    zeros = jax.tree.map(np.zeros_like, one_device["gradient"])
    for other in others:
        assert_same_update(one_device["params"], other["params"], start.generator.params)
        assert_same_update(one_device["gradient"], other["gradient"], zeros)
        assert_close(one_device["others"], other["others"], 1e-4)


@pytest.fixture(scope="module")
def runs(request, shared_tiny_config, tmp_path_factory):
    """Configuration, folder, last state and report of a run with a second stage and of one without.

    Of two epochs, of four steps each; the discriminator comes in for the second.
    """
    finished = {}
    chosen = shared_tiny_config.copy_and_resolve_references()
    use(chosen, *getattr(request, "param", UNET))
    for name, objective in (("plain", "none"), ("gan", "hinge")):
        config = with_discriminator(
            chosen, objective=objective, start_epoch=1, feature_matching=1.0, r1=1.0
        )
        folder = tmp_path_factory.mktemp(name)
        finished[name] = (config, folder, *loop.train_and_evaluate(config, folder))
    return finished


def history(folder, like):
    with closing(Checkpoints(folder)) as checkpoints:
        return checkpoints.restore(like, 8)[1]["history"]


def test_a_run_with_a_discriminator_shows_it_and_is_evaluated_without_it(runs):
    _, folder, state, report = runs["gan"]
    assert isinstance(state, GanState)
    assert int(state.step) == 8
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    tags = events.Tags()["scalars"]
    names = ("d_real", "d_fake", "gradient_share", "discriminator_loss", "feature_matching", "r1")
    for name in names:
        assert [point.step for point in events.Scalars(f"train/gan/{name}")] == [5, 8]
    assert "val/mean_boundary_iou_0.02" in tags
    assert json.dumps(evaluate_run(folder)) == json.dumps(report)


SLOW_SEGFORMER = pytest.mark.parametrize(
    "runs",
    [UNET, pytest.param(SEGFORMER, marks=pytest.mark.slow)],
    indirect=True,
    ids=["small", "segformer"],
)


@SLOW_SEGFORMER
def test_before_its_start_a_discriminator_changes_nothing(runs):
    (_, plain_folder, plain, _), (_, folder, state, _) = runs["plain"], runs["gan"]
    without, with_it = history(plain_folder, plain), history(folder, state)
    assert with_it[0] == without[0]
    assert with_it[1] != without[1]
    assert "train_gan/weight" not in with_it[0]
    # A ramp of one epoch: λ is 1/4, 2/4, 3/4 and all of its value.
    np.testing.assert_allclose(with_it[1]["train_gan/weight"], 0.02 * 0.625, rtol=1e-6)


@SLOW_SEGFORMER
def test_a_run_interrupted_in_the_second_stage_ends_as_if_it_had_not_been(
    runs, tmp_path, monkeypatch
):
    config, folder, whole, _ = runs["gan"]
    with monkeypatch.context() as patch:
        interrupt_after(patch, 6, signal.SIGTERM)
        with pytest.raises(Interrupted, match="stopped at step 6"):
            loop.train_and_evaluate(config, tmp_path)
    parts, _ = loop.train_and_evaluate(config, tmp_path)
    assert_equal_trees(parts, whole)
    assert history(tmp_path, whole) == history(folder, whole)


def test_a_discriminator_that_has_won_is_reported(runs, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(adversarial, "WON", 10.0)
    loop.train_and_evaluate(runs["gan"][0], tmp_path)
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1  # none for the epoch without a discriminator
    assert "discriminator has won" in warnings[0]
    assert "config.gan.learning_rate" in warnings[0]


def test_before_its_start_a_discriminator_stays_as_it_is(runs, tmp_path):
    run = loop.Trainer(runs["gan"][0], tmp_path)
    start = copy(run.start_state)
    after, metrics = run.train_step(1, run.devices.replicate(start), next(run.batches()))
    run.checkpoints.close()
    assert "gan" not in metrics
    assert_equal_trees(after.discriminator, start.discriminator)
    assert all(moved(after.generator.params, start.generator.params))


@pytest.mark.parametrize("name", ["plain", "gan"])
@pytest.mark.parametrize("source", ["plain", "gan"])
def test_a_run_starts_from_the_averages_of_another_s_best_checkpoint(source, name, runs, tmp_path):
    _, source_folder, last, _ = runs[source]
    config = runs[name][0].copy_and_resolve_references()
    config.init_from = str(source_folder)
    run = loop.Trainer(config, tmp_path)
    run.checkpoints.close()
    with closing(Checkpoints(source_folder)) as checkpoints:
        expected = checkpoints.restore_ema(last.ema, checkpoints.find("best"))
    segmenter = run.start_state.generator if name == "gan" else run.start_state
    assert_equal_trees(segmenter.ema, expected)
    assert_equal_trees(segmenter.variables, expected)
    assert segmenter.step == 0


def test_a_start_that_does_not_fit_is_refused_with_its_reason(runs, tmp_path):
    config, folder, _, _ = runs["plain"]
    _, table, _ = workdir.load(folder)
    variables_of = partial(warm_start.variables_of, like={})
    other = LabelTable.from_json('{"classes": ["sky", "road"]}', "")
    with pytest.raises(ConfigError, match=r"config\.init_from .* other classes .* background"):
        variables_of(folder, config, other)
    wide = config.copy_and_resolve_references()
    wide.model.mobilenet_v2.width = 1.0
    with pytest.raises(
        ConfigError, match=r"config\.model\.mobilenet_v2\.width=0\.35, here it is 1\.0"
    ):
        variables_of(folder, wide, table)
    with pytest.raises(DataError, match=r"absent/config\.json is missing"):
        variables_of(tmp_path / "absent", config, table)


def test_a_run_with_other_classes_gives_all_but_the_last_layer_where_that_is_asked(runs):
    config, folder, last, _ = runs["plain"]
    config = config.copy_and_resolve_references()
    config.pretrained.head = "drop"
    other = LabelTable.from_json('{"classes": ["sky", "road"]}', "")
    compiled = build.compile_steps(config, Parallel("jit", jax.devices()[:1]), 2, np.ones(2), 10)
    like = build.create_state(compiled, 2, seed=5).ema
    got = warm_start.variables_of(folder, config, other, like)
    with closing(Checkpoints(folder)) as checkpoints:
        expected = checkpoints.restore_ema(last.ema, checkpoints.find("best"))
    assert_equal_trees(got["params"].pop("head"), like["params"]["head"])
    expected["params"].pop("head")
    assert_equal_trees(got, expected)


def test_spectral_statistics_survive_a_checkpoint(tiny_config, tmp_path):
    config = with_discriminator(tiny_config, norm="none", spectral_norm=True)
    start = create_state(build_all(config, Parallel("jit", jax.devices()[:1])))
    with closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(copy(start), {"history": []})
        restored, _ = checkpoints.restore(start, 0)
    assert restored.discriminator.batch_stats
    assert_equal_trees(restored, start)


@pytest.mark.parametrize(
    ("field", "value"), [("optim.accumulate", 2), ("gan.start_epoch", 2), ("gan.norm", "layer")]
)
def test_settings_that_no_second_stage_has_are_refused_by_name(field, value, tiny_config):
    config = with_discriminator(tiny_config)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=rf"config\.{field} is {value!r}"):
        validate(config, Parallel("jit", jax.devices()[:1]))
