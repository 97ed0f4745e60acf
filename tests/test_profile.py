"""Tracing: the steps that were asked for, in a place where TensorBoard looks."""

import gzip
import json

import jax
import pytest

from segjax.run import profile


@jax.jit
def double(x):
    return 2 * x


@pytest.mark.parametrize("length", [9, 3])
def test_some_steps_after_the_first_are_traced_where_tensorboard_looks(tmp_path, length):
    x = jax.numpy.ones(3)
    passed = []
    for step in profile.traced(range(5, 5 + length), tmp_path, 3):
        x = double(x)
        passed.append(step)
    assert passed == list(range(5, 5 + length))
    (path,) = tmp_path.glob("plugins/profile/*/*.trace.json.gz")
    assert list(path.parent.glob("*.xplane.pb"))
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    steps = [e["args"]["step_num"] for e in events if "step_num" in e.get("args", {})]
    assert sorted(map(int, steps)) == list(range(6, min(9, 5 + length)))


def test_without_it_nothing_is_traced(tmp_path, monkeypatch):
    monkeypatch.setattr(jax.profiler, "start_trace", lambda _: pytest.fail("traced"))
    assert list(profile.traced(range(4), tmp_path, 0)) == [0, 1, 2, 3]
    assert not list(tmp_path.iterdir())


def test_a_run_that_fails_still_writes_its_trace(tmp_path):
    steps = profile.traced(range(9), tmp_path, 5)
    assert [next(steps), next(steps)] == [0, 1]
    with pytest.raises(ValueError, match="damaged"):
        steps.throw(ValueError("damaged"))
    assert list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))
