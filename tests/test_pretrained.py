"""Weights of other libraries compute here what they compute there, or are refused by name.

tests/data/pretrained.npz has the tensors' names and shapes and some features as the libraries gave
them, for weights that are functions of the names (experiments/interchange/check.py --record).
"""

import json
import re
import zipfile
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from test_export import write_run

from experiments.interchange.peer import CLASSES, draw, images
from segjax import defaults, models
from segjax.errors import ConfigError, DataError
from segjax.inference import export_run, networks
from segjax.run import workdir
from segjax.training import loop
from segjax.weights import SOURCES, mobilenet_v2, pretrained, runs, tensor_files
from segjax.weights.mapping import CONVOLUTION, DENSE, VECTOR, Row

h5py = pytest.importorskip("h5py")
safetensors = pytest.importorskip("safetensors.numpy")
FIXTURE = np.load(Path(__file__).parent / "data" / "pretrained.npz")
SHAPE = (2, 64, 96, 3)
STEM = {"torchvision": "features.0.0.weight", "keras": "Conv1/kernel",
        "timm": "conv_stem.weight", "smp": "encoder.features.0.0.weight"}  # fmt: skip


@cache
def weights(library):
    """What the library's network held when its features were recorded."""
    names, shapes = FIXTURE[f"{library}_names"], FIXTURE[f"{library}_shapes"]
    return {
        str(n): draw(str(n), tuple(s[s > 0].tolist())) for n, s in zip(names, shapes, strict=True)
    }


def save(path, tensors):
    """A .safetensors file, or Keras's of the suffix."""
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            for name, tensor in tensors.items():
                layer, weight = name.split("/")
                file[f"{layer}/{layer}/{weight}:0"] = tensor
    else:
        safetensors.save_file({n: np.ascontiguousarray(t) for n, t in tensors.items()}, path)
    return path


def suffix(library):
    return ".h5" if library == "keras" else ".safetensors"


@pytest.fixture
def file_of(tmp_path):
    """Writes the file of a library, with changes: None takes a tensor out."""

    def write(library, **changes):
        tensors = weights(library) | changes
        kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        return save(tmp_path / f"{library}{suffix(library)}", kept)

    return write


def configured(path="", width=0.35, **fields):
    config = defaults.get_config()
    config.pretrained.path = str(path)
    fields = {"width": width, **fields}
    names = {"width": "mobilenet_v2", "norm_epsilon": "mobilenet_v2", "padding": "mobilenet_v2",
             "channels": "unet", "upsample": "unet"}  # fmt: skip
    config.model.update_from_flattened_dict({f"{names[f]}.{f}": v for f, v in fields.items()})
    return config


@cache
def zeros(width=0.35, classes=CLASSES, **fields):
    """Variables of the network, all of them 0."""
    model = models.build(configured(width=width, **fields).model, classes)
    image = jnp.zeros((1, 64, 64, 3), jnp.uint8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), dict(shapes))


def flat(variables):
    return flatten_dict(variables, sep="/")


@cache
def compiled(model):
    def outputs(variables, image):
        encoder = {name: part["encoder"] for name, part in variables.items()}
        x = (image - jnp.array([[[model.mean]]])) / jnp.array([[[model.std]]])
        features = model.encoder.apply(encoder, x, train=False)
        return {f"stride{2 << i}": feature for i, feature in enumerate(features)}

    return jax.jit(outputs)


def sampled(array):
    return np.ravel(array)[:: array.size // 61]


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("library", ["torchvision", "timm", "keras", "smp"])
def test_features_and_logits_are_those_of_the_library(library, file_of):
    path, width = file_of(library), 1.0 if library == "smp" else 0.35
    config = pretrained.with_conventions(configured(path, width), path.parent)
    model = models.build(config.model, CLASSES)
    variables = pretrained.load(path, zeros(width))
    image = images(SHAPE)
    if library == "smp":  # which has the encoder of torchvision
        outputs = {"logits": jax.jit(model.apply)(variables, image)}
    else:
        outputs = compiled(model)(variables, np.float32(image))
    for name, output in outputs.items():
        expected = FIXTURE[f"{library}_{name}"]
        np.testing.assert_allclose(sampled(output), expected, atol=5e-5)
        assert expected.std() > 0.1  # or equality would say little


def test_weights_of_another_encoder_are_refused(file_of):
    config = configured(file_of("timm"))
    config.model.encoder = "mit"
    with pytest.raises(ConfigError, match=r"of MobileNetV2, and config.model.encoder is 'mit'"):
        pretrained.with_conventions(config, Path("absent"))


def test_conventions_of_the_library_come_along(file_of, caplog):
    caplog.set_level("INFO", "segjax")
    config = configured(file_of("keras"))
    model = pretrained.with_conventions(config, Path("absent")).model
    assert (model.mean, model.std) == ((127.5,) * 3, (127.5,) * 3)
    assert (model.mobilenet_v2.norm_epsilon, model.mobilenet_v2.padding) == (1e-3, "same")
    assert "config.model.mobilenet_v2.padding = same" in caplog.text
    assert config.model.mobilenet_v2.padding == "symmetric"  # the caller's own is left alone
    torch = pretrained.with_conventions(configured(file_of("timm"), padding="same"), Path("absent"))
    assert torch.model == configured().model


def test_a_table_says_what_was_loaded_dropped_and_new(file_of, caplog):
    caplog.set_level("INFO", "segjax")
    pretrained.load(file_of("torchvision"), zeros())
    table = re.sub(" +", " ", caplog.text)
    assert "loaded 260 tensors encoder" in table
    assert "dropped 54 tensors classifier.1.bias, classifier.1.weight and 52 × num_batches" in table
    assert "new 52 tensors decoder, head" in table


def test_what_a_file_does_not_have_stays_as_it_was(file_of):
    like = jax.tree.map(lambda leaf: leaf + 3, zeros())
    loaded = pretrained.load(file_of("timm"), like)
    jax.tree.map(
        np.testing.assert_array_equal,
        [loaded["params"]["decoder"], loaded["params"]["head"], loaded["batch_stats"]["decoder"]],
        [like["params"]["decoder"], like["params"]["head"], like["batch_stats"]["decoder"]],
    )


def old_name(name):
    """As in the files that Keras offers for download."""
    layer, weight = name.replace("expanded_conv_", "block_0_").split("/")
    layer = re.sub(r"block_(\d+)_(\w+)_BN", r"bn\1_conv_\1_bn_\2", layer)
    layer = re.sub(r"block_(\d+)_(\w+)", r"mobl\1_conv_\1_\2", layer)
    return f"{layer}/{'depthwise_' if weight == 'kernel' and 'depthwise' in layer else ''}{weight}"


def save_as_keras_3(path, tensors):
    """CLASS_i/vars/j, as the .weights.h5 in a .keras file is."""
    order = {"gamma": 0, "beta": 1, "moving_mean": 2, "moving_variance": 3, "kernel": 0, "bias": 1}
    inner = path.parent / "inner.h5"
    with h5py.File(inner, "w") as file:
        file["optimizer/vars/0"] = np.ones(3)
        for name, tensor in tensors.items():
            layer, weight = name.split("/")
            group = file.require_group(f"layers/any_{layer}/vars")
            group.attrs["name"] = layer
            group[str(order[weight])] = tensor
    with zipfile.ZipFile(path, "w") as file:
        file.write(inner, "model.weights.h5")
    return path


@pytest.mark.parametrize("layout", ["2018", "whole model", "keras 3"])
def test_every_layout_of_keras_holds_the_same(layout, file_of, tmp_path):
    tensors = weights("keras")
    if layout == "2018":
        old = {old_name(name): tensor for name, tensor in tensors.items()}
        path = save(tmp_path / "old.h5", old | {"Logits/kernel": np.ones((1280, 7))})
        with h5py.File(path) as file:
            assert "mobl3_conv_3_depthwise/mobl3_conv_3_depthwise/depthwise_kernel:0" in file
    elif layout == "keras 3":
        path = save_as_keras_3(tmp_path / "new.keras", tensors)
    else:
        with h5py.File(save(tmp_path / "weights.h5", tensors)) as content:
            path = tmp_path / "model.h5"
            with h5py.File(path, "w") as file:
                content.copy("/", file, "model_weights")
                file["optimizer_weights/iterations"] = 1
    expected = pretrained.load(file_of("keras"), zeros())
    jax.tree.map(np.testing.assert_array_equal, pretrained.load(path, zeros()), expected)


LAST = "features.18.1.running_var"
CONV = "encoder.features.4.conv.2.weight"


@pytest.mark.parametrize(
    ("library", "changes", "error", "message"),
    [
        ("torchvision", {"extra.weight": np.ones(2)}, DataError, "extra.weight: not in "),
        ("torchvision", {LAST: None}, DataError, f"{LAST}: missing"),
        ("smp", {CONV: np.ones((5, 5, 1, 1))}, ConfigError, "(1, 1, 5, 5) there and (1, 1, 144"),
        ("timm", {STEM["timm"]: None}, DataError, "no MobileNetV2 of"),
        ("timm", {"bn1.weight": np.ones((1, 16))}, DataError, "bn1.weight has the shape (1, 16)"),
        ("keras", {"block_3_expand/bias": np.ones(2)}, DataError, "expand/bias: not in Keras"),
    ],
)  # fmt: skip
def test_a_tensor_that_is_not_explained_is_named(library, changes, error, message, file_of):
    like = zeros(1.0 if library == "smp" else 0.35)
    path = file_of(library, **changes)
    with pytest.raises(error, match=re.escape(message)) as raised:
        pretrained.load(path, like)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("library", "fields", "message"),
    [
        ("torchvision", dict(width=1.0), "set config.model.mobilenet_v2.width=0.35"),
        ("keras", dict(width=0.5), "set config.model.mobilenet_v2.width=0.35"),
        ("smp", dict(width=1.0, classes=3), "5 classes, the data 3; set config.pretrained.head"),
        ("smp", dict(width=1.0, channels=(64, 32, 16, 16, 8)), "(256, 128, 64, 32, 16)"),
        ("smp", dict(width=1.0, upsample="transpose"), "and config.model.unet.upsample=nearest"),
    ],
)  # fmt: skip
def test_another_network_is_told_what_to_set(library, fields, message, file_of):
    with pytest.raises(ConfigError, match=re.escape(message)):
        pretrained.load(file_of(library), zeros(**fields))


def test_a_dropped_head_is_new(file_of):
    like = zeros(1.0, classes=3)
    loaded = pretrained.load(file_of("smp"), like, head="drop")
    np.testing.assert_array_equal(
        loaded["params"]["head"]["kernel"], like["params"]["head"]["kernel"]
    )
    assert loaded["params"]["decoder"]["block4_conv1"]["conv"]["kernel"].std() > 0


@pytest.mark.parametrize(("channels", "how"), [(1, "sum"), (1, "tile"), (4, "sum"), (2, "tile")])
def test_a_grey_image_has_the_response_that_it_had_in_all_channels(channels, how, file_of):
    kernel = np.random.default_rng(0).standard_normal((16, channels, 3, 3)).astype(np.float32)
    path = file_of("torchvision", **{STEM["torchvision"]: kernel})
    with pytest.raises(ConfigError, match=f"takes {channels} channels, .* 'sum' or 'tile'"):
        pretrained.load(path, zeros())
    stem = pretrained.load(path, zeros(), channels=how)["params"]["encoder"]["stem"]["conv"][
        "kernel"
    ]
    assert stem.shape == (3, 3, 3, 16)
    if how == "sum" or channels == 1:
        np.testing.assert_allclose(stem.sum(2), kernel.sum(1).transpose(1, 2, 0), atol=1e-5)
    else:  # two channels for red, green and blue: 0, 1, 0, each times 2/3
        expected = kernel.transpose(2, 3, 1, 0)[:, :, [0, 1, 0]] * 2 / 3
        np.testing.assert_allclose(stem, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.h5", b"\x89HDF\r\n\x1a\n and no more"),
        ("a.safetensors", b"\xff" * 8 + b"{"),
        ("a.pth", b""),
    ],
)
def test_a_file_that_cannot_be_read_is_named(name, content, tmp_path):
    if name == "a.pth":
        pytest.importorskip("torch")
    path = tmp_path / name
    with pytest.raises(DataError, match=f"{path}: no such file"):
        tensor_files.read(path)
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path} cannot be read"):
        tensor_files.read(path)


def test_a_dataset_outside_the_file_is_not_read(tmp_path):
    (tmp_path / "secret").write_bytes(np.ones(4, np.float32).tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        external = [(str(tmp_path / "secret"), 0, 16)]
        file.create_dataset("Conv1/Conv1/kernel:0", (4,), "f", external=external)
    with pytest.raises(DataError, match="points to another file"):
        tensor_files.read(tmp_path / "a.h5")


def test_a_missing_package_is_told_with_what_installs_it(file_of, monkeypatch):
    path = file_of("keras")
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ConfigError, match=f"{path}: .* pip install h5py"):
        tensor_files.read(path)


class Payload:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return Path.touch, (self.victim,)


def test_a_pth_file_is_read_and_what_is_pickled_in_it_never_executed(tmp_path):
    torch = pytest.importorskip("torch")
    state = {name: torch.tensor(tensor) for name, tensor in weights("torchvision").items()}
    for legacy in (True, False):
        torch.save(state, tmp_path / "good.pth", _use_new_zipfile_serialization=not legacy)
        read = tensor_files.read(tmp_path / "good.pth")
        assert read.keys() == weights("torchvision").keys()
        np.testing.assert_array_equal(read[LAST], weights("torchvision")[LAST])
        bad = state | {"extra": Payload(tmp_path / "victim")}
        torch.save(bad, tmp_path / "bad.pth", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(DataError, match=r"bad\.pth cannot be read"):
            tensor_files.read(tmp_path / "bad.pth")
    assert not (tmp_path / "victim").exists()


@pytest.fixture(scope="module")
def run(shared_tiny_config, tmp_path_factory):
    """A run that segmentation_models.pytorch can hold."""
    config = shared_tiny_config.copy_and_resolve_references()
    config.model.mobilenet_v2.width = 1.0
    config.model.mean = (1.0, 2.0, 3.0)
    config.data.num_val = 1
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    write_run(folder, config)
    return folder


def test_what_is_written_is_read_back(run, tmp_path):
    path = tmp_path / "model.safetensors"
    result = export_run.export_run(run, path, "safetensors", verify=True)
    assert result["different"] == 0 and result["images"] == 1
    trained = runs.restore(run)
    zero = jax.tree.map(np.zeros_like, trained.variables)
    jax.tree.map(np.testing.assert_array_equal, pretrained.load(path, zero), trained.variables)
    assert tensor_files.read(path).keys() == weights("smp").keys()  # all that SMP has, no more
    header = tensor_files.read_header(path)
    assert "decoder_channels=(8, 8, 8, 8, 8)" in header["network"]
    config = pretrained.with_conventions(configured(path, 1.0, channels=(8,) * 5), Path("absent"))
    assert config.model.mean == (1.0, 2.0, 3.0)
    with pytest.raises(ConfigError, match=f"{path} holds weights and no program"):
        networks.read_file(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("width", 0.5), ("padding", "same"), ("norm_epsilon", 1e-3), ("upsample", "transpose")],
)
def test_what_segmentation_models_pytorch_cannot_be_is_refused(field, value):
    with pytest.raises(ConfigError, match=rf"config.model.\w+.{field} is {value!r}"):
        mobilenet_v2.to_smp({}, configured(**{"width": 1.0} | {field: value}).model)


@pytest.mark.parametrize("source", mobilenet_v2.SOURCES, ids=lambda source: source.library)
def test_every_row_is_read_and_written_and_no_variable_has_two(source):
    assert len({row.variable for row in source.rows}) == len(source.names) == len(source.rows)
    assert {row.variable for row in source.rows} <= flat(zeros(1.0)).keys()
    rng = np.random.default_rng(0)
    for row in source.rows:
        tensor = rng.standard_normal([2, 3, 4, 5][: len(row.transform.axes)])
        array = row.transform.read(tensor)
        np.testing.assert_array_equal(row.transform.write(array), tensor)


def test_a_square_kernel_is_transposed_and_never_passed_as_it_is():
    """Its shape would not tell that it was not: the row of the table does."""
    tensors = {"linear.weight": np.arange(4.0).reshape(2, 2)}
    source = SOURCES[0]._replace(rows=(Row("linear.weight", "params/dense/kernel", DENSE),))
    read = source.read(tensors, tensors)["params/dense/kernel"]
    np.testing.assert_array_equal(read, tensors["linear.weight"].T)
    np.testing.assert_array_equal(
        source.write({"params/dense/kernel": read})["linear.weight"], tensors["linear.weight"]
    )
    for wrong in (VECTOR, CONVOLUTION):
        with pytest.raises(DataError, match=r"linear.weight has the shape \(2, 2\)"):
            rows = (Row("linear.weight", "params/dense/kernel", wrong),)
            source._replace(rows=rows).read(tensors, tensors)


@pytest.mark.usefixtures("optimized")
def test_same_padding_keeps_the_shapes_of_the_features_and_is_exported():
    model = models.build(configured(padding="same").model, CLASSES)
    features = jax.eval_shape(compiled(model), zeros(), jnp.zeros(SHAPE))
    sizes = {name: feature.shape[1:3] for name, feature in features.items()}
    assert sizes == {f"stride{s}": (64 // s, 96 // s) for s in (2, 4, 8, 16, 32)}
    shape = jax.export.symbolic_shape("batch, height, width, 3")
    program = jax.export.export(jax.jit(lambda x: model.apply(zeros(), x)))
    assert program(jax.ShapeDtypeStruct(shape, "uint8")).out_avals[0].shape[1] == shape[1]


def test_a_run_starts_from_a_file_and_resumes_without_it(tiny_config, file_of, tmp_path):
    path = file_of("keras")
    tiny_config.pretrained.path = str(path)
    run = loop.Trainer(tiny_config, tmp_path / "run")
    expected = pretrained.load(path, run.start_state.ema)
    jax.tree.map(np.testing.assert_array_equal, run.start_state.variables, expected)
    jax.tree.map(np.testing.assert_array_equal, run.start_state.ema, expected)
    stored = json.loads((tmp_path / "run" / "config.json").read_text())["model"]
    assert stored["mobilenet_v2"] == {"width": 0.35, "norm_epsilon": 1e-3, "padding": "same"}
    assert stored["mean"] == [127.5] * 3
    run.checkpoints.close()
    (tmp_path / "run" / "checkpoints" / "8").mkdir()
    path.unlink()
    given = workdir.as_trained(tiny_config, tmp_path / "run")
    resumed = pretrained.with_conventions(given, tmp_path / "run")
    assert resumed.model == run.config.model
    workdir.require_same_run(tmp_path / "run", resumed)


def test_work_directories_from_before_are_what_they_were(tiny_config, tmp_path):
    write_run(tmp_path, tiny_config)
    path = tmp_path / "config.json"
    held = json.loads(path.read_text())
    model = held["model"]
    unet, encoder = model.pop("unet"), model.pop("mobilenet_v2")
    del held["pretrained"], model["name"], model["encoder"]
    model |= {"width": encoder["width"], "upsample": unet["upsample"]}
    model["decoder_channels"] = unet["channels"]
    path.write_text(json.dumps(held))
    assert workdir.load(tmp_path)[0].model.mobilenet_v2.padding == "symmetric"
    assert runs.restore(tmp_path).model.encoder.epsilon == 1e-5
    workdir.require_same_run(tmp_path, tiny_config)  # resumes
    held["optim"]["name"] = "sgd"
    del held["optim"]["sgd_decay"]
    path.write_text(json.dumps(held))
    assert workdir.load(tmp_path)[0].optim.sgd_decay == "decoupled"
