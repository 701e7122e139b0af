"""Which node is whose, and what all profiled nets together say of a piece."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deps.ground.errors import LatencyTableError
from deps.profile.designs import designed_genes
from deps.profile.pieces import (
    QUARTILE,
    PieceTime,
    clock_ms,
    joined_pieces,
    owners,
    part_keys,
    profiled_pieces,
    undisturbed_ms,
)
from deps.supernet import get_space
from deps.supernet.pieces import InvertedPlan, Piece
from deps.supernet.plan import NetworkPlan, plan
from deps.supernet.sampling import decode


def test_nodes_belong_to_the_piece_that_they_are_named_after() -> None:
    """Names as ONNX Runtime writes them: fused, suffixed, and inserted ones."""
    pieces = ["stem.0", "stages.0.1", "stages.0.10", "head.1", "classifier"]
    nodes = [
        "stem.0.act_nchwc",
        "stages.0.1.expand.conv_nchwc",
        "ReorderOutput_token_3",
        "stages.0.10.project.conv",
        "head.1_nchwc",
        "classifier.flatten",
        "classifier",
    ]
    expected = ["stem.0", "stages.0.1", "stages.0.1", "stages.0.10", "head.1", "classifier", "classifier"]
    assert owners(nodes, pieces) == expected


def test_inserted_node_before_any_other_belongs_to_the_first_piece() -> None:
    """A runtime may reorder the image itself."""
    assert owners(["ReorderInput", "stem.0.conv"], ["stem.0"]) == ["stem.0", "stem.0"]


def test_layers_of_tensorrt_belong_to_the_first_piece_that_they_name() -> None:
    """TensorRT joins the names of what it fused, and wraps some."""
    nodes = [
        "stem.0.conv + PWN(stem.0.act)",
        "PWN(PWN(stages.0.1.add), stages.0.1.x)",
        "Reformatting CopyNode for Input",
    ]
    assert owners(nodes, ["stem.0", "stages.0.1"]) == ["stem.0", "stages.0.1", "stages.0.1"]


def test_net_fused_into_one_node_is_refused_with_what_to_do() -> None:
    """Where a compiler melts a net down, times of single pieces would all be one piece's."""
    space = get_space("digits")
    subnet = plan(space, decode(space, designed_genes(space, 8))[0])
    with pytest.raises(LatencyTableError, match=r"fused \d+ pieces into 1.*--blocks"):
        profiled_pieces(subnet, ["{ForeignNode[stem.0.conv...classifier]}"], np.ones((3, 1)))


def test_profile_without_our_names_is_refused() -> None:
    """A runtime that renames everything would otherwise give a table of nothing."""
    with pytest.raises(LatencyTableError, match="names no node"):
        owners(["fused_0", "fused_1"], ["stem.0"])


def test_pieces_of_the_same_key_share_their_samples() -> None:
    """Equal blocks at different places are one entry; their nodes are added within a run, not across runs."""
    space = get_space("digits")
    arch = decode(space, designed_genes(space, 8))[0]
    subnet = plan(space, arch)
    names = [f"{piece.name}.{part}" for piece in subnet.pieces() for part in ("a", "b")]
    rng = np.random.default_rng(0)
    times = rng.uniform(1, 2, (11, len(names)))
    result = joined_pieces([profiled_pieces(subnet, names, times)])
    keys = [piece.key for piece in subnet.pieces()]
    assert set(result) == set(keys)
    for position, key in enumerate(keys):
        if keys.count(key) == 1:
            own = times[:, 2 * position : 2 * position + 2].sum(axis=1)
            assert result[key].nodes_ms == pytest.approx(undisturbed_ms(own))
            assert result[key].num_nodes == 2
            assert result[key].runs == 11


@given(
    least=st.lists(st.tuples(st.floats(0, 0.1), st.floats(0, 1), st.integers(0, 9)), min_size=1, max_size=8),
)
def test_clock_never_takes_more_than_a_piece(least: list[tuple[float, float, int]]) -> None:
    """Whatever the cheapest node says, what is left of each piece is a time; a merged piece says nothing."""
    pieces = [PieceTime(total, 0, count, 9, least_ms=cheapest) for cheapest, total, count in least]
    clock = clock_ms(pieces)
    assert 0 <= clock <= min((cheapest for cheapest, _, count in least if count), default=0)
    assert all(piece.nodes_ms >= clock * piece.num_nodes for piece in pieces if piece.num_nodes)


def test_one_piece_without_a_cheapest_node_leaves_the_clock_in() -> None:
    """Pieces that were timed alone, or came from an older journal, hold no clock that is known."""
    assert clock_ms([PieceTime(1.0, 0, 3, 9, least_ms=0.004), PieceTime(1.0, 0, 1, 9)]) == 0
    assert clock_ms([]) == 0


def test_cheapest_node_is_kept_where_the_clock_is_in_it() -> None:
    """The quartile of its runs, over all places of a piece; elsewhere nothing is known of a clock."""
    space = get_space("digits")
    subnet = plan(space, decode(space, designed_genes(space, 8))[0])
    names = [f"{piece.name}.{part}" for piece in subnet.pieces() for part in ("a", "b")]
    times = np.random.default_rng(0).uniform(1, 2, (11, len(names)))
    levels = np.percentile(times, QUARTILE, axis=0)
    found = profiled_pieces(subnet, names, times, holds_clock=True)
    for key, piece in found.items():
        own = [levels[2 * i + part] for i, one in enumerate(subnet.pieces()) if one.key == key for part in (0, 1)]
        assert piece.least_ms == pytest.approx(min(own))
    joined = joined_pieces([found])
    assert clock_ms(joined.values()) == pytest.approx(min(one.least_ms for one in found.values()))
    assert {one.least_ms for one in profiled_pieces(subnet, names, times).values()} == {0.0}


def node_names(piece: Piece) -> list[str]:
    """Return names as ONNX Runtime writes them, one it inserted among them."""
    names = [f"{conv.name}.conv_nchwc" for conv in piece.convolutions()] or [piece.name]
    if isinstance(piece, InvertedPlan) and piece.squeeze:
        names[-1:-1] = ["ReorderOutput_token_3", f"{piece.squeeze.name}.mean_nchwc", f"{piece.squeeze.name}.scale"]
    return names


def designed_plans() -> list[NetworkPlan]:
    space = get_space("ofa-mbv3-w1.2")
    return [plan(space, arch) for arch in decode(space, designed_genes(space, 128))]


def test_parts_do_not_depend_on_what_their_layer_does_not_see() -> None:
    """An expansion is the same whatever kernel follows; the depthwise convolution is not, nor is another width."""
    pieces = {piece.key: piece for subnet in designed_plans() for piece in subnet.pieces()}
    small, large, wide = (
        pieces[f"inverted 48>{w}>48 k{k} s1 relu se{s} + @16"] for w, k, s in ((192, 3, 48), (192, 7, 48), (288, 3, 72))
    )
    of_small, of_large, of_wide = (part_keys(piece, node_names(piece)) for piece in (small, large, wide))
    assert len(of_small) == 6
    assert [one == other for one, other in zip(of_small, of_large, strict=True)] == [
        True,
        False,
        True,
        True,
        True,
        True,
    ]
    assert not set(of_small) & set(of_wide)
    assert of_small[3:5] == ["squeeze 192>48 @16", "scale 192>48 @16"]


def test_fused_layers_are_parts_of_their_own_kind() -> None:
    """Where a runtime melts the expansion into the depthwise convolution, its time does depend on the kernel."""
    pieces = {piece.key: piece for piece in designed_plans()[0].pieces()}
    piece = next(piece for piece in pieces.values() if isinstance(piece, InvertedPlan) and piece.expand)
    fused = f"{piece.expand.name}.conv + {piece.depthwise.name}.conv" if piece.expand else ""
    (key,) = part_keys(piece, [fused])
    assert f"k{piece.depthwise.kernel} " in key.split(" & ")[0] + key.split(" & ")[1]
    assert " & " in key


def test_piece_without_named_layers_is_not_pooled_over_kernels() -> None:
    """PyTorch is timed piece by piece; then a piece is its own only part."""
    for piece in designed_plans()[0].pieces():
        assert part_keys(piece, [piece.name]) == [f"rest of {piece.key}"]


def test_part_of_one_piece_is_told_by_every_net_that_has_it() -> None:
    """A disturbance of one net's expansion is outvoted by nets that have it before other kernels."""
    plans = designed_plans()
    disturbed, key = next(
        (number, piece)
        for number, subnet in enumerate(plans)
        for piece in subnet.pieces()
        if isinstance(piece, InvertedPlan) and piece.key.startswith("inverted 24>") and piece.expand is not None
    )
    assert key.expand is not None
    profiles = []
    for number, subnet in enumerate(plans):
        names = [name for piece in subnet.pieces() for name in node_names(piece)]
        times = np.ones((8, len(names)))
        if number == disturbed:
            times[:, [name.startswith(key.expand.name) for name in names]] = 5.0
        profiles.append(profiled_pieces(subnet, names, times))
    assert sum(key.key in profile for profile in profiles) == 1
    assert profiles[disturbed][key.key].nodes_ms == pytest.approx(len(node_names(key)) + 4)
    assert joined_pieces(profiles)[key.key].nodes_ms == pytest.approx(len(node_names(key)))


@given(times=st.lists(st.floats(0.1, 10), min_size=1, max_size=30))
def test_slower_half_of_the_runs_does_not_count(times: list[float]) -> None:
    """Whatever disturbs less than half of the runs."""
    ordered = sorted(times)
    keep = (len(times) + 1) // 2
    assert undisturbed_ms(np.array(times)) == pytest.approx(np.mean(ordered[:keep]))
    disturbed = np.array([*ordered[:keep], *[10 * time for time in ordered[keep:]]])
    assert undisturbed_ms(disturbed) == pytest.approx(undisturbed_ms(np.array(times)))
