"""Every field there is, with its default. Other configurations change a few of them."""

from ml_collections import ConfigDict

# Fields that had other names in earlier versions: their work directories are read by this table.
MOVED = {
    "model.width": "model.mobilenet_v2.width",
    "model.norm_epsilon": "model.mobilenet_v2.norm_epsilon",
    "model.padding": "model.mobilenet_v2.padding",
    "model.decoder_channels": "model.unet.channels",
    "model.upsample": "model.unet.upsample",
}


def get_config() -> ConfigDict:
    """The defaults; complete, so that a field that is not here is a typing error."""
    config = ConfigDict()
    config.seed = 0
    # A work directory whose best checkpoint the weights start from; '' starts from random ones. A
    # refiner refines that run.
    config.init_from = ""
    config.pretrained = _pretrained()
    config.num_epochs = 100
    # Over all devices together. An epoch is as many whole batches as the training images give.
    config.batch_size = 16
    # jit (over a mesh of all devices) or pmap. auto is jit: JAX only maintains pmap, and jit was
    # faster on a CPU as 2 or 4 devices (experiments/throughput, "Several devices").
    config.parallel = "auto"
    # Steps between two log lines and TensorBoard points.
    config.log_every = 20
    # Between evaluations the state is saved as often (several processes: at the next log line); 0:
    # at evaluations only.
    config.checkpoint_minutes = 10.0
    config.data = _data()
    config.augment = _augment()
    config.model = _model()
    config.loss = _loss()
    config.optim = _optim()
    config.gan = _gan()
    config.refiner = _refiner()
    config.eval = _eval()
    return config


def _pretrained() -> ConfigDict:
    pretrained = ConfigDict()
    # A file of torchvision, timm, Keras or segmentation_models.pytorch that the weights start from;
    # '' starts from random ones. It sets mean and std of config.model, and norm_epsilon and padding
    # of its encoder.
    pretrained.path = ""
    # A whole network's last layer: keep, or drop where the file, or the run of init_from, has other
    # classes than the data.
    pretrained.head = "keep"
    # Where the file's first convolution does not take 3 channels. sum: what they add up to is
    # divided among red, green and blue. tile: they are repeated, or the first three taken.
    pretrained.channels = ""
    return pretrained


def _data() -> ConfigDict:
    """As long as there are fields."""
    data = ConfigDict()
    # shapes (procedural), folder (images and masks in ROOT), tfds (prepared as ArrayRecord).
    data.source = "folder"
    # folder: the data's folder. tfds: the TFDS data_dir, '' for TFDS's own default.
    data.root = ""
    # tfds: a dataset's name, or the folder of a prepared one.
    data.name = ""
    data.image_key = "image"
    data.label_key = "segmentation_mask"
    # Label table: '' for ROOT/classes.json, a .json file, JSON itself, or a built-in name: ade20k,
    # camvid, cityscapes, oxford_pets, voc (segjax/data/tables).
    data.classes = ""
    # Folder names, or TFDS splits such as train[:90%].
    data.splits = ConfigDict({"train": "train", "val": "val", "test": "test"})
    # Folders within images/ and masks/ are walked too; False: counted and left out.
    data.subfolders = True
    # One folder without splits is divided by these shares, in an order given by names and seed; a
    # share is rounded (of 30 images to 5), and at least one image. Images that are added move a few
    # of the others to another split; an earlier run is then neither resumed nor scored.
    data.val_fraction = 0.15
    data.test_fraction = 0.15
    data.seed = 0
    # shares: exactly these. thresholds: about these, each image by itself, so that none moves.
    data.divide = "shares"
    # k-fold cross-validation of such a folder; 0 is off. In place of val_fraction, val is number
    # `fold` of `folds` equal parts (in the order of the seed) of what the test leaves, train the
    # rest; so every image is in val of one fold. The test is the same in all.
    data.folds = 0
    data.fold = 0
    # Height and width of what the network is trained on.
    data.size = (256, 256)
    # resize: images are stretched to `size`. pad: images keep their pixels; training sees windows
    # of `size`, evaluation and prediction whole images (tiles of more than 4 million pixels).
    data.fit = "resize"
    # shapes: height and width of what is drawn, () for `size`, and how many images.
    data.drawn = ()
    data.num_train = 2000
    data.num_val = 200
    # Train although a class has no pixel in the training split.
    data.allow_missing_classes = False
    # An image or mask that cannot be used, or has no partner, or a training image that is in val or
    # test too: raise, or skip it, counted and named.
    data.on_error = "raise"
    # The two stored values that become black and white, such as (0, 4095) for 12 bits in 16; what
    # lies beyond is clipped. () takes those of the files' type: 0 and 255, 0 and 65535.
    data.value_range = ()
    data.num_threads = 8
    # Decoded examples are kept in memory if a split takes no more than this.
    data.cache_gb = 4.0
    # A training split in memory is kept on every device, if it takes no more than this there.
    data.device_gb = 1.0
    return data


def _augment() -> ConfigDict:
    augment = ConfigDict()
    # Zoom, drawn log-uniformly; what falls outside the image is void.
    augment.scale = (0.75, 1.75)
    augment.flip_horizontal = True
    augment.flip_vertical = False
    # Largest change, as a share; hue in turns of the colour circle; 0 is off.
    augment.brightness = 0.2
    augment.contrast = 0.2
    augment.saturation = 0.2
    augment.hue = 0.02
    augment.gamma = 0.2
    return augment


def _model() -> ConfigDict:
    model = ConfigDict()
    # The decoder: unet or segformer. Fields of other families than the network's are not set.
    model.name = "unet"
    # mobilenet_v2, or mit: the Mix Transformer of SegFormer.
    model.encoder = "mobilenet_v2"
    # float32 or bfloat16; parameters, batch statistics and losses are float32 either way.
    model.dtype = "float32"
    # Of pixels in 0 … 255: ImageNet's.
    model.mean = (123.675, 116.28, 103.53)
    model.std = (58.395, 57.12, 57.375)
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


def _loss() -> ConfigDict:
    # The weights of a sum.
    loss = ConfigDict()
    loss.cross_entropy = 1.0
    loss.focal = 0.0
    loss.dice = 0.0
    loss.lovasz = 0.0
    # Cross entropy of the pixels within 3 pixels of an edge between two classes.
    loss.boundary = 0.0
    # none, or auto: median frequency over class frequency, at most 10; not in dice and lovasz.
    loss.class_weights = "none"
    loss.label_smoothing = 0.0
    loss.focal_gamma = 2.0
    return loss


def _optim() -> ConfigDict:
    optim = ConfigDict()
    # adamw or sgd.
    optim.name = "adamw"
    optim.learning_rate = 1e-3
    # cosine, poly (power 0.9) or constant, after a linear warm-up over this share of the steps.
    optim.schedule = "cosine"
    optim.warmup_fraction = 0.05
    # On convolution kernels only, not on norms and biases.
    optim.weight_decay = 1e-4
    # SGD's: l2 (added to the gradient, ahead of the momentum, as in PyTorch and published recipes)
    # or decoupled (after it, as AdamW's always is: a tenth as strong at a momentum of 0.9).
    optim.sgd_decay = "l2"
    # Adam's beta 1, or SGD's Nesterov momentum.
    optim.momentum = 0.9
    # Largest global norm of the gradients.
    optim.grad_clip = 5.0
    # The encoder's learning rate over the decoder's.
    optim.encoder_lr_ratio = 1.0
    # Parts in which a batch goes through the network, to save memory.
    optim.accumulate = 1
    # EMA decay of evaluated and exported weights; 0: the weights themselves.
    optim.ema_decay = 0.99
    return optim


def _gan() -> ConfigDict:
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


def _refiner() -> ConfigDict:
    refiner = ConfigDict()
    # none, or pix2pix: a second network that redraws what the run of config.init_from predicts, at
    # the images' own resolution. That run stays as it is; its model and data fields are used here.
    refiner.name = "none"
    # Of its convolutions of stride 2, and of its features at the image's resolution.
    refiner.channels = (24, 48, 96, 128, 128)
    refiner.features = 16
    # Share of the examples that have a damaged label in place of the segmenter's prediction.
    refiner.damage = 0.25
    # Of the images that the segmenter predicts in training (light, noise, hidden parts), for on its
    # own training images it errs too little; 0 is off, 1 moderate.
    refiner.disturbance = 1.0
    return refiner


def _eval() -> ConfigDict:
    evaluation = ConfigDict()
    evaluation.every_epochs = 1
    evaluation.batch_size = 16
    # native: scores are counted at the labels' own resolution. input: at data.size.
    evaluation.resolution = "native"
    # In TensorBoard and report/predictions.png.
    evaluation.num_pictures = 4
    return evaluation
