"""Does a long run grow, and how long do its checkpoints hold it up?

Resident memory after each epoch of 2,000 steps and 20 evaluations, and the time that the loop
waits for saving, which goes on in the background.

python experiments/reliability/memory.py
"""

import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from absl import app

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from configs import quickstart  # noqa: E402
from segjax.runtime.files import write_json  # noqa: E402
from segjax.training import loop  # noqa: E402

WARM_UP = 5  # epochs


def resident_mib() -> float:
    """Of this process, from Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main(_: list[str]) -> None:
    config = quickstart.get_config()
    config.data.update(num_train=800, num_val=40)
    config.batch_size, config.num_epochs = 8, 20
    sizes, saving, end_epoch, save = [], [], loop._end_epoch, loop.Trainer.save

    def measured(*arguments: object) -> None:
        end_epoch(*arguments)
        sizes.append(resident_mib())

    def timed(*arguments: object) -> None:
        begin = time.perf_counter()
        save(*arguments)
        saving.append(time.perf_counter() - begin)

    loop._end_epoch, loop.Trainer.save = measured, timed
    with TemporaryDirectory() as folder:
        begin = time.perf_counter()
        state, _ = loop.train_and_evaluate(config, folder)
        seconds = time.perf_counter() - begin
        files = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
        checkpoints = len(list(Path(folder).glob("checkpoints/*")))
    result = {
        "steps": int(state.step),
        "evaluations": len(sizes),
        "resident_mib": [round(size, 1) for size in sizes],
        "growth_after_warm_up": sizes[-1] / sizes[WARM_UP - 1] - 1,
        "share_of_time_spent_saving": sum(saving) / seconds,
        "seconds": seconds,
        "mean_save_ms": 1000 * sum(saving) / len(saving),
        "longest_save_ms": 1000 * max(saving),
        "checkpoints": checkpoints,
        "work_directory_mib": files / 2**20,
    }
    write_json(HERE / "results" / "memory.json", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    app.run(main)
