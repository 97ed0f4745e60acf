"""Two processes that train together: the same result as one, and no hang when one of them dies."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segjax.run import lock
from segjax.runtime.devices import Parallel
from segjax.training.loop import Trainer

ROOT = Path(__file__).parents[1]
CONFIGS = {
    "quickstart": {"model.unet.channels": "(8,8,8,8,8)"},
    "quickstart:segformer": {"model.segformer.channels": 8},
}
FIELDS = {
    "data.size": "(64,64)",  # see test_parallel on smaller ones
    "data.num_train": 64,
    "data.num_val": 6,
    "data.allow_missing_classes": True,
    "batch_size": 8,
    "num_epochs": 2,
    "log_every": 1,
    "checkpoint_minutes": 0,
    "optim.name": "sgd",
    "optim.learning_rate": 0.02,
}


def start(folder, mode, num_processes, process, devices=None, config="quickstart"):
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": str(devices or 4 // num_processes),
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    command = [sys.executable, "-u", "-m", "segjax.main", f"--config={config}"]
    command += [f"--workdir={folder}", f"--config.parallel={mode}"]
    fields = FIELDS | CONFIGS[config]
    command += [f"--config.{field}={value}" for field, value in fields.items()]
    if num_processes > 1:
        command += ["--multihost", f"--coordinator=localhost:{start.port}"]
        command += [f"--num_processes={num_processes}", f"--process_id={process}"]
    with open(f"{folder}_{process}.log", "a") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)


def run(folder, mode, num_processes, config="quickstart"):
    processes = [start(folder, mode, num_processes, i, None, config) for i in range(num_processes)]
    codes = [process.wait(timeout=300) for process in processes]
    assert not any(codes), Path(f"{folder}_0.log").read_text()[-3000:]


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def curve(folder, tag):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [point.value for point in events.Scalars(tag)]


def assert_same_training(folder, expected):
    """The same first update; after it rounding, unoptimised, grows threefold with every step."""
    for tag, step, tolerance in (
        ("train/accuracy", 0, 0),
        ("train/loss", 0, 1e-5),
        ("train/grad_norm", 0, 2e-3),
        ("train/loss", 1, 1e-4),
    ):
        ours, theirs = curve(folder, tag), curve(expected, tag)
        assert len(ours) == len(theirs) == 16
        np.testing.assert_allclose(ours[step], theirs[step], rtol=tolerance, err_msg=tag)


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_two_processes_train_as_one_and_a_killed_one_stops_the_other(config, tmp_path):
    start.port = free_port()
    run(tmp_path / "one", "jit", 1, config)
    # Killed in the second epoch of pmap, and resumed under jit.
    folder = tmp_path / "killed"
    processes = [start(folder, "pmap", 2, i, None, config) for i in range(2)]
    log = Path(f"{folder}_0.log")
    while "step 9/16" not in log.read_text():
        assert processes[0].poll() is None, log.read_text()[-3000:]
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGKILL)
    processes[1].wait()
    assert processes[0].wait(timeout=120) != 0
    # Told by segjax, or by JAX where no collective was under way.
    assert any(f"another {what} died" in log.read_text() for what in ("process", "task"))
    run(folder, "jit", 2, config)
    assert_same_training(folder, tmp_path / "one")
    (saved,) = re.findall(r"saving step 8, parameters (\w+)", log.read_text())
    assert f"at step 8 of 16, parameters {saved}" in log.read_text()
    assert "step 16/16" in log.read_text()
    assert "step 8/16" not in Path(f"{folder}_1.log").read_text()

    config = ConfigDict(json.loads((folder / "config.json").read_text()))
    finished = Trainer(config, folder)  # this process alone reads what two have written
    finished.checkpoints.close()
    assert finished.start_step == 16


@pytest.mark.slow
def test_a_signal_to_one_process_saves_and_stops_all(tmp_path):
    start.port = free_port()
    folder = tmp_path / "stopped"
    processes = [start(folder, "jit", 2, i) for i in range(2)]
    log = Path(f"{folder}_0.log")
    while "step 3/16" not in log.read_text():
        assert processes[0].poll() is None, log.read_text()[-3000:]
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    assert [process.wait(timeout=120) for process in processes] == [128 + signal.SIGTERM] * 2
    (step,) = re.findall(r"stopped at step (\d+), everything is saved", log.read_text())
    run(folder, "jit", 1)
    assert f"at step {step} of 16" in log.read_text() and "step 16/16" in log.read_text()


@pytest.mark.slow
def test_a_checkpoint_that_is_due_in_one_process_is_saved_by_all(tmp_path, monkeypatch):
    start.port = free_port()
    folder = tmp_path / "timed"
    monkeypatch.setitem(FIELDS, "num_epochs", 1)
    monkeypatch.setitem(FIELDS, "log_every", 3)
    processes = [start(folder, "jit", 2, 0)]
    monkeypatch.setitem(FIELDS, "checkpoint_minutes", 1e-9)
    processes.append(start(folder, "jit", 2, 1))
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    saved = re.findall(r"saving step (\d+)", Path(f"{folder}_0.log").read_text())
    assert saved == ["1", "3", "6", "8"]  # at log lines


def test_processes_with_other_numbers_of_devices_are_told_so(tmp_path):
    start.port = free_port()
    processes = [start(tmp_path / "run", "jit", 2, i, devices=i + 1) for i in range(2)]
    assert all(process.wait(timeout=120) for process in processes)
    logs = [Path(f"{tmp_path}/run_{i}.log").read_text() for i in range(2)]
    # JAX's coordination service ends the others when one stops, perhaps before they say why.
    message = "ConfigError: the processes have [1, 2] devices; give all of them as many"
    assert any(message in log for log in logs)


def test_a_work_directory_in_use_stops_all_processes(tmp_path):
    start.port = free_port()
    folder = tmp_path / "run"
    with lock.hold(folder, Parallel("jit")):
        processes = [start(folder, "jit", 2, i) for i in range(2)]
        assert all(process.wait(timeout=120) for process in processes)
    first, second = (Path(f"{folder}_{i}.log").read_text() for i in range(2))
    assert f"InUseError: --workdir {folder} is in use by process {os.getpid()} on" in first
    assert f"ConfigError: --workdir {folder}: the first process cannot use it" in second
    assert not folder.exists()
