"""What is set before a program starts: once, with the same arguments, and beside the user's own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from segjax.runtime import process

ROOT = Path(__file__).parents[1]
SCRIPT = """
import os, sys
from segjax.runtime import process
process.start_anew(__file__)
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[1:])
"""
PLAIN = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
PLAIN |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
ours = pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def printed(*arguments, env=PLAIN, **options):
    command = [sys.executable, *arguments]
    return subprocess.check_output(command, text=True, timeout=60, env=env, **options).strip()


@ours
def test_a_program_starts_anew_once_with_the_same_arguments(script):
    expected = f"{process.MEMORY} ['a b', '--c']"
    assert printed(script, "a b", "--c") == expected
    assert printed("-W", "error", "-u", script, "a b", "--c") == expected
    assert printed("-m", "script", "a b", "--c", cwd=script.parent) == expected
    own = PLAIN | {"GLIBC_TUNABLES": "glibc.malloc.check=0"}
    assert printed(script, env=own) == "glibc.malloc.check=0 []"


@ours
def test_what_runs_a_program_is_not_started_anew_in_its_place(script):
    """A notebook, a debugger, a profiler, a program of the user's, standard input."""
    host = script.with_name("host.py")
    host.write_text(f"import runpy\nrunpy.run_path({str(script)!r}, run_name='__main__')")
    assert printed(host, "a") == "None ['a']"
    assert printed("-c", host.read_text(), "a") == "None ['a']"
    assert printed("-", "a", input=host.read_text()) == "None ['a']"
    assert printed("-m", "trace", "--count", "-C", script.parent, script).startswith("None []")
    module = "import runpy; runpy.run_module('script', run_name='__main__', alter_sys=True)"
    assert printed("-c", module, "a", cwd=script.parent) == "None ['a']"


@ours
def test_the_command_segjax_starts_anew_in_place_of_an_entry_point(script, monkeypatch):
    text = SCRIPT.replace("__file__", repr(str(script.with_name("evaluate.py"))))
    for name, started in (("segjax", process.MEMORY), ("host", None)):
        command = script.with_name(name)  # pip's script has no suffix
        command.write_text(text)
        assert printed(command, "a") == f"{started} ['a']"
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-m", "segjax", "train"])
    assert process._started_with() == process.COMMAND == ROOT / "segjax" / "__main__.py"


@ours
def test_a_host_with_a_gpu_needs_no_settings(script, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(process, "GPUS", (str(script),))
    assert process.is_used()  # no plugin of JAX's knows it
    monkeypatch.setattr(process, "entry_points", lambda group: [group])
    assert not process.is_used()
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("started anew"))
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, str(script)])
    process.start_anew(str(script))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert process.is_used()


@ours
def test_a_python_that_clears_the_environment_is_started_anew_once(tmp_path, script):
    """Otherwise it would be without end."""
    wrapper = tmp_path / "python"
    wrapper.write_text(
        f'#!/bin/sh\nexec env -i PYTHONPATH={ROOT} JAX_PLATFORMS=cpu {sys.executable} "$@"\n'
    )
    wrapper.chmod(0o755)
    script.write_text(f"import sys\nsys.executable = {str(wrapper)!r}\n{SCRIPT}")
    command = [wrapper, script, "a"]
    assert subprocess.check_output(command, text=True, timeout=60).strip() == "None ['a']"


@ours
def test_memory_is_the_users_who_sets_glibcs(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    assert "GLIBC_TUNABLES" not in process.settings()


@pytest.mark.parametrize(
    ("version", "known"), [("0.10.2", True), ("0.12.0.1", True), ("7.0", False)]
)
def test_xla_gets_a_flag_that_it_knows_before_the_users_own(monkeypatch, version, known):
    monkeypatch.setattr(process, "version", lambda package: version)
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=here")
    flags = f"{process.CONVOLUTIONS} --xla_dump_to=here" if known else None
    assert process.settings().get("XLA_FLAGS") == flags


def test_the_installed_xla_knows_the_flag():
    """It ends a program otherwise."""
    command = [sys.executable, "-c", "import jax; jax.numpy.ones(1)"]
    subprocess.run(command, env=os.environ | process.settings(), check=True, timeout=60)


@ours
def test_training_on_a_processor_keeps_its_memory():
    """A step after the first takes hardly a new page of it."""
    program = """
import resource
import jax
from segjax.runtime import process
from segjax.runtime.devices import Parallel

process.use_kept_memory()
step = Parallel("jit").compile(lambda x, _: jax.numpy.tanh(x @ x[:256]) @ x[:256])
x = jax.numpy.ones((2**17, 256))
for _ in range(3):
    step(x, None).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step(x, None).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    environment = os.environ | {"GLIBC_TUNABLES": process.MEMORY, "PYTHONPATH": str(ROOT)}
    output = subprocess.check_output([sys.executable, "-c", program], text=True, env=environment)
    assert int(output) < 1000  # of 65,536 pages of 4 KiB each step


def test_importing_and_using_segjax_changes_no_setting_of_jax_or_pillow():
    program = """
import jax, PIL.Image
def settings():
    return dict(jax.config.values), PIL.Image.MAX_IMAGE_PIXELS
before = settings()
from segjax.inference import exporters, predictor, segment, video
from segjax.training import evaluate_run, loop
from segjax.runtime.devices import Parallel
Parallel("jit")
assert settings() == before
"""
    environment = os.environ | {"GLIBC_TUNABLES": process.MEMORY, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, timeout=60)
