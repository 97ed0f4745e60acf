"""What is set before a program starts: once, with the same arguments, and beside the user's own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from segjax import processor

ROOT = Path(__file__).parents[1]
SCRIPT = """
import os, sys
from segjax import processor
processor.start_anew()
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[1:])
"""
ours = pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")


@ours
def test_a_program_starts_anew_once_with_the_same_arguments(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    plain = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    plain["PYTHONPATH"] = str(ROOT)

    def printed(*arguments, **options):
        command = [sys.executable, *arguments]
        return subprocess.check_output(command, text=True, timeout=60, **options).strip()

    assert printed(script, "a b", "--c", env=plain) == f"{processor.MEMORY} ['a b', '--c']"
    own = plain | {"GLIBC_TUNABLES": "glibc.malloc.check=0"}
    assert printed(script, env=own) == "glibc.malloc.check=0 []"
    # What is read from standard input cannot be read again.
    assert printed("-", "a", env=plain, input=SCRIPT) == "None ['a']"


@ours
def test_a_python_that_clears_the_environment_is_started_anew_once(tmp_path):
    """Otherwise it would be without end."""
    wrapper, script = tmp_path / "python", tmp_path / "script.py"
    wrapper.write_text(f'#!/bin/sh\nexec env -i PYTHONPATH={ROOT} {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    script.write_text(f"import sys\nsys.executable = {str(wrapper)!r}\n{SCRIPT}")
    command = [wrapper, script, "a"]
    assert subprocess.check_output(command, text=True, timeout=60).strip() == "None ['a']"


@ours
def test_memory_is_the_users_who_sets_glibcs(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    assert "GLIBC_TUNABLES" not in processor.settings() and not processor.keeps_memory()


@pytest.mark.parametrize(
    ("version", "known"), [("0.10.2", True), ("0.12.0.1", True), ("7.0", False)]
)
def test_xla_gets_a_flag_that_it_knows_before_the_users_own(monkeypatch, version, known):
    monkeypatch.setattr(processor, "version", lambda package: version)
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=here")
    flags = f"{processor.CONVOLUTIONS} --xla_dump_to=here" if known else None
    assert processor.settings().get("XLA_FLAGS") == flags


def test_the_installed_xla_knows_the_flag():
    """It ends a program otherwise."""
    command = [sys.executable, "-c", "import jax; jax.numpy.ones(1)"]
    subprocess.run(command, env=os.environ | processor.settings(), check=True, timeout=60)


@ours
def test_training_on_a_processor_keeps_its_memory():
    """A step after the first takes hardly a new page of it."""
    program = """
import resource
import jax
from segjax.parallel import Parallel

step = Parallel("jit").compile(lambda x, _: jax.numpy.tanh(x @ x[:256]) @ x[:256])
x = jax.numpy.ones((2**17, 256))
for _ in range(3):
    step(x, None).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step(x, None).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    environment = os.environ | {"GLIBC_TUNABLES": processor.MEMORY, "PYTHONPATH": str(ROOT)}
    output = subprocess.check_output([sys.executable, "-c", program], text=True, env=environment)
    assert int(output) < 1000  # of 65,536 pages of 4 KiB each step
