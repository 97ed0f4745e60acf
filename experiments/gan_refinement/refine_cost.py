"""What refining costs over the segmenter alone: time per image, temporary memory, size.

  python experiments/gan_refinement/refine_cost.py --field=camvid --refiner=refiner

For the runs of refine.py and the largest image of the validation split: the median time of 10
predictions in turns, the segmenter alone, refined everywhere, and refined only in windows that are
uncertain or hold an edge; what the refiner's program allocates beside its arguments, its
floating-point operations and parameters. Writes results/refine_cost_FIELD.json.
"""

import statistics
import sys
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from segjax.data.fitting import padded_shape  # noqa: E402
from segjax.data.sources import build_source  # noqa: E402
from segjax.inference import networks  # noqa: E402
from segjax.inference.predictor import Predictor  # noqa: E402
from segjax.runtime.files import write_json  # noqa: E402
from segjax.weights import runs  # noqa: E402

REPEATS = 10
FLAGS = flags.FLAGS
flags.DEFINE_string("field", "camvid", "As in refine.py.")
flags.DEFINE_integer("seed", 0, "As in refine.py.")
flags.DEFINE_string("refiner", "refiner", "The arm that is measured.")
flags.DEFINE_string("runs", "runs/refine", "As in refine.py.")


def main(_: list[str]) -> None:
    folder = Path(FLAGS.runs) / FLAGS.field / str(FLAGS.seed)
    segmenter, refiner = (runs.restore(folder / arm) for arm in ("segmenter", FLAGS.refiner))
    source = build_source(segmenter.config.data, "val")
    images = (source[i]["image"] for i in range(len(source)))
    image = max(images, key=lambda image: image.shape[0] * image.shape[1])
    refined = networks.of(refiner)
    models = {
        "segmenter": Predictor(networks.of(segmenter)),
        "refined": Predictor(refined),
        "refined where uncertain": Predictor(networks.only_uncertain(refined)),
    }
    seconds = {name: [] for name in models}
    for _ in range(REPEATS + 1):  # the first compiles
        for name, model in models.items():
            start = time.perf_counter()
            model.label(image)
            seconds[name].append(time.perf_counter() - start)
    shape = (1, *padded_shape(image.shape[:2]), refiner.model.in_channels)
    whole = jax.jit(refiner.logits).lower(jax.ShapeDtypeStruct(shape, "float32")).compile()
    parameters = sum(np.size(p) for p in jax.tree.leaves(refiner.variables["params"]))
    content = {
        "size": list(image.shape[:2]),
        "windows": models["refined"].fit.is_tiled(image.shape[:2]),
        "ms": {name: 1000 * statistics.median(values[1:]) for name, values in seconds.items()},
        "whole_mib": whole.memory_analysis().temp_size_in_bytes / 2**20,
        "whole_gflop": whole.cost_analysis()["flops"] / 1e9,
        "parameters": int(parameters),
    }
    write_json(HERE / "results" / f"refine_cost_{FLAGS.field}.json", content)
    print(content)


if __name__ == "__main__":
    app.run(main)
