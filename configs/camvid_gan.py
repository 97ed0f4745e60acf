"""CamVid, trained on with a Pix2Pix discriminator for a few more epochs.

Data: see configs/camvid.py.

  python -m segjax.main --config configs/camvid.py:cpu --config.data.root=ROOT
  python -m segjax.main --config configs/camvid_gan.py:cpu --config.data.root=ROOT

Or in one run, from scratch, where the discriminator comes in after 40 of 60 epochs:

  python -m segjax.main --config configs/camvid.py:cpu --config.data.root=ROOT \
    --config.gan.objective=hinge --config.gan.start_epoch=40 --workdir runs/camvid-one-run

Expected result and cost: experiments/gan_refinement.
"""

from ml_collections import ConfigDict

from segjax.runtime import recipes


def get_config(variant: str = "") -> ConfigDict:
    """Starts from the weights of `configs/camvid.py`; `cpu` halves the discriminator's channels."""
    config = recipes.load(f"camvid:{variant}")
    config.init_from = "runs/camvid"
    config.num_epochs //= 10
    config.optim.learning_rate /= 4
    config.gan.objective = "hinge"
    if variant == "cpu":
        config.init_from = "runs/camvid-cpu"
        config.eval.every_epochs = config.num_epochs
        config.gan.channels = (32, 64, 128, 256)
    return config
