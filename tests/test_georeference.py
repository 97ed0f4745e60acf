"""Results on the map of their images: rasterio, which is GDAL, says where they lie."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import rasterio
import tifffile
from rasterio.transform import Affine, from_origin

from segjax.data import fitting
from segjax.data.fitting import Fit
from segjax.data.formats import geotiff
from segjax.data.label_table import LabelTable
from segjax.data.pixels import Pixels
from segjax.errors import ConfigError
from segjax.inference import georeference, inputs, networks, scenes
from segjax.inference.images import predict_images
from segjax.inference.predictor import Predictor

TABLE = LabelTable.of_names(["background", "roof"])
UTM = from_origin(500_000, 5_600_000, 0.5, 0.5)
TURNED = Affine.translation(10, 50) * Affine.rotation(30) * Affine.scale(0.25, -0.5)
IMAGE = np.random.default_rng(0).integers(1, 9000, (4, 40, 50)).astype(np.uint16)


def model():
    def label(image, mask=None):
        return (image[..., 0] > 4000).astype(np.uint8)

    kind = Pixels("stored", 4, "uint16")
    network = networks.Network(None, TABLE, Fit((32, 32), resizes=True), kind)
    return SimpleNamespace(network=network, fit=network.fit, table=TABLE, label=label)


def write(path, transform=UTM, crs="EPSG:32632", nodata=None, image=IMAGE):
    bands, height, width = image.shape
    profile = dict(driver="GTiff", count=bands, height=height, width=width, dtype=image.dtype)
    with rasterio.open(path, "w", crs=crs, transform=transform, nodata=nodata, **profile) as file:
        file.write(image)
    return path


@pytest.mark.parametrize(("transform", "crs"), [
    (UTM, "EPSG:32632"), (TURNED, "EPSG:4326"), (UTM, "EPSG:2263"), (TURNED, None),
])  # fmt: skip
def test_a_result_lies_where_its_image_lies(tmp_path, transform, crs):
    path = write(tmp_path / "a.tif", transform, crs)
    predict_images(model(), str(path), tmp_path / "out")
    with rasterio.open(path) as image, rasterio.open(tmp_path / "out/a.tif") as result:
        assert result.crs == image.crs
        assert result.transform.almost_equals(image.transform, 1e-9)
        assert result.shape == image.shape and result.nodata == 255
        np.testing.assert_array_equal(result.read(1), IMAGE[0] > 4000)
        assert result.colormap(1)[1][:3] == tuple(TABLE.palette[1].tolist())


def test_areas_are_in_square_metres_where_the_map_says_its_unit(tmp_path):
    write(tmp_path / "a.tif")
    summary = predict_images(model(), str(tmp_path / "a.tif"), tmp_path / "out")
    areas = summary["images"][0].get("class_areas_m2")
    place = geotiff.read(tmp_path / "a.tif")
    assert place.transform == pytest.approx(tuple(UTM)[:6])
    if place.unit:  # GDAL writes the key of the unit for EPSG:32632, but need not
        assert areas["roof"] == pytest.approx((IMAGE[0] > 4000).sum() * 0.25)
    write(tmp_path / "degrees.tif", crs="EPSG:4326")
    summary = predict_images(model(), str(tmp_path / "degrees.tif"), tmp_path / "out2")
    assert "class_areas_m2" not in summary["images"][0]


def test_pixels_without_data_are_void_on_the_map(tmp_path):
    image = IMAGE.copy()
    image[:, :10] = 0
    write(tmp_path / "a.tif", nodata=0, image=image)
    summary = predict_images(model(), str(tmp_path / "a.tif"), tmp_path / "out")
    with rasterio.open(tmp_path / "out/a.tif") as result:
        assert (result.read(1)[:10] == 255).all() and (result.read(1)[10:] < 2).all()
    shares = summary["images"][0]["class_shares"]
    assert shares["roof"] == pytest.approx((image[0, 10:] > 4000).mean(), abs=1e-6)


def test_polygons_cover_the_class_in_map_coordinates(tmp_path):
    write(tmp_path / "a.tif")
    predict_images(model(), str(tmp_path / "a.tif"), tmp_path / "out", vector=True)
    content = json.loads((tmp_path / "out/a.geojson").read_text())
    assert content["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32632"

    def area(ring):
        x, y = np.array(ring).T
        return abs(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2

    total = 0
    for feature in content["features"]:
        assert feature["properties"] == {"class_id": 1, "class": "roof"}
        outer, *holes = feature["geometry"]["coordinates"]
        total += area(np.array(outer) - [500_000, 5_600_000])
        total -= sum(area(np.array(hole) - [500_000, 5_600_000]) for hole in holes)
    assert total == pytest.approx((IMAGE[0] > 4000).sum() * 0.25)


def test_without_rasterio_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rasterio", None)
    label, place = np.ones((2, 2), np.uint8), geotiff.Georeference({}, tuple(UTM)[:6], 1.0)
    with pytest.raises(ConfigError, match=r"pip install 'segjax.geo.'"):
        georeference.write_vector(tmp_path / "a.geojson", label, TABLE, place)


def test_results_are_known_again_and_others_files_are_not_replaced(tmp_path):
    write(tmp_path / "a.tif")
    out = tmp_path / "out"
    for _ in range(2):
        predict_images(model(), str(tmp_path / "a.tif"), out, vector=True)
    assert geotiff.read(tmp_path / "a.tif") and inputs.is_result(out / "a.tif")
    found = inputs.find_images(str(tmp_path), tmp_path / "other")
    assert [path.name for path in found.files] == ["a.tif"]
    other = tmp_path / "third"
    other.mkdir()
    write(other / "a.tif")
    with pytest.raises(ConfigError, match=r"would replace .*third/a\.tif"):
        predict_images(model(), str(tmp_path / "a.tif"), other)


def test_a_tiff_that_lies_nowhere_has_no_map(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.moveaxis(IMAGE, 0, 2),
        planarconfig="contig",
        photometric="minisblack",
    )
    summary = predict_images(model(), str(tmp_path / "a.tif"), tmp_path / "out")
    assert "map" not in summary["images"][0] and not (tmp_path / "out/a.tif").exists()
    (tmp_path / "broken.tif").write_bytes(b"II*\0")
    assert geotiff.read(tmp_path / "broken.tif") is None


def test_a_scene_is_read_in_windows_and_becomes_what_it_is_as_a_whole(tmp_path, monkeypatch):
    """A network of one layer: every pixel's class depends on its neighbours in tiles, too."""
    rng = np.random.default_rng(1)
    image = rng.integers(1, 9000, (4, 150, 190)).astype(np.uint16)
    image[:, :20, :30] = 0
    write(tmp_path / "a.tif", nodata=0, image=image)

    @jax.jit
    def logits(images):
        x = images.astype(np.float32).mean(-1, keepdims=True) - 4500
        x = x + jax.numpy.roll(x, 1, axis=2)
        return jax.numpy.concatenate([-x, x], axis=-1)

    kind = Pixels("stored", 4, "uint16")
    network = networks.Network(logits, TABLE, Fit((64, 64), False, fill=(4500,) * 4), kind)
    model = Predictor(network)
    for name, value in {"MAX_PIXELS": 64 * 64, "TILE": 64}.items():
        monkeypatch.setattr(fitting, name, value)
    predict_images(model, str(tmp_path / "a.tif"), tmp_path / "whole")
    monkeypatch.setattr(scenes, "MIN_PIXELS", 1)
    read = []
    cut = scenes.Scene.__getitem__
    monkeypatch.setattr(scenes.Scene, "__getitem__", lambda s, k: read.append(k) or cut(s, k))
    predict_images(model, str(tmp_path / "a.tif"), tmp_path / "windows", vector=True)
    assert len(read) > 10
    with (
        rasterio.open(tmp_path / "whole/a.tif") as a,
        rasterio.open(tmp_path / "windows/a.tif") as b,
    ):
        whole, windows = a.read(1), b.read(1)
    assert (windows[:20, :30] == 255).all() and (windows == 255).sum() == 600
    near = np.zeros(windows.shape, bool)
    near[:20, :31] = True  # what a gap is filled with is the mean of its window
    np.testing.assert_array_equal(windows[~near], whole[~near])
    path = tmp_path / "a.tif"
    path.write_bytes(path.read_bytes()[:-60_000])
    summary = predict_images(model, str(path), tmp_path / "broken")
    assert "a.tif: damaged TIFF" in summary["skipped"][0]
