"""Does segjax compute what the library computes whose weights it has read, and the other way round?

  python experiments/interchange/check.py --peer=peer/bin/python           # torchvision, timm, SMP
  python experiments/interchange/check.py --libraries=keras                # in an own environment

peer.py makes weights and, with the library itself, features at five strides and logits; --peer is
a Python that has the libraries, by default this one. The largest absolute differences go to
results/LIBRARY.json, and the program fails if one exceeds 1e-4. With --record nothing is checked:
the names of the tensors and some of the features become the fixture of tests/test_pretrained.py.
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from segjax import defaults, models  # noqa: E402
from segjax.runtime.files import write_json  # noqa: E402
from segjax.weights import mobilenet_v2, pretrained  # noqa: E402

FILES = {
    "torchvision": ("weights.pth",),
    "timm": ("weights.safetensors",),
    "smp": ("weights.pth",),
    "keras": ("weights.weights.h5", "weights.keras", "weights.h5", "weights_2018.h5"),
}
CLASSES = 5
LIMIT = 1e-4
FLAGS = flags.FLAGS
flags.DEFINE_string("peer", sys.executable, "A Python with the libraries.")
flags.DEFINE_list("libraries", ["torchvision", "timm", "smp"], f"Of {', '.join(FILES)}.")
flags.DEFINE_list("widths", ["1.0", "0.35", "1.4"], "Of the encoder; SMP has 1.0 only.")
flags.DEFINE_bool("wrong", False, "Only: Keras's weights with conventions of PyTorch.")
flags.DEFINE_string("record", None, "Write this file (.npz) for the tests, and do nothing else.")


def ask(*arguments: Any) -> None:
    """Runs peer.py."""
    subprocess.run([FLAGS.peer, HERE / "peer.py", *map(str, arguments)], check=True)


def load(file: Path, width: float, upsample: str = "nearest") -> tuple[Any, dict, Any]:
    """segjax's network with a file's weights: model, variables and config.model."""
    config = defaults.get_config()
    config.pretrained.path, config.model.mobilenet_v2.width = str(file), width
    config.model.unet.upsample = upsample
    config = pretrained.with_conventions(config, file.parent)
    model = models.build(config.model, CLASSES)
    image = jnp.zeros((1, 64, 64, 3), jnp.uint8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    like = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return model, pretrained.load(file, like), config.model


def outputs_of(model: Any, variables: dict, image: np.ndarray) -> dict[str, np.ndarray]:
    """Features and logits of segjax, [B, H, W, C]."""

    @jax.jit
    def apply(variables: dict, image: jax.Array) -> tuple:
        x = (image.astype(jnp.float32) - jnp.array(model.mean)) / jnp.array(model.std)
        encoder = {name: part["encoder"] for name, part in variables.items()}
        return model.encoder.apply(encoder, x, train=False), model.apply(variables, image)

    features, logits = apply(variables, image)
    return {f"stride{2 << i}": np.asarray(f) for i, f in enumerate(features)} | {
        "logits": np.asarray(logits)
    }


def differences(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, dict]:
    """Largest absolute difference of each output, beside its largest value."""
    result = {}
    for name in ours.keys() & theirs.keys():
        assert ours[name].shape == theirs[name].shape, name
        difference = np.abs(ours[name] - theirs[name]).max()
        result[name] = {"difference": float(difference), "scale": float(np.abs(theirs[name]).max())}
    return dict(sorted(result.items()))


def check(library: str, width: float, folder: Path) -> dict[str, dict]:
    """The differences of each of a library's files; of SMP also of what segjax writes back."""
    ask(library, folder, f"--width={width}")
    theirs = dict(np.load(folder / "outputs.npz"))
    result = {}
    for name in FILES[library]:
        model, variables, _ = load(folder / name, width)
        result[name] = differences(outputs_of(model, variables, theirs["image"]), theirs)
    if library == "smp":
        for upsample in ("nearest", "bilinear"):
            result[f"back, {upsample}"] = check_writing(folder, upsample)
    return result


def check_writing(folder: Path, upsample: str) -> dict[str, dict]:
    """segjax's logits against those of SMP with the weights that segjax wrote."""
    model, variables, config = load(folder / "weights.pth", 1.0, upsample)
    file = folder / f"{upsample}.safetensors"
    pretrained.write(file, variables, config, metadata={})
    ask("read", file, folder)
    theirs = dict(np.load(folder / "outputs.npz"))
    ours = outputs_of(model, variables, theirs["image"])
    return differences({"logits": ours["logits"]}, {"logits": theirs["read"]})


def wrong_conventions() -> dict[str, dict]:
    """What Keras's weights compute with one convention of PyTorch: how much the check sees."""
    imagenet = {name: mobilenet_v2.TORCH[name] for name in ("mean", "std")}
    with TemporaryDirectory() as folder:
        ask("keras", folder, "--width=1.0")
        theirs = dict(np.load(Path(folder) / "outputs.npz"))
        model, variables, _ = load(Path(folder) / "weights.keras", 1.0)
    wrong = {
        "padding": model.clone(encoder=model.encoder.clone(padding="symmetric")),
        "norm_epsilon": model.clone(encoder=model.encoder.clone(epsilon=1e-5)),
        "mean and std": model.clone(**imagenet),
    }
    image = theirs["image"]
    return {name: differences(outputs_of(m, variables, image), theirs) for name, m in wrong.items()}


def record(path: str) -> None:
    """Names, shapes and every n-th feature of each library, for small networks and images."""
    fixture = {}
    for library in FLAGS.libraries:
        with TemporaryDirectory() as folder:
            width = 1.0 if library == "smp" else 0.35
            ask(library, folder, f"--width={width}", "--size", 64, 96)
            for name, array in np.load(Path(folder) / "outputs.npz").items():
                if name.startswith(("stride", "logits")):
                    array = array.ravel()[:: array.size // 61]
                if name != "image":
                    fixture[f"{library}_{name}"] = array
    if Path(path).exists():
        fixture = dict(np.load(path)) | fixture
    np.savez_compressed(path, **fixture)


def main(_: list[str]) -> None:
    if FLAGS.record:
        return record(FLAGS.record)
    if FLAGS.wrong:
        return write_json(HERE / "results" / "wrong_conventions.json", wrong_conventions())
    failed = False
    for library in FLAGS.libraries:
        result = {}
        for width in ["1.0"] if library == "smp" else FLAGS.widths:
            with TemporaryDirectory() as folder:
                result[f"width {width}"] = check(library, float(width), Path(folder))
        write_json(HERE / "results" / f"{library}.json", result)
        print(library, json.dumps(result, indent=2))
        rows = [
            row for files in result.values() for file in files.values() for row in file.values()
        ]
        failed |= max(row["difference"] for row in rows) >= LIMIT
    sys.exit(failed)


if __name__ == "__main__":
    app.run(main)
