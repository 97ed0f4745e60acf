"""What the configurations of SegFormer share: the network and its published recipe.

Xie et al., NeurIPS 2021, section 4.1 and the authors' configurations: AdamW, 6e-5 for the encoder
and ten times that for the decoder, decay 0.01 but not on norms, a linear warm-up of 1,500 steps,
then linear decay, crops at scales 0.5 to 2. Other than there: no decay of biases, gradients
clipped, averaged weights, a warm-up from 0 that the decay begins after, whole images in evaluation
(Cityscapes), and stretched ones there and in training (ADE20K).
"""

from ml_collections import ConfigDict

CHANNELS = {"b0": 256, "b1": 256, "b2": 768, "b3": 768, "b4": 768, "b5": 768}
VARIANTS = {f"segformer_{size}": size for size in CHANNELS}


def use(config: ConfigDict, variant: str) -> None:
    """Sets the network of one of VARIANTS, and its recipe."""
    size = VARIANTS[variant]
    config.model.update(encoder="mit", name="segformer")
    config.model.mit.variant = size
    config.model.segformer.channels = CHANNELS[size]
    config.augment.update(scale=(0.5, 2.0), brightness=0.125, contrast=0.5, saturation=0.5)
    config.augment.update(hue=0.1, gamma=0.0)
    config.optim.update(name="adamw", learning_rate=6e-4, encoder_lr_ratio=0.1, weight_decay=0.01)
    config.optim.update(schedule="poly", poly_power=1.0, warmup_steps=1500)
