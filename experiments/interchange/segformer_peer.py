"""The other library's side of segformer.py; needs that library alone.

  python segformer_peer.py transformers OUT --variant b0 --size 97 131     # or smp, unet
  python segformer_peer.py transformers OUT --variant b0 --read FILE

The first writes weights drawn by `peer.draw` as the library saves them, and OUT/outputs.npz: an
image, the logits [B, H, W, C] at its size, and names and shapes of the weights. The second loads
FILE, which segjax wrote, strictly, and adds its logits of the same image as `read`.
"""

import argparse
import copy
from pathlib import Path
from typing import Any

import numpy as np
from peer import (
    CLASSES,
    draw,
    images,
    load_torch,
    names_and_shapes,
    normalised_as_imagenet,
    to_nhwc,
)

torch = load_torch()
SMALL, LARGE = [32, 64, 160, 256], [64, 128, 320, 512]
# Depths and channels of the stages, and channels of the head; tiny is for the fixture of a test.
VARIANTS = {
    "tiny": ([1, 1, 1, 1], [8, 16, 40, 64], 8),
    "b0": ([2, 2, 2, 2], SMALL, 256),
    "b2": ([3, 4, 6, 3], LARGE, 768),
}


def make(library: str, variant: str) -> Any:
    if library == "transformers":
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        depths, channels, head = VARIANTS[variant]
        config = SegformerConfig(
            depths=depths, hidden_sizes=channels, decoder_hidden_size=head, num_labels=CLASSES
        )
        return SegformerForSemanticSegmentation(config).eval()
    import segmentation_models_pytorch as smp

    depths, channels, _ = VARIANTS[variant]
    tiny = copy.deepcopy(smp.encoders.encoders["mit_b0"])
    tiny["params"] |= {"depths": depths, "embed_dims": channels, "out_channels": (3, 0, *channels)}
    smp.encoders.encoders["mit_tiny"] = tiny
    network = {"smp": smp.Segformer, "unet": smp.Unet}[library]
    return network(f"mit_{variant}", encoder_weights=None, classes=CLASSES).eval()


def logits_of(library: str, model: Any, image: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        x = normalised_as_imagenet(image)
        logits = model(x).logits if library == "transformers" else model(x)
        # As its documentation has it; SMP gives logits of the image's size.
        return to_nhwc(torch.nn.functional.interpolate(logits, x.shape[2:], mode="bilinear"))


def save(library: str, model: Any, out: Path) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """Saves drawn weights as the library does; the model with them, and their names and shapes."""
    from safetensors.torch import load_file, save_file

    if library == "transformers":  # whose files have other names than its modules
        model.save_pretrained(out / "whole")
        file = out / "whole" / "model.safetensors"
        state = {name: tuple(tensor.shape) for name, tensor in load_file(file).items()}
        save_file(drawn(state), file, {"format": "pt"})
        model = model.from_pretrained(out / "whole")
        model.segformer.save_pretrained(out / "encoder")
    else:
        state = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        model.load_state_dict(drawn(state))
    save_file(model.state_dict(), out / "state.safetensors")
    return model.eval(), state


def drawn(state: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    return {name: torch.from_numpy(draw(name, shape)) for name, shape in state.items()}


def read(library: str, model: Any, file: Path, out: Path) -> None:
    if library == "transformers":
        from transformers import AutoImageProcessor, SegformerForSemanticSegmentation

        model, info = SegformerForSemanticSegmentation.from_pretrained(
            file, output_loading_info=True
        )
        assert not any(info.values()), info
        AutoImageProcessor.from_pretrained(file)
    else:
        from safetensors.torch import load_file

        model.load_state_dict(load_file(file), strict=True)
    outputs = dict(np.load(out / "outputs.npz"))
    outputs["read"] = logits_of(library, model.eval(), outputs["image"])
    np.savez(out / "outputs.npz", **outputs)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("library", choices=("transformers", "smp", "unet"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--variant", default="b0", choices=tuple(VARIANTS))
    parser.add_argument("--size", type=int, nargs=2, default=(96, 128))
    parser.add_argument("--read", type=Path)
    args = parser.parse_args()
    model = make(args.library, args.variant)
    if args.read:
        return read(args.library, model, args.read, args.out)
    model, state = save(args.library, model, args.out)
    image = images((2, *args.size, 3))
    logits = logits_of(args.library, model, image)
    np.savez(args.out / "outputs.npz", image=image, logits=logits, **names_and_shapes(state))


if __name__ == "__main__":
    main()
