"""Networks of other libraries, used without a training run: predicted with, scored, exported."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from test_export import write_run
from test_segformer_weights import FIXTURE, configured, weights

from experiments.interchange.peer import CLASSES, images
from segjax.data.shapes import table as shapes_table
from segjax.errors import ConfigError, DataError
from segjax.inference import export_run, predictor, segment
from segjax.models import mit
from segjax.training.evaluate_run import evaluate_run
from segjax.weights import downloaded, runs

safetensors = pytest.importorskip("safetensors.numpy")
NAMES = [f"thing {i}" for i in range(CLASSES)]
NETWORK = {"model_type": "segformer", "id2label": dict(enumerate(NAMES))}
PROCESSOR = {"do_resize": False, "image_mean": [0.485, 0.456, 0.406],
             "image_std": [0.229, 0.224, 0.225], "do_reduce_labels": True}  # fmt: skip
IMAGE = images((2, 64, 96, 3))[0]
SMP = {"_model_class": "Segformer", "encoder_name": "mit_b0", "classes": CLASSES}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(mit.VARIANTS, "tiny", mit.Variant((1, 1, 1, 1), (8, 16, 40, 64)))


@pytest.fixture
def folder_of(tmp_path):
    """Writes the folder of a library, with changes of its two files; None leaves a file out."""

    def write(library="transformers", network=NETWORK, processor=PROCESSOR, tensors=()):
        folder = tmp_path / library
        folder.mkdir(exist_ok=True)
        content = {
            n: np.asarray(t, order="C") for n, t in (weights(library) | dict(tensors)).items()
        }
        safetensors.save_file(content, folder / "model.safetensors")
        for name, settings in (("config", network), ("preprocessor_config", processor)):
            if settings is not None:
                (folder / f"{name}.json").write_text(json.dumps(settings))
        return folder

    return write


def logits_of(path, shape):
    image = images((2, *shape, 3))
    logits = predictor.load(path).network.logits(image)
    return np.ravel(logits)[:: logits.size // 61]


@pytest.mark.usefixtures("optimized")
def test_a_folder_of_transformers_computes_what_it_does_there(folder_of):
    path = folder_of()
    np.testing.assert_allclose(logits_of(path, (45, 67)), FIXTURE["transformers_logits"], atol=5e-5)
    model = predictor.load(path)
    assert model.table.names == tuple(NAMES)
    assert model.table.values == tuple((i + 1,) for i in range(CLASSES))
    assert model.table.void == (0, 255)
    assert not model.fit.resizes


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("library", ["smp", pytest.param("unet", marks=pytest.mark.slow)])
def test_a_file_of_smp_needs_no_more_than_itself(library, folder_of):
    path = folder_of(library, network=None, processor=None) / "model.safetensors"
    expected = FIXTURE[f"{library}_logits"]
    np.testing.assert_allclose(logits_of(path, (64, 96)), expected, atol=5e-5)
    trained = downloaded.restore(path)
    assert trained.table.names == tuple(f"class {i}" for i in range(CLASSES))
    assert trained.fit.resizes is False


@pytest.mark.parametrize(
    ("processor", "size", "mean", "std"),
    [
        ({"size": {"height": 64, "width": 96}}, (64, 96), 0.485 * 255, 0.229 * 255),
        ({"size": 48}, (48, 48), 0.485 * 255, 0.229 * 255),
        ({}, (512, 512), 0.485 * 255, 0.229 * 255),
        ({"do_rescale": False}, (512, 512), 0.485, 0.229),
        ({"do_rescale": False, "image_mean": None}, (512, 512), 0.485, 0.229),
        ({"rescale_factor": 0.5}, (512, 512), 0.97, 0.458),
        ({"do_normalize": False}, (512, 512), 0.0, 255.0),
    ],
)
def test_the_preprocessor_is_obeyed(processor, size, mean, std, folder_of):
    own = {key: value for key, value in PROCESSOR.items() if key.startswith("image_")}
    given = {key: value for key, value in (own | processor).items() if value is not None}
    trained = downloaded.restore(folder_of(processor=given))
    assert trained.fit.resizes
    assert trained.fit.size == size
    assert trained.config.model.mean[0] == pytest.approx(mean)
    assert trained.config.model.std[0] == pytest.approx(std)
    assert trained.fit.input(IMAGE).shape == (*size, 3)
    assert not trained.table.void or trained.table.void == (255,)


@pytest.mark.parametrize(
    ("network", "processor", "message"),
    [
        (
            {"num_attention_heads": [1, 2, 4, 8]},
            {},
            r'"num_attention_heads" is \[1, 2, 4, 8\]; seg',
        ),
        (
            {"hidden_act": "relu"},
            {},
            r'config.json, "hidden_act" is "relu"; segjax has "gelu" only',
        ),
        ({"model_type": "mask2former"}, {}, '"model_type" is "mask2former"'),
        ({}, {"do_center_crop": True}, 'preprocessor_config.json, "do_center_crop" is true'),
        ({}, {"resample": 3}, '"resample" is 3; segjax has 2 only'),
        (
            {},
            {"do_resize": True, "size": {"shortest_edge": 512}},
            '"size" is {"shortest_edge": 512}',
        ),
        ({"id2label": {"0": "one"}}, {}, f'"id2label" does not name the {CLASSES} classes of the'),
        ({"id2label": dict(enumerate(NAMES, 1))}, {}, '"id2label" does not name'),
        ({}, {"do_flip_channel_order": True}, '"do_flip_channel_order" is true'),
        ({}, {"rescale_factor": 0}, "rescale_factor, image_mean or image_std"),
        ({}, {"image_mean": "grey"}, "rescale_factor, image_mean or image_std"),
        ({}, {"image_processor_type": "BeitImageProcessor"}, 'is of "BeitImageProcessor"'),
        ({}, {"reduce_labels": False}, '"do_reduce_labels" and "reduce_labels" disagree'),
    ],
)
def test_what_would_be_computed_otherwise_is_refused(network, processor, message, folder_of):
    path = folder_of(network=NETWORK | network, processor=PROCESSOR | processor)
    with pytest.raises((ConfigError, DataError), match=message):
        predictor.load(path)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"encoder_depth": 4}, '"encoder_depth" is 4; segjax has 5 only'),
        ({"output_stride": 16}, '"output_stride" is 16'),
        ({"activation": "sigmoid"}, '"activation" is "sigmoid"'),
        ({"decoder_use_batchnorm": "inplace"}, '"decoder_use_batchnorm" is "inplace"'),
        ({"decoder_interpolation": "bicubic"}, '"decoder_interpolation" is "bicubic"'),
        ({"decoder_attention_type": "scse"}, '"decoder_attention_type" is "scse"; segjax has none'),
        ({"add_center_block": True}, '"add_center_block": what it changes'),
    ],
)
def test_what_smp_would_compute_otherwise_is_refused(network, message, folder_of):
    with pytest.raises(ConfigError, match=message):
        predictor.load(folder_of("smp", SMP | network, None))


def test_a_null_is_the_default_and_a_scalar_is_of_all_channels(folder_of):
    processor = {"do_resize": None, "size": None, "image_mean": 0.5, "image_std": None}
    trained = downloaded.restore(folder_of(processor=processor | {"do_normalize": None}))
    assert trained.fit.size == (512, 512) and trained.fit.resizes
    assert tuple(trained.config.model.mean) == pytest.approx((127.5,) * 3)
    assert trained.config.model.std[0] == pytest.approx(0.229 * 255)


def test_a_class_that_was_void_in_training_is_void(folder_of):
    trained = downloaded.restore(
        folder_of(network=NETWORK | {"semantic_loss_ignore_index": 0}, processor=None)
    )
    assert trained.table.void == (0, 255) and trained.table.values[:2] == ((), (1,))


def test_names_can_stand_in_a_file_of_their_own(folder_of, tmp_path):
    path, names = folder_of("smp", SMP, None), [f"mine {i}" for i in range(CLASSES)]
    (tmp_path / "classes.json").write_text(json.dumps({"classes": names}))
    assert downloaded.restore(path).table.names[0] == "class 0"
    assert downloaded.restore(path, root=tmp_path).table.names == tuple(names)
    (path / "classes.json").write_text(json.dumps({"classes": ["a", "b"]}))
    with pytest.raises(DataError, match=f"has {CLASSES} classes, and its classes.json names 2"):
        downloaded.restore(path)


def test_settings_of_something_else_beside_a_file_are_no_settings(folder_of):
    path = folder_of(network={"seed": 0}, processor=None)
    assert downloaded.restore(path).table.names[0] == "class 0"
    (path / "preprocessor_config.json").write_text("{}")
    assert downloaded.restore(path).fit.resizes is False
    (path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    with pytest.raises(ConfigError, match=r"is there, but not the config\.json of transformers"):
        downloaded.restore(path)
    (path / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config\.json is no JSON"):
        downloaded.restore(path)


def test_an_encoder_alone_is_no_network(folder_of):
    path = folder_of()
    tensors = {n: t for n, t in weights("transformers").items() if n.startswith("segformer.")}
    safetensors.save_file(tensors, path / "model.safetensors")
    with pytest.raises(ConfigError, match="an encoder of SegFormer and no whole network; train"):
        predictor.load(path)


@pytest.mark.usefixtures("optimized")
def test_one_output_is_the_probability_of_a_foreground(folder_of):
    """SMP's classes=1: sigmoid of the logit, and the class where it is above a half."""
    names = {f"segmentation_head.0.{kind}" for kind in ("weight", "bias")}
    first = {name: weights("smp")[name][:1] for name in names}
    whole = predictor.load(folder_of("smp", None, None)).network.logits(IMAGE[None])[0]
    middle = jnp.median(whole[..., 0])
    first["segmentation_head.0.bias"] = first["segmentation_head.0.bias"] - middle
    model = predictor.load(folder_of("smp", None, None, first))
    assert model.table.names == ("background", "foreground")
    expected = jax.nn.sigmoid(whole[..., 0] - middle)
    label, found = model.label_and_probabilities(IMAGE)
    np.testing.assert_allclose(found[..., 1], expected, atol=1e-3)  # float16
    assert 0.4 < label.mean() < 0.6
    clear = np.abs(expected - 0.5) > 1e-3
    np.testing.assert_array_equal(label[clear], (expected > 0.5)[clear])


def test_reduced_labels_are_written_for_transformers(folder_of, tmp_path):
    export_run.export_run(folder_of(), tmp_path / "out", "transformers")
    processor = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert processor["do_reduce_labels"] is True


@pytest.mark.parametrize("format", ["transformers", "safetensors"])
@pytest.mark.parametrize("fit", ["resize", "pad"])
def test_a_run_that_was_written_for_others_is_read_back_whole(format, fit, tmp_path):
    align_corners = format == "safetensors"
    config = configured(**{"segformer.align_corners": align_corners, "mean": (1.0, 2.0, 3.0)})
    if format == "safetensors":
        config.model.mit.update(norm_epsilon=1e-6, patch_norm_epsilon=1e-5)
    config.data.update(source="shapes", size=(64, 32), fit=fit, value_range=(0.0, 99.0))
    write_run(tmp_path / "run", config, shapes_table())
    path = tmp_path / ("out" if format == "transformers" else "out.safetensors")
    export_run.export_run(tmp_path / "run", path, format)
    run, found = runs.restore(tmp_path / "run"), downloaded.restore(path)
    assert found.table == run.table
    assert found.fit == run.fit
    assert found.model == run.model
    assert tuple(found.config.data.value_range) == (0.0, 99.0)
    jax.tree.map(np.testing.assert_array_equal, found.variables, run.variables)


def write_images(folder, values):
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for i, array in enumerate(images((2, 64, 96, 3))):
        Image.fromarray(np.uint8(array)).save(folder / "images" / f"{i}.png")
        mask = np.full((64, 96), values[i], np.uint8)
        Image.fromarray(mask).save(folder / "masks" / f"{i}.png")


@pytest.mark.usefixtures("optimized")
def test_it_is_predicted_with_scored_and_exported(folder_of, tmp_path):
    path, data = folder_of(), tmp_path / "data"
    write_images(data, values=(3, 0))  # of reduced labels: class 2, and void
    summary = segment.segment(path, str(data / "images"), tmp_path / "out")
    label = np.array(Image.open(tmp_path / "out" / "0.png"))
    np.testing.assert_array_equal(label, predictor.load(path).label(IMAGE))
    assert summary["images"][0]["class_shares"].keys() <= {*NAMES}

    place = {"images": str(data / "images"), "masks": str(data / "masks")}
    report = evaluate_run(path, **place, output=tmp_path / "scores.json")
    assert report["pixel_accuracy"] == pytest.approx((label == 2).mean())
    assert report["checkpoint_step"] == 0
    assert json.loads((tmp_path / "scores.json").read_text())["mean_iou"] == report["mean_iou"]

    done = export_run.export_run(path, tmp_path / "b0.zip", verify=True, data_root=str(data))
    assert done["different"] == 0
    np.testing.assert_array_equal(predictor.load(tmp_path / "b0.zip").label(
        images((2, 64, 96, 3))[0]), label)  # fmt: skip


def test_binary_masks_of_0_and_255_are_not_scored_as_void(folder_of, tmp_path):
    names = {f"segmentation_head.0.{kind}" for kind in ("weight", "bias")}
    first = {name: weights("smp")[name][:1] for name in names}
    path = folder_of("smp", SMP | {"classes": 1, "activation": "sigmoid"}, None, first)
    write_images(tmp_path / "data", values=(0, 255))
    place = {"data_root": str(tmp_path / "data"), "output": tmp_path / "scores.json"}
    with pytest.raises(DataError, match=r"no pixel of 'foreground', but void; .* \[0, 255\]"):
        evaluate_run(path, **place)
    table = {"classes": ["rest", "thing"], "values": [0, 255]}
    (tmp_path / "data" / "classes.json").write_text(json.dumps(table))
    report = evaluate_run(path, **place)
    assert report["per_class"].keys() == {"rest", "thing"}
    assert report["data"]["weights"] == str(path)


def test_what_a_run_has_and_weights_have_not(folder_of, tmp_path):
    path = folder_of()
    with pytest.raises(
        ConfigError, match="give --data_root, or --images and --masks, and --output"
    ):
        evaluate_run(path)
    with pytest.raises(ConfigError, match="--refine is for --workdir"):
        evaluate_run(path, refine=tmp_path)
    with pytest.raises(ConfigError, match="--refine is for --workdir"):
        predictor.load(path, refine=tmp_path)
    with pytest.raises(ConfigError, match="give --data_root"):
        export_run.export_run(path, tmp_path / "b0.zip", verify=True)
    with pytest.raises(DataError, match="no such file or folder"):
        segment.choose(pretrained=str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no weights; give a folder with model\.safetensors or"):
        segment.choose(pretrained=str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="--workdir and --pretrained are given together"):
        segment.choose(workdir=str(tmp_path), pretrained=str(path))
