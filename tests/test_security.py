"""Data are data: nothing that is read from a work directory or a dataset is executed."""

import pickle
from contextlib import suppress
from pathlib import Path

import jax
import numpy as np
import pytest
from test_layering import IMPORTS, ROOT, within

from segjax.data.label_table import LabelTable
from segjax.errors import SegjaxError
from segjax.run import workdir
from segjax.run.checkpoints import Checkpoints
from segjax.runtime.devices import Parallel
from segjax.training import build


class Payload:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return Path.touch, (self.victim,)


@pytest.fixture
def payload(tmp_path):
    """Bytes that would touch tmp_path/victim."""
    content = pickle.dumps(Payload(tmp_path / "victim"))
    pickle.loads(content)
    (tmp_path / "victim").unlink()  # it works
    return content


def test_no_module_can_unpickle_or_evaluate_text():
    for module, names in IMPORTS.items():
        assert not within(names, "pickle", "marshal", "shelve", "dill", "joblib"), module
    for path in ROOT.rglob("*.py"):
        text = path.read_text()
        assert not any(word in text for word in (" eval(", " exec(", "allow_pickle=True")), path


@pytest.mark.parametrize("name", ["config.json", "classes.json", "pixel_counts.json"])
def test_a_work_directory_s_files_are_only_data(tmp_path, payload, name):
    for other in ("config.json", "pixel_counts.json"):
        (tmp_path / other).write_text("{}")
    (tmp_path / "classes.json").write_text('{"classes": ["a", "b"]}')
    workdir.load(tmp_path)
    text = "__import__('pathlib').Path('victim').touch()"
    for content in (payload, text.encode(), b'{"a": !!python/object/apply:os.system ["ls"]}'):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SegjaxError, match=name):
            workdir.load(tmp_path)
    assert not (tmp_path / "victim").exists()


def test_label_tables_are_only_data(tmp_path, payload):
    with pytest.raises(SegjaxError):
        LabelTable.from_json(payload.decode("latin-1"), "classes.json")
    assert not (tmp_path / "victim").exists()


def test_no_file_of_a_checkpoint_is_executed(tiny_config, tmp_path, payload):
    compiled = build.compile_steps(tiny_config, Parallel("jit"), 3, np.ones(3), total_steps=10)
    state = jax.device_get(build.create_state(compiled, 3, 0))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, {"history": []}, 0.5)
    checkpoints.close()
    files = [p for p in (tmp_path / "checkpoints").rglob("*") if p.is_file()]
    kinds = {(p.name if p.suffix or "d" not in p.parts else "d"): p for p in files}
    assert len(kinds) > 5
    for path in kinds.values():
        original = path.read_bytes()
        path.write_bytes(payload)
        with suppress(SegjaxError):
            damaged = Checkpoints(tmp_path)
            damaged.restore(state, damaged.find("latest"))
            damaged.close()
        path.write_bytes(original)
        assert not (tmp_path / "victim").exists(), path
