"""Annotations of other tools as folders of images and masks, and masks as such annotations."""
