"""A journal remembers whole lines of one measurement, whatever stopped the process that wrote them."""

from __future__ import annotations

from pathlib import Path

from deps.profile.journal import Journal

HEADER = {"kit": "abc", "conditions": {"threads": 1}}


def test_finished_lines_are_found_again(tmp_path: Path) -> None:
    """A second process goes on where the first was killed."""
    path = tmp_path / "out" / "table.json.journal"
    book = Journal(path, HEADER)
    book.append({"unit": "a", "process": 0})
    book.append({"unit": "b", "process": 0})
    again = Journal(path, HEADER)
    assert [record["unit"] for record in again.records] == ["a", "b"]
    assert again.processes == 1
    assert not again.was_begun_otherwise


def test_line_that_was_cut_short_is_forgotten_and_harms_no_other(tmp_path: Path) -> None:
    """A kill may come in the middle of a line."""
    path = tmp_path / "journal"
    Journal(path, HEADER).append({"unit": "a", "process": 0})
    with path.open("a") as stream:
        stream.write('{"unit": "b", "proc')
    again = Journal(path, HEADER)
    assert [record["unit"] for record in again.records] == ["a"]
    again.append({"unit": "c", "process": 1})
    assert [record["unit"] for record in Journal(path, HEADER).records] == ["a", "c"]


def test_other_header_begins_again(tmp_path: Path) -> None:
    """Times of another kit or another device must not be mixed in."""
    path = tmp_path / "journal"
    Journal(path, HEADER).append({"unit": "a", "process": 0})
    other = Journal(path, {**HEADER, "kit": "def"})
    assert other.was_begun_otherwise
    assert other.records == []
    assert Journal(path, HEADER).records == []


def test_without_a_path_nothing_is_written(tmp_path: Path) -> None:
    """A check needs no journal."""
    book = Journal(None, HEADER)
    book.append({"unit": "a", "process": 0})
    assert len(book.records) == 1
    book.remove()
    assert list(tmp_path.iterdir()) == []
