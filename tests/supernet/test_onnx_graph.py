"""The ONNX graph computes what the torch subnet computes, for every space, and is as plain as it can be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from deps.ground.errors import ExportError
from deps.supernet import ArchSpec, SearchSpace, get_space, recalibrate_bn, space_names
from deps.supernet.network import Network, network
from deps.supernet.onnx_graph import OPSET, onnx_from_subnet
from deps.supernet.plan import parameter_shapes, plan
from deps.supernet.sampling import random_archs

ALL_SPACES = [get_space(name) for name in space_names()]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep torch from waiting for its own threads where other tests keep the cores busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def odd_resolution(space: SearchSpace) -> int:
    """Return 132 where the space has it: its maps have 66, 33, 17, 9 and 5 pixels, so that every rounding shows."""
    return 132 if 132 in space.resolutions else space.resolutions[0]


def lively_subnet(space: SearchSpace, arch: ArchSpec, seed: int = 0) -> Network:
    """Return a subnet whose logits depend on the image, with scales, shifts and statistics that are nowhere trivial."""
    torch.manual_seed(seed)
    subnet = network(space, arch).eval()
    norms = [layer for layer in subnet.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5).mul_(torch.randn_like(norm.weight).sign())
            norm.bias.normal_(0, 0.3)
    # Two images whose last map is one pixel may agree in a channel, whose scale then magnifies every rounding.
    recalibrate_bn(subnet, [torch.randn(8, space.in_channels, arch.resolution, arch.resolution)])
    return subnet


def weights_of(subnet: Network) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in subnet.state_dict().items()}


def graph_of(space: SearchSpace, arch: ArchSpec, subnet: Network, **options: object) -> onnx.ModelProto:
    return onnx_from_subnet(plan(space, arch), weights_of(subnet), eps=space.norm_eps, **options)


def graph_with_noise(space: SearchSpace, arch: ArchSpec) -> onnx.ModelProto:
    """Return a graph whose numbers do not matter."""
    rng, shapes = np.random.default_rng(0), parameter_shapes(plan(space, arch))
    weights = {name: rng.random(shape, np.float32) for name, shape in shapes.items()}
    return onnx_from_subnet(plan(space, arch), weights, eps=space.norm_eps)


def run(model: onnx.ModelProto, x: torch.Tensor) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input": x.numpy()})[0]


def deepest_subnet(space: SearchSpace, resolution: int) -> ArchSpec:
    """Return a subnet with every layer that the space knows, narrow so that tests stay quick."""
    narrow = [choices[0] for choices in space.width_choices]
    return ArchSpec.create(
        space, expands=[space.stages[s].expands[0] for s, _ in space.blocks], widths=narrow, resolution=resolution
    )


def archs_to_try(space: SearchSpace) -> list[ArchSpec]:
    """Return the smallest subnet and the deepest at an odd resolution, and a random one."""
    odd = odd_resolution(space)
    rng = np.random.default_rng(len(space.name))
    return [ArchSpec.smallest(space, odd), deepest_subnet(space, odd), *random_archs(space, 1, rng)]


@pytest.mark.parametrize("space", ALL_SPACES, ids=lambda space: space.name)
def test_graph_computes_what_the_torch_subnet_computes(space: SearchSpace) -> None:
    """The accuracy that is measured in torch holds for the file that is shipped, whatever the batch."""
    for arch in archs_to_try(space):
        subnet = lively_subnet(space, arch)
        model = graph_of(space, arch, subnet)
        onnx.checker.check_model(model, full_check=True)
        for batch in (1, 3):
            x = torch.randn(batch, space.in_channels, arch.resolution, arch.resolution)
            with torch.no_grad():
                expected = subnet(x).numpy()
            assert np.ptp(expected, axis=0).max() > 0.1 or batch == 1, "logits must depend on the image"
            error = np.abs(run(model, x) - expected).max() / np.abs(expected).max()
            assert error < 1e-4, f"{arch.to_text()} batch {batch}"


@pytest.mark.parametrize("is_stem_deep", [False, True])
def test_optional_stem_convolution_is_there_exactly_when_the_depth_says_so(is_stem_deep: bool) -> None:
    """It is the one layer of all spaces that may be missing in the middle, and it carries a residual of its own."""
    space = get_space("ofa-resnet50")
    depths = [choices[0] for choices in space.depth_choices]
    arch = ArchSpec.create(space, depths=[space.depth_choices[0][is_stem_deep], *depths[1:]], resolution=132)
    model = graph_with_noise(space, arch)
    names = {node.name for node in model.graph.node}
    assert ("stem.1.conv" in names) == ("stem.1.add" in names) == is_stem_deep
    assert {"stem.0.conv", "stem.2.conv", "stem.3"} <= names


def test_average_pool_rounds_up_on_odd_maps_only() -> None:
    """An edge window must average what lies inside the map; the attribute stands only where there is such a window."""
    space = get_space("ofa-resnet50")

    def ceil_modes(resolution: int) -> list[int]:
        arch = ArchSpec.smallest(space, resolution)
        nodes = graph_with_noise(space, arch).graph.node
        pools = [node for node in nodes if node.op_type == "AveragePool"]
        return [next((a.i for a in node.attribute if a.name == "ceil_mode"), 0) for node in pools]

    assert ceil_modes(132) == [1, 1, 1]  # maps of 33, 17 and 9 pixels
    assert ceil_modes(128) == [0, 0, 0]  # maps of 32, 16 and 8 pixels


@pytest.mark.parametrize("space", ALL_SPACES, ids=lambda space: space.name)
def test_graph_holds_nothing_but_the_layers_of_the_plan(space: SearchSpace) -> None:
    """Parsers, quantizers and readers meet no Identity, Reshape, ReduceMean or BatchNormalization."""
    arch = deepest_subnet(space, odd_resolution(space))
    subnet = plan(space, arch)
    model = graph_with_noise(space, arch)
    operators = Counter(node.op_type for node in model.graph.node)
    allowed = "Conv Relu Clip HardSwish HardSigmoid Mul Add GlobalAveragePool AveragePool MaxPool Flatten Gemm"
    assert set(operators) <= set(allowed.split())
    squeezes = sum(1 for piece in subnet.pieces() if getattr(piece, "squeeze", None))
    convolutions = sum(1 for piece in subnet.pieces() for _ in piece.convolutions())
    assert operators["Conv"] == convolutions + 2 * squeezes
    assert operators["GlobalAveragePool"] == 1 + squeezes
    assert operators["Gemm"] == operators["Flatten"] == 1


@pytest.mark.parametrize("space", ALL_SPACES, ids=lambda space: space.name)
def test_every_node_is_named_after_one_piece_of_the_plan(space: SearchSpace) -> None:
    """A profiler's line leads to the piece whose time it is; names and values never clash."""
    arch = deepest_subnet(space, odd_resolution(space))
    prefixes = [piece.name for piece in plan(space, arch).pieces()]
    nodes = graph_with_noise(space, arch).graph.node
    owners = [[p for p in prefixes if node.name == p or node.name.startswith(f"{p}.")] for node in nodes]
    assert all(len(owner) == 1 for owner in owners)
    assert {owner[0] for owner in owners} == set(prefixes)
    assert len({node.name for node in nodes}) == len(nodes)


def test_interface_is_what_runners_rely_on() -> None:
    """Names, types and the free batch are the contract with every runtime; metadata tells where a file came from."""
    space = get_space("digits")
    arch = ArchSpec.smallest(space)
    model = graph_of(space, arch, lively_subnet(space, arch), metadata={"subnet": "smallest", "commit": "abc"})
    (x,), (y,) = model.graph.input, model.graph.output
    assert (x.name, y.name) == ("input", "logits")
    dims = [d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim]
    assert dims == ["batch", 1, 8, 8]
    assert [d.dim_param or d.dim_value for d in y.type.tensor_type.shape.dim] == ["batch", 10]
    assert {entry.key: entry.value for entry in model.metadata_props} == {"subnet": "smallest", "commit": "abc"}
    assert model.opset_import[0].version == OPSET
    assert model.ir_version <= 9, "ONNX Runtime 1.17 reads IR versions up to 9"


def test_same_subnet_gives_the_same_bytes() -> None:
    """Files are known by their hash, so writing one twice must not make two."""
    space = get_space("digits")
    arch = ArchSpec.largest(space)
    subnet = lively_subnet(space, arch)
    first, second = (graph_of(space, arch, subnet, metadata=m) for m in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"}))
    assert first.SerializeToString() == second.SerializeToString()


@pytest.mark.parametrize("opset", [14, 17, 21])
def test_other_opsets_compute_the_same(opset: int) -> None:
    """TensorRT 8.6 on JetPack 6.0 reads opset 17 at most."""
    space = get_space("cifar-mbv3")
    arch = ArchSpec.smallest(space)
    subnet = lively_subnet(space, arch)
    model = graph_of(space, arch, subnet, opset=opset)
    onnx.checker.check_model(model, full_check=True)
    x = torch.randn(2, 3, 32, 32)
    np.testing.assert_allclose(run(model, x), run(graph_of(space, arch, subnet), x), rtol=1e-5, atol=1e-5)


def test_unusable_weights_are_refused_by_name() -> None:
    """A file with NaN or of a foreign subnet would otherwise be found out on the device."""
    space = get_space("digits")
    arch = ArchSpec.smallest(space)
    good = weights_of(lively_subnet(space, arch))

    def attempt(**changes: np.ndarray | None) -> None:
        weights = {name: value for name, value in {**good, **changes}.items() if value is not None}
        onnx_from_subnet(plan(space, arch), weights, eps=space.norm_eps)

    with pytest.raises(ExportError, match=r"classifier\.bias is missing"):
        attempt(**{"classifier.bias": None})
    with pytest.raises(ExportError, match=r"stem\.0\.conv\.weight has shape \(1, 2\).*expects \(16, 1, 3, 3\)"):
        attempt(**{"stem.0.conv.weight": np.zeros((1, 2))})
    with pytest.raises(ExportError, match=r"classifier\.weight is not finite"):
        attempt(**{"classifier.weight": np.full_like(good["classifier.weight"], np.nan)})
    with pytest.raises(ExportError, match=r"stem\.0\.weight is not finite"):
        attempt(**{"stem.0.norm.weight": np.full_like(good["stem.0.norm.weight"], 1e39, np.float64)})


@pytest.mark.parametrize("opset", [13, 99])
def test_impossible_opset_is_refused_with_the_range(opset: int) -> None:
    """Opset 13 has no HardSwish; nothing silently becomes another version."""
    space = get_space("digits")
    arch = ArchSpec.smallest(space)
    with pytest.raises(ExportError, match=rf"opset is {opset}; expected 14 to"):
        graph_of(space, arch, lively_subnet(space, arch), opset=opset)
