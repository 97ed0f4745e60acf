"""DICOM and NIfTI, written by pydicom and nibabel."""

import io
import json
import sys
from types import SimpleNamespace

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset

from segjax.data import decode, slices
from segjax.data.fitting import Fit
from segjax.data.formats import volumes
from segjax.data.label_table import LabelTable
from segjax.data.pixels import Pixels, to_image
from segjax.errors import ConfigError, DataError
from segjax.inference import inputs, networks
from segjax.inference.volumes import predict_volumes

TABLE = LabelTable.of_names(["background", "organ"])
CT = np.random.default_rng(0).integers(0, 4096, (6, 7)).astype(np.uint16)


def dicom(array=CT, color="MONOCHROME2", bits=12, signed=0, **tags):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    file = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    frames, (height, width) = 1, array.shape[:2]
    if color != "RGB" and array.ndim == 3:
        frames, height, width = array.shape
        file.NumberOfFrames = frames
    file.Rows, file.Columns, file.PhotometricInterpretation = height, width, color
    file.SamplesPerPixel = 3 if color == "RGB" else 1
    if color == "RGB":
        file.PlanarConfiguration = 0
    file.BitsAllocated = 8 * array.dtype.itemsize
    file.BitsStored, file.HighBit = min(bits, file.BitsAllocated), min(bits, file.BitsAllocated) - 1
    file.PixelRepresentation = signed
    for name, value in tags.items():
        setattr(file, name, value)
    file.PixelData = array.tobytes()
    out = io.BytesIO()
    file.save_as(out, enforce_file_format=True)
    return out.getvalue()


def read(data, **fields):
    kind = Pixels("stored", **{"channels": 1, "dtype": "int16"} | fields)
    return to_image(decode.read(data, "a.dcm"), "a.dcm", kind)


def test_a_ct_image_is_in_hounsfield_units():
    found, missing = read(dicom(RescaleSlope=1, RescaleIntercept=-1024))
    np.testing.assert_array_equal(found[..., 0], CT.astype(np.int16) - 1024, strict=True)
    assert missing is None
    found, _ = read(dicom(RescaleSlope=0.5, RescaleIntercept=-3), dtype="float32")
    np.testing.assert_array_equal(found[..., 0], CT * np.float32(0.5) - 3)


def test_the_type_is_one_for_all_slices_of_a_series():
    """By the bits that are stored: the values of one slice would have fitted into 16."""
    for top in (100, 65535):
        array = (CT.astype(np.uint32) * top // 4095).astype(np.uint16)
        data = dicom(array, bits=16, RescaleSlope=1, RescaleIntercept=-1024)
        found, _ = read(data, dtype="float32")
        np.testing.assert_array_equal(found[..., 0], array.astype(np.float32) - 1024)


def test_monochrome1_is_turned_around_and_padding_has_no_data():
    found, _ = read(dicom(color="MONOCHROME1"), dtype="uint16")
    np.testing.assert_array_equal(found[..., 0], 4095 - CT)
    signed = CT.astype(np.int16) - 2048
    found, _ = read(dicom(signed, "MONOCHROME1", signed=1))
    np.testing.assert_array_equal(found[..., 0], -1 - signed)
    data = dicom(PixelPaddingValue=int(CT[2, 3]), RescaleSlope=1, RescaleIntercept=-1024)
    _, missing = read(data)
    np.testing.assert_array_equal(missing, CT[2, 3] == CT)


def test_colours_and_frames():
    rgb = np.random.default_rng(1).integers(0, 256, (6, 7, 3), np.uint8)
    found, _ = to_image(decode.read(dicom(rgb, "RGB", 8), "a"), "a", Pixels())
    np.testing.assert_array_equal(found, rgb)
    frames = np.stack([CT, CT + 1, CT + 2])
    with pytest.raises(DataError, match=r"a\.dcm: DICOM, 3 pages of 12 bits; .*data\.pages"):
        read(dicom(frames), channels=3, dtype="uint16")
    found, _ = read(dicom(frames), channels=3, dtype="uint16", pages="channels")
    np.testing.assert_array_equal(found, np.moveaxis(frames, 0, 2))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (dicom()[:-20], r"a\.dcm: damaged DICOM"),
        (dicom(Rows=0), r"a\.dcm: damaged DICOM .* 0×7"),
        (dicom(ModalityLUTSequence=[]), r"a\.dcm: DICOM with a table of values"),
    ],
)
def test_what_cannot_be_read_is_named(data, message):
    with pytest.raises(DataError, match=message):
        read(data)


def test_missing_libraries_are_named(monkeypatch, tmp_path):
    for name in ("pydicom", "pydicom.pixels", "nibabel"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'segjax.medical.'"):
        decode.read(dicom(), "a.dcm")
    with pytest.raises(ConfigError, match=r"pip install 'segjax.medical.'"):
        volumes.read(tmp_path / "a.nii")


# Of scanners: left-posterior-superior, axes in another order, and one that is turned a little.
AFFINES = {
    "RAS": np.diag([1, 1, 3, 1]),
    "LPS": np.diag([-1, -1, 3, 1]),
    "PSR": np.array([[0, 0, 2.0, 5], [-1, 0, 0, -7], [0, 1, 0, 9], [0, 0, 0, 1]]),
    "oblique": np.array([[0.98, -0.17, 0, 3], [0.17, 0.98, 0, 1], [0, 0, 4, 2], [0, 0, 0, 1]]),
}
SHAPE = (5, 6, 7)


def save(path, array, affine="RAS", **header):
    path.parent.mkdir(parents=True, exist_ok=True)
    file = nibabel.Nifti1Image(array, AFFINES[affine])
    for name, value in header.items():
        file.header[name] = value
    nibabel.save(file, path)
    return path


@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_a_label_map_has_the_affine_and_the_voxels_of_its_volume(tmp_path, affine, axis):
    array = np.random.default_rng(2).integers(-1000, 1000, SHAPE).astype(np.int16)
    volume = volumes.read(save(tmp_path / "a.nii.gz", array, affine), axis)
    labels = ((volume.slice(i) > 0).astype(np.uint8) for i in range(len(volume)))
    volume.write(tmp_path / "b.nii.gz", labels)
    found = nibabel.load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(np.asarray(found.dataobj), array > 0)
    np.testing.assert_array_equal(found.affine, nibabel.load(tmp_path / "a.nii.gz").affine)
    assert found.get_data_dtype() == np.uint8
    if axis is None:
        expected = 0 if affine == "PSR" else 2
        assert volume.axis == expected  # across the largest voxels


def test_an_axial_slice_shows_anterior_above_and_left_at_the_left(tmp_path):
    array = np.zeros(SHAPE, np.int16)
    array[4, 5, 3] = 1  # right, anterior
    volume = volumes.read(save(tmp_path / "a.nii", array))
    shown = volume.slice(3)
    assert shown.shape == (6, 5) and shown[0, 4] == 1
    around = volume.around(0, 3)
    assert around.shape == (6, 5, 3)
    np.testing.assert_array_equal(around[..., 0], around[..., 1])


def test_scaled_volumes_are_the_numbers_that_their_header_says(tmp_path):
    array = np.arange(210, dtype=np.float32).reshape(SHAPE) * 0.5 - 3
    file = nibabel.Nifti1Image(array, np.eye(4))
    file.set_data_dtype(np.int16)  # nibabel stores slope and intercept
    nibabel.save(file, tmp_path / "a.nii")
    found = volumes.read(tmp_path / "a.nii")
    assert found.array.dtype == np.float32
    np.testing.assert_allclose(found.array, array, atol=2e-3)


def nnunet(root, count=2, names=None):
    rng = np.random.default_rng(3)
    for i in range(count):
        for channel in range(2):
            array = rng.integers(0, 900, SHAPE).astype(np.int16)
            save(root / f"imagesTr/case{i}_{channel:04}.nii.gz", array, "LPS")
        save(root / f"labelsTr/case{i}.nii.gz", rng.integers(0, 3, SHAPE).astype(np.uint8), "LPS")
    if names:
        (root / "dataset.json").write_text(json.dumps({"labels": names}))


@pytest.mark.parametrize("names", [
    {"background": 0, "liver": 1, "tumour": 2}, {"0": "background", "1": "liver", "2": "tumour"},
])  # fmt: skip
def test_nnunet_s_folders_become_slices(tmp_path, names):
    nnunet(tmp_path / "raw", names=names)
    out = slices.prepare(str(tmp_path / "raw"), str(tmp_path / "out"), neighbours=1)
    table = LabelTable.from_json((out / "classes.json").read_text())
    assert table.names == ("background", "liver", "tumour")
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.npy"))
    assert len(files) == 14 and files[0] == "images/case0/0000.npy"
    image = np.load(out / "images/case1/0003.npy")
    parts = [volumes.read(tmp_path / f"raw/imagesTr/case1_{c:04}.nii.gz") for c in range(2)]
    expected = np.concatenate([part.around(3, 3) for part in parts], axis=-1)
    np.testing.assert_array_equal(image, expected, strict=True)
    mask = volumes.read(tmp_path / "raw/labelsTr/case1.nii.gz")
    stored = np.asarray(Image.open(out / "masks/case1/0003.png"))
    np.testing.assert_array_equal(stored, mask.slice(3))


def test_volumes_that_do_not_belong_together_are_refused_by_name(tmp_path):
    def attempt(name, message):
        with pytest.raises(DataError, match=message):
            slices.prepare(str(tmp_path / name), str(tmp_path / f"out_{name}"))

    attempt("none", r"none: holds 0 folders of images, imagesTr")
    nnunet(tmp_path / "alone")
    (tmp_path / "alone/labelsTr/case1.nii.gz").unlink()
    attempt("alone", r"alone: 1 volumes without a partner, such as case1")
    nnunet(tmp_path / "shape")
    save(tmp_path / "shape/labelsTr/case1.nii.gz", np.zeros((5, 6, 8), np.uint8), "LPS")
    attempt("shape", r"case1\.nii\.gz: a volume of \[5, 6, 8\], and .*\[5, 6, 7\]")
    nnunet(tmp_path / "place")
    save(tmp_path / "place/labelsTr/case1.nii.gz", np.zeros(SHAPE, np.uint8), "RAS")
    attempt("place", r"case1\.nii\.gz: lies elsewhere than")
    nnunet(tmp_path / "names", names={"background": 0, "liver": 1})
    attempt("names", r"dataset\.json: masks hold \[2\], which it does not name")
    nnunet(tmp_path / "damaged")
    path = tmp_path / "damaged/imagesTr/case0_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:60])
    attempt("damaged", r"case0_0000\.nii\.gz: no NIfTI volume, or damaged")
    save(tmp_path / "time/images/a.nii", np.zeros((4, 4, 4, 2), np.int16))
    save(tmp_path / "time/masks/a.nii", np.zeros((4, 4, 4, 2), np.uint8))
    attempt("time", r"a\.nii: a volume of shape \[4, 4, 4, 2\]")


def test_a_volume_is_predicted_into_a_label_map(tmp_path):
    array = np.random.default_rng(4).integers(-1000, 1000, SHAPE).astype(np.int16)
    save(tmp_path / "in/a.nii.gz", array, "PSR")
    (tmp_path / "in/b.nii.gz").write_bytes(b"no volume")
    kind = Pixels("stored", 3, "int16")
    network = networks.Network(None, TABLE, Fit((32, 32), resizes=True), kind)
    model = SimpleNamespace(
        network=network, table=TABLE, label=lambda image: (image[..., 1] > 0).astype(np.uint8)
    )
    out = tmp_path / "out"
    out.mkdir()
    files = inputs.find_volumes(str(tmp_path / "in"))
    summary = predict_volumes(model, files, out)
    (entry,), (skipped,) = summary["images"], summary["skipped"]
    assert "b.nii.gz: no NIfTI volume" in skipped and entry["axis"] == "right"
    found = nibabel.load(out / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(found.dataobj), array > 0)
    # Voxels of PSR are 1 × 1 × 2 mm.
    assert entry["class_volumes_mm3"]["organ"] == pytest.approx(2 * (array > 0).sum())
    with pytest.raises(ConfigError, match="would replace volumes"):
        predict_volumes(model, files, tmp_path / "in")
    (tmp_path / "in/c.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"volumes and images, such as .*c\.png"):
        inputs.find_volumes(str(tmp_path / "in"))
