"""The networks: segmenter, discriminator, refiner."""

from ml_collections import ConfigDict


def model() -> ConfigDict:
    """`config.model`."""
    model = ConfigDict()
    # The decoder: unet or segformer. Fields of other families than the network's are not set.
    model.name = "unet"
    # mobilenet_v2, or mit: the Mix Transformer of SegFormer.
    model.encoder = "mobilenet_v2"
    # float32 or bfloat16; parameters, batch statistics and losses are float32 either way.
    model.dtype = "float32"
    # Of the images' values, for every channel; see config.data.normalize. These are ImageNet's, of
    # colours in 0 … 255.
    model.mean = (123.675, 116.28, 103.53)
    model.std = (58.395, 57.12, 57.375)
    # Whether what is beyond mean - std and mean + std is cut off, as for windows of CT images.
    model.clip = False
    # Neither the encoder's weights nor its batch statistics change.
    model.freeze_encoder = False
    model.unet = _unet()
    model.segformer = _segformer()
    model.mobilenet_v2 = _mobilenet_v2()
    model.mit = _mit()
    return model


def _unet() -> ConfigDict:
    unet = ConfigDict()
    # Of each doubling of the resolution: five from the stride of 32.
    unet.channels = (256, 128, 64, 32, 16)
    # nearest, bilinear, or transpose (the Pix2Pix block).
    unet.upsample = "nearest"
    return unet


def _segformer() -> ConfigDict:
    segformer = ConfigDict()
    # Of every feature before they are fused: 256 with mit's b0 and b1, 768 with the larger ones.
    segformer.channels = 256
    segformer.dropout = 0.1
    # Of the last enlargement: the centres of corner pixels stay at the corners, as in SMP.
    segformer.align_corners = False
    return segformer


def _mit() -> ConfigDict:
    mit = ConfigDict()
    # b0, b1, b2, b3, b4 or b5.
    mit.variant = "b0"
    # Stochastic depth, of the last block.
    mit.drop_path = 0.1
    # Of the layer norms of blocks and stages, and of those behind convolutions of stride 2 or more.
    # transformers has 1e-5 for all; the authors' weights bring their own.
    mit.norm_epsilon = 1e-5
    mit.patch_norm_epsilon = 1e-5
    return mit


def _mobilenet_v2() -> ConfigDict:
    mobilenet_v2 = ConfigDict()
    # Of its channels: 0.35, 0.5, 0.75, 1.0, 1.3 or 1.4.
    mobilenet_v2.width = 1.0
    # Of batch norm: 1e-5 in PyTorch, 1e-3 in Keras.
    mobilenet_v2.norm_epsilon = 1e-5
    # Zeros around an image at stride 2: symmetric in PyTorch, same in TensorFlow.
    mobilenet_v2.padding = "symmetric"
    return mobilenet_v2


def gan() -> ConfigDict:
    """`config.gan`."""
    gan = ConfigDict()
    # none (no discriminator), vanilla, lsgan or hinge.
    gan.objective = "none"
    # λ of segmentation loss + λ · adversarial loss, reached linearly over ramp_epochs. Before
    # start_epoch there is no discriminator, and training is what it is without one.
    gan.weight = 0.02
    # Weight of the difference between the discriminator's features of labels and of predictions
    # (pix2pixHD), over that of the adversarial loss.
    gan.feature_matching = 0.0
    # γ of R1, γ/2 · the squared gradient of the discriminator at labels (Mescheder et al., 2018).
    gan.r1 = 0.0
    # Only the patches count in both losses that have an edge between classes in their middle, where
    # no other patch has its own (8×8 pixels with four convolutions).
    gan.boundary_only = False
    gan.start_epoch = 0
    gan.ramp_epochs = 1.0
    # Pix2Pix: 70×70 pixels are judged together. (64, 128) judges 16×16.
    gan.channels = (64, 128, 256, 512)
    # instance, batch or none; with spectral norm, none is usual.
    gan.norm = "instance"
    gan.spectral_norm = False
    # How certain the real labels look to the discriminator: 1 is one-hot.
    gan.softening = 0.9
    # The discriminator's Adam: constant rate, beta 1.
    gan.learning_rate = 2e-4
    gan.momentum = 0.5
    return gan


def refiner() -> ConfigDict:
    """`config.refiner`."""
    refiner = ConfigDict()
    # none, or pix2pix: a second network that redraws what the run of config.init_from predicts, at
    # the images' own resolution. That run stays as it is; its model and data fields are used here.
    refiner.name = "none"
    # Of its convolutions of stride 2, and of its features at the image's resolution.
    refiner.channels = (24, 48, 96, 128, 128)
    refiner.features = 16
    # Share of the examples that have a damaged label in place of the segmenter's prediction: 0.25
    # where masks of other programs are to be refined.
    refiner.damage = 0.0
    # Of the images that the segmenter predicts in training (light, noise, hidden parts); 0 is off.
    # 1 where it has learned its training images by heart, and errs less on them than on others.
    refiner.disturbance = 0.0
    return refiner
