import numpy as np
import pytest
from ml_collections import ConfigDict

from segjax.data import pipeline
from segjax.data.shapes import ShapesSource

VOID = 255


class Numbered:
    """Image i holds the value i everywhere, and its label i % 3; sizes differ."""

    def __init__(self, count, sizes=((4, 6),)):
        self.count, self.sizes = count, sizes

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        size = self.sizes[i % len(self.sizes)]
        return {"image": np.full((*size, 3), i, np.uint8), "label": np.full(size, i % 3, np.uint8)}


def config(**changes):
    return ConfigDict({"fit": "pad", "size": (4, 6), "num_threads": 2, "cache_gb": 1.0} | changes)


def fitted(source, native=False, max_size=(4, 6), **changes):
    return pipeline.FixedShapeSource(source, config(**changes), max_size, native)


def take(count, examples=None, start_step=0, process=(0, 1), seed=0, batch_size=4):
    examples = examples or fitted(Numbered(16))
    batches = pipeline.train_batches(examples, config(), batch_size, seed, start_step, process)
    return [next(batches) for _ in range(count)]


def numbers(*batches):
    return np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches]).tolist()


def assert_equal(batch, other):
    assert batch.keys() == other.keys()
    for key in batch:
        np.testing.assert_array_equal(batch[key], other[key])


def test_training_batches_hold_what_is_promised():
    (batch,) = take(1)
    shapes = {key: (value.shape, value.dtype) for key, value in batch.items()}
    assert shapes == {
        "image": ((4, 4, 6, 3), np.uint8),
        "label": ((4, 4, 6), np.uint8),
        "size": ((4, 2), np.int32),
        "index": ((4,), np.int32),
    }
    np.testing.assert_array_equal(batch["image"][..., 0] % 3, batch["label"])


@pytest.mark.parametrize("start", [1, 4, 7])
def test_a_batch_depends_on_its_step_and_not_on_where_the_run_began(start):
    whole = take(9)
    for batch, resumed in zip(whole[start:], take(9 - start, start_step=start), strict=True):
        assert_equal(batch, resumed)


def test_every_epoch_holds_every_example_once_in_an_order_of_its_own():
    batches = take(12)
    epochs = [numbers(*batches[i : i + 4]) for i in (0, 4, 8)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(16))
    assert len(set(map(tuple, epochs))) == 3
    index = np.concatenate([batch["index"] for batch in batches])
    np.testing.assert_array_equal(index, np.arange(48))


def test_seeds_give_different_orders():
    first, second = (numbers(*take(4, seed=seed)) for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("start", [0, 5])
def test_the_shares_of_the_processes_are_the_global_batch_one_after_the_other(count, start):
    processes = [take(4, start_step=start, process=(i, count)) for i in range(count)]
    for step, (whole, *shares) in enumerate(
        zip(take(4, start_step=start), *processes, strict=True)
    ):
        np.testing.assert_array_equal(whole["index"], 4 * (start + step) + np.arange(4))
        assert_equal({key: np.concatenate([s[key] for s in shares]) for key in whole}, whole)


def test_a_batch_may_hold_one_example():
    ones = take(8, batch_size=1)
    assert numbers(*ones) == numbers(*take(2))
    assert ones[0]["image"].shape == (1, 4, 6, 3)
    assert_equal(take(1, batch_size=1, start_step=5)[0], ones[5])


def test_a_split_smaller_than_a_batch_trains():
    batches = take(3, fitted(Numbered(3)))
    assert sorted(numbers(*batches)) == sorted(list(range(3)) * 4)


def test_evaluation_covers_every_example_once_and_fills_up_with_void():
    examples = fitted(Numbered(6))
    starts, batches = zip(*pipeline.eval_batches(examples, 4), strict=True)
    assert starts == (0, 4)
    assert [batch["label"].shape for batch in batches] == [(4, 4, 6)] * 2
    assert numbers(*batches)[:6] == list(range(6))
    assert (batches[1]["label"][2:] == VOID).all()
    assert not any((row == VOID).any() for row in [*batches[0]["label"], *batches[1]["label"][:2]])


def test_processes_share_every_evaluation_batch_and_take_as_many():
    examples = fitted(Numbered(5))
    shares = [list(pipeline.eval_batches(examples, 4, (i, 2))) for i in range(2)]
    assert [[start for start, _ in share] for share in shares] == [[0, 4], [2, 6]]
    first, second = ([batch for _, batch in share] for share in shares)
    labelled = numbers(*first)[:3] + numbers(*second)[:2]
    assert sorted(labelled) == list(range(5))
    for empty in (first[1]["label"][1:], second[1]["label"]):
        assert (empty == VOID).all()


def test_pad_keeps_pixels_and_surrounds_them_with_void():
    examples = fitted(Numbered(2, sizes=((4, 6), (3, 5))), max_size=(4, 6))
    example = examples[1]
    assert example["size"].tolist() == [3, 5]
    assert example["image"].shape == (4, 6, 3) and example["label"].shape == (4, 6)
    assert (example["image"][:3, :5] == 1).all() and (example["label"][:3, :5] == 1).all()
    outside = np.ones((4, 6), bool)
    outside[:3, :5] = False
    assert (example["label"][outside] == VOID).all()
    assert (example["image"][outside] == pipeline.FILL).all()


@pytest.mark.parametrize(
    ("native", "label_shape", "size"), [(False, (8, 4), [8, 4]), (True, (9, 9), [7, 5])]
)
def test_resize_stretches_images_and_can_leave_labels_alone(native, label_shape, size):
    source = Numbered(2, sizes=((9, 9), (7, 5)))
    example = fitted(source, native, max_size=(9, 9), fit="resize", size=(8, 4))[1]
    assert example["image"].shape == (8, 4, 3) and (example["image"] == 1).all()
    assert example["label"].shape == label_shape and example["size"].tolist() == size
    assert (example["label"][: size[0], : size[1]] == 1).all()
    assert (example["label"] == VOID).sum() == np.prod(label_shape) - np.prod(size)


@pytest.mark.parametrize("fit", pipeline.FITS)
def test_the_cache_changes_nothing(fit):
    source = ShapesSource("train", 5, (12, 10), seed=0)
    options = dict(max_size=(12, 10), fit=fit, size=(8, 8))
    cached, uncached = (fitted(source, **options, cache_gb=gb) for gb in (1.0, 0.0))
    assert cached._cache is not None and uncached._cache is None
    for i in range(5):
        assert_equal(cached[i], uncached[i])


@pytest.mark.parametrize("size", [(7, 5), (24, 40), (16, 16), (33, 3)])
def test_resizing_labels_invents_no_value(size):
    label = np.random.default_rng(0).choice([0, 7, 20, VOID], (16, 16)).astype(np.uint8)
    resized = pipeline.resize_label(label, size)
    assert resized.shape == size and resized.dtype == np.uint8
    assert set(np.unique(resized)) <= {0, 7, 20, VOID}


@pytest.mark.parametrize("size", [(3, 3), (9, 9), (27, 27)])
def test_resized_labels_lie_where_the_resized_image_lies(size):
    columns = np.arange(9, dtype=np.uint8)[None].repeat(9, axis=0)
    image = pipeline.resize_image(np.repeat(columns[..., None] * 20 + 10, 3, axis=-1), size)
    label = pipeline.resize_label(columns, size)
    np.testing.assert_allclose(label, image[:, :, 0] / 20 - 0.5, atol=0.4)
