"""Tiny real things: an ONNX classifier written by hand, its numpy twin, and a whole bundle of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deps.serve.bundle import Bundle, read_bundle
from deps.serve.manifest import InputSpec, Manifest, OutputSpec, SubnetEntry, model_file, write_manifest

CLASSES = 10


@dataclass(frozen=True)
class TinyClassifier:
    """A convolution, a ReLU, a pool and a linear layer, for images of 1 x 8 x 8."""

    kernel: np.ndarray
    """Of the convolution, shape (C, 1, 3, 3)."""

    weight: np.ndarray
    """Of the linear layer, shape (V, C)."""

    bias: np.ndarray
    """Of the linear layer, shape (V,)."""

    def logits(self, x_NCHW: np.ndarray) -> np.ndarray:
        """Compute the answer with numpy alone, in float64."""
        windows = np.lib.stride_tricks.sliding_window_view(x_NCHW.astype(np.float64), (3, 3), axis=(2, 3))
        hidden = np.maximum(np.einsum("nchwij,ocij->nohw", windows, self.kernel), 0)
        return hidden.mean(axis=(2, 3)) @ self.weight.T + self.bias

    def onnx_bytes(self, *, batch: int | str = "batch", extra_op: str | None = None) -> bytes:
        """Write the graph; ``extra_op`` puts an operator of that type before the output."""
        nodes = [
            helper.make_node("Conv", ["input", "kernel"], ["conv"], name="conv"),
            helper.make_node("Relu", ["conv"], ["relu"], name="relu"),
            helper.make_node("GlobalAveragePool", ["relu"], ["pool"], name="pool"),
            helper.make_node("Flatten", ["pool"], ["flat"], name="flat"),
            helper.make_node("Gemm", ["flat", "weight", "bias"], ["scores"], name="head", transB=1),
            helper.make_node(extra_op or "Identity", ["scores"], ["logits"], name="last"),
        ]
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 1, 8, 8])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])],
            [
                numpy_helper.from_array(self.kernel, "kernel"),
                numpy_helper.from_array(self.weight, "weight"),
                numpy_helper.from_array(self.bias, "bias"),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        return bytes(model.SerializeToString())


def tiny_classifier(seed: int, channels: int = 8) -> TinyClassifier:
    rng = np.random.default_rng(seed)
    return TinyClassifier(
        rng.normal(size=(channels, 1, 3, 3)).astype(np.float32),
        rng.normal(size=(CLASSES, channels)).astype(np.float32),
        rng.normal(size=CLASSES).astype(np.float32),
    )


@pytest.fixture(scope="session")
def tiny() -> TinyClassifier:
    """The classifier of the bundle's default subnet."""
    return tiny_classifier(seed=0)


@pytest.fixture(scope="session")
def tiny_small() -> TinyClassifier:
    """The classifier of the bundle's second subnet, which answers differently."""
    return tiny_classifier(seed=1, channels=4)


@pytest.fixture(scope="session")
def tiny_wide() -> TinyClassifier:
    """A classifier that takes many times as long as the others."""
    return tiny_classifier(seed=2, channels=40_000)


@pytest.fixture(scope="session")
def make_bundle(
    tmp_path_factory: pytest.TempPathFactory, tiny: TinyClassifier, tiny_small: TinyClassifier
) -> Callable[..., Path]:
    """Write a bundle of two subnets, in the files that ``precisions`` names; returns its folder."""

    def make(
        target: str = "cpu",
        *,
        name: str = "tiny",
        folder: str = "bundle",
        precisions: tuple[str, ...] = ("fp32",),
        large: TinyClassifier = tiny,
    ):
        root = tmp_path_factory.mktemp("bundles") / folder
        entries = []
        for subnet, classifier, top1 in (("large", large, 0.75), ("small", tiny_small, 0.5)):
            place = root / "models" / subnet
            place.mkdir(parents=True)
            files = []
            for precision in precisions:
                # The graph computes in fp32 in every file: what differs is what the manifest says of it.
                content = onnx.load_from_string(classifier.onnx_bytes())
                content.doc_string = precision
                (place / f"{precision}.onnx").write_bytes(content.SerializeToString())
                backends = {
                    "fp32": ("onnxruntime", "tensorrt"),
                    "fp16": ("tensorrt",),
                    "trt-int8": ("tensorrt",),
                    "cpu-int8": ("onnxruntime",),
                }[precision]
                files.append(
                    model_file(
                        root, f"models/{subnet}/{precision}.onnx", precision=precision, backends=backends, top1=top1
                    )
                )
            entries.append(
                SubnetEntry(
                    name=subnet,
                    arch={"kernels": [3], "resolution": 8},
                    flops=classifier.kernel.size * 36,
                    params=classifier.kernel.size + classifier.weight.size + CLASSES,
                    activation_bytes=4096,
                    weight_bytes=4 * classifier.kernel.size,
                    models=tuple(files),
                )
            )
        manifest = Manifest(
            name=name,
            target=target,
            input=InputSpec(shape=(1, 8, 8), color="L", mean=(0.5,), std=(0.25,)),
            output=OutputSpec(classes=CLASSES),
            labels=tuple(f"digit {index}" for index in range(CLASSES)),
            subnets=tuple(entries),
        )
        write_manifest(root, manifest)
        return root

    return make


@pytest.fixture
def bundle_folder(make_bundle: Callable[..., Path]) -> Path:
    """The folder of a bundle for the CPU."""
    return make_bundle()


@pytest.fixture
def bundle(bundle_folder: Path) -> Bundle:
    """A bundle for the CPU, read and checked."""
    return read_bundle(bundle_folder)


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """Seven images as the model takes them."""
    return np.random.default_rng(7).normal(size=(7, 1, 8, 8)).astype(np.float32)
