"""SegFormer's weights compute here what they compute in their library, or are refused by name.

tests/data/segformer.npz has the tensors' names and shapes and some logits as transformers and SMP
gave them, of tiny networks whose weights are functions of the names
(experiments/interchange/segformer.py --record).
"""

import json
import re
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
from segjax.data.shapes import table as shapes_table
from segjax.errors import ConfigError, DataError
from segjax.inference import export_run
from segjax.models import mit
from segjax.weights import SOURCES, pretrained, segformer, tensor_files
from segjax.weights.mapping import DENSE

safetensors = pytest.importorskip("safetensors.numpy")
FIXTURE = np.load(Path(__file__).parent / "data" / "segformer.npz")
WHOLE = {"transformers": segformer.HUGGING_FACE, "smp": segformer.SMP, "unet": segformer.SMP_UNET}
QUERY = "segformer.encoder.block.0.0.attention.self.query.weight"


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(mit.VARIANTS, "tiny", mit.Variant((1, 1, 1, 1), (8, 16, 40, 64)))


@cache
def weights(library):
    """What the library's network held when its logits were recorded."""
    names, shapes = FIXTURE[f"{library}_names"], FIXTURE[f"{library}_shapes"]
    return {
        str(n): draw(str(n), tuple(s[s > 0].tolist())) for n, s in zip(names, shapes, strict=True)
    }


@pytest.fixture
def file_of(tmp_path):
    """Writes tensors, with changes: None takes one out."""

    def write(tensors, changes=()):
        tensors = weights(tensors) if isinstance(tensors, str) else tensors
        kept = {n: t for n, t in (tensors | dict(changes)).items() if t is not None}
        path = tmp_path / "model.safetensors"
        safetensors.save_file({n: np.asarray(t, order="C") for n, t in kept.items()}, path)
        return path

    return write


def configured(path="", name="segformer", **fields):
    config = defaults.get_config()
    config.pretrained.path = str(path)
    config.model.update(encoder="mit", name=name)
    config.model.mit.variant = "tiny"
    if name == "segformer":
        config.model.segformer.channels = 8
    config.model.update_from_flattened_dict(fields)
    return config


@cache
def zeros(name="segformer", channels=8, classes=CLASSES):
    """Variables of the network, all of them 0."""
    fields = {"segformer.channels": channels} if name == "segformer" else {}
    model = models.build(configured(name=name, **fields).model, classes)
    image = jnp.zeros((1, 64, 64, 3), jnp.uint8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), dict(shapes))


CHANNELS = {"transformers": 8, "smp": 256}


def zeros_of(library):
    return zeros("unet") if library == "unet" else zeros(channels=CHANNELS[library])


def config_of(library, path):
    if library == "unet":
        return configured(path, "unet")
    return configured(path, **{"segformer.channels": CHANNELS[library]})


def flat(variables):
    return flatten_dict(variables, sep="/")


def logits_of(library, path):
    config = pretrained.with_conventions(config_of(library, path), path.parent)
    variables = pretrained.load(path, zeros_of(library))
    image = images((2, *((45, 67) if library == "transformers" else (64, 96)), 3))
    logits = jax.jit(models.build(config.model, CLASSES).apply)(variables, image)
    return np.ravel(logits)[:: logits.size // 61]


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("library", WHOLE)
def test_logits_are_those_of_the_library(library, file_of):
    expected = FIXTURE[f"{library}_logits"]
    assert expected.std() > 0.5  # or equality would say little
    np.testing.assert_allclose(logits_of(library, file_of(library)), expected, atol=5e-5)


@pytest.mark.usefixtures("optimized")
def test_a_square_kernel_that_is_not_transposed_gives_other_logits(file_of):
    square = {n: t.T for n, t in weights("transformers").items() if n == QUERY}
    assert weights("transformers")[QUERY].shape == (8, 8)
    found = logits_of("transformers", file_of("transformers", square))
    assert np.abs(found - FIXTURE["transformers_logits"]).max() > 1e-3


def test_every_dense_kernel_is_transposed_and_convolutions_are_not_mistaken_for_one():
    dense = ("query", "key", "value", "out", "expand", "project")
    for source in segformer.SOURCES:
        for row in source.rows:
            _, *path, kind = row.variable.split("/")
            if kind == "kernel" and path[-1] in dense + tuple(f"linear{i}" for i in range(4)):
                assert row.transform.axes == DENSE.axes, row
                kernel = np.arange(4.0).reshape(2, 2)
                whole = np.concatenate([kernel] * row.transform.parts)
                np.testing.assert_array_equal(row.transform.read(whole), kernel.T)


@pytest.mark.parametrize("source", segformer.SOURCES, ids=lambda s: f"{s.library} {s.mark}")
def test_every_variable_has_a_row_and_is_read_as_it_was_written(source):
    assert len({row.variable for row in source.rows}) == len(source.rows)
    assert pretrained.recognise(Path(), {source.mark: 0}) is source
    target = flat(zeros("unet") if source is segformer.SMP_UNET else zeros())
    rng = np.random.default_rng(0)
    variables = {n: rng.standard_normal(x.shape).astype(np.float32) for n, x in target.items()}
    if not source.is_whole:
        variables = {n: x for n, x in variables.items() if n.startswith("params/encoder")}
    tensors = source.write(variables)
    read = source.read(tensors, tensors)
    assert read.keys() == variables.keys()
    jax.tree.map(np.testing.assert_array_equal, read, variables)


def as_nvlabs(tensors, prefix=""):
    """The names of the authors for those of SMP's SegFormer."""
    changed = {
        "encoder.": prefix,
        "decoder.mlp_stage.": "decode_head.linear_c",
        "decoder.fuse_stage.0": "decode_head.linear_fuse.conv",
        "decoder.fuse_stage.1": "decode_head.linear_fuse.bn",
        "segmentation_head.0": "decode_head.linear_pred",
    }
    result = {}
    for name, tensor in tensors.items():
        for ours, theirs in changed.items():
            name = theirs + name.removeprefix(ours) if name.startswith(ours) else name
        swap = re.fullmatch(r"decode_head\.linear_c(\d)\.linear\.(\w+)", name)
        name = f"decode_head.linear_c{4 - int(swap[1])}.proj.{swap[2]}" if swap else name
        result[name] = tensor
    return result


def test_files_of_the_authors_hold_the_same(file_of):
    smp = pretrained.load(file_of("smp"), zeros_of("smp"))
    whole = as_nvlabs(weights("smp"), "backbone.")
    unused = {"decode_head.conv_seg.weight": np.ones((5, 256, 1, 1))}
    path = file_of(whole | unused)
    jax.tree.map(np.testing.assert_array_equal, pretrained.load(path, zeros_of("smp")), smp)
    model = pretrained.with_conventions(config_of("smp", path), path.parent).model
    assert model.mit.norm_epsilon == 1e-6 and not model.segformer.align_corners

    encoder = {n: t for n, t in as_nvlabs(weights("smp")).items() if "decode_head" not in n}
    path = file_of(encoder | {"head.weight": np.ones((1000, 64)), "head.bias": np.ones(1000)})
    like = jax.tree.map(lambda leaf: leaf + 3, zeros("unet"))
    loaded = pretrained.load(path, like)["params"]
    jax.tree.map(np.testing.assert_array_equal, loaded["encoder"], smp["params"]["encoder"])
    jax.tree.map(np.testing.assert_array_equal, loaded["decoder"], like["params"]["decoder"])


def test_encoders_of_transformers_hold_the_same_with_and_without_a_classifier(file_of):
    expected = pretrained.load(file_of("transformers"), zeros())["params"]["encoder"]
    encoder = {n: t for n, t in weights("transformers").items() if n.startswith("segformer.")}
    classified = encoder | {"classifier.weight": np.ones((7, 64)), "classifier.bias": np.ones(7)}
    alone = {name.removeprefix("segformer."): tensor for name, tensor in encoder.items()}
    for tensors in (classified, alone):
        loaded = pretrained.load(file_of(tensors), zeros())["params"]
        jax.tree.map(np.testing.assert_array_equal, loaded["encoder"], expected)
        assert not np.any(loaded["decoder"]["linear0"]["kernel"])


def test_conventions_of_the_library_come_along(file_of):
    for library, epsilon, corners in (("transformers", 1e-5, False), ("smp", 1e-6, True)):
        path = file_of(library)
        config = config_of(library, path)
        config.model.mit.norm_epsilon = 0.5
        model = pretrained.with_conventions(config, path.parent).model
        assert (model.mit.norm_epsilon, model.mit.patch_norm_epsilon) == (epsilon, 1e-5)
        assert model.segformer.align_corners == corners
        assert model.mean == (123.675, 116.28, 103.53)


@pytest.mark.parametrize(
    ("library", "fields", "message"),
    [
        ("transformers", {"mit.variant": "b0"}, "mit.variant is 'b0'; set it to 'tiny'"),
        ("transformers", {"segformer.channels": 256}, "channels is 256; set it to 8, or take an"),
        ("unet", {}, "config.model.name is 'segformer'; set it to 'unet'"),
        ("smp", {"encoder": "mobilenet_v2"}, "encoder is 'mobilenet_v2'; set it to 'mit'"),
    ],
)
def test_another_network_is_told_what_to_set(library, fields, message, file_of):
    path = file_of(library)
    with pytest.raises(ConfigError, match=re.escape(message)) as raised:
        pretrained.with_conventions(configured(path, **fields), path.parent)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("variant", ["b0", "b1", "b2", "b3", "b4", "b5"])
def test_the_variant_of_a_file_is_found(variant):
    model = models.build(configured(**{"mit.variant": variant}).model, CLASSES)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), "uint8")
    shapes = flat(dict(jax.eval_shape(model.init, jax.random.key(0), image)))
    shapes = {name: leaf.shape for name, leaf in shapes.items()}
    assert segformer.needed(shapes)["mit.variant"] == variant


def other_variant(monkeypatch, depths, channels):
    monkeypatch.setitem(mit.VARIANTS, "other", mit.Variant(depths, channels))
    model = models.build(configured(**{"mit.variant": "other"}).model, CLASSES)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), dict(shapes))


@pytest.mark.parametrize(
    ("depths", "channels", "error", "message"),
    [
        ((1, 1, 1, 1), (16, 16, 40, 64), ConfigError, "set config.model.mit.variant=tiny"),
        ((1, 1, 2, 1), (8, 16, 40, 64), DataError, "block.2.1.attention.output.dense.bias"),
    ],
)
def test_an_encoder_of_another_size_or_depth_is_refused(
    depths, channels, error, message, file_of, monkeypatch
):
    with pytest.raises(error, match=re.escape(message)):
        pretrained.load(file_of("transformers"), other_variant(monkeypatch, depths, channels))


def test_a_deeper_file_is_refused_by_name(file_of, monkeypatch):
    deeper = flat(other_variant(monkeypatch, (1, 2, 1, 1), (8, 16, 40, 64)))
    path = file_of(segformer.HUGGING_FACE.write(deeper))
    with pytest.raises(
        ConfigError, match=r"the network has no params/encoder/stage1_block1/.*set "
    ):
        pretrained.load(path, zeros())


@pytest.mark.parametrize(
    ("library", "changes", "message"),
    [
        ("transformers", {QUERY: None}, f"{QUERY}: missing"),
        ("transformers", {"extra.weight": np.ones(2)}, "extra.weight: not in transformers's Seg"),
        ("transformers", {QUERY: np.ones((8, 8, 1))}, f"{QUERY} has the shape (8, 8, 1)"),
        ("smp", {"encoder.block1.0.attn.kv.bias": None}, "attn.kv.bias: missing"),
    ],
)
def test_a_tensor_that_is_not_explained_is_named(library, changes, message, file_of):
    path = file_of(library, changes)
    with pytest.raises(DataError, match=re.escape(message)) as raised:
        pretrained.load(path, zeros_of(library))
    assert str(path) in str(raised.value)


def test_other_classes_need_a_new_head(file_of):
    path = file_of("transformers")
    with pytest.raises(ConfigError, match=r"5 classes, the data 3; set config.pretrained.head=dr"):
        pretrained.load(path, zeros(classes=3))
    loaded = pretrained.load(path, zeros(classes=3), head="drop")["params"]
    assert not np.any(loaded["head"]["kernel"]) and np.any(loaded["decoder"]["linear0"]["kernel"])


def test_a_checkpoint_of_mmsegmentation_is_its_state_dict(tmp_path):
    torch = pytest.importorskip("torch")
    state = {name: torch.tensor(tensor) for name, tensor in weights("transformers").items()}
    torch.save({"meta": {"epoch": 1}, "state_dict": state}, tmp_path / "a.pth")
    assert tensor_files.read(tmp_path / "a.pth").keys() == state.keys()


def test_a_file_of_no_known_network_is_named():
    with pytest.raises(DataError, match=r"no SegFormer of segmentation_models.pytorch, transf"):
        pretrained.recognise(Path("a"), {"b": 0})
    assert {source.encoder for source in SOURCES} == {"mobilenet_v2", "mit"}


@pytest.mark.usefixtures("optimized")
def test_a_folder_for_transformers_is_read_back_and_says_what_the_images_need(
    tiny_config, tmp_path
):
    tiny_config.model = configured().model
    tiny_config.model.mean = (1.0, 2.0, 3.0)
    write_run(tmp_path / "run", tiny_config)
    folder = tmp_path / "out"
    result = export_run.export_run(tmp_path / "run", folder, "transformers", verify=True)
    assert result["different"] == 0 and "MiB" in export_run.describe(folder, result)
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "model.safetensors", "preprocessor_config.json")
    }
    network = json.loads((folder / "config.json").read_text())
    assert network["hidden_sizes"] == [8, 16, 40, 64] and network["decoder_hidden_size"] == 8
    assert list(network["id2label"].values()) == list(shapes_table().names)
    images = json.loads((folder / "preprocessor_config.json").read_text())
    assert images["do_resize"] and images["size"] == {"height": 32, "width": 32}
    np.testing.assert_allclose(images["image_mean"], np.array([1, 2, 3]) / 255)
    assert tensor_files.read(folder).keys() == weights("transformers").keys()
    config = pretrained.with_conventions(configured(folder), tmp_path)
    assert config.model.mean == (1.0, 2.0, 3.0)
    with pytest.raises(ConfigError, match=r"--output .*out is a folder that there is"):
        export_run.export_run(tmp_path / "run", folder, "transformers")


METADATA = {"table": {"classes": ["a"] * CLASSES}, "size": (32, 32), "fit": "pad"}


@pytest.mark.parametrize("library", ["smp", "unet"])
def test_what_is_written_for_smp_is_all_that_it_has_and_no_more(library, file_of, tmp_path):
    path = file_of(library)
    config = pretrained.with_conventions(config_of(library, path), path.parent).model
    pretrained.write(tmp_path / "b", pretrained.load(path, zeros_of(library)), config, METADATA)
    written = tensor_files.read(tmp_path / "b")
    assert written.keys() == weights(library).keys()
    for name, tensor in weights(library).items():
        assert written[name].shape == tensor.shape
        assert name.endswith("num_batches_tracked") or (written[name] == tensor).all()
    network = tensor_files.read_header(tmp_path / "b")["network"]
    assert f'{"Unet" if library == "unet" else "Segformer"}("mit_tiny"' in network


@pytest.mark.parametrize(
    ("format", "name", "fields", "message"),
    [
        ("transformers", "segformer", {"mit.norm_epsilon": 1e-6}, "norm_epsilon is 1e-06, and tr"),
        ("transformers", "segformer", {"segformer.align_corners": True}, "corners is True, and tr"),
        ("transformers", "unet", {}, "config.model.name is 'unet', and transformers has segformer"),
        ("safetensors", "segformer", {"mit.norm_epsilon": 1e-6}, "align_corners is False, and seg"),
        ("safetensors", "unet", {}, "norm_epsilon is 1e-05, and segmentation_models.pytorch has 1"),
        ("transformers", "segformer", {"encoder": "mobilenet_v2"}, "encoder is 'mobilenet_v2', of"),
    ],
)
def test_what_a_library_cannot_be_is_refused(format, name, fields, message, tmp_path):
    config = configured(name=name, **fields).model
    with pytest.raises(ConfigError, match=f"--format {format}: .*{re.escape(message)}"):
        pretrained.write(tmp_path / "out", zeros(name), config, METADATA, format)
    assert not (tmp_path / "out").exists()
