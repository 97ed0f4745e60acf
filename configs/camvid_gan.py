"""CamVid, refined by a Pix2Pix discriminator.

Data: see configs/camvid.py. Either from a run that was trained without one, for the last epochs,

  python -m segjax.main --config configs/camvid.py:cpu --config.data.root=ROOT
  python -m segjax.main --config configs/camvid_gan.py:cpu --config.data.root=ROOT \
    --config.init_from=runs/camvid-cpu --config.gan.start_epoch=0 --config.num_epochs=10

or in one run, where the discriminator comes in after two thirds of the epochs:

  python -m segjax.main --config configs/camvid_gan.py:cpu --config.data.root=ROOT

Expected result and cost: experiments/gan_refinement.
"""

from ml_collections import ConfigDict

from configs import camvid


def get_config(variant: str = "") -> ConfigDict:
    """`configs/camvid.py` with a discriminator; `cpu` halves its channels too."""
    config = camvid.get_config(variant)
    config.gan.objective = "hinge"
    config.gan.start_epoch = config.num_epochs * 2 // 3
    if variant == "cpu":
        config.gan.channels = (32, 64, 128, 256)
    return config
