"""segjax and PyTorch on the same work, in turns.

  python experiments/throughput/run.py --peer=peer/bin/python
  python experiments/throughput/run.py --name=scaling --devices=1:jit,2:pmap,2:jit,4:pmap,4:jit
  python experiments/throughput/run.py --name=widths --widths=0.35,0.5,1.0,1.4 --sizes=96x128
  python experiments/throughput/run.py --network=segformer --sizes=128x128,256x256 --batches=8,1 \
    --name=segformer --peer=peer/bin/python

Every setting is measured --rounds times by each, one process after the other, so that what else the
machine does meets both; medians of the rounds go to results/NAME.json, with a table and a picture
beside it. Without --peer only segjax is measured. See measure.py and peer.py for what is timed.
SegFormer has two peers in four forms each: `peer` is the fastest of the eight, in training and in
inference for itself.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from absl import app, flags
from matplotlib.figure import Figure

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from segjax.runtime import process  # noqa: E402
from segjax.runtime.files import write_json  # noqa: E402

FLAGS = flags.FLAGS
flags.DEFINE_string("peer", None, "A Python with torch and segmentation-models-pytorch.")
flags.DEFINE_string("name", "cpu", "Of the files in results/.")
flags.DEFINE_integer("rounds", 3, "How often each setting is measured.")
flags.DEFINE_integer("repeats", 10, "Steps that are timed in each round.")
flags.DEFINE_list("sizes", ["96x128", "192x256"], "HEIGHTxWIDTH of the images.")
flags.DEFINE_list("batches", ["8"], "Images per step.")
flags.DEFINE_list("widths", ["1.0"], "MobileNetV2's; the peer is measured at 1.0 only.")
flags.DEFINE_list("dtypes", ["float32"], "segjax's; the peer takes bfloat16 on a GPU.")
flags.DEFINE_list("devices", ["0:auto"], "COUNT:MODE of segjax; a processor as several devices.")
flags.DEFINE_enum("network", "unet", ["unet", "segformer"], "MobileNetV2's U-Net or SegFormer B0.")
FORMS = ("eager", "channels_last", "compile", "compile_channels_last")
# By network, the peers and what peer.py takes for them.
PEERS: dict[str, dict[str, dict[str, str]]] = {
    "unet": {"peer": {}},
    "segformer": {
        f"{library}, {form}": {"network": library, "form": form}
        for library in ("transformers", "smp")
        for form in FORMS
    },
}
RATES = ("train_images_per_s", "infer_images_per_s")


def measured(command: list[str], cache: str) -> dict[str, float]:
    """The JSON line that a process ends with; `cache` keeps what it compiles."""
    # What segjax.main sets by itself; the peer gets it too, as far as it is not JAX's alone.
    environment = os.environ | process.settings() | {"JAX_COMPILATION_CACHE_DIR": cache}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def medians(rounds: list[dict]) -> dict:
    """Of every number; texts as they are."""
    return {
        key: statistics.median(r[key] for r in rounds) if isinstance(value, int | float) else value
        for key, value in rounds[0].items()
    }


def measure_row(setting: dict[str, str]) -> dict[str, Any]:
    """One setting, by segjax and, where there is one, by the peer."""
    height, width = setting["size"].split("x")
    count, mode = setting["devices"].split(":")
    work = {"height": height, "width": width, "batch": setting["batch"], "repeats": FLAGS.repeats}
    ours = work | {"network_width": setting["width"], "dtype": setting["dtype"]}
    ours |= {"devices": count, "parallel": mode, "network": FLAGS.network}
    commands = {"segjax": [sys.executable, HERE / "measure.py", *as_flags(ours)]}
    peers = PEERS[FLAGS.network] if FLAGS.peer and setting["width"] == "1.0" else {}
    for name, form in peers.items():
        commands[name] = [FLAGS.peer, HERE / "peer.py", *as_flags(work | form)]
    rounds = {name: [] for name in commands}
    with TemporaryDirectory() as cache:
        for _ in range(FLAGS.rounds):
            for name, command in commands.items():
                rounds[name].append(measured([str(part) for part in command], cache))
    row = setting | {name: medians(each) for name, each in rounds.items()}
    row["segjax"]["first_step_s_by_round"] = [r["first_step_s"] for r in rounds["segjax"]]
    if len(peers) > 1:
        row["peer"] = {key: max(row[name][key] for name in peers) for key in RATES}
    if peers:
        row["ratio"] = {key: row["segjax"][key] / row["peer"][key] for key in RATES}
    return row


def as_flags(values: dict[str, Any]) -> list[str]:
    """{'height': 96} to ['--height=96']."""
    return [f"--{name}={value}" for name, value in values.items()]


def label(row: dict[str, Any]) -> str:
    """What a row is of, without what is as always."""
    parts = [row["size"], f"batch {row['batch']}", f"width {row['width']}", row["dtype"]]
    return ", ".join(parts + [row["devices"]] * (row["devices"] != "0:auto"))


def print_table(rows: list[dict[str, Any]]) -> None:
    """Markdown: images/s of segjax, of the peer in brackets, and the ratio."""
    print("| setting | training, images/s | inference, images/s | peak memory |\n|---|---|---|---|")
    for row in rows:
        cells = [label(row)]
        for key in RATES:
            own, peer = (row.get(name, {}).get(key) for name in ("segjax", "peer"))
            compared = f" ({peer:.1f}; **{own / peer:.2f}**)" if peer and own else ""
            cells.append(f"{own:.1f}{compared}" if own else "")
        print("| " + " | ".join([*cells, f"{row['segjax']['peak_mib']:.0f} MiB"]) + " |")


def picture(rows: list[dict[str, Any]]) -> Figure:
    """Images/s of training and of inference, by setting."""
    figure = Figure(figsize=(9, 1.6 + 0.45 * len(rows)), dpi=120, layout="constrained")
    for axes, key in zip(figure.subplots(1, 2, sharey=True), RATES, strict=True):
        for shift, (name, color) in enumerate((("segjax", "#1f6fb4"), ("peer", "#bbbbbb"))):
            held = [(i, r[name][key]) for i, r in enumerate(rows) if key in r.get(name, {})]
            if held:
                where, values = zip(*held, strict=True)
                bars = axes.barh(
                    [i + 0.4 * shift for i in where], values, 0.38, label=name, color=color
                )
                axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
        axes.set(xlabel=key.replace("_images_per_s", ", images/s"))
        axes.set_yticks([i + 0.2 for i in range(len(rows))], [label(row) for row in rows])
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].invert_yaxis()
    names = figure.axes[0].get_legend_handles_labels()
    figure.legend(*names, loc="outside upper right", ncols=2, frameon=False)
    return figure


def main(_: list[str]) -> None:
    axes = dict(
        size=FLAGS.sizes,
        batch=FLAGS.batches,
        width=FLAGS.widths,
        dtype=FLAGS.dtypes,
        devices=FLAGS.devices,
    )
    rows = []
    for values in itertools.product(*axes.values()):
        rows.append(measure_row(dict(zip(axes, values, strict=True))))
        content = {"rounds": FLAGS.rounds, "repeats": FLAGS.repeats, "rows": rows}
        write_json(HERE / "results" / f"{FLAGS.name}.json", content)
    picture(rows).savefig(HERE / "results" / f"{FLAGS.name}.png")
    print_table(rows)


if __name__ == "__main__":
    app.run(main)
