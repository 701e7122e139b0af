"""The once-for-all networks, evaluated straight from their specification: a second opinion for the tests.

Knows nothing of deps: it reads a state dict with published names and the lists ``ks, e, d, w`` of once-for-all, slices
by the rules that the papers and their code state, and computes in float64 with one formula a line. Widths of layers
that no choice varies are read off the tensors; all else (strides, activations, rounding, sharing) stands here again.

Shape suffixes: N images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

State = Mapping[str, Tensor]


def r8(v: float) -> int:
    n = max(8, int((v + 4) / 8) * 8)
    return n + 8 if n < 0.9 * v else n


def hswish(x: Tensor) -> Tensor:
    return x * (x + 3).clamp(0, 6) / 6


def relu(x: Tensor) -> Tensor:
    return x.clamp(min=0)


def relu6(x: Tensor) -> Tensor:
    return x.clamp(0, 6)


def linear(x: Tensor) -> Tensor:
    return x


def conv(x: Tensor, weight: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)


def norm(x: Tensor, state: State, name: str, eps: float) -> Tensor:
    channels = x.shape[1]
    mean, var, scale, shift = (
        state[f"{name}.{part}"][:channels].view(1, -1, 1, 1)
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(var + eps) * scale + shift


def kernel_of(state: State, name: str, channels: int, k: int) -> Tensor:
    """Filters of a depthwise layer: 7 to 5 to 3, each time the centre, flattened, times a trained matrix."""
    weight = state[f"{name}.conv.conv.weight"][:channels]
    assert weight.shape[-1] == 7
    if k <= 5:
        weight = weight[:, :, 1:6, 1:6]
        if f"{name}.conv.7to5_matrix" in state:
            flat = weight.reshape(channels, 25)
            weight = torch.einsum("ji,ci->cj", state[f"{name}.conv.7to5_matrix"], flat).reshape(channels, 1, 5, 5)
    if k == 3:
        weight = weight[:, :, 1:4, 1:4]
        if f"{name}.conv.5to3_matrix" in state:
            flat = weight.reshape(channels, 9)
            weight = torch.einsum("ji,ci->cj", state[f"{name}.conv.5to3_matrix"], flat).reshape(channels, 1, 3, 3)
    return weight


def squeeze_excite(x: Tensor, state: State, name: str) -> Tensor:
    mid = x.shape[1]
    hidden = r8(mid // 4)
    mean_NC = x.mean((2, 3))
    reduce, expand = state[f"{name}.reduce.weight"][:hidden, :mid], state[f"{name}.expand.weight"][:mid, :hidden]
    squeezed = relu(mean_NC @ reduce.flatten(1).T + state[f"{name}.reduce.bias"][:hidden])
    gate = relu6(squeezed @ expand.flatten(1).T + state[f"{name}.expand.bias"][:mid] + 3) / 6
    return x * gate[:, :, None, None]


def mobile_block(x: Tensor, state: State, name: str, *, k: int, e: float, stride: int, act, eps: float) -> Tensor:
    """An elastic inverted bottleneck, without its shortcut."""
    mid = r8(round(x.shape[1] * e))
    weight = state[f"{name}.inverted_bottleneck.conv.conv.weight"][:mid, : x.shape[1]]
    y = act(norm(conv(x, weight), state, f"{name}.inverted_bottleneck.bn.bn", eps))
    depthwise = kernel_of(state, f"{name}.depth_conv", mid, k)
    y = act(norm(conv(y, depthwise, stride, groups=mid), state, f"{name}.depth_conv.bn.bn", eps))
    if f"{name}.depth_conv.se.fc.reduce.weight" in state:
        y = squeeze_excite(y, state, f"{name}.depth_conv.se.fc")
    project = state[f"{name}.point_linear.conv.conv.weight"][:, :mid]
    return norm(conv(y, project), state, f"{name}.point_linear.bn.bn", eps)


def plain_layer(x: Tensor, state: State, name: str, act, eps: float, stride: int = 1, groups: int = 1) -> Tensor:
    y = conv(x, state[f"{name}.conv.weight"], stride, groups)
    return act(norm(y, state, f"{name}.bn", eps) if f"{name}.bn.weight" in state else y)


def mobile_body(
    x: Tensor, state: State, ks: Sequence[int], e: Sequence[float], d: Sequence[int], *, strides, lengths, acts, eps
) -> Tensor:
    first = 1
    for stride, length, act, depth in zip(strides, lengths, acts, d, strict=True):
        for i in range(min(depth, length)):
            block = first + i
            y = mobile_block(
                x,
                state,
                f"blocks.{block}.conv",
                k=ks[block - 1],
                e=e[block - 1],
                stride=stride if i == 0 else 1,
                act=act,
                eps=eps,
            )
            x = y if i == 0 else x + y
        first += length
    return x


def mobilenetv3(x: Tensor, state: State, ks, e, d, *, stem_stride: int = 2, strides=(2, 2, 2, 1, 2)) -> Tensor:
    eps = 1e-5
    x = plain_layer(x, state, "first_conv", hswish, eps, stem_stride)
    y = plain_layer(x, state, "blocks.0.conv.depth_conv", relu, eps, groups=x.shape[1])
    x = x + plain_layer(y, state, "blocks.0.conv.point_linear", linear, eps)
    acts = (relu, relu, hswish, hswish, hswish)
    x = mobile_body(x, state, ks, e, d, strides=strides, lengths=(4,) * 5, acts=acts, eps=eps)
    x = plain_layer(x, state, "final_expand_layer", hswish, eps).mean((2, 3), keepdim=True)
    x = plain_layer(x, state, "feature_mix_layer", hswish, eps)
    return x.flatten(1) @ state["classifier.linear.weight"].T + state["classifier.linear.bias"]


def proxyless(x: Tensor, state: State, ks, e, d, *, stem_stride: int = 2, strides=(2, 2, 2, 1, 2, 1)) -> Tensor:
    eps = 1e-3
    x = plain_layer(x, state, "first_conv", relu6, eps, stem_stride)
    x = plain_layer(x, state, "blocks.0.conv.depth_conv", relu6, eps, groups=x.shape[1])
    x = plain_layer(x, state, "blocks.0.conv.point_linear", linear, eps)
    lengths = (4, 4, 4, 4, 4, 1)
    x = mobile_body(x, state, ks, e, d, strides=strides, lengths=lengths, acts=(relu6,) * 6, eps=eps)
    x = plain_layer(x, state, "feature_mix_layer", relu6, eps).mean((2, 3))
    return x @ state["classifier.linear.weight"].T + state["classifier.linear.bias"]


def sliced_layer(x: Tensor, state: State, name: str, width: int, act, stride: int = 1) -> Tensor:
    y = conv(x, state[f"{name}.conv.conv.weight"][:width, : x.shape[1]], stride)
    return act(norm(y, state, f"{name}.bn.bn", 1e-5))


def halved(x: Tensor) -> Tensor:
    """Mean of each 2 x 2 window; at an odd edge of the pixels there are."""
    _, _, height, width = x.shape
    totals = F.pad(x, (0, width % 2, 0, height % 2)).unfold(2, 2, 2).unfold(3, 2, 2).sum((-1, -2))
    rows = torch.full((totals.shape[2],), 2.0, dtype=x.dtype)
    columns = torch.full((totals.shape[3],), 2.0, dtype=x.dtype)
    rows[-1] -= height % 2
    columns[-1] -= width % 2
    return totals / (rows[:, None] * columns)


MULTIPLIERS = (0.65, 0.8, 1.0)
RESNET_STAGES = ((256, 2, 1), (512, 2, 2), (1024, 4, 2), (2048, 2, 2))  # width, smallest depth, stride


def resnet50(x: Tensor, state: State, e, d, w, *, is_small: bool = False) -> Tensor:
    stem_out = r8(64 * MULTIPLIERS[w[1]])
    stem_in = r8(r8(64 * MULTIPLIERS[w[0]]) // 2)
    x = sliced_layer(x, state, "input_stem.0", stem_in, relu, 1 if is_small else 2)
    if d[0] == 2:
        x = x + sliced_layer(x, state, "input_stem.1.conv", stem_in, relu)
    x = sliced_layer(x, state, "input_stem.2", stem_out, relu)
    if not is_small:
        x = F.max_pool2d(x, 3, 2, 1)
    first = 0
    for (channels, base, stage_stride), extra, index in zip(RESNET_STAGES, d[1:], w[2:], strict=True):
        width = r8(channels * MULTIPLIERS[index])
        for i in range(base + extra):
            name, stride = f"blocks.{first + i}", stage_stride if i == 0 else 1
            mid = r8(round(width * e[first + i]))
            y = sliced_layer(x, state, f"{name}.conv1", mid, relu)
            y = sliced_layer(y, state, f"{name}.conv2", mid, relu, stride)
            y = sliced_layer(y, state, f"{name}.conv3", width, linear)
            if i == 0:
                x = halved(x) if stride == 2 else x
                x = sliced_layer(x, state, f"{name}.downsample", width, linear)
            x = relu(x + y)
        first += base + 2
    x = x.mean((2, 3))
    weight = state["classifier.linear.linear.weight"][:, : x.shape[1]]
    return x @ weight.T + state["classifier.linear.linear.bias"]


def logits(space: str, state: State, x_NCHW: Tensor, lists: Mapping[str, list]) -> Tensor:
    """Return what the subnet ``ks, e, d, w`` of the space of that name answers."""
    ks, e, d, w = (lists[name] for name in ("ks", "e", "d", "w"))
    is_small = space.startswith("cifar")
    if "resnet50" in space:
        return resnet50(x_NCHW, state, e, d, w, is_small=is_small)
    strides = (1, 2, 2, 1, 2) if is_small else (2, 2, 2, 1, 2)
    if "mbv3" in space:
        return mobilenetv3(x_NCHW, state, ks, e, d, stem_stride=1 if is_small else 2, strides=strides)
    return proxyless(x_NCHW, state, ks, e, d, stem_stride=1 if is_small else 2, strides=(*strides, 1))
