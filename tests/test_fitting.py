"""Images of any size meet the network the same way everywhere, whatever is beside them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import SEGFORMER, UNET, use
from test_export import drawn

from segjax import models
from segjax.data import fitting
from segjax.data.label_table import LabelTable
from segjax.data.pipeline import EvalSplit
from segjax.evaluation.evaluator import evaluate
from segjax.inference import networks
from segjax.inference.predictor import Predictor
from segjax.runtime.devices import Parallel
from segjax.training import build
from segjax.weights.runs import Trained

TABLE = LabelTable.of_names([f"class {i}" for i in range(5)])
# One smaller than data.size, which is 32×32, one as large, larger ones; two share a padded size.
SIZES = [(20, 30), (32, 32), (64, 40), (50, 60), (96, 70)]


class Drawn:
    """Images and labels of noise, in blocks, so that predictions are not noise alone."""

    table = TABLE

    def __init__(self, sizes=SIZES):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, i):
        rng, (height, width) = np.random.default_rng(i), self.sizes[i]
        blocks = rng.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), np.uint8)
        image = blocks.repeat(6, 0).repeat(6, 1)[:height, :width]
        return {"image": image, "label": rng.integers(0, 5, (height, width)).astype(np.uint8)}


def test_logits_follow_each_label_s_own_size():
    logits = jax.random.normal(jax.random.key(0), (4, 4, 3))

    @jax.jit
    def reference(size):
        shape = (9, 9, 3), (0, 1)
        return jax.image.scale_and_translate(
            logits, *shape, size / 4, jnp.zeros(2), "linear", antialias=False
        )

    ours = jax.jit(lambda size: fitting.at_size(logits, size, (9, 9)))
    for height, width in ((8, 8), (4, 6), (3, 9)):
        size = jnp.array((height, width))
        out, expected = ours(size), reference(size)
        np.testing.assert_allclose(out[:height, :width], expected[:height, :width], atol=1e-5)


def test_a_padded_size_is_a_function_of_the_image_s_own():
    assert fitting.padded_shape((1, 33)) == (32, 64)
    assert fitting.padded_shape((360, 480)) == (384, 480)
    assert fitting.padded_shape((512, 513)) == (512, 640)
    shapes = {fitting.padded_shape((n, 7)) for n in range(1, 2049)}
    assert len(shapes) == 28 and all(n % 32 == 0 for shape in shapes for n in shape)


@pytest.mark.parametrize(
    ("network", "seed"), [(UNET, 0), (SEGFORMER, 4)], ids=["unet", "segformer"]
)
@pytest.mark.parametrize(("fit", "mode", "count"), [("resize", "pmap", 2), ("pad", "jit", 1)])
def test_prediction_is_the_evaluator_s_pixel_by_pixel(
    fit, mode, count, network, seed, tiny_config, monkeypatch
):
    """Random weights: a trained network would be certain of most pixels, and hide differences."""
    config, source = tiny_config, Drawn()
    use(config, *network)
    config.data.fit = fit
    # The largest images are taken in bands of rows, or in tiles.
    monkeypatch.setattr("segjax.data.pipeline.MAX_LOGITS", 5 * 64 * 60)
    monkeypatch.setattr(fitting, "MAX_BAND", 5000)
    monkeypatch.setattr(fitting, "MAX_PIXELS", 64 * 64)
    monkeypatch.setattr(fitting, "TILE", 32)
    model = models.build(config.model, len(TABLE.names))
    variables = drawn(model, seed)
    variables["params"]["head"]["bias"] *= 0  # or one class would have most pixels
    trained = Trained(model, variables, config, TABLE, 0)
    expected = {}
    predictor = Predictor(networks.of(trained))
    for i in range(len(source)):
        expected[source[i]["label"].tobytes()] = predictor.label(source[i]["image"])
    assert min(len(np.unique(label)) for label in expected.values()) > 1

    devices = Parallel(mode, jax.devices()[:count])
    compiled = build.compile_steps(config, devices, len(TABLE.names), np.ones(5), 1)
    result = evaluate(
        devices.replicate(variables),
        EvalSplit(source, SIZES, config.data),
        step=compiled.eval_step,
        loss=compiled.loss,
        logits=compiled.logits,
        devices=devices,
        batch_size=2,
        num_pictures=len(source),
    )
    assert result.num_images == len(result.pictures) == len(source)
    assert result.num_tiled == (1 if fit == "pad" else 0)
    for _, label, prediction in result.pictures:
        np.testing.assert_array_equal(prediction, expected[label.tobytes()])
    assert result.confusion.sum() == sum(h * w for h, w in SIZES)


def test_what_stands_beside_an_image_changes_nothing(tiny_config):
    tiny_config.data.fit = "pad"
    for sizes in (SIZES, SIZES[:1], [*SIZES, (300, 20)]):
        split = EvalSplit(Drawn(sizes), sizes, tiny_config.data)
        (shape,) = [g.image_shape for g in split.groups if (g[0]["size"] == (20, 30)).all()]
        assert shape == (32, 32)


def test_a_split_in_groups_keeps_no_more_than_allowed_in_memory(tiny_config):
    tiny_config.data.update(fit="pad", cache_gb=20e-6)
    groups = EvalSplit(Drawn(), SIZES, tiny_config.data).groups
    kept = [group.gigabytes for group in groups if group.is_kept]
    assert len(groups) > len(kept) > 0 and sum(kept) <= 20e-6


def test_a_report_says_at_which_size_pixels_were_counted(tiny_config):
    tiny_config.data.size = (32, 48)
    names = []
    for fit, resolution in (("pad", "native"), ("resize", "native"), ("resize", "input")):
        tiny_config.data.fit, tiny_config.eval.resolution = fit, resolution
        names.append(build.resolution_name(tiny_config))
    assert names == [
        "each label's own size",
        "each label's own size, images stretched to 32×48 (height×width)",
        "32×48 (height×width), images and labels stretched to it",
    ]
