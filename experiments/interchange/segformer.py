"""Does segjax compute what transformers and SMP compute with a SegFormer, and the other way round?

  python experiments/interchange/segformer.py --peer=peer/bin/python

segformer_peer.py makes weights and logits with the library itself; --peer is a Python that has it,
by default this one. The largest absolute differences of logits go to results/segformer.json, and
the program fails if one exceeds 1e-4 of the largest logit. With --record nothing is checked: names
of tensors and some logits of tiny networks become the fixture of tests/test_segformer_weights.py.
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
from segjax.weights import pretrained  # noqa: E402

CLASSES = 5
LIMIT = 1e-4
# Library, variant, sizes of images, and what it saves of the whole network.
WHOLE = "whole/model.safetensors"
CASES = (
    ("transformers", "b0", ((128, 128), (97, 131)), (WHOLE, "state.safetensors")),
    ("transformers", "b2", ((128, 128), (97, 131)), (WHOLE, "state.safetensors")),
    ("smp", "b0", ((128, 128), (96, 160)), ("state.safetensors",)),
    ("smp", "b2", ((128, 128), (96, 160)), ("state.safetensors",)),
    ("unet", "b0", ((128, 128), (96, 160)), ("state.safetensors",)),
)
METADATA = {"table": {"classes": [f"class {i}" for i in range(CLASSES)]}, "size": (128, 128),
            "fit": "pad"}  # fmt: skip
FLAGS = flags.FLAGS
flags.DEFINE_string("peer", sys.executable, "A Python with the libraries.")
flags.DEFINE_string("record", None, "Write this file (.npz) for the tests, and do nothing else.")


def ask(*arguments: Any) -> None:
    """Runs segformer_peer.py."""
    subprocess.run([FLAGS.peer, HERE / "segformer_peer.py", *map(str, arguments)], check=True)


def load(file: Path, library: str, variant: str) -> tuple[Any, dict, Any]:
    """segjax's network with a file's weights: model, variables and config.model."""
    config = defaults.get_config()
    config.pretrained.path = str(file)
    config.model.update(encoder="mit", name="unet" if library == "unet" else "segformer")
    config.model.mit.variant = variant
    if (library, variant) == ("transformers", "b2"):
        config.model.segformer.channels = 768
    config = pretrained.with_conventions(config, file.parent)
    model = models.build(config.model, CLASSES)
    image = jnp.zeros((1, 64, 64, 3), jnp.uint8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    like = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return model, pretrained.load(file, like), config.model


def difference(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """The largest absolute difference beside the largest value."""
    assert ours.shape == theirs.shape
    return {
        "difference": float(np.abs(ours - theirs).max()),
        "scale": float(np.abs(theirs).max()),
    }


def check(library: str, variant: str, size: tuple[int, int], files: tuple[str, ...]) -> dict:
    """The differences for each file, and for what segjax writes back."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        ask(library, folder, f"--variant={variant}", "--size", *size)
        theirs, result = np.load(folder / "outputs.npz"), {}
        for file in files:
            model, variables, config = load(folder / file, library, variant)
            ours = np.asarray(jax.jit(model.apply)(variables, theirs["image"]))
            result[file] = difference(ours, theirs["logits"])
        written = folder / "written"
        format = "transformers" if library == "transformers" else "safetensors"
        pretrained.write(written, variables, config, METADATA, format)
        ask(library, folder, f"--variant={variant}", f"--read={written}")
        result["written by segjax"] = difference(ours, np.load(folder / "outputs.npz")["read"])
        return result


def record(path: str) -> None:
    """Names, shapes and every n-th logit of each library, for tiny networks and images."""
    fixture = {}
    for library, size in {"transformers": (45, 67), "smp": (64, 96), "unet": (64, 96)}.items():
        with TemporaryDirectory() as folder:
            ask(library, folder, "--variant=tiny", "--size", *size)
            outputs = dict(np.load(Path(folder) / "outputs.npz"))
            logits = outputs["logits"].ravel()
            fixture[f"{library}_logits"] = logits[:: logits.size // 61]
            fixture |= {f"{library}_{name}": outputs[name] for name in ("names", "shapes")}
    np.savez_compressed(path, **fixture)


def main(_: list[str]) -> None:
    if FLAGS.record:
        return record(FLAGS.record)
    result = {}
    for library, variant, sizes, files in CASES:
        for size in sizes:
            name = f"{library} {variant} {'×'.join(map(str, size))}"
            result[name] = check(library, variant, size, files)
            print(name, json.dumps(result[name]), flush=True)
    write_json(HERE / "results" / "segformer.json", result)
    rows = [row for files in result.values() for row in files.values()]
    sys.exit(any(row["difference"] > LIMIT * row["scale"] for row in rows))


if __name__ == "__main__":
    app.run(main)
