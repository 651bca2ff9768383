# %% [markdown]
# # Port your Keras model in five minutes
#
# You have a model in Keras, and want it in PyTorch: the same layers, the same weights, the same training. Here a model is
# trained in Keras, ported with one call, *proven* to be the same, trained further in Lightning, and taken away as an ONNX
# file. After that you will compare a PyTorch module that you wrote yourself, and find the mistake in it.
#
# The images are 1,797 scanned digits that come with scikit-learn, so everything runs in a minute or two, without a
# network.

# %% tags=["parameters"]
EPOCHS = 8  # of either training

# %% [markdown]
# When TensorFlow and PyTorch meet in one process, some orders of import crash it. `parity_tests` brings the cure, so it is
# imported first.

# %%
from parity_tests import compare_pair, port_keras_model

# isort: split
from pathlib import Path

import keras
import numpy as np
import onnxruntime
import torch
from keras import layers
from matplotlib import pyplot as plt
from torch import nn

import lightning_vgg

# %% [markdown]
# ## A model in Keras
#
# Any chain of Keras's usual layers will do. This one scales its own pixels, and has batch norm, dropout and L2
# regularization, which are the things that ports get wrong.

# %%
keras.utils.set_random_seed(0)
data = {"data.source": "digits", "data.image_size": 16}
images = lightning_vgg.load_images(data)

model = keras.Sequential(
    [
        keras.Input((16, 16, 3)),
        layers.Rescaling(1 / 255),
        layers.Conv2D(16, 3, padding="same", activation="relu", kernel_regularizer=keras.regularizers.L2(1e-4)),
        layers.BatchNormalization(momentum=0.9),
        layers.MaxPooling2D(),
        layers.Conv2D(32, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(),
        layers.Dropout(0.3),
        layers.Flatten(),
        layers.Dense(64, activation="relu"),
        layers.Dense(10, activation="softmax"),
    ]
)
model.compile(keras.optimizers.Adam(2e-3), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
history = model.fit(images.train.images, images.train.labels, batch_size=64, epochs=EPOCHS, verbose=0).history
loss, accuracy = model.evaluate(images.test.images, images.test.labels, verbose=0)
print(f"Keras: {accuracy:.2%} of {len(images.test.labels)} test images")

# %% [markdown]
# ## The port
#
# `port_keras_model` reads every layer with its arguments, the weights, and how the model was compiled. It builds the same
# network in PyTorch, and measures both in float64. What it prints are distances: the largest difference of any number, as a
# share of the largest number. Rounding leaves about 1e-15 of a forward pass; a wrong port leaves a thousandth or more.
#
# In a terminal: `lightning-vgg port my_model.keras`.

# %%
ported, report = port_keras_model(model, "my_model")
print(report)

# %%
rungs = [rung for rung in report.rungs if rung.precision == "float64" and rung.measured > 0]
figure, axis = plt.subplots(figsize=(8, 2.6), layout="constrained")
axis.barh([rung.name for rung in rungs], [rung.measured for rung in rungs], label="measured")
axis.scatter(
    [rung.limit for rung in rungs], [rung.name for rung in rungs], marker="|", s=200, color="C3", label="limit"
)
axis.set(xscale="log", xlabel="largest difference, as a share of the largest value", xlim=(1e-17, 1e-10))
axis.invert_yaxis()
_ = axis.legend()

# %% [markdown]
# The model is an experiment now: a YAML file in which you can change anything.

# %%
print(Path("my_model/experiment.yaml").read_text())

# %% [markdown]
# ## Train it further in Lightning
#
# The run starts from the ported weights. Its first epoch goes on where Keras has stopped.

# %%
run = lightning_vgg.fit("my_model/experiment.yaml", data, {"trainer.max_epochs": EPOCHS, "trainer.logger": False})
print(f"Lightning, further trained: {run.test_acc:.2%}")

# %%
further = run.read_history()
figure, axis = plt.subplots(figsize=(8, 3), layout="constrained")
axis.plot(range(1, EPOCHS + 1), history["accuracy"], marker="o", label="in Keras")
axis.plot(
    range(EPOCHS + 1, 2 * EPOCHS + 1), [epoch["train_acc"] for epoch in further], marker="o", label="then in Lightning"
)
axis.set(xlabel="epoch", ylabel="accuracy on the training images")
_ = axis.legend()

# %% [markdown]
# ## Take it away
#
# The exported network takes the images as they are, 0 to 255, and returns probabilities. Before the file is called done it
# has to compute what the run computes. The formats are ONNX, `torch.export`, Keras and safetensors.

# %%
file = lightning_vgg.export_weights(run, "digits.onnx", with_preprocessing=True)
session = onnxruntime.InferenceSession(str(file))
some = images.test.images[:10]
(probabilities,) = session.run(None, {"images": some})
figure, axes = plt.subplots(1, 10, figsize=(10, 1.5), layout="constrained")
for place, image, each in zip(axes, some, probabilities, strict=True):
    place.imshow(image)
    place.set_title(f"{each.argmax()}\n{each.max():.0%}", fontsize=9)
    place.set_axis_off()

# %% [markdown]
# ## A module of your own
#
# Perhaps you have written the PyTorch side yourself. `compare_pair` takes any module and any Keras model of the same job,
# finds which layer is which, and compares them. This module forgets something; the report says where, and what.
#
# In a terminal: `lightning-vgg parity --torch my_net.py:Net --keras my_model.keras`.


# %%
class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16, eps=1e-3)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.dropout = nn.Dropout(0.3)
        self.hidden = nn.Linear(32 * 4 * 4, 64)
        self.classes = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = nn.functional.max_pool2d(self.norm(self.conv1(images / 255).relu()), 2)
        features = self.dropout(nn.functional.max_pool2d(self.conv2(features), 2))
        return self.classes(self.hidden(features.flatten(1)).relu())


torch.manual_seed(0)
some_images = np.float64(images.train.images[:16])
print(compare_pair(Net(), model, some_images).culprit)


# %% [markdown]
# With the activation where it belongs:


# %%
class Mended(Net):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = nn.functional.max_pool2d(self.norm(self.conv1(images / 255).relu()), 2)
        features = self.dropout(nn.functional.max_pool2d(self.conv2(features).relu(), 2))
        return self.classes(self.hidden(features.flatten(1)).relu())


report = compare_pair(Mended(), model, some_images)
print(report)

# %% [markdown]
# In a test of your own it is two lines:
#
# ```python
# report = compare_pair(MyNet(), my_keras_model)
# assert report.passed, report
# ```
