"""The same measurement of segmentation_models.pytorch's Unet("mobilenet_v2"), with its own Python.

  python3 -m venv peer
  peer/bin/pip install torch segmentation-models-pytorch
  peer/bin/python experiments/throughput/peer.py --height=96 --width=128 --batch=8

Channels last; on a GPU bfloat16 autocast and torch.compile. Its step has no augmentation and no
metrics, and its images are normalised beforehand.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable

START = time.perf_counter()

import segmentation_models_pytorch as smp  # noqa: E402
import torch  # noqa: E402

CLASSES, VOID = 11, 255


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in (("height", 96), ("width", 128), ("batch", 8), ("repeats", 10)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    on_gpu = device == "cuda"
    model = smp.Unet("mobilenet_v2", encoder_weights=None, classes=CLASSES)
    model = model.to(device, memory_format=torch.channels_last)
    run = torch.compile(model) if on_gpu else model
    shape = (args.batch, args.height, args.width)
    image = torch.randn(args.batch, 3, *shape[1:], device=device)
    image = image.contiguous(memory_format=torch.channels_last)
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

    def train() -> None:
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
