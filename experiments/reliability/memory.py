"""Does a long run grow? Resident memory at every epoch of 2,000 steps and 20 evaluations.

python experiments/reliability/memory.py
"""

import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from absl import app

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from configs import quickstart  # noqa: E402
from segjax import train  # noqa: E402
from segjax.report import write_json  # noqa: E402

WARM_UP = 5  # epochs


def resident_mib() -> float:
    """Of this process, from Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main(_: list[str]) -> None:
    config = quickstart.get_config()
    config.data.update(size=(32, 32), num_train=400, num_val=40)
    config.batch_size, config.num_epochs = 4, 20
    sizes, end_epoch = [], train._end_epoch

    def measured(*arguments: object) -> None:
        end_epoch(*arguments)
        sizes.append(resident_mib())

    train._end_epoch = measured
    with TemporaryDirectory() as folder:
        state, _ = train.train_and_evaluate(config, folder)
        files = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
        checkpoints = len(list(Path(folder).glob("checkpoints/*")))
    result = {
        "steps": int(state.step),
        "evaluations": len(sizes),
        "resident_mib": [round(size, 1) for size in sizes],
        "growth_after_warm_up": sizes[-1] / sizes[WARM_UP - 1] - 1,
        "checkpoints": checkpoints,
        "work_directory_mib": files / 2**20,
    }
    write_json(HERE / "results" / "memory.json", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    app.run(main)
