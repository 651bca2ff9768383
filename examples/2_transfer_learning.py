# %% [markdown]
# # Transfer learning
#
# A network that has learned to tell some things apart has learned to *see*: its lower layers find edges and strokes that
# are good for other things, too. So take it without its classifier, and put a new one on top. That is transfer learning,
# and this notebook goes through its steps: features of a frozen network, a linear classifier on them, a fully connected
# head, fine-tuning, and the question where to cut.
#
# Keras and Lightning stand in neighbouring cells where they differ. It takes two or three minutes on two cores, without a
# network: what is transferred is a small VGG that learns the digits 0 to 5 here, and the new task is to tell 6, 7, 8 and
# 9 apart, of which it has never seen one. With VGG16, ImageNet and CIFAR-10 it is the same lesson; one line below
# changes to that.

# %% tags=["parameters"]
PRETRAINING_EPOCHS = 8
EPOCHS = 30  # of a classifier on features

# %%
import keras_reference  # the first, before any framework is imported: see the first notebook
import lightning_vgg

# isort: split
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from PIL import Image
from sklearn.manifold import TSNE

# %% [markdown]
# ## Two tasks
#
# Images may come from a folder, `train/<class>/*` and `test/<class>/*`. So this cell makes two: one to learn to see on,
# and one for the task.

# %%
digits = lightning_vgg.load_images({"data.source": "digits", "data.image_size": 16, "data.validation_fraction": 0})
for part in ("train", "test"):
    images, labels = getattr(digits, part)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = Path("digits", "pretraining" if label <= 5 else "task", part, digits.class_names[label])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")

# %% [markdown]
# ## A network that has learned to see
#
# Three blocks, as in the first notebook. Batches of 16, so that batch norm's statistics see enough of them.

# %%
small_vgg = {
    "experiment": "pretraining",
    "data.source": "folder",
    "data.root": "digits/pretraining",
    "data.image_size": 16,
    "data.batch_size": 16,
    "model.network.conv_block": "conv - batch norm - conv - maxpool - dropout",
    "model.network.filters": [16, 32, 64],
    "model.network.units": [64],
    "trainer.max_epochs": PRETRAINING_EPOCHS,
    "trainer.logger": False,
}
pretrained = lightning_vgg.fit(small_vgg)

# %%
lightning_vgg.show_run(pretrained, "filters")

# %% [markdown]
# ## The task, and the line to change
#
# Transfer learning is for when images are few. Here are 160 with a label: 80 to learn from, and 80 to choose by.
# `model.backbone` says which network lies below, and up to which layer.

# %%
on_digits = {
    "experiment": "transfer",
    "data.source": "folder",
    "data.root": "digits/task",
    "data.image_size": 16,
    "data.train_images": 160,
    "data.validation_fraction": 0.5,
    "data.batch_size": 16,
    "model.backbone.weights": pretrained,
    "model.backbone.layer": "block2_pool",
    "model.network.filters": [],  # no convolutional block of its own on top
    "model.optimizer.learning_rate": 0.005,  # an epoch has five steps
    "trainer.max_epochs": EPOCHS,
    "trainer.logger": False,
}
on_cifar10 = {
    "experiment": "transfer",
    "data.source": "cifar10",
    "data.train_images": 5000,
    "model.backbone.weights": "IMAGENET1K_FEATURES",
    "model.backbone.layer": "block3_pool",
    "model.network.conv_block": "batch norm",  # VGG16's features are large and unequal
    "model.network.filters": [1],  # one such block; a batch norm has no width of its own
    "trainer.max_epochs": EPOCHS,
    "trainer.logger": False,
}
task, layers = on_digits, ["block1_pool", "block2_pool", "block3_pool"]
# task, layers = on_cifar10, ["block2_pool", "block3_pool", "block4_pool", "block5_pool"]

# %% [markdown]
# ## Frozen features
#
# A *feature extractor* is a network that no longer learns. Each image goes through it once, and what comes out, a few
# hundred numbers, stands for the image from then on. Computed once means kept: the trainings below take them from the
# cache, which is why they are so fast.

# %%
every_image = {"data.train_images": None, "data.validation_fraction": 0}
features = lightning_vgg.extract_features(task, every_image)
images = lightning_vgg.load_images(task, every_image)
for part, each in features.items():
    print(f"{part:5}  features {each.features.shape} {each.features.dtype}   labels {each.labels.shape}")

# %% [markdown]
# What does "frozen" mean? In both frameworks one says it with one word, but not the same thing happens. A batch norm that
# is frozen and then meets a batch in training mode:

# %%
import keras

norm = keras.layers.BatchNormalization()
norm.build((None, 4, 4, 3))
norm.trainable = False
norm(np.random.default_rng(0).random((8, 4, 4, 3)) + 5, training=True)
norm.moving_mean.numpy()

# %%
import torch

norm = torch.nn.BatchNorm2d(3).requires_grad_(False)
norm(torch.rand(8, 3, 4, 4) + 5)
norm.running_mean.numpy()

# %% [markdown]
# In Keras `trainable = False` means evaluation mode as well. In PyTorch `requires_grad_(False)` stops the gradients alone:
# the statistics move on with every batch, and a "frozen" network slowly becomes another one. It needs `.eval()`, too, and
# again whenever somebody says `.train()`, as the Trainer does in every epoch. Here frozen means frozen in both: no gradient,
# no statistics, no dropout.
#
# The other framework reads the weights from the neutral file that `export_weights` writes, and finds the same features:

# %%
if task is on_digits:
    lightning_vgg.export_weights(pretrained)
keras_features = keras_reference.extract_features(task, every_image)
difference = np.abs(keras_features["test"].features - features["test"].features).max()
print(f"largest difference {difference:.1e}, largest feature {features['test'].features.max():.1f}")

# %% [markdown]
# ## A map of the images
#
# A few hundred numbers cannot be looked at; t-SNE lays them out in a plane so that what is close stays close. On the left
# the pixels themselves, on the right the features. The classes were never told to either.

# %%
part = features["train"]
shown = np.random.default_rng(0).permutation(len(part.labels))[:1000]
spaces = {
    "pixels": images.train.images[shown].reshape(len(shown), -1) / 255,
    f"features of {task['model.backbone.layer']}": part.features[shown].reshape(len(shown), -1),
}
figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
for place, (title, points) in zip(axes, spaces.items(), strict=True):
    plane = TSNE(random_state=0, init="pca", perplexity=min(30, len(points) // 4)).fit_transform(points)
    for label, name in enumerate(images.class_names):
        place.scatter(*plane[part.labels[shown] == label].T, s=9, label=name)
    place.set_title(title)
    place.set_axis_off()
axes[1].legend(markerscale=2.5, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
plt.show()

# %% [markdown]
# ## Nearest neighbours
#
# Another way to see what is close: of a test image, the training images whose features point into the most similar
# direction (the largest cosine).


# %%
def directions(features: np.ndarray) -> np.ndarray:
    """(N, ...) to unit vectors (N, D)."""
    flat = features.reshape(len(features), -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


cosines = directions(features["test"].features) @ directions(features["train"].features).T
nearest = np.argsort(-cosines, axis=1)
queries = [int(np.flatnonzero(features["test"].labels == label)[0]) for label in range(4)]
figure, axes = plt.subplots(len(queries), 8, figsize=(8, 4.4), layout="constrained")
for row, query in zip(axes, queries, strict=True):
    row[0].imshow(images.test.images[query])
    row[0].set_title("test image", fontsize=9)
    for place, neighbour in zip(row[1:], nearest[query], strict=False):
        place.imshow(images.train.images[neighbour])
        place.set_title(f"{cosines[query, neighbour]:.2f}", fontsize=9)
for place in axes.flat:
    place.set_axis_off()

# %%
for space, (test, train) in {
    "pixels": (images.test.images / 255, images.train.images / 255),
    "features": (features["test"].features, features["train"].features),
}.items():
    closest = (directions(test) @ directions(train).T).argmax(1)
    same = (features["train"].labels[closest] == features["test"].labels).mean()
    print(f"{space:8}  the nearest neighbour is of the same class for {same:.1%} of the test images")

# %% [markdown]
# Digits are easy, so the pixels alone do nearly as well here. Of photographs one learns little from single pixels: look at
# both lines again with CIFAR-10.
#
# ## A linear classifier
#
# The simplest that can learn on frozen features: one weighted sum for each class. The classifier comes by itself, so the
# recipe is the shortest there is: no dense block.

# %%
linear = {"model.network.units": []}
of_keras = keras_reference.fit(task, linear, {"name": "linear-keras"})

# %%
runs = {"linear classifier": lightning_vgg.fit(task, linear, {"name": "linear"})}

# %% [markdown]
# The first line of each says what trains and what is frozen. Always look at it: a head that trains nothing and a backbone
# that trains by mistake both run without an error.
#
# ## A fully connected head
#
# The same features, a hidden layer between:

# %%
head = {"model.network.dense_block": "dense - dropout", "model.network.units": [64]}
runs["fully connected head"] = lightning_vgg.fit(task, head, {"name": "head"})

# %% [markdown]
# ## Fine-tuning
#
# Now the backbone learns, too. Carefully: its weights are good already, and the head's are random at first, so large
# gradients would come down and spoil them. Hence a lower learning rate for the backbone, lower still for each block
# further down. In Keras one would set `trainable` and compile anew, with one rate for all; in Lightning the optimizer gets
# groups of parameters, each with its own rate. Here both follow the same three settings.

# %%
fine_tuning = {
    **head,
    "model.backbone.freeze_until": "none",
    "model.backbone.rate_factor": 0.3,  # the topmost block's rate, as a share of the head's
    "model.backbone.layer_decay": 0.5,  # and each block below that
}
runs["fine-tuning"] = lightning_vgg.fit(task, fine_tuning, {"name": "fine-tuning"})

# %% [markdown]
# Or first the head alone, then one block after the other from the top:

# %%
gradual = {
    **fine_tuning,
    "model.backbone.freeze_until": "all",
    "model.backbone.unfreeze": {max(1, EPOCHS // 3): "block1_pool", max(2, 2 * EPOCHS // 3): "none"},
}
runs["gradual unfreezing"] = lightning_vgg.fit(task, gradual, {"name": "gradual"})

# %% [markdown]
# And what would the same images give without any transfer? The network of the pretraining, from random weights:

# %%
from_scratch = {key: value for key, value in task.items() if not key.startswith(("model.backbone", "model.network"))}
network = {key: value for key, value in small_vgg.items() if key.startswith("model.network")}
runs["from scratch"] = lightning_vgg.fit(from_scratch, network, {"name": "scratch"})

# %%
figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
for name, run in runs.items():
    accuracies = [100 * row["val_acc"] for row in run.read_history()]
    axes.plot(range(1, len(accuracies) + 1), accuracies, label=f"{name}, test {run.test_acc:.1%}")
axes.set(xlabel="epoch", ylabel="validation accuracy (%)")
axes.legend()
plt.show()

# %% [markdown]
# ## Where to cut?
#
# The lower a layer, the more general what it finds, and the less has been made of it; the higher, the more it knows about
# the classes it was trained for, which are not yours. Somewhere between lies the best layer, and it is found by trying:
# a linear classifier on each, with all pixels (*flatten*) or the mean of each channel (*average*). The validation images
# choose.

# %%
cuts = {}
for layer in layers:
    for pooling in ("flatten", "average"):
        cut = {"model.backbone.layer": layer, "model.backbone.pooling": pooling, "name": f"{layer}-{pooling}"}
        cuts[layer, pooling] = lightning_vgg.fit(task, linear, cut)

# %%
best = {cut: max(row["val_acc"] for row in run.read_history()) for cut, run in cuts.items()}
figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
for shift, pooling in ((-0.2, "flatten"), (0.2, "average")):
    heights = [100 * best[layer, pooling] for layer in layers]
    axes.bar_label(axes.bar(np.arange(len(layers)) + shift, heights, 0.38, label=pooling), fmt="%.1f")
axes.set(ylabel="validation accuracy (%)", xticks=range(len(layers)), ylim=(0, 115))
axes.set_xticklabels(layers)
axes.legend(ncols=2, loc="upper left")
chosen = max(best, key=best.__getitem__)
print(f"chosen: {' with '.join(chosen)}, {best[chosen]:.1%} of the validation images")
print(f"of the test images: {cuts[chosen].test_acc:.1%}")

# %% [markdown]
# ## Where to go on
#
# - The other line above: VGG16 on CIFAR-10. At 32 pixels its last block sees a single pixel, so a lower layer wins there;
#   `docs/figures.md` has the table.
# - More images of the task (`"data.train_images": None`): when does training from scratch catch up?
# - Augmentation (`"data.augmentation.shift": 2`) and frozen features do not go together: no image comes twice. The program
#   says so, and computes them anew in every epoch.
# - In a terminal: `lightning-vgg fit -c configs/transfer/base.yaml -c configs/transfer/gradual.yaml`.
