import importlib.util
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import segjax
from segjax import defaults, models
from segjax.errors import ConfigError
from segjax.runtime.devices import Parallel
from segjax.training.validate import validate

FOLDER = Path(segjax.__file__).parents[1] / "configs"
NAMES = sorted({path.stem for path in FOLDER.glob("*.py")} - {"common", "__init__"})


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def variants(name):
    """The variants that a file compares with, besides the one without a name."""
    text = (FOLDER / f"{name}.py").read_text()
    named = {*re.findall(r'variant == "(\w+)"', text)}
    largest = {"segformer_b0", "segformer_b5"} if "segformer.VARIANTS" in text else set()
    return [None, *sorted(named | largest)]


CASES = [(name, variant) for name in NAMES for variant in variants(name)]


def get_config(name, variant):
    return load(name).get_config(*([variant] if variant else []))


def fields(config, prefix=""):
    for key, value in config.items():
        if hasattr(value, "items"):
            yield from fields(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_the_files_and_their_variants_are_found():
    assert ("quickstart", None) in CASES
    assert ("camvid", None) in CASES and ("camvid", "segformer_cpu") in CASES
    assert ("cityscapes", "segformer_b5") in CASES


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_a_configuration_is_valid_and_makes_its_model(name, variant):
    config = get_config(name, variant)
    assert set(fields(config)) == set(fields(defaults.get_config())), "no field but the defaults"
    validate(config, Parallel("jit"))

    model = models.build(config.model, num_classes=5)
    apply = partial(model.init_with_output, jax.random.key(0))
    logits, _ = jax.eval_shape(apply, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8))
    assert logits.shape == (1, 64, 64, 5) and logits.dtype == jnp.float32


@pytest.mark.parametrize("name", [name for name in NAMES if len(variants(name)) > 1])
def test_an_unknown_variant_is_refused_by_name(name):
    with pytest.raises(ConfigError, match="'typo'"):
        get_config(name, "typo")


def test_a_mistyped_field_is_refused_with_a_suggestion():
    config = defaults.get_config().lock()
    with pytest.raises(AttributeError, match='Did you mean "learning_rate"'):
        config.optim.learning_rat = 0.1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("batch_size", 6, "config.batch_size is 6; it must be a positive multiple of the 4"),
        ("num_epochs", 0, "config.num_epochs is 0"),
        ("log_every", 0, "config.log_every is 0"),
        ("checkpoint_minutes", -1.0, "config.checkpoint_minutes is -1.0; it must be at least 0"),
        ("optim.accumulate", 3, "config.optim.accumulate is 3"),
        ("optim.ema_decay", 1.0, "config.optim.ema_decay is 1.0"),
        ("eval.resolution", "full", "config.eval.resolution is 'full'"),
        ("eval.batch_size", 0, "config.eval.batch_size is 0"),
        ("data.size", (32,), "config.data.size is (32,)"),
        ("data.size", (32, 0), "config.data.size is (32, 0)"),
        ("data.size", (32, "x"), "config.data.size is (32, 'x')"),
        ("data.value_range", (4095, 0), "config.data.value_range is (4095, 0)"),
        ("data.value_range", (0,), "config.data.value_range is (0,)"),
        ("data.fit", "crop", "config.data.fit is 'crop'"),
        ("augment.scale", (0.0, 1.0), "config.augment.scale is (0.0, 1.0)"),
        ("model.mobilenet_v2.width", 0.6, "config.model.mobilenet_v2.width is 0.6"),
        ("model.dtype", "float16", "config.model.dtype is 'float16'"),
        ("model.mobilenet_v2.padding", "valid", "config.model.mobilenet_v2.padding is 'valid'"),
        ("model.mobilenet_v2.norm_epsilon", 0.0, "config.model.mobilenet_v2.norm_epsilon is 0.0"),
        ("pretrained.head", "cut", "config.pretrained.head is 'cut'"),
        ("model.unet.upsample", "cubic", "config.model.unet.upsample is 'cubic'"),
        ("model.unet.channels", (8, 8), "config.model.unet.channels is (8, 8); it needs 5"),
        ("loss.class_weights", "median", "config.loss.class_weights is 'median'"),
        ("optim.schedule", "step", "config.optim.schedule is 'step'"),
    ],
)
def test_what_cannot_work_is_refused_by_field_and_value(tiny_config, field, value, message):
    with tiny_config.ignore_type():
        tiny_config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=re.escape(message)):
        validate(tiny_config, Parallel("jit"))


def test_the_tiny_configuration_of_the_tests_is_valid(tiny_config):
    validate(tiny_config, Parallel(tiny_config.parallel))


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("model.width", "did you mean config.model.mobilenet_v2.width?"),
        ("optim.learnig_rate", "did you mean config.optim.learning_rate?"),
        ("model.mobilenet_v2.widht", "did you mean config.model.mobilenet_v2.width?"),
    ],
)
def test_a_file_that_sets_a_field_which_nothing_reads_is_refused(field, told, tiny_config):
    """ml_collections lets a file set any name."""
    *sections, name = field.split(".")
    section = tiny_config
    for part in sections:
        section = section[part]
    section[name] = 0.35
    with pytest.raises(ConfigError, match=re.escape(f"config.{field}: no such field; {told}")):
        validate(tiny_config)
