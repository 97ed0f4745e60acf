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
    plain = {name: value for name, value in os.environ.items() if name not in processor.MEMORY}
    plain["PYTHONPATH"] = str(ROOT)

    def printed(*arguments, **options):
        command = [sys.executable, *arguments]
        return subprocess.check_output(command, text=True, timeout=60, **options).strip()

    tunables = processor.MEMORY["GLIBC_TUNABLES"]
    assert printed(script, "a b", "--c", env=plain) == f"{tunables} ['a b', '--c']"
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
    assert not set(processor.MEMORY) & set(processor.settings())


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
