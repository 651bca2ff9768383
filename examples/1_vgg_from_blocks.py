# %% [markdown]
# # A VGG from blocks
#
# A VGG is a short word repeated: *convolve, convolve, make it smaller*. Write the word down, say how often and how wide,
# and you have the network. Here you will write such words as one line of text, look at what they mean, train the network
# of a few of them, and let a search choose.
#
# Every step stands in two frameworks. **If you know Keras, read the Keras cell first**: the Lightning cell beside it does
# the same, and the text between them names what differs. Both read the same settings, see the same batches, and leave the
# same kind of run folder behind.
#
# The images are 1,797 scanned digits that come with scikit-learn, so everything runs in two or three minutes on two
# cores, without a network. For the lesson's own images change one line below to `"cifar10"`, and take a GPU, or patience.

# %% tags=["parameters"]
SOURCE = "digits"  # or "cifar10", which is downloaded once
IMAGE_SIZE = 16  # pixels a side; 32 for CIFAR-10
EPOCHS = 10  # of a training
TRIALS = 6  # of the search at the end

# %% [markdown]
# Importing the two packages loads neither framework; whatever you call loads what it needs. One thing is worth knowing
# when TensorFlow and PyTorch meet in one process: in some orders of import the process dies. `keras_reference` brings the
# cure, so let it be imported first. (On a machine without a GPU both will complain of that once. Never mind.)

# %%
import keras_reference
import lightning_vgg

# isort: split
import inspect
import statistics

import numpy as np
from matplotlib import pyplot as plt
from sklearn.metrics import ConfusionMatrixDisplay

# %% [markdown]
# ## The images
#
# An experiment is described by *settings*: names with dots, as in the YAML files of `configs/` and as in the flags of
# the command line. A cell here and `lightning-vgg fit --data.source digits ...` in a terminal say the same.

# %%
data = {"data.source": SOURCE, "data.image_size": IMAGE_SIZE, "data.batch_size": 32}
images = lightning_vgg.load_images(data)
for name in ("train", "val", "test"):
    part = getattr(images, name)
    print(f"{name:5}  images {part.images.shape} {part.images.dtype}   labels {part.labels.shape} {part.labels.dtype}")

# %%
figure, axes = plt.subplots(2, 10, figsize=(10, 2.3), layout="constrained")
for place, image, label in zip(axes.flat, images.train.images, images.train.labels, strict=False):
    place.imshow(image)
    place.set_title(images.class_names[label], fontsize=9)
    place.set_axis_off()

# %% [markdown]
# Three parts, with three duties. The *training* images teach. The *validation* images, a tenth of them held out, tell
# which epoch and which settings are best. The *test* images are for the very end: whoever chooses by them can no
# longer say how good the choice is.
#
# ## The convolutional block
#
# This is a block, from the image upwards:

# %%
block = lightning_vgg.parse_recipe("Block: conv - batch norm - conv - maxpool - dropout")
for layer in block.layers():
    print(layer)

# %% [markdown]
# | word | what it does | why |
# | --- | --- | --- |
# | `conv` | each output pixel looks at 3x3 input pixels, then ReLU | finds local patterns; the same ones everywhere |
# | `batch norm` | shifts and scales each channel to mean 0 and deviation 1 over the batch | the layers above meet the same range of numbers all the time |
# | `maxpool` | keeps the largest of 2x2 pixels | a quarter of the pixels; a step to the side matters less |
# | `dropout` | sets a share of the numbers to 0 while training | no unit can rely on a single other one |
#
# A word that is not known is pointed at:

# %%
try:
    lightning_vgg.parse_recipe("conv - batch norm - conv - maxpol")
except lightning_vgg.ExperimentError as error:
    print(error)

# %% [markdown]
# One block of 8 filters, built by each framework.

# %%
one_block = {
    **data,
    "model.network.conv_block": "conv - batch norm - conv - maxpool - dropout",
    "model.network.filters": [8],
    "model.network.units": [],
}
in_keras = keras_reference.build_network(one_block)
in_keras.summary(line_length=80)

# %%
in_lightning = lightning_vgg.build_network(one_block)
in_lightning

# %% [markdown]
# The same layers; but look at how the numbers lie:

# %%
print("Keras      kernel", in_keras.layers[1].kernel.shape, "  images (batch, height, width, channels)")
print("Lightning  kernel", tuple(in_lightning.block1.conv1.weight.shape), "  images (batch, channels, height, width)")

# %% [markdown]
# | | Keras | PyTorch, and so Lightning |
# | --- | --- | --- |
# | images | channels last | channels first |
# | kernel | height, width, in, out | out, in, height, width |
# | first weights | Glorot uniform, biases 0 | its own, biases not 0 |
# | `momentum` of batch norm | 0.99: the share of the *old* statistics that stays | 0.1: the share of the *new* that comes in, so 0.9 stays |
# | `epsilon` of batch norm | 0.001 | 0.00001 |
#
# The last three are defaults, and defaults are half of an architecture. So the Lightning side follows Keras in all of
# them unless told otherwise (`"model.semantics": "torch"`); that is why it says `eps=0.001, momentum=0.01` above, and not
# PyTorch's own. There are a dozen such switches in `lightning_vgg/experiment/semantics.py`.
#
# ## The dense block
#
# After the last convolutional block the pixels are laid out in one row, and dense blocks follow. The lesson's is
# `dense - dropout`. The classifier, with a number for each class, is added by itself. Those numbers are *logits*: no
# softmax at the end in either framework, since the loss computes it more accurately.
#
# ## The network
#
# Blocks, and how wide each is. That is all there is to say:

# %%
lesson = {
    **data,
    "experiment": "lesson",
    "model.network.conv_block": "conv - batch norm - conv - maxpool - dropout",
    "model.network.filters": [8, 16, 32],
    "model.network.dense_block": "dense - dropout",
    "model.network.units": [64],
    "model.network.dropout": 0.25,
    "model.optimizer.name": "adam",
    "model.optimizer.learning_rate": 0.001,
    "trainer.max_epochs": EPOCHS,
    "trainer.logger": False,  # leave it out, and the curves go to Weights & Biases, too (offline without a key)
}
lightning_vgg.show_network(lesson)

# %% [markdown]
# Heights are pixels, widths channels. This picture is drawn from the *plan*, before any framework builds anything, and
# both build from it. So they must agree about the number of parameters:

# %%
plan = lightning_vgg.plan_network(lesson)
network = lightning_vgg.build_network(lesson)
model = keras_reference.build_network(lesson)
print(f"plan       {plan.trainable_parameters:,}")
print(f"Lightning  {sum(parameter.numel() for parameter in network.parameters()):,}")
print(f"Keras      {sum(int(np.prod(weight.shape)) for weight in model.trainable_weights):,}", end="")
print(f"   (count_params() says {model.count_params():,}: it counts batch norm's running statistics, too)")

# %% [markdown]
# ## Training
#
# In Keras you know the two calls, `model.compile` and `model.fit`. Here is the first, as `keras_reference` has it:

# %%
from keras_reference.module import compile_model

print(inspect.getsource(compile_model))

# %% [markdown]
# Lightning has no `compile`. You write what happens to *one batch*, as a method of the network's class, and hand that
# class to a `Trainer`, which is the loop around it: epochs, devices, checkpoints, precision.

# %%
from lightning_vgg.training.module import VGGClassifier

print(inspect.getsource(VGGClassifier.configure_optimizers))
print(inspect.getsource(VGGClassifier.validation_step))
print(inspect.getsource(VGGClassifier._evaluate))

# %% [markdown]
# | you want to say | Keras | Lightning |
# | --- | --- | --- |
# | the loss of a batch | `compile(loss=...)` | `training_step` returns it |
# | the optimizer | `compile(optimizer=...)` | `configure_optimizers` returns it |
# | what to measure | `compile(metrics=[...])` | `validation_step` logs it |
# | the data | arrays, or a `PyDataset` | a `LightningDataModule` |
# | train | `model.fit(data, epochs=10)` | `Trainer(max_epochs=10).fit(module, data)` |
# | training mode and evaluation mode | `model(x, training=True)` | `module.train()` and `.eval()`; the Trainer does it |
#
# Both trainings now, by the same settings. Each prints a line an epoch, keeps the epoch with the best validation
# accuracy, and tests that one.

# %%
keras_run = keras_reference.fit(lesson, {"name": "keras"})

# %%
run = lightning_vgg.fit(lesson, {"name": "lightning"})

# %% [markdown]
# ## Evaluation
#
# What comes back is a *run folder*, the same in both frameworks: the settings that train it again, a row an epoch, the
# test results, every prediction.

# %%
for each in (keras_run, run):
    print(f"{each.path!s:24}  test accuracy {each.test_acc:.2%}")
sorted(path.name for path in run.path.iterdir())

# %% [markdown]
# They differ by a few images, and for an honest reason: equal batches, but not equal first weights, as each framework
# draws its own. Is that all? `lightning-vgg compare` gives both the same first weights and trains over several seeds, to
# say how far they differ and whether that is more than chance; `lightning-vgg parity` shows in float64 that one is the
# other, up to the order of additions.
#
# `evaluate` computes the result once more from the checkpoint:

# %%
lightning_vgg.evaluate(run)

# %% [markdown]
# Which digits are taken for which? Predictions are in the folder, so no framework is needed to ask:

# %%
labels, logits = run.read_predictions()
predictions = logits.argmax(1)
ConfusionMatrixDisplay.from_predictions(labels, predictions, display_labels=images.class_names, cmap="Blues")
plt.show()

# %%
lightning_vgg.show_run(run, "mistakes")

# %% [markdown]
# What does the network look at? Grad-CAM colours the pixels that speak for the class it has chosen:

# %%
lightning_vgg.show_run(run, "attention", image=0, layer="block2.conv2")

# %% [markdown]
# ## Curves

# %%
run.plot()

# %%
keras_run.plot()

# %% [markdown]
# How to read them:
#
# - Training loss falls, validation loss rises: the network learns its training images by heart. More dropout, more
#   augmentation (`"data.augmentation.shift": 2`), or fewer parameters.
# - Both still fall at the end: train longer.
# - Training accuracy lies *below* validation accuracy: that is dropout, which is switched off in the validation; and the
#   training value is a mean over the whole epoch, while the validation waits for its end.
# - The first epochs' validation jumps: batch norm's running statistics, with Keras's momentum of 0.99, need a few hundred
#   steps until they are right.
#
# ## Other blocks
#
# Now the point of writing blocks as text: others cost one line. Four convolutional ones, then three dense ones, each
# trained for half as long.

# %%
blocks = {
    "model.network.conv_block": [
        "conv - batch norm - conv - maxpool - dropout",
        "batch norm - conv - batch norm - conv - maxpool - dropout",
        "conv - batch norm - conv - batch norm - maxpool",
        "conv - dropout - conv - dropout - maxpool",
    ],
    "model.network.dense_block": ["dense - dropout", "dense - batch norm", "dense - batch norm - dropout"],
}
tried = {
    recipe: lightning_vgg.fit(lesson, {key: recipe, "trainer.max_epochs": max(1, EPOCHS // 2), "name": recipe})
    for key, recipes in blocks.items()
    for recipe in recipes
}

# %%
figure, (curves, bars) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained", width_ratios=[1, 1.2])
best = {recipe: max(row["val_acc"] for row in run.read_history()) * 100 for recipe, run in tried.items()}
for number, variant in enumerate(tried.values()):
    history = variant.read_history()
    curves.plot([row["epoch"] for row in history], [row["val_loss"] for row in history], marker="o", color=f"C{number}")
curves.set(xlabel="epoch", ylabel="validation loss (nats)", yscale="log")
bars.barh(list(best), list(best.values()), color=[f"C{number}" for number in range(len(best))])
bars.bar_label(bars.containers[0], fmt="%.1f %%", padding=3)
bars.set(xlabel="best validation accuracy (%)", xlim=(0, 115))
bars.invert_yaxis()
plt.show()

# %% [markdown]
# Do not read too much into it: 142 validation images, so one of them is 0.7 points, and one seed each. What is large
# here is a surprise: blocks with two batch norms lie far below the one that has one, and a batch norm in the dense block
# makes it worse, too. Look at what the green one says of its last epoch, in training and in validation, and let two more
# seeds confirm it:

# %%
recipe = "conv - batch norm - conv - batch norm - maxpool"
again = {"model.network.conv_block": recipe, "trainer.max_epochs": max(1, EPOCHS // 2)}
seeds = [lightning_vgg.fit(lesson, again, {"seed_everything": seed}) for seed in (1, 2)]
accuracies = [max(row["val_acc"] for row in each.read_history()) for each in (tried[recipe], *seeds)]
print(f"{recipe}: {statistics.mean(accuracies):.1%} ± {statistics.stdev(accuracies):.1%} over {len(accuracies)} seeds")

# %% [markdown]
# In training, where batch norm uses the batch's own statistics, the block knows nearly all images; in validation, where it
# uses the running ones, it knows half. They are not there yet: five epochs are 205 steps, and with a momentum of 0.99 an
# eighth of them is still the value that they started with, at every batch norm. So it is not the block, but a default, and
# the time it needs. PyTorch's own needs a tenth of it: try `{"model.semantics_except": ["batch_norm_momentum"]}`.
#
# ## Tuning
#
# Trying by hand teaches; searching is for a machine. Say what may vary, below `tune.space`: any setting, recipes
# included. Optuna proposes, each trial is a training like the ones above, and those that fall behind are stopped early.
# The validation images judge.

# %%
study = lightning_vgg.tune_settings(
    lesson,
    {
        "experiment": "lesson-search",
        "trainer.max_epochs": max(2, EPOCHS // 2),
        "trials": TRIALS,
        "tune.startup_trials": 3,
        "tune.space": {
            "model.network.conv_block": blocks["model.network.conv_block"],
            "model.network.filters": [[8, 16], [8, 16, 32]],
            "model.optimizer.learning_rate": {"low": 0.0003, "high": 0.01, "log": True},
        },
    },
)

# %%
print(f"best of {len(study.trials)} trials: {study.best_value:.1%} of the validation images")
study.best_params

# %% [markdown]
# `runs/lesson-search/` holds a report with all trials, and `best.yaml`, which is an experiment like any other. Train it in
# full, and only now, once, look at what the test images say:

# %%
winner = lightning_vgg.fit("runs/lesson-search/best.yaml", {"trainer.max_epochs": EPOCHS, "name": "winner"})

# %%
winner.plot()

# %% [markdown]
# ## Where to go on
#
# - Change `SOURCE` to `"cifar10"` and `IMAGE_SIZE` to 32 in the first cell.
# - A deeper network: `"model.network.conv_block": "(conv - batch norm) x3 - maxpool"`, or `configs/vgg/vgg16.yaml`.
# - Whose defaults are better? `{"model.semantics": "torch"}`, or one at a time:
#   `{"model.semantics_except": ["batch_norm_momentum"]}`.
# - In earnest, and in both frameworks: `lightning-vgg compare -c configs/vgg/base.yaml --seeds 5` in a terminal.
# - Next lesson: [transfer learning](2_transfer_learning.ipynb).
