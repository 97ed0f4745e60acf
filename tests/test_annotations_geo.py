"""Polygons over GeoTIFFs, and what QuPath and ImageJ export: exact masks, faults, and back."""

import json
import sys
from contextlib import suppress

import numpy as np
import pytest
import rasterio
import shapefile
from PIL import Image
from rasterio.features import rasterize
from rasterio.transform import Affine, from_origin
from rasterio.warp import transform_geom

from segjax import prepare
from segjax.data.annotations.convert import convert
from segjax.data.annotations.projection import WGS84
from segjax.data.formats import geotiff
from segjax.data.label_table import LabelTable
from segjax.errors import ConfigError, DataError
from segjax.inference.georeference import write_vector

UTM = "EPSG:32632"
PLAIN = from_origin(500_000, 5_600_000, 0.5, 0.5)
TURNED = Affine.translation(500_000, 5_600_000) * Affine.rotation(30) * Affine.scale(0.5, -0.5)
SIZE = (12, 16)
SQUARE = [[2, 1], [9, 1], [9, 8], [2, 8]]  # columns 2 to 8, rows 1 to 7
HOLE = [[4, 3], [6, 3], [6, 5], [4, 5]]


def tif(path, transform=PLAIN, crs=UTM, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = dict(driver="GTiff", count=3, height=size[0], width=size[1], dtype="uint8")
    with rasterio.open(path, "w", crs=crs, transform=transform, **profile) as file:
        file.write(np.zeros((3, *size), np.uint8))
    return path


def on_map(rings, transform):
    return [[[*(transform * tuple(p))] for p in [*r, r[0]]] for r in rings]


def feature(rings, name="roof", transform=PLAIN, geometry="Polygon", **properties):
    properties |= {} if name is None else {"class": name}
    coordinates = rings if transform is None else on_map(rings, transform)
    geometry = {"type": geometry, "coordinates": coordinates}
    return {"type": "Feature", "properties": properties, "geometry": geometry}


def save(path, features, crs=UTM):
    member = {"crs": {"type": "name", "properties": {"name": crs}}} if crs else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", **member, "features": features}))


def square(class_id, hole=False):
    mask = np.zeros(SIZE, np.uint8)
    mask[1:8, 2:9] = class_id
    if hole:
        mask[3:5, 4:6] = 0
    return mask


@pytest.fixture
def source(tmp_path):
    tif(tmp_path / "source/a.tif")
    return tmp_path / "source"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def run(tool, source, out, **options):
    return convert(tool, str(source), str(out), **options)[1]


def mask_of(out, name="a"):
    return np.array(Image.open(out / f"masks/{name}.png"))


def counts(report, kind="dropped"):
    return {reason: found["count"] for reason, found in report[kind].items()}


def names(report):
    return [row["name"] for row in report["classes"][:-1]]


@pytest.mark.parametrize("transform", [PLAIN, TURNED], ids=["plain", "turned"])
def test_polygons_with_holes_in_the_image_s_own_crs(tmp_path, out, transform):
    tif(tmp_path / "source/a.tif", transform)
    other = [[[10, 9], [12, 9], [12, 11], [10, 11]]]
    features = [
        feature([SQUARE, HOLE], "roof", transform),
        feature(
            [on_map(other, transform), on_map([HOLE], transform)], "tree", None, "MultiPolygon"
        ),
    ]
    save(tmp_path / "source/any.geojson", features, "urn:ogc:def:crs:EPSG::32632")
    report = run("geojson", tmp_path / "source", out)
    expected = square(1, hole=True)
    expected[9:11, 10:12] = expected[3:5, 4:6] = 2
    np.testing.assert_array_equal(mask_of(out), expected)
    assert names(report) == ["background", "roof", "tree"] and counts(report) == {}
    assert [row["regions"] for row in report["classes"]] == [0, 1, 2, 0]
    assert (out / "images/a.tif").readlink() == tmp_path / "source/a.tif"


def test_longitude_and_latitude_over_utm(tmp_path, out):
    size = (200, 300)
    tif(tmp_path / "source/a.tif", TURNED, UTM, size)
    rings = [
        [[20, 10], [250, 40], [280, 180], [130, 120], [40, 190]],
        [[100, 60], [150, 60], [90, 99]],
    ]
    own = {"type": "Polygon", "coordinates": on_map(rings, TURNED)}
    expected = rasterize([(own, 1)], size, transform=TURNED)
    degrees = transform_geom(UTM, WGS84, own, precision=12)
    far = [[[-170, 0], [-160, 0], [-160, 5], [-170, 5]]]
    features = [feature(degrees["coordinates"], transform=None), feature(far, transform=None)]
    save(tmp_path / "source/any.json", features, None)
    report = run("geojson", tmp_path / "source", out)
    mask = mask_of(out)
    assert (mask & expected).sum() / (mask | expected).sum() > 0.99
    assert counts(report) == {"polygons outside of every image": 1}
    save(
        tmp_path / "source/any.json", [feature([[[9, 99], [9, 98], [8, 98]]], transform=None)], None
    )
    with pytest.raises(
        DataError, match="feature 1: no longitude and latitude: 9, 99; name the EPSG"
    ):
        run("geojson", tmp_path / "source", out.with_name("other"))


def test_one_point_that_cannot_be_projected_spoils_no_other_polygon(source, out):
    own = {"type": "Polygon", "coordinates": on_map([SQUARE], PLAIN)}
    near = transform_geom(UTM, "EPSG:4326", own, precision=12)["coordinates"]
    far = [[400, 5000], [409, 1], [409, 8]]
    features = [feature(near, transform=None), feature([far], transform=None)]
    save(source / "any.geojson", features, "EPSG:4258")  # degrees that are not checked
    report = run("geojson", source, out)
    np.testing.assert_array_equal(mask_of(out), square(1))
    assert counts(report) == {"polygons outside of every image": 1}


def test_files_for_one_image_and_for_all_and_what_lies_outside(source, out):
    tif(source / "b.tif", PLAIN * Affine.translation(5, 0))
    far = [[x + 1000, y] for x, y in SQUARE]
    tiny = [[2.6, 2.6], [2.9, 2.6], [2.9, 2.9]]
    point = {
        "type": "Feature",
        "properties": {},
        "geometry": {"type": "Point", "coordinates": [1, 2]},
    }
    empty = {"type": "Feature", "properties": {}, "geometry": None}
    shared = [
        feature([SQUARE]),
        feature([far]),
        feature([tiny]),
        point,
        empty,
        feature([SQUARE[:2]]),
    ]
    save(source / "all.geojson", shared)
    save(source / "b.geojson", [feature([[[6, 9], [7, 9], [7, 10], [6, 10]]], "tree")])
    (source / "other.json").write_text('{"type": "Topology"}')
    report = run("geojson", source, out)
    np.testing.assert_array_equal(mask_of(out), square(1))
    expected = np.zeros(SIZE, np.uint8)
    expected[1:8, :4], expected[9, 1] = 1, 2
    np.testing.assert_array_equal(mask_of(out, "b"), expected)
    assert counts(report) == {
        "files that are no FeatureCollection": 1,
        "geometries that are no polygons (Point)": 1,
        "geometries that are no polygons (null)": 1,
        "polygons of fewer than 3 points": 1,
        "polygons outside of every image": 1,
        "regions without the centre of a pixel": 1,
    }
    assert counts(report, "notes") == {"regions clipped at the edge of the image": 1}


def test_images_without_polygons_follow_empty(source, out):
    tif(source / "b.tif", PLAIN * Affine.translation(500, 0))
    save(source / "all.geojson", [feature([SQUARE])])
    assert counts(run("geojson", source, out)) == {"images without annotations": 1}
    run("geojson", source, out.with_name("other"), empty="background")
    assert not mask_of(out.with_name("other"), "b").any()


def test_which_property_is_the_class(source, out):
    nested = {"classification": '{"name": "lake"}'}  # as GDAL writes objects inside of properties
    for number, (properties, options, expected) in enumerate([
        ({"title": "x", "label": "roof"}, {}, "roof"),
        (nested, {}, "lake"),
        ({"classification": {"name": "lake"}}, {}, "lake"),
        ({"kind": 7, "label": "roof"}, {"property": "kind"}, "7"),
        ({"other": 1}, {}, "object"),
    ]):  # fmt: skip
        save(source / "any.geojson", [feature([SQUARE], None, **properties)])
        report = run("geojson", source, out / str(number), **options)
        assert names(report) == ["background", expected]
    save(source / "any.geojson", [feature([SQUARE]), feature([HOLE], None, kind=1)])
    message = (
        r"any\.geojson, feature 2: feature without a class: no class or label .*\['kind'\]; add"
    )
    with pytest.raises(DataError, match=message):
        run("geojson", source, out / "a")
    report = run("geojson", source, out / "b", on_error="skip")
    assert counts(report) == {"feature without a class": 1}
    with pytest.raises(DataError, match="no typo among"):
        run("geojson", source, out / "c", property="typo")


@pytest.mark.parametrize(("transform", "crs", "value"), [
    (PLAIN, None, "no EPSG code"), (None, None, "no transform"),
    (PLAIN, "+proj=tmerc +lat_0=1 +lon_0=9 +ellps=bessel", "no EPSG code"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_an_image_without_crs_is_named(tmp_path, out, transform, crs, value):
    tif(tmp_path / "source/a.tif", transform, crs)
    save(tmp_path / "source/any.geojson", [feature([SQUARE])])
    with pytest.raises(DataError, match=rf"a\.tif: missing CRS: {value}; write it .*gdal_edit"):
        run("geojson", tmp_path / "source", out)
    assert not out.exists()


POLYGON = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}
FAULTS = {
    "cut": ('{"type": "Feat', "not JSON, or cut off"),
    "kind": ('{"type": "Topology"}', "no FeatureCollection: Topology"),
    "list": ("[1]", "no FeatureCollection: list"),
    "crs": (
        '{"type": "FeatureCollection", "features": [], "crs": {"properties": {"name": "mine"}}}',
        "crs that is not known: mine; name its EPSG code",
    ),
    "code": ([feature([SQUARE])], "unknown CRS: .*99999"),
    "geometry": ([{"geometry": POLYGON | {"type": "Star"}}], "unknown type of geometry: Star"),
    "text": ([{"geometry": POLYGON | {"coordinates": [[["a", "b"]]]}}], "that are no numbers"),
    "flat": ([{"geometry": POLYGON | {"coordinates": [[0, 1]]}}], "positions that are not x, y"),
    "nan": ([{"geometry": POLYGON | {"coordinates": [[[0, float("nan")]]]}}], "NaN or infinite"),
    "ring": ([{"geometry": POLYGON | {"type": "MultiPolygon", "coordinates": [1]}}], "no list of"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_geojson_is_named(source, out, name):
    content, message = FAULTS[name]
    if isinstance(content, str):
        (source / "any.geojson").write_text(content)
    else:
        save(source / "any.geojson", content, "EPSG:99999" if name == "code" else UTM)
    with pytest.raises(DataError, match=rf"any\.geojson.*{message}"):
        run("geojson", source, out)
    assert not out.exists()


def test_nothing_to_read_and_no_rasterio(source, out, monkeypatch):
    with pytest.raises(DataError, match=r"no .*geojson.* below it"):
        run("geojson", source, out)
    save(source / "any.geojson", [feature([[[1, 1], [2, 1], [2, 2]]], transform=None)], None)
    for module in ("rasterio", "rasterio.crs"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r"any\.geojson.*pip install 'segjax.geo.'"):
        run("geojson", source, out)


def test_a_mask_as_polygons_and_back(tmp_path, out):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (40, 50)).astype(np.uint8)
    label[10:30, 10:30] = 1
    label[15:20, 15:20] = 2
    path = tif(tmp_path / "source/a.tif", TURNED, size=label.shape)
    table = LabelTable.of_names(["background", "roof", "tree"])
    write_vector(tmp_path / "source/a.geojson", label, table, geotiff.read(path))
    report = run("geojson", tmp_path / "source", out)
    again = np.array([table.names.index(name) for name in names(report)])[mask_of(out)]
    np.testing.assert_array_equal(again, label)


def shapes(path, rings, crs=UTM):
    with shapefile.Writer(str(path)) as file:
        file.field("class", "C")
        file.poly(rings)
        file.record("roof")
    if crs:
        path.with_suffix(".prj").write_text(
            rasterio.crs.CRS.from_user_input(crs).to_wkt(version="WKT1_ESRI")
        )


def test_shapefiles(source, out):
    # Outlines run clockwise on the map, and holes against it.
    rings = on_map([SQUARE, HOLE[::-1]], PLAIN)
    shapes(source / "any.shp", rings)
    run("geojson", source, out)
    np.testing.assert_array_equal(mask_of(out), square(1, hole=True))
    own = {"type": "Polygon", "coordinates": rings}
    shapes(source / "any.shp", transform_geom(UTM, "EPSG:3857", own)["coordinates"], "EPSG:3857")
    run("geojson", source, out / "mercator")
    np.testing.assert_array_equal(mask_of(out / "mercator"), square(1, hole=True))
    (source / "any.prj").unlink()
    with pytest.raises(DataError, match=r"any\.prj: missing CRS: .*; export"):
        run("geojson", source, out / "other")
    (source / "any.shp").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"any\.shp: shapefile that cannot be read"):
        run("geojson", source, out / "other")


# QuPath and ImageJ


def png(path, pixels=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8) if pixels is None else pixels).save(path)


def test_label_images_and_their_names(tmp_path, out):
    source = tmp_path / "source"
    for name in "abc":
        png(source / f"images/{name}.png")
    png(source / "labels/a-labelled.png", square(2))
    png(source / "labels/b-mask.png", square(1))
    png(source / "labels/c_labels.tif", square(3))
    report = run("qupath", source, out / "plain")
    assert names(report) == ["background", "class 1", "class 2", "class 3"]
    np.testing.assert_array_equal(mask_of(out / "plain", "c"), square(3))
    tables = {
        "labels.csv": "id,name\n1,tumor\n2,stroma\n3,tumor\n",
        "labels.txt": "1 tumor\n2\tstroma\n3 tumor\n",
        "classes.json": '{"classes": ["background", "tumor", "stroma"], "values": [0, [1, 3], 2]}',
    }
    for name, text in tables.items():
        (source / name).write_text(text)
        report = run("qupath", source, out / name)
        assert names(report) == ["background", "tumor", "stroma"]
        np.testing.assert_array_equal(mask_of(out / name, "c"), square(1))
        (source / name).unlink()
    (source / "labels.csv").write_text("1,tumor\n")
    with pytest.raises(DataError, match=r"a-labelled\.png: .*2"):
        run("qupath", source, out / "other")


def test_faults_in_label_images(tmp_path, out):
    source = tmp_path / "source"
    png(source / "a.png")
    png(source / "a-mask.png", square(255))
    with pytest.raises(DataError, match=r"a-mask\.png: ids beyond .*: 255; .*labels\.csv"):
        run("qupath", source, out)
    png(source / "a-mask.png", square(1)[:5])
    with pytest.raises(DataError, match=r"a-mask\.png: mask of another size"):
        run("qupath", source, out)
    (source / "a-mask.png").rename(source / "z-mask.png")
    with pytest.raises(DataError, match=r"z-mask\.png: image that is missing: z\.\*; put"):
        run("qupath", source, out)
    (source / "z-mask.png").unlink()
    with pytest.raises(DataError, match="no labels and no GeoJSON"):
        run("qupath", source, out)


def qupath(rings, classification, kind="annotation"):
    return feature(rings, None, None, objectType=kind, classification=classification)


def test_qupath_s_geojson_in_pixels(tmp_path, out):
    source = tmp_path / "source"
    png(source / "a.png")
    features = [
        qupath([[*SQUARE, SQUARE[0]], HOLE], {"name": "Tumor", "color": [200, 0, 0]}),
        qupath([[[10, 9], [12, 9], [12, 11], [10, 11]]], {"names": ["Cell", "Positive"]}, "cell"),
        qupath([[[14, 0], [20, 0], [20, 2], [14, 2]]], {"name": "Ignore*"}),
        qupath([SQUARE], {"name": "Tumor"}, "tile"),
    ]
    expected = square(1, hole=True)
    expected[9:11, 10:12], expected[:2, 14:] = 2, 255
    for number, content in enumerate(
        (features, {"type": "FeatureCollection", "features": features})
    ):
        (source / "a.geojson").write_text(json.dumps(content))
        report = run("qupath", source, out / str(number))
        np.testing.assert_array_equal(mask_of(out / str(number)), expected)
        assert names(report) == ["background", "Tumor", "Cell: Positive"]
        assert counts(report) == {"objects that are no annotation (tile)": 1}
        assert counts(report, "notes") == {"regions clipped at the edge of the image": 1}
    features.append(qupath([HOLE], None))
    (source / "a.geojson").write_text(json.dumps(features))
    with pytest.raises(DataError, match=r"a\.geojson, feature 5: feature without a class.*QuPath"):
        run("qupath", source, out / "other")
    save(source / "a.geojson", features)
    with pytest.raises(DataError, match=r"a\.geojson: map coordinates: .*format geojson"):
        run("qupath", source, out / "other")


def changes(content):
    """Copies of a JSON value in which one value inside is replaced."""
    yield from (other for other in (None, [[]], "", -1, 1e400) if other != content)
    keys = (
        content
        if isinstance(content, dict)
        else range(len(content))
        if isinstance(content, list)
        else ()
    )
    for key, value in ((key, content[key]) for key in keys):
        for changed in changes(value):
            copy = dict(content) if isinstance(content, dict) else [*content]
            copy[key] = changed
            yield copy


def test_no_value_of_another_type_makes_a_reader_fail(source, out):
    crs = {"type": "name", "properties": {"name": UTM}}
    whole = {"type": "FeatureCollection", "crs": crs, "features": [feature([SQUARE[:3]])]}
    pixels = [qupath([SQUARE[:3]], {"names": ["Cell"]})]
    for tool, content in (("geojson", whole), ("qupath", pixels)):
        for number, changed in enumerate(changes(content)):
            (source / "a.geojson").write_text(json.dumps(changed))
            with suppress(DataError):
                run(tool, source, out / f"{tool}{number}")


def test_the_command_line_knows_the_property(source, out, monkeypatch, capsys):
    save(source / "any.geojson", [feature([SQUARE], None, kind="roof")])
    arguments = ["prepare", "geojson", "--source", str(source), "--output", str(out)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--property=kind"])
    prepare.main()
    assert "roof" in capsys.readouterr().out
    arguments[1] = "qupath"
    monkeypatch.setattr(sys, "argv", [*arguments, "--property=kind"])
    with pytest.raises(SystemExit, match="qupath has no --property; leave it out"):
        prepare.main()
