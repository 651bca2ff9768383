"""Weights of VGG16 from files of every kind, torchvision's downloads, and what they expect of pixels."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import VGG16_Weights, get_model, vgg16

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.backbone_plan import FAMILY, plan_backbone
from lightning_vgg.experiment.semantics import TORCH
from lightning_vgg.experiment.specs import BackboneSpec, ModelSpec
from lightning_vgg.images.batches import normalize
from lightning_vgg.images.preprocessing import NAMED_WEIGHTS, PREPROCESSING
from lightning_vgg.training.pretrained import load_pretrained
from lightning_vgg.training.transfer import Backbone
from lightning_vgg.weights.pretrained import describe_start
from lightning_vgg.weights.source import find_source

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def features() -> torch.nn.Sequential:
    """torchvision's VGG16 without its classifier, with random weights that keep the activations in scale."""
    with torch.device("meta"):
        layers = vgg16(init_weights=False).features
    layers = layers.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layers.parameters():
            scale = (2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.1
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return layers


@pytest.fixture(scope="module")
def state(features: torch.nn.Sequential) -> State:
    return {f"features.{name}": tensor.detach() for name, tensor in features.named_parameters()}


def write_safetensors(state: State, path: Path) -> None:
    save_file(state, path)


def write_pth(state: State, path: Path) -> None:
    torch.save(state, path)


CONVOLUTIONS = {
    0: "1_conv1",
    2: "1_conv2",
    5: "2_conv1",
    7: "2_conv2",
    10: "3_conv1",
    12: "3_conv2",
    14: "3_conv3",
    17: "4_conv1",
    19: "4_conv2",
    21: "4_conv3",
    24: "5_conv1",
    26: "5_conv2",
    28: "5_conv3",
}


def write_keras(state: State, path: Path, kernel: str, bias: str, more: tuple[str, ...] = ()) -> None:
    """One HDF5 file; ``kernel`` and ``bias`` say how the variables are called."""
    with h5py.File(path, "w") as file:
        for number, (index, name) in enumerate(CONVOLUTIONS.items()):
            where = {"layer": f"block{name}", "count": f"_{number}" if number else ""}
            file[kernel.format(**where)] = state[f"features.{index}.weight"].permute(2, 3, 1, 0).numpy()
            file[bias.format(**where)] = state[f"features.{index}.bias"].numpy()
        for name in more:
            file[name] = np.zeros(3)


def keras_writer(*arguments: Any) -> Callable[[State, Path], None]:
    return lambda state, path: write_keras(state, path, *arguments)


FILES: dict[str, Callable[[State, Path], None]] = {
    "features.safetensors": write_safetensors,
    "features.pth": write_pth,
    "with_classifier.pth": lambda state, path: write_pth({**state, "classifier.0.bias": torch.ones(3)}, path),
    # the file that keras.applications downloads
    "published.h5": keras_writer("{layer}/{layer}_W_1:0", "{layer}/{layer}_b_1:0"),
    "keras2.h5": keras_writer("{layer}/{layer}/kernel:0", "{layer}/{layer}/bias:0", ("fc1/fc1/kernel:0",)),
    "whole_model.h5": keras_writer(
        "model_weights/{layer}/{layer}/kernel", "model_weights/{layer}/{layer}/bias", ("optimizer_weights/adam/m",)
    ),
    "keras3.weights.h5": keras_writer("layers/conv2d{count}/vars/0", "layers/conv2d{count}/vars/1"),
}


def file_spec(path: Path, **more: Any) -> BackboneSpec:
    return BackboneSpec(weights=str(path), **{"preprocessing": "torchvision", **more})


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_torchvisions_network_bit_for_bit(
    name: str, state: State, features: torch.nn.Sequential, images: torch.Tensor, tmp_path: Path
) -> None:
    FILES[name](state, tmp_path / name)
    pretrained = load_pretrained(file_spec(tmp_path / name), 32, TORCH)
    backbone = Backbone(pretrained)
    for index, layer in CONVOLUTIONS.items():
        assert torch.equal(backbone.get_submodule(f"block{layer}").weight, state[f"features.{index}.weight"]), layer
    with torch.no_grad():
        assert torch.equal(backbone(images), features(images))
    assert pretrained.description["weights"] == name
    assert pretrained.description["weights_sha256"] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


ENDS = {
    "block1_conv1": 2,
    "block1_conv2": 4,
    "block1_pool": 5,
    "block2_pool": 10,
    "block3_conv2": 14,
    "block3_pool": 17,
    "block4_conv1": 19,
    "block4_pool": 24,
    "block5_conv3": 30,
    "block5_pool": 31,
}


@pytest.mark.parametrize("layer", ENDS)
def test_every_layer_is_torchvisions(
    layer: str, state: State, features: torch.nn.Sequential, images: torch.Tensor, tmp_path: Path
) -> None:
    save_file(state, tmp_path / "w.safetensors")
    backbone = Backbone(load_pretrained(file_spec(tmp_path / "w.safetensors", layer=layer), 32, TORCH))
    with torch.no_grad():
        expected = features[: ENDS[layer]](images)
        assert torch.equal(backbone(images), expected)
    assert backbone.plan.output_shape == (*expected.shape[2:], expected.shape[1])
    for pooling, pooled in (("average", expected.mean((2, 3), keepdim=True)), ("max", expected.amax((2, 3), True))):
        spec = file_spec(tmp_path / "w.safetensors", layer=layer, pooling=pooling)
        assert torch.equal(Backbone(load_pretrained(spec, 32, TORCH))(images), pooled)


def test_at_32_px_one_value_a_channel_comes_out_and_not_49(state: State, images: torch.Tensor, tmp_path: Path) -> None:
    save_file(state, tmp_path / "w.safetensors")
    assert Backbone(load_pretrained(file_spec(tmp_path / "w.safetensors"), 32, TORCH))(images).shape == (3, 512, 1, 1)


def test_resizing_interpolates_between_pixel_centres_without_antialiasing(
    state: State, features: torch.nn.Sequential, images: torch.Tensor, tmp_path: Path
) -> None:
    save_file(state, tmp_path / "w.safetensors")
    backbone = Backbone(load_pretrained(file_spec(tmp_path / "w.safetensors", image_size=48), 32, TORCH))
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), features(resized(images, 48)), rtol=1e-4, atol=1e-5)


def resized(images: torch.Tensor, size: int) -> torch.Tensor:
    """By hand: output pixel i has its centre at (i + 1/2) · scale - 1/2 of the input."""
    scale = images.shape[-1] / size
    centre = ((torch.arange(size) + 0.5) * scale - 0.5).clamp(0, images.shape[-1] - 1)
    below = centre.floor().long()
    above = (below + 1).clamp(max=images.shape[-1] - 1)
    share = centre - below
    rows = images[:, :, below] * (1 - share)[:, None] + images[:, :, above] * share[:, None]
    return rows[..., below] * (1 - share) + rows[..., above] * share


# --- the family -------------------------------------------------------------------------------------------------------


def randomize(network: torch.nn.Module) -> torch.nn.Module:
    """In evaluation mode, with statistics and weights that are neither 0 nor 1."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.ndim > 1:
            tensor.copy_((2 / tensor[0].numel()) ** 0.5 * torch.randn(tensor.shape, generator=generator))
        elif tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(0.5 + noise if "var" in name else noise - 0.5)
    return network.eval()


@pytest.mark.parametrize("network", FAMILY)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_the_other_networks_are_torchvisions_too(
    network: str, suffix: str, images: torch.Tensor, tmp_path: Path
) -> None:
    with torch.device("meta"):
        model = get_model(network)
    features = randomize(model.features.to_empty(device="cpu"))
    state = {f"features.{name}": tensor for name, tensor in features.state_dict().items()}
    FILES[f"features{suffix}"](state, tmp_path / f"w{suffix}")
    pretrained = load_pretrained(file_spec(tmp_path / f"w{suffix}", network=network), 32, TORCH)
    with torch.no_grad():
        assert torch.equal(Backbone(pretrained).eval()(images), features(images))


@pytest.mark.thorough  # half a gigabyte of weights
@pytest.mark.parametrize("layer", ["fc1", "fc2"])
def test_the_fully_connected_layers_are_torchvisions(layer: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        model = get_model("vgg16")
    model = randomize(model.to_empty(device="cpu"))
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    spec = file_spec(tmp_path / "w.safetensors", layer=layer, image_size=224)
    backbone = Backbone(load_pretrained(spec, 224, TORCH)).eval()
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    end = {"fc1": 2, "fc2": 5}[layer]
    with torch.no_grad():
        expected = model.classifier[:end](model.features(images).flatten(1))
        torch.testing.assert_close(backbone(images).flatten(1), expected)


# --- preprocessing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMED_WEIGHTS)
def test_named_weights_are_normalized_as_torchvision_does(name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    transforms = VGG16_Weights[name].transforms()
    expected = (pixels / 255 - np.array(transforms.mean)) / np.array(transforms.std)
    normalization = PREPROCESSING[NAMED_WEIGHTS[name]].normalization
    assert normalization is not None
    np.testing.assert_allclose(normalize(pixels, normalization, np.float64), expected, rtol=1e-10, atol=1e-10)


def test_keras_weights_see_what_they_would_see_as_bgr_and_the_wrong_order_shows(
    state: State, features: torch.nn.Sequential, tmp_path: Path
) -> None:
    save_file(state, tmp_path / "w.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    # keras.applications.vgg16.preprocess_input: RGB -> BGR, minus the means
    bgr = pixels[..., ::-1].astype(np.float64) - (103.939, 116.779, 123.68)
    with torch.no_grad():
        expected = features.double()(torch.from_numpy(bgr).permute(0, 3, 1, 2)).numpy()
        features.float()
    outputs = {}
    for preprocessing in ("keras_caffe", "torchvision_features"):
        spec = file_spec(tmp_path / "w.safetensors", preprocessing=preprocessing)
        pretrained = load_pretrained(spec, 32, TORCH)
        assert pretrained.normalization is not None
        batch = torch.from_numpy(normalize(pixels, pretrained.normalization, np.float64)).permute(0, 3, 1, 2)
        with torch.no_grad():
            outputs[preprocessing] = Backbone(pretrained).double()(batch).numpy()
    largest = np.abs(expected).max()
    assert np.abs(outputs["keras_caffe"] - expected).max() < 1e-12 * largest
    assert np.abs(outputs["torchvision_features"] - expected).max() > 0.01 * largest


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"weights": "FILE"}, "model.backbone.preprocessing is missing"),
        ({"weights": "IMAGENET1K_V2"}, "did you mean 'IMAGENET1K_V1'?"),
        ({"weights": "nowhere.pth"}, "there is no file or run folder nowhere.pth"),
        ({"weights": "README"}, "README is of no known kind"),
        ({"weights": "FOLDER"}, "is not a run folder"),
        ({"preprocessing": "torchvision"}, "IMAGENET1K_FEATURES bring torchvision_features: set it to null"),
        (
            {"weights": "none", "layer": "block5_pol"},
            "layer: there is no layer block5_pol; did you mean 'block5_pool'?",
        ),
        ({"weights": "none", "layer": "top"}, "there are block1_conv1, block1_conv2, block1_pool, block2_conv1"),
        ({"weights": "none", "layer": "block3_pool", "freeze_until": "block4_pool"}, "freeze_until: there is no"),
        ({"weights": "none", "unfreeze": {2: "block4_pool", 3: "block5_conv1"}}, "3: block5_conv1 unfreezes nothing"),
        ({"weights": "none", "freeze_until": "none", "unfreeze": {2: "all"}}, "2: all unfreezes nothing"),
        ({"weights": "none", "unfreeze": {0: None}}, "counts epochs that are done, from 1: not 0"),
        ({"weights": "none", "rate_factor": 0.0}, "must be above 0"),
        ({"weights": "none", "image_size": 16}, "block5 (conv - conv - conv - maxpool) cannot be built"),
        ({"weights": "none", "image_size": 0}, "image_size must be at least 1"),
        ({"network": "vgg19"}, "IMAGENET1K_FEATURES are the convolutions of vgg16 alone; for vgg19, layer block5_pool"),
        ({"layer": "fc1"}, "for vgg16, layer fc1, name IMAGENET1K_V1 or a file"),
        ({"weights": "IMAGENET1K_V1", "layer": "fc2"}, "fc2 was trained on images of 224 pixels, not 32: set"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"")
    (tmp_path / "README").write_text("")
    places = {"FILE": str(tmp_path / "w.safetensors"), "README": str(tmp_path / "README"), "FOLDER": str(tmp_path)}
    spec = BackboneSpec(**settings)
    spec = replace(spec, weights=places.get(spec.weights, spec.weights))
    with pytest.raises(ExperimentError) as error:
        plan_backbone(spec, find_source(spec, TORCH), 32)
    assert complaint in str(error.value)


def test_a_lower_layer_needs_no_larger_images() -> None:
    spec = BackboneSpec(weights="none", layer="block2_pool", image_size=8)
    assert plan_backbone(spec, find_source(spec, TORCH), 32).output_shape == (2, 2, 128)
    assert find_source(spec, TORCH).network == FAMILY["vgg16"]


# --- files at fault ---------------------------------------------------------------------------------------------------


def faulty(state: State) -> State:
    nan = state["features.5.bias"].clone()
    nan[0] = float("nan")
    changed = {**state, "features.0.weight": torch.zeros(64, 1, 3, 3), "features.30.bias": torch.ones(2)}
    changed["features.5.bias"] = nan
    del changed["features.28.bias"]
    return changed


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_every_tensor_at_fault_is_named_with_both_shapes(name: str, state: State, tmp_path: Path) -> None:
    FILES[f"features{Path(name).suffix}"](faulty(state), tmp_path / name)
    with pytest.raises(ExperimentError) as error:
        load_pretrained(file_spec(tmp_path / name), 32, TORCH)
    for fault in (
        str(tmp_path / name),
        "features.0.weight is (64, 1, 3, 3), in the network (64, 3, 3, 3)",
        "features.28.bias is missing (the network has (512,))",
        "features.30.bias (2,) is not in the network",
        "features.5.bias holds values that are not finite",
    ):
        assert fault in str(error.value)


def test_keras_files_at_fault_are_told_in_kerass_words(state: State, tmp_path: Path) -> None:
    path = tmp_path / "w.h5"
    keras_writer("{layer}/{layer}/kernel:0", "{layer}/{layer}/bias:0", ("block6_conv1/block6_conv1/bias:0",))(
        {**state, "features.0.weight": torch.zeros(64, 1, 3, 3)}, path
    )
    with pytest.raises(ExperimentError) as error:
        load_pretrained(file_spec(path), 32, TORCH)
    assert "block1_conv1.kernel is (3, 3, 1, 64), in the network (3, 3, 3, 64)" in str(error.value)
    assert "block6_conv1.bias (3,) is not in the network" in str(error.value)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.h5", "w.pt"])
def test_a_damaged_file_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"half a file")
    with pytest.raises(ExperimentError, match=name):
        load_pretrained(file_spec(tmp_path / name), 32, TORCH)


def test_a_pth_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"features.0.weight": functools.partial(print, "run")}, tmp_path / "w.pth")
    with pytest.raises(ExperimentError, match="no state dict of plain tensors"):
        load_pretrained(file_spec(tmp_path / "w.pth"), 32, TORCH)


@pytest.mark.slow
@pytest.mark.thorough
def test_the_fully_connected_layers_of_a_file_that_keras_writes(tmp_path: Path, keras: Any) -> None:
    """Whose first one counts flattened pixels in another order."""
    model = keras.applications.VGG16(weights=None)
    pixels = np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype(np.float32)
    expected = keras.Model(model.input, model.get_layer("fc2").output).predict(pixels, verbose=0)
    model.save_weights(tmp_path / "w.weights.h5")
    del model
    spec = file_spec(tmp_path / "w.weights.h5", layer="fc2", image_size=224)
    backbone = Backbone(load_pretrained(spec, 224, TORCH)).eval()
    with torch.no_grad():
        found = backbone(torch.from_numpy(pixels).permute(0, 3, 1, 2)).flatten(1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("network", ["vgg16", "vgg19"])
def test_files_that_keras_writes_are_read(network: str, tmp_path: Path, keras: Any) -> None:
    application = getattr(keras.applications, network.upper())
    model = application(include_top=False, weights=None, input_shape=(32, 32, 3))
    model.save_weights(tmp_path / "new.weights.h5")
    model.save(tmp_path / "whole.h5")
    kernels = {layer.name: np.asarray(layer.kernel) for layer in model.layers if hasattr(layer, "kernel")}
    for name in ("new.weights.h5", "whole.h5"):
        tensors = load_pretrained(file_spec(tmp_path / name, network=network), 32, TORCH).tensors
        assert tensors is not None
        for layer, kernel in kernels.items():
            np.testing.assert_array_equal(tensors[f"{layer}.weight"], kernel.transpose(3, 2, 0, 1))


# --- downloads --------------------------------------------------------------------------------------------------------


class Server:
    """Serves one folder and counts the requests."""

    def __init__(self, folder: Path) -> None:
        self.requests = 0
        outer = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments, directory=str(folder))

            def do_GET(self) -> None:
                outer.requests += 1
                super().do_GET()

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{name}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    serving = Server(tmp_path / "served")
    yield serving
    serving.server.shutdown()
    serving.server.server_close()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Path]:
    """torch's cache, moved into the test's folder."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "hub"))
    yield tmp_path / "hub" / "checkpoints"
    torch.hub.set_dir(before)


def test_named_weights_are_fetched_once_and_verified(
    state: State, server: Server, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({**state, "classifier.6.bias": torch.full((1000,), float("nan"))}, tmp_path / "w.pth")
    contents = (tmp_path / "w.pth").read_bytes()
    name = f"vgg16_features-{hashlib.sha256(contents).hexdigest()[:8]}.pth"
    (tmp_path / "served" / name).write_bytes(contents)
    monkeypatch.setattr(VGG16_Weights.IMAGENET1K_FEATURES.value, "url", server.url(name))
    for _ in range(2):
        pretrained = load_pretrained(BackboneSpec(), 32, TORCH)
        assert pretrained.tensors is not None
        np.testing.assert_array_equal(pretrained.tensors["block1_conv1.weight"], state["features.0.weight"])
        assert pretrained.description["preprocessing"] == "torchvision_features"
    assert server.requests == 1
    (hub / name).write_bytes(contents[:-1000])
    with pytest.raises(ExperimentError, match=r"vgg16_features-\w+\.pth is damaged"):
        load_pretrained(BackboneSpec(), 32, TORCH)


def test_a_download_that_is_not_the_published_file_is_not_kept(
    server: Server, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "served" / "vgg16-00000000.pth").write_bytes(b"something else")
    monkeypatch.setattr(VGG16_Weights.IMAGENET1K_V1.value, "url", server.url("vgg16-00000000.pth"))
    with pytest.raises(ExperimentError, match="cannot be downloaded"):
        load_pretrained(BackboneSpec(weights="IMAGENET1K_V1"), 32, TORCH)
    assert list(hub.iterdir()) == []


def test_without_network_the_message_says_what_to_fetch_and_where_to_put_it(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VGG16_Weights.IMAGENET1K_V1.value, "url", "http://127.0.0.1:9/models/vgg16-397923af.pth")
    with pytest.raises(ExperimentError) as error:
        load_pretrained(BackboneSpec(weights="IMAGENET1K_V1"), 32, TORCH)
    assert "Fetch http://127.0.0.1:9/models/vgg16-397923af.pth" in str(error.value)
    assert f"put it, as vgg16-397923af.pth, into {hub}" in str(error.value)


def test_initial_weights_below_the_home_folder_have_a_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "w.safetensors").write_bytes(b"weights")
    found = describe_start(ModelSpec(init_from="~/w.safetensors"), None)
    assert found["initial_weights_sha256"] == hashlib.sha256(b"weights").hexdigest()
