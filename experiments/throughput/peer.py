"""The same measurement of a PyTorch library's network, with its own Python.

  python3 -m venv peer
  peer/bin/pip install torch segmentation-models-pytorch transformers opencv-python-headless
  peer/bin/python experiments/throughput/peer.py --height=96 --width=128 --batch=8
  peer/bin/python experiments/throughput/peer.py --root=CAMVID --workers=1    # a whole epoch
  peer/bin/python experiments/throughput/peer.py --network=transformers --form=compile

SMP's Unet("mobilenet_v2"), or SegFormer B0 of SMP or transformers, with the dropout and stochastic
depth of each, and logits of transformers enlarged as its loss does it. Channels last, unless --form
says otherwise; on a GPU bfloat16 autocast and torch.compile. Its step has no augmentation and no
metrics, and its images are normalised beforehand. An epoch has all of it but metrics: images kept
in memory at the network's size, flipped, scaled and cut by OpenCV, in `workers` processes.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "interchange"))
from peer import load_torch

torch = load_torch()
CLASSES, VOID = 11, 255
NETWORKS = ("unet", "smp", "transformers")
FORMS = ("eager", "channels_last", "compile", "compile_channels_last")
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


class CamVid(torch.utils.data.Dataset):
    """The training split in memory at one size; augmented as segjax's configuration does."""

    def __init__(self, root: str, height: int, width: int) -> None:
        self.size, self.pairs = (width, height), []
        for path in sorted(Path(root, "train", "images").iterdir()):
            image = cv2.imread(str(path))[..., ::-1]
            mask = path.parents[1] / "masks" / f"{path.stem}.png"
            label = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
            image = cv2.resize(image, self.size, interpolation=cv2.INTER_AREA)
            label = cv2.resize(label, self.size, interpolation=cv2.INTER_NEAREST_EXACT)
            self.pairs.append((image, np.where(label < CLASSES, label, VOID).astype(np.uint8)))

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, label = self.pairs[index]
        scale = np.random.uniform(0.75, 1.75)
        offset = np.random.rand(2) * (np.array(self.size) * (scale - 1))
        matrix = np.float32([[scale, 0, -offset[0]], [0, scale, -offset[1]]])
        image = cv2.warpAffine(image, matrix, self.size, borderValue=(124, 116, 104))
        label = cv2.warpAffine(
            label, matrix, self.size, flags=cv2.INTER_NEAREST, borderValue=(VOID,)
        )
        if np.random.rand() < 0.5:
            image, label = image[:, ::-1], label[:, ::-1]
        gain, shift = np.random.uniform(0.7, 1.3), np.random.uniform(-76, 76)
        image = (np.clip(image * gain + shift, 0, 255) - MEAN) / STD
        return image.astype(np.float32), label.astype(np.int64)


class Enlarged(torch.nn.Module):
    """A network of transformers, with logits of the image's size."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = self.network(image).logits
        return torch.nn.functional.interpolate(logits, image.shape[2:], mode="bilinear")


def make(network: str) -> torch.nn.Module:
    """Without weights of anyone's training."""
    if network == "transformers":
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        return Enlarged(SegformerForSemanticSegmentation(SegformerConfig(num_labels=CLASSES)))
    import segmentation_models_pytorch as smp

    if network == "smp":
        return smp.Segformer("mit_b0", encoder_weights=None, classes=CLASSES)
    return smp.Unet("mobilenet_v2", encoder_weights=None, classes=CLASSES)


def epoch_rate(args: argparse.Namespace, step: Callable) -> float:
    """Images/s of the second epoch."""
    data = CamVid(args.root, args.height, args.width)
    loader = torch.utils.data.DataLoader(
        data,
        args.batch,
        shuffle=True,
        drop_last=True,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
    )
    for _ in range(2):
        start = time.perf_counter()
        for image, label in loader:
            step(image.permute(0, 3, 1, 2), label)  # [B, H, W, C] in memory: channels last
        seconds = time.perf_counter() - start
    return len(loader) * args.batch / seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in (("height", 96), ("width", 128), ("batch", 8), ("repeats", 10)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--network", default="unet", choices=NETWORKS)
    parser.add_argument("--form", default="channels_last", choices=FORMS)
    parser.add_argument("--root", help="CamVid's folder; measures an epoch of it")
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    on_gpu = device == "cuda"
    is_last = args.form.endswith("channels_last")
    layout = torch.channels_last if is_last else torch.contiguous_format
    model = make(args.network).to(device, memory_format=layout)
    run = torch.compile(model) if on_gpu or args.form.startswith("compile") else model
    shape = (args.batch, args.height, args.width)
    image = torch.randn(args.batch, 3, *shape[1:], device=device).contiguous(memory_format=layout)
    label = torch.randint(0, CLASSES, shape, device=device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def median_ms(step: Callable[[], object]) -> float:
        times = []
        for _ in range(args.repeats + 2):
            start = time.perf_counter()
            step()
            if on_gpu:
                torch.cuda.synchronize()
            times.append(1000 * (time.perf_counter() - start))
        return statistics.median(times[2:])

    def train(image: torch.Tensor = image, label: torch.Tensor = label) -> None:
        image, label = image.to(device), label.to(device)
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=on_gpu):
            loss = torch.nn.functional.cross_entropy(run(image), label, ignore_index=VOID)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()

    @torch.inference_mode()
    def infer() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=on_gpu):
            return run(image).argmax(1)

    model.train()
    if args.root:
        rate = epoch_rate(args, train)
        print(json.dumps({"epoch_images_per_s": rate, "workers": args.workers}))
        return
    train_ms = median_ms(train)
    model.eval()
    infer_ms = median_ms(infer)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = {
        "train_images_per_s": 1000 * args.batch / train_ms,
        "infer_images_per_s": 1000 * args.batch / infer_ms,
        "train_ms": train_ms,
        "peak_mib": (torch.cuda.max_memory_allocated() if on_gpu else peak) / 2**20,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
