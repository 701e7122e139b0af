"""Times of whole subnets are read as they were meant, and a row that means nothing is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deps.ground.errors import FileError, LatencyTableError
from deps.profile.whole_nets import read_whole_nets
from deps.supernet import ArchSpec, get_space
from deps.supernet.sampling import decode, encode
from strategies import archs

MBV3 = get_space("ofa-mbv3-w1.2")


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@given(data=st.data(), name=st.sampled_from(("digits", "ofa-mbv3-w1.2", "ofa-proxyless-w1.3", "ofa-resnet50")))
@settings(max_examples=20, deadline=None)
def test_choices_are_read_back_in_both_notations(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str
) -> None:
    """Once-for-all's lists and our own JSON mean the same subnets; a time of another subnet would go unnoticed."""
    space = get_space(name)
    drawn = data.draw(st.lists(archs(space), min_size=1, max_size=3))
    folder = tmp_path_factory.mktemp("nets")
    lists = [arch.to_ofa(space) for arch in drawn]

    def cell(values: list[float] | None) -> str:
        return " ".join(f"{value:g}" for value in values or [])

    rows = [
        ",".join([str(i), str(own["r"]), *(cell(own[key]) for key in ("d", "ks", "e", "w")), f"{i + 1.5}"])
        for i, own in enumerate(lists)
    ]
    ofa = read_whole_nets(write(folder / "ofa.csv", "id,r,d,ks,e,w,median_ms", *rows), space)
    plain = [f"{i + 1.5};{arch.to_dict()}".replace("'", '""').replace(";", ',"') + '"' for i, arch in enumerate(drawn)]
    ours = read_whole_nets(write(folder / "ours.csv", "ms,arch", *plain), space)
    for nets in (ofa, ours):
        assert decode(space, nets.genes) == drawn
        np.testing.assert_array_equal(nets.measured_ms, [i + 1.5 for i in range(len(drawn))])


def test_digits_without_spaces_are_one_choice_each(tmp_path: Path) -> None:
    """The published measurements of once-for-all subnets are written so; blocks beyond the depth are ignored."""
    path = write(tmp_path / "n.csv", "id,r,d,ks,e,a_ms", "0,204,22223,75557757573753735353,64466343363336346436,12.1")
    nets = read_whole_nets(path, MBV3)
    expected = ArchSpec.from_ofa(
        MBV3,
        ks=[7, 5, 5, 5, 7, 7, 5, 7, 5, 7, 3, 7, 5, 3, 7, 3, 5, 3, 5, 3],
        e=[6, 4, 4, 6, 6, 3, 4, 3, 3, 6, 3, 3, 3, 6, 3, 4, 6, 4, 3, 6],
        d=[2, 2, 2, 2, 3],
        resolution=204,
    )
    np.testing.assert_array_equal(nets.genes, encode(MBV3, [expected]))
    assert nets.measured_ms.tolist() == [12.1]


def test_rows_that_mean_nothing_are_counted_and_named(tmp_path: Path) -> None:
    """A silently skipped row would move the fit, and nobody would know by what."""
    good = "204,22223,75557757573753735353,64466343363336346436"
    bad = [f"{good},-3", f"{good},fast", f"{good.replace('204', '205')},12", f"{good.replace('2222', '2922')},12"]
    path = write(tmp_path / "n.csv", "r,d,ks,e,ms", f"{good},12", *bad)
    with pytest.raises(
        LatencyTableError, match=r"4 of 5 rows .*line 3: ms is -3.*line 4: .*fast.*line 5: .*205.*line 6"
    ):
        read_whole_nets(path, MBV3)


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (["r,d,ks,e,a_ms,b_ms", "1,2,3,4,5,6"], r"2 columns that end in ms \(a_ms, b_ms\).*--column"),
        (["r,d,ks,ms", "1,2,3,4"], "no column e "),
        (["ms,arch"], "no rows"),
        (["r,r,ms", "1,1,2"], "twice"),
        (["ms,arch", "1"], "line 2 has 1 cells; expected 2"),
        ([""], "is empty"),
    ],
)
def test_files_of_another_shape_are_refused_with_what_is_missing(tmp_path: Path, lines: list[str], match: str) -> None:
    """Whoever exported the file reads what to change in it."""
    with pytest.raises((LatencyTableError, FileError), match=match):
        read_whole_nets(write(tmp_path / "n.csv", *lines), MBV3)


def test_unknown_column_lists_the_known(tmp_path: Path) -> None:
    """The column is named by hand, and hands err."""
    path = write(tmp_path / "n.csv", "r,d,ks,e,a_ms", "1,2,3,4,5")
    with pytest.raises(LatencyTableError, match=r"no column 'b_ms'; its columns: r, d, ks, e, a_ms"):
        read_whole_nets(path, MBV3, column="b_ms")
    with pytest.raises(FileError, match="does not exist"):
        read_whole_nets(tmp_path / "none.csv", MBV3)
