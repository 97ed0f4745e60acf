"""How a mask's name is made from its image's: by two patterns, given or found.

A pattern such as {}_mask is of a file's name without its suffix; {} is what both names share.
"""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from segjax.errors import ConfigError, DataError

CONVENTIONS = (
    *("{}:{}_mask", "{}:{}-mask", "{}:{}_masks", "{}:{}_label", "{}:{}_labels"),
    *("{}:{}_seg", "{}:{}_segmentation", "{}:{}_gt", "{}_image:{}_mask", "image_{}:mask_{}"),
    "{}:{}_L",  # CamVid
    "{}_leftImg8bit:{}_gtFine_labelIds",  # Cityscapes
    "{}_sat:{}_mask",  # DeepGlobe
)


class Pairing(NamedTuple):
    """The patterns of an image's and of its mask's name; shown as NAME -> NAME_mask."""

    image: str
    mask: str

    def __str__(self) -> str:
        return " -> ".join(pattern.replace("{}", "NAME") for pattern in self)

    def mask_of(self, name: str) -> str | None:
        """The name of an image's mask, in the same folder below; None where it does not fit."""
        folder, slash, stem = name.rpartition("/")
        shared = _shared(stem, self.image)
        return shared and folder + slash + self.mask.replace("{}", shared)

    @property
    def remedy(self) -> str:
        """What a file without a partner is to be told."""
        if self == EQUAL:
            return "image and mask must share the name up to the suffix"
        return f"masks are found by pairing {self}"

    def is_mask(self, name: str) -> bool:
        """Whether a name fits the mask's pattern."""
        return _shared(name.rpartition("/")[2], self.mask) is not None


EQUAL = Pairing("{}", "{}")


def parse(text: str) -> Pairing | None:
    """`config.data.pairing`, such as {}:{}_mask; None where it is empty."""
    if not text:
        return None
    patterns = text.split(":")
    if len(patterns) != 2 or "/" in text or any(part.count("{}") != 1 for part in patterns):
        raise ConfigError(
            f"config.data.pairing is {text!r}; it must be two patterns of names without folder and "
            "suffix, with {} for what image and mask share: {}:{}_mask"
        )
    return Pairing(*patterns)


class Matched(NamedTuple):
    """Names of images and masks, sorted.

    mask_of: of every image, None where it has none; alone: masks without an image; others: files
    that the rule takes for neither.
    """

    how: Pairing
    mask_of: dict[str, str | None]
    alone: list[str]
    others: list[str]


def match(
    images: Collection[str], masks: Collection[str], rule: str, folder: Path, mask_folder: Path
) -> Matched:
    """Images and masks by a rule or, where it is '', by equal names or, if none are, by `detect`.

    Of one folder that holds both, a file that fits the mask's pattern is a mask, and one that is a
    mask by another of CONVENTIONS no image.
    """
    together, images, masks = folder == mask_folder, {*images}, {*masks}
    how = parse(rule)
    if not how and (together or not images & masks):
        how = detect(images, masks, str(folder))
    how = how or EQUAL
    fitting = {name for name in masks if how.is_mask(name)}
    others = masks - fitting
    if together:
        other_masks = {parse(text).mask_of(name) for text in CONVENTIONS for name in images}
        images = {name for name in others - other_masks if how.mask_of(name)}
        others -= images
    found = {name: how.mask_of(name) for name in sorted(images)}
    mask_of = {name: mask if mask in fitting else None for name, mask in found.items()}
    alone = sorted(fitting - {*found.values()})
    return Matched(how, mask_of, alone, sorted(others))


def detect(images: Collection[str], masks: Collection[str], where: str) -> Pairing | None:
    """The one of CONVENTIONS that pairs most names; None where none pairs any.

    Raises DataError where several pair as many.
    """
    counts = {text: sum(parse(text).mask_of(n) in masks for n in images) for text in CONVENTIONS}
    most = max(counts.values())
    best = [text for text, count in counts.items() if count == most]
    if not most:
        return None
    if len(best) > 1:
        found = " and ".join(f"{parse(text)} ({most} pairs)" for text in best)
        raise DataError(
            f"{where}: masks can be found by {found}; set config.data.pairing to one of "
            f"{', '.join(best)}"
        )
    return parse(best[0])


def _shared(stem: str, pattern: str) -> str | None:
    before, after = pattern.split("{}")
    shared = stem[len(before) : len(stem) - len(after)]
    return shared if shared and stem == before + shared + after else None
