"""The Mix Transformer as transformers and its authors (NVlabs) save it.

SMP (segmentation_models.pytorch) has the authors' names. The rows are those of the deepest variants
of all stages; a file has the blocks that its own variant has.
"""

from typing import NamedTuple

from segjax.models.mit import VARIANTS
from segjax.weights import mobilenet_v2
from segjax.weights.mapping import CONVOLUTION, DENSE, VECTOR, Row, Shapes

STAGES = range(4)
DEPTHS = [max(variant.depths[stage] for variant in VARIANTS.values()) for stage in STAGES]
STEM = "params/encoder/patches0/kernel"
ORIGINAL = {
    "mean": mobilenet_v2.TORCH["mean"],
    "std": mobilenet_v2.TORCH["std"],
    "mit.norm_epsilon": 1e-6,
    "mit.patch_norm_epsilon": 1e-5,
}
# Whatever layer_norm_eps in its config.json says.
TRANSFORMERS = ORIGINAL | {"mit.norm_epsilon": 1e-5}

# segjax's layers of a block, and how their names in a file go on behind the block's.
PARTS_NVLABS = {
    "norm0": "norm1",
    "norm1": "norm2",
    "attention/query": "attn.q",
    "attention/key": "attn.kv",
    "attention/value": "attn.kv",
    "attention/reduce": "attn.sr",
    "attention/reduce_norm": "attn.norm",
    "attention/out": "attn.proj",
    "mlp/expand": "mlp.fc1",
    "mlp/depthwise": "mlp.dwconv.dwconv",
    "mlp/project": "mlp.fc2",
}
PARTS_HUGGING_FACE = {
    "norm0": "layer_norm_1",
    "norm1": "layer_norm_2",
    "attention/query": "attention.self.query",
    "attention/key": "attention.self.key",
    "attention/value": "attention.self.value",
    "attention/reduce": "attention.self.sr",
    "attention/reduce_norm": "attention.self.layer_norm",
    "attention/out": "attention.output.dense",
    "mlp/expand": "mlp.dense1",
    "mlp/depthwise": "mlp.dwconv.dwconv",
    "mlp/project": "mlp.dense2",
}
PARTS_HUGGING_FACE_5 = {
    "norm0": "layernorm_before",
    "norm1": "layernorm_after",
    "attention/query": "attention.q_proj",
    "attention/key": "attention.k_proj",
    "attention/value": "attention.v_proj",
    "attention/reduce": "attention.sequence_reduction.sequence_reduction",
    "attention/reduce_norm": "attention.sequence_reduction.layer_norm",
    "attention/out": "attention.o_proj",
    "mlp/expand": "mlp.fc1",
    "mlp/depthwise": "mlp.dwconv.dwconv",
    "mlp/project": "mlp.fc2",
}
HALVES = {"attention/key": 0, "attention/value": 1}  # of attn.kv


class Names(NamedTuple):
    """How a library calls the encoder's layers; i is the stage from 0, n from 1, j the block.

    parts: of a block, by the layer in segjax.
    """

    patches: str
    patches_norm: str
    block: str
    stage_norm: str
    parts: dict[str, str]


NVLABS = Names(
    "patch_embed{n}.proj", "patch_embed{n}.norm", "block{n}.{j}", "norm{n}", PARTS_NVLABS
)
HUGGING_FACE = Names(
    "encoder.patch_embeddings.{i}.proj",
    "encoder.patch_embeddings.{i}.layer_norm",
    "encoder.block.{i}.{j}",
    "encoder.layer_norm.{i}",
    PARTS_HUGGING_FACE,
)
# In memory since transformers 5; its files keep the names above.
HUGGING_FACE_5 = Names(
    "stages.{i}.patch_embeddings.proj",
    "stages.{i}.patch_embeddings.layer_norm",
    "stages.{i}.blocks.{j}",
    "stages.{i}.layer_norm",
    PARTS_HUGGING_FACE_5,
)


def layer(name: str, path: str, part: int = 0, parts: int = 1) -> list[Row]:
    """The rows of a layer with a bias; `path` is segjax's, `part` see `Transform`."""
    last = path.rpartition("/")[2]
    kind, transform = "kernel", DENSE
    if "norm" in last:
        kind, transform = "scale", VECTOR
    elif last.startswith(("depthwise", "reduce", "patches")):
        transform = CONVOLUTION
    weight, bias = (t._replace(part=part, parts=parts) for t in (transform, VECTOR))
    return [
        Row(f"{name}.weight", f"params/{path}/{kind}", weight),
        Row(f"{name}.bias", f"params/{path}/bias", bias),
    ]


def encoder(names: Names, prefix: str = "") -> list[Row]:
    """The rows of an encoder whose names begin with `prefix`."""
    rows = []
    for i in STAGES:
        numbers, stage = {"i": i, "n": i + 1}, f"encoder/stage{i}"
        rows += layer(prefix + names.patches.format(**numbers), f"encoder/patches{i}")
        rows += layer(prefix + names.patches_norm.format(**numbers), f"encoder/patches{i}_norm")
        for j in range(DEPTHS[i]):
            block = prefix + names.block.format(j=j, **numbers)
            rows += _block(names.parts, block, f"{stage}_block{j}", is_reduced=i < STAGES[-1])
        rows += layer(prefix + names.stage_norm.format(**numbers), f"{stage}_norm")
    return rows


def _block(parts: dict[str, str], name: str, path: str, is_reduced: bool) -> list[Row]:
    rows = []
    for part, theirs in parts.items():
        if is_reduced or not part.startswith("attention/reduce"):
            halves = (HALVES[part], 2) if theirs == "attn.kv" else ()
            rows += layer(f"{name}.{theirs}", f"{path}/{part}", *halves)
    return rows


def variant_of(shapes: Shapes) -> str | None:
    """The variant of an encoder, from the shapes of its variables; None for one there is not."""
    stages = [f"params/encoder/stage{i}" for i in STAGES]
    depths = tuple(
        sum(f"{stage}_block{j}/norm0/bias" in shapes for j in range(depth))
        for stage, depth in zip(stages, DEPTHS, strict=True)
    )
    channels = tuple(shapes.get(f"{stage}_norm/bias", (0,))[0] for stage in stages)
    return next((name for name, v in VARIANTS.items() if v == (depths, channels)), None)
