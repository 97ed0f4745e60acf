"""Images that are no 8-bit RGB: bands, types, missing pixels, normalisation, file to export."""

import io

import jax
import numpy as np
import pytest
import tifffile

from segjax import defaults
from segjax.data import decode, normalization, pixels, sources
from segjax.data.check import check
from segjax.data.counts import format_report
from segjax.data.label_table import LabelTable
from segjax.data.pixels import Pixels, to_image
from segjax.errors import ConfigError, DataError
from segjax.inference import predictor
from segjax.inference.export_run import export_run
from segjax.run import workdir
from segjax.training import loop
from segjax.training.augment import Light, Options, photometric

TABLE = LabelTable.of_names(["low", "high"])
ANY = Pixels("stored", 4, "uint16")


def tiff(array, **options):
    file = io.BytesIO()
    options = {"photometric": "minisblack"} | options
    if array.ndim == 3 and array.shape[2] > 1:
        options = {"planarconfig": "contig"} | options
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def image_of(data, kind):
    return to_image(decode.read(data, "a"), "a", kind)


def noise(*shape, dtype=np.uint16, seed=0):
    high = 1000 if np.dtype(dtype).itemsize > 1 else 256
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


@pytest.mark.parametrize("dtype", pixels.DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 4, 13, 32])
def test_bands_come_as_they_are_stored(dtype, channels):
    array = noise(5, 6, channels, dtype=dtype)
    found, missing = image_of(tiff(array), Pixels("stored", channels, dtype))
    np.testing.assert_array_equal(found, array, strict=True)
    assert missing is None


@pytest.mark.parametrize("write", ["npy", "npz", "planar", "pages"])
def test_other_files_hold_the_same(write):
    array, kind = noise(5, 6, 4), ANY
    if write == "planar":
        data = tiff(np.moveaxis(array, 2, 0), planarconfig="separate")
    elif write == "pages":
        with pytest.raises(DataError, match=r"4 pages of 16 bits; .*config.data.pages=channels"):
            image_of(tiff(np.moveaxis(array, 2, 0), metadata=None, planarconfig=None), kind)
        data = tiff(np.moveaxis(array, 2, 0), metadata=None, planarconfig=None)
        kind = ANY._replace(pages="channels")
    else:
        file = io.BytesIO()
        {"npy": np.save, "npz": lambda f, a: np.savez_compressed(f, image=a)}[write](file, array)
        data = file.getvalue()
    np.testing.assert_array_equal(image_of(data, kind)[0], array, strict=True)


def test_named_bands_are_taken_in_their_order():
    array = noise(5, 6, 5)
    found, _ = image_of(tiff(array), Pixels("4,1,4", 3, "uint16"))
    np.testing.assert_array_equal(found, array[..., [3, 0, 3]])
    with pytest.raises(DataError, match=r"a: TIFF, 5 bands of 16 bits, .*bands 6 are taken"):
        image_of(tiff(array), Pixels("6", 1, "uint16"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tiff(noise(5, 6, 3)), "3 bands of 16 bits, and of other images bands all 4 are taken"),
        (tiff(noise(5, 6, 4, dtype=np.uint8)), "values of uint8, .* are uint16; .*dtype=float32"),
        (tiff(noise(5, 6, 4, dtype=np.float64)), "values of float32, .* are uint16"),
    ],
)
def test_a_file_unlike_the_others_is_refused_by_name(data, message):
    with pytest.raises(DataError, match=f"^a: .*{message}"):
        image_of(data, ANY)


def test_float32_takes_all_types_exactly():
    for dtype in (np.uint8, np.int16, np.uint16, np.float32):
        array = noise(5, 6, 4, dtype=dtype)
        found, _ = image_of(tiff(array), Pixels("stored", 4, "float32"))
        np.testing.assert_array_equal(found, array.astype(np.float32), strict=True)


def test_pixels_without_data_are_void_and_hold_the_mean_of_the_others():
    array = noise(4, 5, 2).astype(np.float32)
    array[0, 0, 1], array[1, 1, 0] = np.nan, np.inf
    mask = tiff(np.ones((4, 5), np.uint8))
    decoded = decode.decode_example(
        tiff(array), mask, TABLE, "i", "m", Pixels("stored", 2, "float32")
    )
    image, label = decoded.example["image"], decoded.example["label"]
    assert label[0, 0] == label[1, 1] == 255 and (label == 255).sum() == 2
    assert image[0, 0, 0] == array[0, 0, 0]  # the band that is there stays
    np.testing.assert_allclose(image[0, 0, 1], np.nanmean(array[..., 1]), rtol=1e-6)
    stored = decoded.stored()
    assert np.isfinite([stored.low, stored.high]).all()


def test_gaps_in_bands_that_are_not_taken_are_none():
    array = noise(4, 5, 3).astype(np.float32)
    array[0, 0, 0], array[1, 1, 1] = np.nan, np.finfo(np.float32).min  # as GDAL writes no data
    for bands, count in (("2,3", 1), ("3", 0), ("1,2,3", 2)):
        kind = Pixels(bands, len(bands.split(",")), "float32")
        found, missing = image_of(tiff(array), kind)
        assert np.isfinite(found).all() and np.abs(found).max() < 1000
        assert (0 if missing is None else missing.sum()) == count


def test_gdal_s_no_data_value_counts_where_all_bands_have_it():
    array = noise(4, 5, 3) + 1
    array[0, 0], array[1, 1, 0] = 0, 0
    data = tiff(array, extratags=[(42113, "s", 0, "0", True)])
    found, missing = image_of(data, Pixels("stored", 3, "uint16"))
    assert missing.sum() == 1 and missing[0, 0] and found[1, 1, 0] == 0
    assert found[0, 0].tolist() == np.rint(array[array.sum(-1) > 0].mean(0)).tolist()
    # An image that has no data at all trains nothing, and stops nothing.
    found, missing = image_of(
        tiff(array * 0, extratags=[(42113, "s", 0, "0", True)]), ANY._replace(channels=3)
    )
    assert missing.all() and (found == 0).all()


def test_percentiles_of_an_image_become_0_and_1():
    array = np.arange(1000, dtype=np.uint16).reshape(20, 50)
    found, _ = image_of(tiff(array), Pixels("stored", 1, "uint16", per_image=True))
    low, high = np.percentile(array, (0.5, 99.5))
    expected = ((array - low) / (high - low)).clip(0, 1)
    np.testing.assert_allclose(found[..., 0], expected, atol=1e-6)
    assert found.dtype == np.float32
    other, _ = image_of(tiff(array * 3 + 7), Pixels("stored", 1, "uint16", per_image=True))
    np.testing.assert_allclose(other, found, atol=1e-5)  # another scanner's scale


def write_folder(root, arrays, save=tiff, suffix="tif"):
    """By split, images and masks."""
    for split, examples in arrays.items():
        for i, (image, mask) in enumerate(examples):
            for kind, array, end in (("images", image, suffix), ("masks", mask, "tif")):
                folder = root / split / kind
                folder.mkdir(parents=True, exist_ok=True)
                data = (save if kind == "images" else tiff)(array)
                (folder / f"{i}.{end}").write_bytes(data)
    (root / "classes.json").write_text('{"classes": ["low", "high"]}')


def config_of(root, **fields):
    config = defaults.get_config().data
    config.update({"root": str(root)} | fields)
    return config


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([noise(8, 8, 3, dtype=np.uint8)] * 2, ("rgb", 3, "uint8")),
        ([noise(8, 8, 3, dtype=np.uint8), noise(8, 8, 1, dtype=np.uint8)], ("rgb", 3, "uint8")),
        ([noise(8, 8, 1, dtype=np.uint8)] * 2, ("stored", 1, "uint8")),
        ([noise(8, 8, 3)] * 2, ("stored", 3, "uint16")),
        ([noise(8, 8, 4, dtype=np.int16)] * 2, ("stored", 4, "int16")),
        ([noise(8, 8, 5, dtype=np.float64)] * 2, ("stored", 5, "float32")),
    ],
)
def test_what_is_left_open_is_as_the_training_images_have_it(tmp_path, images, expected):
    write_folder(tmp_path, {"train": [(image, noise(8, 8, dtype=np.uint8)) for image in images]})
    found = sources.resolved(config_of(tmp_path))
    assert (found.bands, found.channels, found.dtype) == expected
    assert sources.resolved(found) is found


def test_other_fields_decide_for_themselves(tmp_path):
    write_folder(tmp_path, {"train": [(noise(8, 8, 4), noise(8, 8, dtype=np.uint8))]})
    assert sources.resolved(config_of(tmp_path, value_range=(0.0, 999.0))).bands == "rgb"
    named = sources.resolved(config_of(tmp_path, bands="4,3,2", dtype="float32"))
    assert (named.channels, named.dtype) == (3, "float32")
    with pytest.raises(ConfigError, match=r"config\.data\.bands is 'red'"):
        sources.resolved(config_of(tmp_path, bands="red"))
    many = {"train": [(noise(8, 8, 33), noise(8, 8, dtype=np.uint8))]}
    write_folder(tmp_path / "many", many)
    with pytest.raises(ConfigError, match=r"33 bands, and at most 32"):
        sources.resolved(config_of(tmp_path / "many"))


def test_the_check_names_what_differs_and_measures_the_rest(tmp_path):
    label = np.tile(np.uint8([0, 1]), (8, 4))
    train = [noise(8, 8, 2, seed=i) for i in range(3)]
    val = [noise(8, 8, 2, seed=9)]
    examples = {"train": [(i, label) for i in train], "val": [(i, label) for i in val]}
    write_folder(tmp_path, examples)
    config = sources.resolved(config_of(tmp_path))
    report = check(config, cache=tmp_path / "data.json")
    values = np.stack(train).reshape(-1, 2).astype(float)
    found = report.channels["train"]
    np.testing.assert_allclose(found["mean"], values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found["std"], values.std(0), rtol=1e-12)
    assert found["low"] == values.min(0).tolist() and found["high"] == values.max(0).tolist()
    assert check(config, cache=tmp_path / "data.json").channels == report.channels
    assert "train: channel 2: mean " in format_report(report)
    assert "the network sees images of uint16 [H, W, 2] (config.data.bands)" in report.notes
    full = defaults.get_config()
    full.data = config
    full = normalization.measured(normalization.with_normalization(full), found)
    np.testing.assert_allclose(full.model.mean, values.mean(0), rtol=1e-5)
    assert normalization.fill(full) == tuple(np.rint(values.mean(0)).astype(int).tolist())

    (tmp_path / "train/images/7.tif").write_bytes(tiff(noise(8, 8, 3)))
    (tmp_path / "train/masks/7.tif").write_bytes(tiff(label))
    with pytest.raises(DataError, match=r"7\.tif: TIFF, 3 bands of 16 bits, .* all 2 are taken"):
        check(config)
    config.on_error = "skip"
    assert check(config).num_images["train"] == 3


def test_numbers_that_do_not_fit_the_channels_are_refused():
    config = defaults.get_config()
    config.data.update(bands="stored", channels=4, dtype="uint16", normalize="given")
    with pytest.raises(ConfigError, match=r"config\.model\.mean: 3 given, .* 4 channels"):
        normalization.with_normalization(config)
    config.data.update(normalize="window", windows=(40.0, 400.0))
    with pytest.raises(ConfigError, match=r"config\.data\.windows: 1 given, .* 4 channels"):
        normalization.with_normalization(config)
    config.data.channels = 1
    config.data.windows = (40.0, 400.0, 600.0, 1500.0)
    found = normalization.with_normalization(config)
    assert tuple(found.model.mean) == (40, 600) and tuple(found.model.std) == (200, 750)
    assert normalization.limits(found) == ((-160.0,), (1350.0,))


def test_light_changes_channels_each_by_itself_and_keeps_their_scale():
    options = Options((1, 1), False, False, 0.2, 0.2, 0.2, 0.1, 0.2, noise=0.05, blur=1.5)
    light = Light(4, (100.0,) * 4, (900.0,) * 4, False, (500,) * 4)
    image = noise(32, 32, 4).astype(np.float32)
    changed = jax.jit(lambda key: photometric(key, image, options, light))
    found = np.stack([changed(key) for key in jax.random.split(jax.random.key(0), 20)])
    shift = found.mean((1, 2)) - image.mean((0, 1))
    assert 20 < shift.std() < 200 and np.abs(shift.mean()) < 60
    assert np.abs(np.corrcoef(shift.T) - np.eye(4)).max() < 0.7  # they do not move together
    # Values beyond black and white are no mistakes here: in order, and not cut off.
    plain = options._replace(noise=0.0, blur=0.0)
    ramp = np.tile(np.linspace(-500, 2000, 64, dtype=np.float32)[None, :, None], (4, 1, 4))
    found = np.asarray(photometric(jax.random.key(1), ramp, plain, light))
    assert (np.diff(found, axis=1) > 0).all() and found.max() > 1500


def test_a_blur_keeps_the_sum_and_a_constant():
    options = Options((1, 1), False, False, 0, 0, 0, 0, 0, blur=2.0)
    light = Light(1, (0.0,), (1.0,), False, (0,))
    flat = np.full((9, 9, 1), 3.0, np.float32)
    np.testing.assert_allclose(
        photometric(jax.random.key(0), flat, options, light), flat, rtol=1e-5
    )
    point = np.zeros((41, 41, 1), np.float32)
    point[20, 20] = 1
    found = np.asarray(photometric(jax.random.key(0), point, options, light))
    np.testing.assert_allclose(found.sum(), 1, rtol=1e-4)
    assert 0.02 < found.max() < 0.9 and np.allclose(found, found[::-1])


def signal(count, dtype, scale, seed):
    """Images whose halves differ by less than 1/256 of the range, and their labels."""
    rng, examples = np.random.default_rng(seed), []
    for _ in range(count):
        label = np.zeros((32, 32), np.uint8)
        top, left = rng.integers(0, 16, 2)
        label[top : top + 16, left : left + 16] = 1
        # Of 8 bits both would be 117.
        image = 30_130 + rng.normal(0, 15, (32, 32, 1)) + 120 * label[..., None]
        image = image.repeat(4, 2)
        image[0, 0] = 0
        image[-1, -1] = 65535
        image[0, 1] = rng.integers(0, 65536, 4)  # the sensor uses all of its range, elsewhere
        examples.append(((image / scale).astype(dtype), label))
    return examples


def tiny(tiny_config, root, epochs):
    config = tiny_config.copy_and_resolve_references()
    config.data.update(source="folder", root=str(root))
    config.num_epochs, config.optim.learning_rate = epochs, 1e-2
    config.eval.every_epochs = epochs
    config.augment.scale = (1.0, 1.0)
    config.augment.update(brightness=0.0, contrast=0.0, gamma=0.0)
    return config


@pytest.mark.parametrize(
    ("dtype", "scale", "low", "high"),
    [
        (np.uint16, 1, 0.95, 1),
        # Where the squares mostly lie is all that is left to learn.
        pytest.param(np.uint8, 257, 0, 0.8, marks=pytest.mark.slow),
    ],
    ids=["16", "8"],
)
def test_sixteen_bits_keep_a_signal_that_eight_do_not(
    tiny_config, tmp_path, dtype, scale, low, high
):
    examples = {"train": signal(16, dtype, scale, 0), "val": signal(4, dtype, scale, 1)}
    write_folder(tmp_path / "data", examples)
    config, run = tiny(tiny_config, tmp_path / "data", 30), tmp_path / "run"
    score = loop.train_and_evaluate(config, run)[1]["mean_iou"]
    assert low < score <= high
    if dtype == np.uint8:
        return
    trainer = loop.Trainer(config, run)  # the same command resumes
    assert trainer.start_step == trainer.total_steps == 120
    assert tuple(trainer.config.model.mean) == tuple(workdir.load(run)[0].model.mean)
    trainer.checkpoints.close()
    model = predictor.load(run)
    path = tmp_path / "data/val/images/0.tif"
    image = model.read(path)
    assert image.dtype == np.uint16 and image.shape == (32, 32, 4)
    label = model.label(image)
    assert (label == tifffile.imread(tmp_path / "data/val/masks/0.tif")).mean() > 0.95
    assert model.overlay(image, label).shape == (32, 32, 3)
    with pytest.raises(ValueError, match=r"an image is uint16 \[H, W, 4\], not uint8"):
        model.label(np.zeros((32, 32, 3), np.uint8))


@pytest.mark.parametrize(
    ("fields", "gan"),
    [
        ({"normalize": "window", "windows": (30_000.0, 400.0, 30_000.0, 4000.0)}, False),
        pytest.param({"normalize": "image", "fit": "pad"}, False, marks=pytest.mark.slow),
        pytest.param({"dtype": "float32"}, True, marks=pytest.mark.slow),
    ],
    ids=["window", "image", "float32"],
)
def test_every_normalisation_trains_predicts_and_exports(tiny_config, tmp_path, fields, gan):
    def one_band(examples):
        return [(image[..., :1], label) for image, label in examples]

    examples = {
        "train": one_band(signal(8, np.uint16, 1, 0)), "val": one_band(signal(2, np.uint16, 1, 1)),
    }  # fmt: skip
    write_folder(tmp_path / "data", examples)
    config = tiny(tiny_config, tmp_path / "data", 1)
    config.data.update(fields)
    if gan:
        config.gan.update(objective="hinge", channels=(8, 16))
    _, report = loop.train_and_evaluate(config, tmp_path / "run")
    assert np.isfinite(report["loss"])
    model = predictor.load(tmp_path / "run")
    image = model.read(tmp_path / "data/val/images/0.tif")
    export_run(tmp_path / "run", tmp_path / "a.zip")
    exported = predictor.load(tmp_path / "a.zip")
    assert (exported.label(image) == model.label(image)).mean() > 0.99
    assert exported.network.pixels == model.network.pixels
    assert exported.fit.fill == pytest.approx(model.fit.fill)
