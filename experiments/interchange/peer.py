"""The other library's side of check.py; needs that library alone.

  python peer.py torchvision OUT --width=1.0     # or timm, keras, smp
  python peer.py read FILE OUT                   # what segjax.export --format safetensors wrote

The first writes OUT/weights.* with weights drawn by `draw`, as the library itself saves them, and
OUT/outputs.npz: an image, normalised as the library does, and what the library makes of it. All
arrays in it are [B, H, W, C]. The second puts a file into segmentation_models.pytorch's U-Net and
adds its logits, of the image in OUT/outputs.npz, as `read`.
"""

import argparse
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

SHAPE = (2, 96, 128, 3)
CLASSES = 5
STRIDES = (2, 4, 8, 16, 32)


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights that depend on the name, so that two exchanged tensors cannot go unnoticed."""
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("num_batches_tracked"):
        return np.array(7)
    if len(shape) >= 2:
        is_keras = "/" in name  # outputs are last there, and first in PyTorch
        inputs = 9 if "depthwise" in name else np.prod(shape[:-1] if is_keras else shape[1:])
        return np.float32(noise / np.sqrt(inputs))
    if name.endswith(("var", "variance", "gamma", "weight")):
        return np.float32(1 + 0.3 * np.abs(noise))
    return np.float32(0.3 * noise)


def images(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """uint8 [B, H, W, 3]: noise on a slope, so that positions differ."""
    rng = np.random.default_rng(0)
    slope = np.linspace(0, 155, shape[2])[:, None] * rng.random(shape[3])
    return np.uint8(slope + rng.integers(0, 100, shape))


def load_torch() -> Any:
    """torch; where torchvision was built for another one, with the operators it registers."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        import sys

        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        load_torch.library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms", "roi_align", "qroi_align", "_roi_align_backward", "roi_pool",
                     "_roi_pool_backward", "ps_roi_align", "_ps_roi_align_backward", "ps_roi_pool",
                     "_ps_roi_pool_backward", "deform_conv2d",
                     "_deform_conv2d_backward"):  # fmt: skip
            load_torch.library.define(f"{name}(Tensor a) -> Tensor")
    return torch


def normalised_as_imagenet(image: np.ndarray) -> Any:
    """A tensor float32 [B, 3, H, W], by the formula of torchvision's and timm's transforms."""
    import torch

    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return torch.from_numpy(np.float32((image / 255 - mean) / std)).permute(0, 3, 1, 2)


def to_nhwc(tensor: Any) -> np.ndarray:
    return tensor.permute(0, 2, 3, 1).contiguous().numpy()


def make_torch(library: str, width: float, interpolation: str = "nearest") -> Any:
    load_torch()
    if library == "torchvision":
        from torchvision.models import mobilenet_v2

        return mobilenet_v2(width_mult=width)
    if library == "timm":
        import timm

        return timm.create_model(f"mobilenetv2_{round(100 * width):03}")
    import segmentation_models_pytorch as smp

    return smp.Unet(
        "mobilenet_v2",
        encoder_weights=None,
        classes=CLASSES,
        decoder_interpolation=interpolation,
    )


def torch_features(library: str, model: Any, x: Any) -> list[Any]:
    """Every layer's output whose size halves next, as a decoder would take it, and the last."""
    if library == "smp":
        return model.encoder(x)[1:]
    if library == "timm":
        stages = [model.bn1(model.conv_stem(x))]
        for stage in model.blocks:
            stages.append(stage(stages[-1]))
        stages.append(model.bn2(model.conv_head(stages[-1])))
    else:
        stages = [x]
        for layer in model.features:
            stages.append(layer(stages[-1]))
    last = {x.shape[-1] // stage.shape[-1]: stage for stage in stages}
    return [last[stride] for stride in STRIDES]


def run_torch(library: str, width: float, image: np.ndarray, out: Path) -> dict[str, np.ndarray]:
    torch = load_torch()
    model = make_torch(library, width).eval()
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    state = {name: torch.from_numpy(draw(name, shape)) for name, shape in shapes.items()}
    model.load_state_dict(state)
    if library == "timm":
        from safetensors.torch import save_file

        save_file(model.state_dict(), out / "weights.safetensors")
    else:
        torch.save(model.state_dict(), out / "weights.pth")
    x = normalised_as_imagenet(image)
    with torch.inference_mode():
        features = torch_features(library, model, x)
        outputs = {f"stride{s}": to_nhwc(f) for s, f in zip(STRIDES, features, strict=True)}
        if library == "smp":
            outputs["logits"] = to_nhwc(model(x))
    return outputs | names_and_shapes(shapes)


def run_keras(width: float, image: np.ndarray, out: Path) -> dict[str, np.ndarray]:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    size = image.shape[1:]
    make = keras.applications.MobileNetV2
    model = make(input_shape=size, alpha=width, weights=None, include_top=False)
    shapes = {}
    for layer in model.layers:
        names = [f"{layer.name}/{weight.name}" for weight in layer.weights]
        shapes |= {n: tuple(w.shape) for n, w in zip(names, layer.weights, strict=True)}
        layer.set_weights([draw(name, shapes[name]) for name in names])
    model.save_weights(out / "weights.weights.h5")
    model.save(out / "weights.keras")
    model.save(out / "weights.h5")
    save_as_in_2018(model, out / "weights_2018.h5")
    taps = ("expanded_conv_project_BN", "block_2_add", "block_5_add", "block_12_add", "out_relu")
    tapped = keras.Model(model.input, [model.get_layer(name).output for name in taps])
    x = keras.applications.mobilenet_v2.preprocess_input(np.float32(image))
    features = [np.asarray(feature) for feature in tapped(x, training=False)]
    outputs = {f"stride{s}": f for s, f in zip(STRIDES, features, strict=True)}
    return outputs | names_and_shapes(shapes)


def save_as_in_2018(model: Any, path: Path) -> None:
    """The layout and the names of the files that Keras offers for download."""
    import re

    import h5py

    with h5py.File(path, "w") as file:
        for layer in model.layers:
            name = layer.name.replace("expanded_conv_", "block_0_")
            name = re.sub(r"block_(\d+)_(\w+)_BN", r"bn\1_conv_\1_bn_\2", name)
            name = re.sub(r"block_(\d+)_(\w+)", r"mobl\1_conv_\1_\2", name)
            for weight in layer.weights:
                kind = "depthwise_kernel" if "depthwise" in name else "kernel"
                kind = kind if weight.name == "kernel" else weight.name
                file[f"{name}/{name}/{kind}:0"] = np.asarray(weight)


def names_and_shapes(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """For the fixtures of the tests, which draw the same weights."""
    padded = [shape + (0,) * (4 - len(shape)) for shape in shapes.values()]
    return {"names": np.array(list(shapes)), "shapes": np.array(padded, np.int16)}


def read(file: Path, out: Path) -> None:
    """Logits of segmentation_models.pytorch with a file's weights, loaded strictly."""
    torch = load_torch()
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(file, "pt") as content:
        interpolation = "bilinear" if "bilinear" in content.metadata()["segjax"] else "nearest"
    model = make_torch("smp", 1.0, interpolation).eval()
    model.load_state_dict(load_file(file), strict=True)
    outputs = dict(np.load(out / "outputs.npz"))
    with torch.inference_mode():
        outputs["read"] = to_nhwc(model(normalised_as_imagenet(outputs["image"])))
    np.savez(out / "outputs.npz", **outputs)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("library", choices=("torchvision", "timm", "keras", "smp", "read"))
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--size", type=int, nargs=2, default=SHAPE[1:3])
    args = parser.parse_args()
    if args.library == "read":
        return read(*args.paths)
    (out,) = args.paths
    image = images((SHAPE[0], *args.size, 3))
    if args.library == "keras":
        outputs = run_keras(args.width, image, out)
    else:
        outputs = run_torch(args.library, args.width, image, out)
    np.savez(out / "outputs.npz", image=image, **outputs)


if __name__ == "__main__":
    main()
