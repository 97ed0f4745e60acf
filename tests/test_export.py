"""An exported file: what the run predicts, to be had without segjax, or no file at all."""

import hashlib
import json
import shutil
import sys
import zipfile
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import models
from segjax.data.counts import Report
from segjax.data.shapes import table
from segjax.errors import ConfigError, DataError, ExportError
from segjax.inference import export_run, exporters, networks, verification
from segjax.models.layers import blocks
from segjax.models.layers.attention import Reduction
from segjax.run import workdir
from segjax.run.checkpoints import Checkpoints
from segjax.run.state import TrainState
from segjax.weights import runs

STEP = 7
SHAPES = table()


def images_of(batch, size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (batch, *size, 3), np.uint8)


def drawn(model, seed=0):
    """Variables of a model as training might leave them: training would take a minute."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        names, noise = [key.key for key in path], rng.normal(size=leaf.shape).astype(np.float32)
        if names[-1] == "kernel":
            # The head's are small, so that no probability is 0 or 1, where differences vanish.
            return noise * (2 / np.prod(leaf.shape[:-1])) ** 0.5 * (0.2 if "head" in names else 1)
        return 1 + 0.2 * abs(noise) if names[-1] in ("scale", "var") else 0.2 * noise

    image = jax.ShapeDtypeStruct((1, 64, 64, model.in_channels), jnp.uint8)
    shapes = jax.eval_shape(lambda key, x: model.init(key, x), jax.random.key(0), image)
    return jax.tree_util.tree_map_with_path(draw, dict(shapes))


def write_run(folder, config, table=SHAPES, seed=0):
    """A run with drawn weights."""
    variables = drawn(models.build(config.model, len(table.names)), seed)
    counts = np.ones(len(table.names), int)
    workdir.save(folder, config, Report(table, pixel_counts={"train": counts}))
    checkpoints = Checkpoints(folder)
    state = TrainState(np.array(STEP), **variables, opt_state=np.zeros(1), ema=variables)
    checkpoints.save(state, {}, mean_iou=0.5)
    checkpoints.close()


@pytest.fixture(scope="module")
def run(shared_tiny_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "run"
    write_run(folder, shared_tiny_config)
    return folder


@pytest.fixture(scope="module")
def trained(run):
    return runs.restore(run)


@pytest.fixture(scope="module")
def logits(trained):
    """The run's own function, image by image: compiled once for what many tests compare with."""
    single = networks.of(trained).logits
    return lambda images: np.concatenate([single(image[None]) for image in images])


@pytest.fixture(scope="module")
def stablehlo(run):
    path = run.parent / "made" / "model.zip"
    return path, export_run.export_run(run, path, "stablehlo", verify=True)


@pytest.fixture(scope="module")
def onnx(run):
    pytest.importorskip("jax2onnx")
    pytest.importorskip("onnxruntime")
    path = run.parent / "model.onnx"
    return path, export_run.export_run(run, path, "onnx", verify=True)


@pytest.fixture(params=["stablehlo", "onnx"])
def exported(request):
    """A program of either format, and what its verification returned."""
    return request.getfixturevalue(request.param)


def assert_equal_predictions(logits, label, probabilities):
    expected = np.asarray(jax.nn.softmax(logits))
    assert len(np.unique(expected.argmax(-1))) > 3  # or equal labels would say nothing
    assert (label == expected.argmax(-1)).mean() > 0.999
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_file_predicts_what_the_run_does(exported, logits, batch):
    network, _ = networks.read_file(exported[0])
    images = images_of(batch, (32, 32))
    scores = np.asarray(network.logits(images))
    assert scores.dtype == np.float32
    assert_equal_predictions(logits(images), scores.argmax(-1), jax.nn.softmax(scores))


def test_verification_finds_no_difference_and_leaves_the_file_alone(exported):
    path, result = exported
    assert result["images"] == 6 and result["different"] == 0
    assert result["mean_iou"] == result["exported_mean_iou"] > 0
    assert path.is_file() and not list(path.parent.glob(".*"))


def test_stablehlo_needs_jax_alone_and_takes_any_size(stablehlo, logits):
    with zipfile.ZipFile(stablehlo[0]) as file:
        program = jax.export.deserialize(bytearray(file.read("model.stablehlo")))
    images = images_of(1, (45, 70))
    outputs = program.call(images)
    assert set(outputs) == {"label", "probabilities"}
    assert outputs["label"].dtype == np.uint8 and outputs["label"].shape == (1, 45, 70)
    assert outputs["probabilities"].dtype == np.float32
    assert_equal_predictions(logits(images), outputs["label"], outputs["probabilities"])
    assert set(program.platforms) == {"cpu", "cuda", "rocm", "tpu"}


def test_onnx_needs_onnx_runtime_alone_and_takes_the_size_it_was_trained_on(onnx, logits):
    import onnxruntime as ort

    session = ort.InferenceSession(onnx[0], providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    assert (entry.name, entry.type, entry.shape) == ("image", "tensor(uint8)", ["batch", 32, 32, 3])
    outputs = {output.name: output.type for output in session.get_outputs()}
    assert outputs == {"label": "tensor(uint8)", "probabilities": "tensor(float)"}
    images = images_of(3, (32, 32))
    assert_equal_predictions(logits(images), *session.run(None, {"image": images}))
    for size in [(45, 70), (64, 64), (32, 31)]:
        with pytest.raises(Exception, match="Got invalid dimensions"):
            session.run(None, {"image": images_of(1, size)})


def test_onnx_can_be_averaged_over_mirrored_images(onnx):
    network = networks.averaged(networks.read_file(onnx[0])[0], ["flip"])
    images = images_of(1, (32, 32))
    mirrored = network.logits(images[:, :, ::-1])[:, :, ::-1]
    np.testing.assert_allclose(network.logits(images), mirrored, atol=1e-4)


def raw_metadata(path):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as file:
            return json.loads(file.read("metadata.json"))
    import onnxruntime as ort

    return json.loads(ort.InferenceSession(path).get_modelmeta().custom_metadata_map["segjax"])


def test_a_file_says_what_it_is(exported, run, trained):
    found = raw_metadata(exported[0])
    config = json.loads((run / "config.json").read_text())
    assert found["table"]["classes"] == list(table().names)
    assert found["table"]["palette"] == table().palette.tolist()
    assert [found["mean"], found["std"]] == [config["model"][name] for name in ("mean", "std")]
    assert (found["size"], found["fit"], found["step"]) == ([32, 32], "resize", STEP)
    canonical = json.dumps(config, sort_keys=True).encode()
    assert found["config_sha256"] == hashlib.sha256(canonical).hexdigest()

    network, metadata = networks.read_file(exported[0])
    assert metadata == found == exporters.metadata(trained)
    assert network.table == table() and (network.table.palette == table().palette).all()
    assert network.fit[:2] == ((32, 32), True)
    assert network.fit.fixed_size == (exported[0].suffix == ".onnx")


def test_another_configuration_or_other_weights_have_another_hash(trained):
    config = trained.config.copy_and_resolve_references()
    config.optim.learning_rate *= 2
    variables = jax.tree.map(lambda x: x + 1, trained.variables)
    first = exporters.metadata(trained)
    for other, name in (
        (trained._replace(config=config), "config_sha256"),
        (trained._replace(variables=variables), "parameters"),
    ):
        metadata = exporters.metadata(other)
        assert {key for key in first if first[key] != metadata[key]} == {name}


def test_a_file_that_predicts_something_else_is_not_written(run, trained, tmp_path, monkeypatch):
    other = jax.tree.map(lambda x: x[..., ::-1], trained.variables)
    corrupted = tmp_path / "corrupted"
    exporters.to_stablehlo(trained._replace(variables=other), corrupted)
    monkeypatch.setattr(exporters, "to_stablehlo", lambda _, path: shutil.copy(corrupted, path))
    output = tmp_path / "out" / "model.zip"
    with pytest.raises(ExportError, match=f"{output} was not written: it predicts something else"):
        export_run.export_run(run, output, verify=True)
    assert not list(output.parent.iterdir())


@pytest.fixture
def quickly_restored(trained, monkeypatch):
    """A checkpoint takes a second to read."""
    monkeypatch.setattr(runs, "restore", lambda *_, **__: trained)


@pytest.mark.usefixtures("quickly_restored")
def test_the_earlier_file_stays_unless_differences_are_small(run, tmp_path, monkeypatch):
    result = {"images": 1, "dtype": "float32", "different": 0.0}
    result |= {"mean_iou": 0.5, "exported_mean_iou": 0.5}
    monkeypatch.setattr(exporters, "to_stablehlo", lambda _, path: path.write_bytes(b"new"))
    output = tmp_path / "model.zip"
    output.write_bytes(b"earlier")
    for too_much in ({"different": 0.0011}, {"mean_iou": 0.4989}, {"exported_mean_iou": 0.4989}):
        monkeypatch.setattr(verification, "compare", lambda *_, changed=too_much: result | changed)
        with pytest.raises(ExportError, match="allowed are"):
            export_run.export_run(run, output, verify=True)
        assert output.read_bytes() == b"earlier" and list(tmp_path.iterdir()) == [output]
    small = result | {"different": 0.0009, "mean_iou": 0.5009}
    monkeypatch.setattr(verification, "compare", lambda *_: small)
    assert export_run.export_run(run, output, verify=True) == small
    assert output.read_bytes() == b"new" and list(tmp_path.iterdir()) == [output]


@pytest.mark.usefixtures("quickly_restored")
def test_an_export_that_fails_leaves_no_part_of_a_file(run, tmp_path, monkeypatch):
    def fail(trained, path):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(exporters, "to_stablehlo", fail)
    with pytest.raises(OSError, match="no space"):
        export_run.export_run(run, tmp_path / "model.zip")
    assert not list(tmp_path.iterdir())


def zip_of(**members):
    def write(path):
        with zipfile.ZipFile(path, "w") as file:
            for name, content in members.items():
                file.writestr(name.replace("_", "."), content)

    return write


@pytest.mark.parametrize(
    "write",
    [
        lambda path: None,
        lambda path: path.mkdir(),
        lambda path: path.write_text("a text\n" * 100),
        lambda path: path.write_bytes(b""),
        zip_of(readme_txt="another zip"),
        zip_of(model_stablehlo=b"", metadata_json="{}"),
        zip_of(model_stablehlo=b"no program, but long enough for one", metadata_json="{}"),
    ],
    ids=["missing", "folder", "text", "empty", "other zip", "empty program", "no program"],
)
def test_what_is_no_export_is_named(write, tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "model"
    write(path)
    with pytest.raises(DataError, match=f"{path} is not a file that segjax.export wrote"):
        networks.read_file(path)


@pytest.mark.parametrize("part", ["first half", "program", "metadata"])
def test_a_damaged_file_is_named(stablehlo, part, tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "model.zip"
    content = bytearray(stablehlo[0].read_bytes())
    if part == "first half":
        del content[len(content) // 2 :]
    elif part == "program":
        content[len(content) // 2] ^= 255
    path.write_bytes(content)
    if part == "metadata":
        with zipfile.ZipFile(stablehlo[0]) as file:
            zip_of(model_stablehlo=file.read("model.stablehlo"), metadata_json="[1]")(path)
    with pytest.raises(DataError, match=f"{path} is not a file that segjax.export wrote"):
        networks.read_file(path)


def test_an_onnx_file_of_another_program_is_named(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "other", ends[:1], ends[1:])
    opset = onnx.helper.make_opsetid("", 18)
    path = tmp_path / "other.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    with pytest.raises(DataError, match=f"{path} is not a file that segjax.export wrote"):
        networks.read_file(path)


def test_a_jax_that_jax2onnx_does_not_know_is_told(trained, tmp_path, monkeypatch):
    jax2onnx = pytest.importorskip("jax2onnx")

    def fails(*_, **__):
        raise AttributeError("module 'jax' has no attribute 'moved'")

    monkeypatch.setattr(jax2onnx, "to_onnx", fails)
    with pytest.raises(ConfigError, match=rf"fails with jax {jax.__version__} .*'moved'.* stableh"):
        exporters.to_onnx(trained, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_told_with_what_installs_it(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ConfigError, match=r"pip install --no-deps -r requirements-onnx\.txt"):
        exporters.to_onnx(trained, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"an ONNX file, for all that is known")
    with pytest.raises(ConfigError, match=f"{path}.*pip install onnxruntime"):
        networks.read_file(path)


@pytest.mark.parametrize("size", [(8, 10), (7, 9)], ids=str)
@pytest.mark.parametrize(
    "layer",
    [
        blocks.PointwiseConv(5),
        blocks.DepthwiseConv(1),
        blocks.DepthwiseConv(2),
        blocks.DepthwiseConv(use_bias=True),
        Reduction(3),
    ],
    ids=["pointwise", "depthwise", "depthwise of stride 2", "depthwise with bias", "reduction"],
)
def test_a_layer_as_a_convolution_is_the_same_function(layer, size):
    image, key = jax.random.normal(jax.random.key(0), (2, *size, 6)), jax.random.key(1)
    params = layer.init(key, image)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # biases start at 0

    def as_convolution(params, image):
        with nn.intercept_methods(blocks.as_convolution):
            return layer.apply(params, image)

    def value_and_gradients(function):
        value, pullback = jax.vjp(function, params, image)
        return value, pullback(jax.random.normal(key, value.shape))

    assert "conv_general_dilated" in str(jax.make_jaxpr(as_convolution)(params, image))
    assert "conv_general_dilated" not in str(jax.make_jaxpr(layer.apply)(params, image))
    both = jax.jit(lambda: [value_and_gradients(f) for f in (layer.apply, as_convolution)])
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, *both())
