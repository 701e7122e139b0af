"""Tables that others measured are matched piece by piece, and what does not match is named."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from deps.ground.errors import FileError, LatencyTableError
from deps.profile.foreign import Conditions, imported_table, pieces_at
from deps.profile.importers import Timed, match, read_tables, require_covered
from deps.profile.latency import Entry, LatencyTable
from deps.supernet import ArchSpec, get_space
from deps.supernet.space import round_channels
from strategies import archs

REFERENCE = Path(os.environ.get("DEPS_TEST_REFERENCE", Path(__file__).resolve().parents[3] / "shared" / "reference"))
NOTE10 = REFERENCE / "measurements" / "ofa_note10_lut.csv"

# Output channels, stride, squeeze-excite, h-swish of the stages of both families, from once-for-all's papers.
MBV3 = ((32, 2, 0, 0), (48, 2, 1, 0), (96, 2, 0, 1), (136, 1, 1, 1), (192, 2, 1, 1))
PROXYLESS = ((32, 2), (56, 2), (104, 2), (128, 1), (248, 2), (416, 1))


def shape(side: int, channels: int) -> str:
    return f"{side}x{side}x{channels}"


def mbv3_keys(arch: ArchSpec) -> list[str]:
    """The keys that once-for-all looks up for a subnet of its MobileNetV3, width 1.2, written down by hand."""
    side = (arch.resolution + 1) // 2
    keys = [f"Conv-input:{shape(arch.resolution, 3)}-output:{shape(side, 24)}"]
    first = shape(side, 24)
    keys.append(f"expanded_conv-input:{first}-output:{first}-expand:24-kernel:3-stride:1-idskip:1-se:0-hs:0")
    channels = 24
    for stage, (out, stride, se, hs) in enumerate(MBV3):
        for block in range(arch.depths[stage]):
            kernel, expand = arch.kernels[4 * stage + block], arch.expands[4 * stage + block]
            step = stride if block == 0 else 1
            after = (side - 1) // step + 1
            middle = round_channels(round(channels * expand))
            keys.append(
                f"expanded_conv-input:{shape(side, channels)}-output:{shape(after, out)}-expand:{middle}-"
                f"kernel:{kernel}-stride:{step}-idskip:{int(block > 0)}-se:{se}-hs:{hs}"
            )
            side, channels = after, out
    keys.append(f"Conv_1-input:{shape(side, 192)}-output:{shape(side, 1152)}")
    keys.append(f"AvgPool2D-input:{shape(side, 1152)}-output:{shape(1, 1152)}")
    return [*keys, "Conv_2-input:1x1x1152-output:1x1x1536", "Logits-input:1x1x1536-output:1000"]


def proxyless_keys(arch: ArchSpec) -> list[str]:
    """The same for ProxylessNAS, width 1.3: ratios in place of channels, and ``Logits`` with the pool."""
    side = (arch.resolution + 1) // 2
    keys = [f"Conv-input:{shape(arch.resolution, 3)}-output:{shape(side, 40)}"]
    keys.append(f"expanded_conv-input:{shape(side, 40)}-output:{shape(side, 24)}-expand:1-kernel:3-stride:1-idskip:0")
    channels, position = 24, 0
    for stage, (out, stride) in enumerate(PROXYLESS):
        for block in range(arch.depths[stage]):
            step = stride if block == 0 else 1
            after = (side - 1) // step + 1
            keys.append(
                f"expanded_conv-input:{shape(side, channels)}-output:{shape(after, out)}-"
                f"expand:{arch.expands[position + block]}-kernel:{arch.kernels[position + block]}-"
                f"stride:{step}-idskip:{int(block > 0)}"
            )
            side, channels = after, out
        position += 4
    keys.append(f"Conv_1-input:{shape(side, 416)}-output:{shape(side, 1664)}")
    return [*keys, f"Logits-input:{shape(side, 1664)}-output:1000"]


class Everything(dict[str, float]):
    """A planted time for any key: what a device of a fairy tale would take."""

    def __missing__(self, key: str) -> float:
        return int(hashlib.sha256(key.encode()).hexdigest()[:6], 16) / 1e6


IMPORTED: dict[str, LatencyTable] = {}
"""Made once for all examples that hypothesis draws."""


@pytest.mark.parametrize(
    ("name", "keys_of"),
    [("ofa-mbv3-w1.2", mbv3_keys), ("ofa-proxyless-w1.3", proxyless_keys)],
    ids=["mbv3", "proxyless"],
)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_import_predicts_what_once_for_all_adds_up(
    tmp_path_factory: pytest.TempPathFactory, name: str, keys_of: Callable[[ArchSpec], list[str]], data: st.DataObject
) -> None:
    """A planted table of every key, written as YAML, gives each subnet the sum that once-for-all would give it."""
    space = get_space(name)
    planted = Everything()
    if name not in IMPORTED:
        keys: dict[str, None] = {}
        for resolution, kernel, expand in itertools.product((128, 176), (3, 5, 7), (3, 4, 6)):
            uniform = ArchSpec.create(space, kernels=kernel, expands=expand, resolution=resolution)
            keys |= dict.fromkeys(keys_of(uniform))
        path = tmp_path_factory.mktemp("ofa") / "lookup_table.yaml"
        path.write_text(yaml.safe_dump({key: {"count": 10, "mean": planted[key], "std": 0.1} for key in keys}))
        matching = match(space, read_tables([path]))
        assert matching.covered == (128, 176)
        assert matching.unmatched == ()
        IMPORTED[name] = imported_table(space, matching.entries, matching.covered, Conditions(target="cpu"), {})
    table = IMPORTED[name]
    arch = data.draw(archs(space))
    arch = ArchSpec.from_dict(space, {**arch.to_dict(), "resolution": data.draw(st.sampled_from((128, 176)))})
    assert table.predict(space, arch) == pytest.approx(sum(planted[key] for key in keys_of(arch)))


@pytest.mark.skipif(not NOTE10.exists(), reason=f"once-for-all's table of a Samsung Note10 is not at {NOTE10}")
def test_once_for_alls_own_table_of_a_phone_is_matched_whole() -> None:
    """A real file by others: every line has its place, 17 resolutions are covered, the sums are theirs."""
    space = get_space("ofa-mbv3-w1.2")
    lines = read_tables([NOTE10])
    matching = match(space, lines)
    assert matching.covered == tuple(range(160, 225, 4))
    assert matching.unmatched == ()
    assert sorted(matching.missing) == list(range(128, 160, 4))
    table = imported_table(space, matching.entries, matching.covered, Conditions(target="cpu"), {})
    of: dict[str, list[Entry]] = {}
    for line in lines:
        of.setdefault(line.key, []).append(line.entry)
    for arch in (ArchSpec.largest(space), ArchSpec.smallest(space, 160), ArchSpec.create(space, kernels=5, depths=3)):
        expected = 0.0
        for key in mbv3_keys(arch):
            runs = sum(entry.runs for entry in of[key])
            expected += sum(entry.median_ms * entry.runs for entry in of[key]) / runs
        assert table.predict(space, arch) == pytest.approx(expected)
    with pytest.raises(LatencyTableError, match=r"does not cover ofa-mbv3-w1.0: missing at .*of no subnet: 870 keys"):
        require_covered(get_space("ofa-mbv3-w1.0"), match(get_space("ofa-mbv3-w1.0"), lines))


def csv_of(path: Path, entries: dict[str, float]) -> Path:
    path.write_text("key,median_ms,spread_ms,runs\n" + "".join(f'"{k}",{v},0.5,7\n' for k, v in entries.items()))
    return path


def test_plain_csv_with_our_keys_is_taken_as_it_is(tmp_path: Path) -> None:
    """The documented columns, for whoever measured blocks with a program of their own."""
    space = get_space("digits")
    keys = pieces_at(space, 8)
    planted = {key: float(i) for i, key in enumerate(keys)}
    matching = match(space, read_tables([csv_of(tmp_path / "t.csv", planted)]))
    assert matching.covered == (8,)
    assert matching.entries == {key: Entry(ms, 0.5, 7) for key, ms in planted.items()}


@given(dropped=st.sets(st.integers(0, 20), min_size=1, max_size=5), stray=st.lists(st.text("abc:-x1", min_size=1)))
@settings(max_examples=15, deadline=None)
def test_missing_and_unknown_keys_are_all_named(dropped: set[int], stray: list[str]) -> None:
    """A table that lacks one piece would call every subnet with it infinitely slow, for a reason nobody sees."""
    space = get_space("digits")
    keys = list(pieces_at(space, 8))
    strays = [f"stray {text}" for text in dict.fromkeys(stray)]
    gone = {keys[i % len(keys)] for i in dropped}
    lines = [Timed(key, Entry(1.0, 0.0, 1)) for key in [*keys, *strays] if key not in gone]
    matching = match(space, lines)
    assert matching.covered == ()
    assert set(matching.missing[8]) == gone
    assert list(matching.unmatched) == strays
    with pytest.raises(LatencyTableError, match=f"missing at 8 px {len(gone)} key"):
        require_covered(space, matching)


def test_a_key_of_several_files_is_their_mean_by_runs() -> None:
    """Once-for-all times the classifier anew for each resolution; one entry must stand for all."""
    space = get_space("digits")
    lines = [Timed(key, Entry(1.0, 0.0, 1)) for key in pieces_at(space, 8)]
    again = [Timed(lines[0].key, Entry(3.0, 0.4, 3))]
    matching = match(space, [*lines, *again])
    assert matching.repeated == 1
    assert matching.entries[lines[0].key].median_ms == pytest.approx(2.5)
    assert matching.entries[lines[0].key].runs == 4


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "a: [", "is no YAML file"),
        ("a.yaml", "- 1\n- 2\n", "is no lookup table"),
        ("a.yaml", "Conv-input: {count: 3}", "Conv-input has no mean"),
        ("a.yaml", "Conv-input: fast", "the time of Conv-input is 'fast'"),
        ("a.yaml", "Conv-input: {mean: .nan}", "the time of Conv-input is nan"),
        ("a.yaml", "!!python/object/apply:os.getcwd []", "is no YAML file"),
        ("a.csv", "key,ms,colour\nx,1,red\n", "columns colour that mean nothing here"),
        ("a.csv", "name,ms\nx,1\n", "name"),
        ("a.csv", "key,ms\nx,-1\n", "the time of x is '-1'"),
        ("a.csv", "key,ms\nx,\n", "the time of x is None"),
    ],
)
def test_damaged_tables_are_refused_by_what_is_wrong(tmp_path: Path, name: str, text: str, message: str) -> None:
    """Files from elsewhere are read as data only, and a wrong cell is told with its key."""
    (tmp_path / name).write_text(text)
    with pytest.raises((FileError, LatencyTableError), match=message):
        read_tables([tmp_path / name])
    with pytest.raises(FileError, match="does not exist"):
        read_tables([tmp_path / "none.yaml"])


def test_asked_resolutions_must_be_covered() -> None:
    """Whoever names a resolution wants it, and not a warning."""
    space = get_space("ofa-mbv3-w1.0")
    matching = match(space, [Timed(key, Entry(1.0, 0.0, 1)) for key in pieces_at(space, 128)])
    assert matching.covered == (128,)
    require_covered(space, matching, [128])
    with pytest.raises(LatencyTableError, match="missing at 132 px"):
        require_covered(space, matching, [128, 132])
