"""Every field there is, with its default. Other configurations change a few of them."""

from ml_collections import ConfigDict

from segjax.defaults import networks

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
    config.model = networks.model()
    config.loss = _loss()
    config.optim = _optim()
    config.gan = networks.gan()
    config.refiner = networks.refiner()
    config.eval = _eval()
    return config


def _pretrained() -> ConfigDict:
    pretrained = ConfigDict()
    # A file of torchvision, timm, Keras, transformers, NVlabs or segmentation_models.pytorch that
    # the weights start from; '' starts from random ones. It sets mean and std of config.model, and
    # epsilons, padding and align_corners of the network.
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
    # How a mask's name is made from its image's, without folder and suffix: "{}:{}_mask" pairs
    # NAME.jpg with NAME_mask.png. '': equal names, or where there are none a convention that is
    # found (and printed). Images and masks may then lie in one folder.
    data.pairing = ""
    # A file in ROOT that lists images and masks in place of folders: a CSV with the columns image,
    # mask and, as you like, split and group; or lines of an image and its mask.
    data.list = ""
    # A mask that is missing: raise (see on_error), or background: the image is all background.
    data.missing_mask = "raise"
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
    # A regular expression on images' names (below images/, without suffix) that finds what belongs
    # together: "(.*)_slice" by its first group, "^patient[0-9]+" whole. No group is divided.
    data.group_by = ""
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
    # What of an image's file the network sees. rgb: red, green and blue with 8 bits. stored: all
    # bands, of the type that they have. "4,3,2": these bands, counted from 1. auto: rgb where the
    # training images are 8-bit colours or `value_range` is given, else stored.
    data.bands = "auto"
    # Of an image: how many channels, and their type: uint8, uint16, int16, float32. 0 and '': as
    # the training images have them. float32 takes images of different types.
    data.channels = 0
    data.dtype = ""
    # Several pages in a TIFF, or frames in a DICOM file: refuse, or channels.
    data.pages = "refuse"
    # given: by config.model.mean and std. dataset: by mean and standard deviation of the training
    # images. image: every image by its own percentiles (0.5 and 99.5), then as dataset. window: by
    # `windows`. auto: given for rgb, else dataset.
    data.normalize = "auto"
    # Level and width of one or more, such as (40, 400, 600, 1500): one channel is seen through each
    # of them, several through one each.
    data.windows = ()
    # rgb: the two stored values that become black and white, such as (0, 4095) for 12 bits in 16;
    # what lies beyond is clipped. () takes those of the files' type: 0 and 255, 0 and 65535.
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
    # Largest change, as a share; hue in turns of the colour circle; 0 is off. Saturation and hue
    # are of colours alone (config.data.bands=rgb); other channels change each by itself.
    augment.brightness = 0.2
    augment.contrast = 0.2
    augment.saturation = 0.2
    augment.hue = 0.02
    augment.gamma = 0.2
    # Largest standard deviation of noise, over what is between black and white, and of a blur, in
    # pixels; 0 is off.
    augment.noise = 0.0
    augment.blur = 0.0
    return augment


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
    # cosine, poly or constant, after a linear warm-up over this share of the steps.
    optim.schedule = "cosine"
    optim.warmup_fraction = 0.05
    # In place of the share, if above 0.
    optim.warmup_steps = 0
    optim.poly_power = 0.9
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


def _eval() -> ConfigDict:
    evaluation = ConfigDict()
    evaluation.every_epochs = 1
    evaluation.batch_size = 16
    # native: scores are counted at the labels' own resolution. input: at data.size.
    evaluation.resolution = "native"
    # In TensorBoard and report/predictions.png.
    evaluation.num_pictures = 4
    return evaluation
