"""What --input names: every image once, no result and no mask, and nothing left out unsaid."""

import json

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from segjax.data.listing import list_images
from segjax.errors import ConfigError, DataError
from segjax.inference.inputs import (
    SOFTWARE,
    find_images,
    find_video,
    is_result,
    name_of,
    require_own,
)


def write(*paths, software=None):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        info = PngInfo()
        if software:
            info.add_text("Software", software)
        options = {"pnginfo": info} if path.suffix == ".png" else {}
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(path, **options)


@pytest.fixture
def photos(tmp_path):
    """Images in folders, one of them linked, with what lies about beside images."""
    root = tmp_path / "photos"
    write(*(root / name for name in ("a.png", "x/b.JPG", "x/y/c.png", "d[1].png", "._a.png")))
    write(tmp_path / "elsewhere" / "e.png", root / ".trash" / "f.png", root / "@eaDir" / "g.png")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "x" / "loop").symlink_to(root)
    (root / "gone.png").symlink_to(root / "nowhere")
    for name in ("notes.txt", "Thumbs.db", "film.mp4"):
        (root / name).write_bytes(b"")
    return root


EVERY = ["a.png", "d[1].png", "linked/e.png", "x/b.JPG", "x/y/c.png"]


@pytest.mark.parametrize("pattern", ["{}", "{}/**", "{}/*", "{}/**/*.[pJ]*[gG]"])
def test_folders_and_patterns_find_every_image_once(photos, pattern, tmp_path):
    files, unused = find_images(pattern.format(photos), tmp_path / "out")
    assert sorted(str(path.relative_to(photos)) for path in files) == EVERY
    results = [tmp_path / "out" / name.rpartition(".")[0] for name in EVERY]
    assert sorted(files.values()) == [path.with_name(f"{path.name}.png") for path in results]
    assert any("loop: the same folder as" in line for line in unused)


def test_what_is_not_used_is_told_with_its_reason(photos):
    images, unused = list_images(photos)
    assert len(images) == len(EVERY)
    assert [line.removeprefix(f"{photos}/") for line in unused] == [
        "film.mp4: no image by its suffix",
        "gone.png: a broken link",
        "notes.txt: no image by its suffix",
        f"x/loop: the same folder as {photos}",
    ]


def test_a_folder_that_a_pattern_leaves_out_hides_no_link_to_it(photos, tmp_path):
    (photos / "z_link").symlink_to(photos / "x")
    found = find_images(f"{photos}/z*/*.JPG", tmp_path / "out").files
    assert [path.name for path in found] == ["b.JPG"]


def test_the_shallow_pattern_and_single_files(photos, tmp_path):
    assert [p.name for p in find_images(f"{photos}/*.png", tmp_path).files] == ["a.png", "d[1].png"]
    assert [p.name for p in find_images(f"{photos}/d[1].png", tmp_path).files] == ["d[1].png"]
    hidden = photos / "._a.png"  # named by itself it is meant
    assert list(find_images(str(hidden), tmp_path).files) == [hidden]
    (tmp_path / "empty").mkdir()
    for nothing in ("absent.png", "*.xyz", str(tmp_path / "empty")):
        with pytest.raises(DataError, match="no such image"):
            find_images(nothing, tmp_path / "out")
    with pytest.raises(DataError, match=r"no such image(.|\n)*not used: .*notes\.txt"):
        find_images(f"{photos}/*.txt", tmp_path / "out")


def test_nothing_of_the_user_s_is_replaced(photos, tmp_path):
    with pytest.raises(ConfigError, match="would replace images"):
        find_images(str(photos), photos)
    with pytest.raises(ConfigError, match="would replace images"):
        find_images(f"{photos}/*.png", photos)
    write(tmp_path / "n" / "a.png", tmp_path / "n" / "a_overlay.png")
    assert len(find_images(str(tmp_path / "n"), tmp_path / "out").files) == 2
    with pytest.raises(ConfigError, match="two images would become one file"):
        find_images(str(tmp_path / "n"), tmp_path / "out", overlay=True)
    same_name = find_images(str(tmp_path / "*" / "a.png"), tmp_path / "out").files
    assert len(same_name) == len(set(same_name.values())) == 2
    write(tmp_path / "out" / "a.png")
    with pytest.raises(ConfigError, match=r"did not write, such as .*out/a\.png"):
        find_images(str(photos / "a.png"), tmp_path / "out")
    write(tmp_path / "out" / "a.png", software=SOFTWARE)
    assert is_result(tmp_path / "out" / "a.png") and not is_result(photos / "a.png")
    assert len(find_images(str(photos / "a.png"), tmp_path / "out").files) == 1
    (own,) = find_images(str(tmp_path / "out" / "a.png"), tmp_path / "again").files
    assert own == tmp_path / "out" / "a.png"  # named by itself it is meant


def test_images_below_the_output_are_images(photos, tmp_path):
    assert len(find_images(str(photos / "x" / "y"), tmp_path).files) == 1


@pytest.mark.parametrize(
    ("images", "masks"), [("images", "masks"), ("Images", "Labels"), ("imgs", "annotations")]
)
@pytest.mark.parametrize("pattern", ["{}", "{}/**/*.png", "{}/*"])
def test_masks_beside_images_are_no_input(tmp_path, images, masks, pattern):
    root = tmp_path / "data"
    for split in ("train", "val"):
        write(*(root / split / part / f"{split}.png" for part in (images, masks)))
    write(root / "masks" / "people.png")  # a folder of photographs of masks
    files, unused = find_images(pattern.format(root), tmp_path / "out")
    found = sorted(str(path.relative_to(root)) for path in files)
    assert found == ["masks/people.png", *(f"{s}/{images}/{s}.png" for s in ("train", "val"))]
    assert f"{root}/train/{masks}: 1 masks of the images beside it" in unused
    asked_for = find_images(f"{root}/val/{masks}/*.png", tmp_path / "out").files
    assert len(asked_for) == 1


def test_videos_cameras_and_streams_are_told_from_images(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for video in ("0", "rtsp://host/live", "http://host/a.png", "absent.wmv", "photos/film.mp4",
                  "photos/*.mp4", "photos/f*"):  # fmt: skip
        assert find_video(video) == ("photos/film.mp4" if "*" in video else video)
    for images in ("photos", "photos/*", "photos/a.png", "absent.png", "nothing/*"):
        assert find_video(images) is None
    (photos / "film.wmv").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"names 2 videos, photos/film\.mp4 to .*one at a time"):
        find_video("photos/film*")
    (tmp_path / "0").mkdir()
    assert find_video("0") is None
    sources = ("7", "a/b.mp4", "rtsp://u:p@cam:554/", "rtsp://h/live 1.sdp?x")
    assert [name_of(source) for source in sources] == ["camera7", "b", "cam", "live_1"]


def test_arrays_videos_and_summaries_of_the_user_s_are_not_replaced(photos, tmp_path):
    out, image = tmp_path / "out", str(photos / "a.png")
    out.mkdir()
    (out / "a.npz").write_bytes(b"")
    assert find_images(image, out).files
    with pytest.raises(ConfigError, match=r"did not write, such as .*out/a\.npz"):
        find_images(image, out, probabilities=True)
    write(out / "a.png", software=SOFTWARE)
    assert find_images(image, out, probabilities=True).files
    summary, film = out / "summary.json", out / "film.mp4"
    for others in ("{}", "[1]", "no JSON", '{"images": 3}'):
        summary.write_text(others)
        with pytest.raises(ConfigError, match=r"summary\.json is there already"):
            find_images(image, out)
    summary.write_text('{"images": [], "skipped": []}')
    assert find_images(image, out).files
    with pytest.raises(ConfigError, match=r"film\.mp4 is there already"):
        require_own(out, [film])
    summary.write_text(json.dumps({"output": str(film), "frames": 3}))
    require_own(out, [film])
