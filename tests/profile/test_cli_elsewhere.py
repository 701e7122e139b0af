"""``deps-profile import`` and ``fit`` as users meet them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from deps.profile.cli import main
from deps.profile.flops import cost_tables
from deps.profile.foreign import pieces_at
from deps.profile.latency import LatencyTable
from deps.profile.whole_fit import quantities
from deps.supernet import Supernet, get_space
from deps.supernet.sampling import decode, random_genes

DIGITS = get_space("digits")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(path: Path, *, extra: str = "") -> Path:
    lines = [f'"{key}",{0.01 * (i + 1)}\n' for i, key in enumerate(pieces_at(DIGITS, 8))]
    path.write_text("key,median_ms\n" + "".join(lines) + extra)
    return path


def whole(path: Path, count: int = 30) -> Path:
    genes = random_genes(DIGITS, count, np.random.default_rng(0))
    rows = quantities(DIGITS, genes)
    times = 1 + rows @ (1 / rows.mean(axis=0).clip(1e-9))
    cells = [json.dumps(arch.to_dict()).replace('"', '""') for arch in decode(DIGITS, genes)]
    path.write_text("arch,a_ms\n" + "".join(f'"{c}",{t}\n' for c, t in zip(cells, times, strict=True)))
    return path


def test_imported_table_says_that_its_error_is_unknown(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without whole subnets nobody can know; with them the table tells, and a stray key is named either way."""
    file = blocks(elsewhere / "b.csv", extra="conv of nobody,3\n")
    common = ["import", str(file), "--space", "digits", "--target", "cpu", "--measured-on", "my phone"]
    assert main([*common, "--out", "t.json"]) == 0
    output = capsys.readouterr()
    assert "error          unknown: no held-out measurements" in output.out
    assert "warning: error unknown: no held-out measurements; give times of whole subnets" in output.err
    assert "no subnet of digits has 1 key (conv of nobody)" in output.err
    assert LatencyTable.load("t.json").device == {"name": "my phone"}

    check = whole(elsewhere / "w.csv")
    assert main([*common, "--out", "t.json", "--check", str(check), "--overwrite", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["error"]["nets"] == 30
    assert answer["origin"] == "imported"
    assert answer["matching"]["unmatched"] == ["conv of nobody"]


def test_fit_lands_where_extract_looks(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a run, the table is the run's; a second one does not replace it unasked."""
    Supernet.create(DIGITS).save(elsewhere / "runs" / "first")
    arguments = ["fit", str(whole(elsewhere / "w.csv")), "--target", "rtx", "--batch", "8"]
    assert main(arguments) == 0
    path = elsewhere / "runs" / "first" / "latency" / "rtx.json"
    table = LatencyTable.load(path)
    assert (table.origin, table.batch, table.target) == ("fitted", 8, "rtx")
    assert table.beats_flops_line
    assert "taking the newest run" in capsys.readouterr().err
    assert main(arguments) == 1
    assert "exists already; replace it with --overwrite" in capsys.readouterr().err


def test_a_fit_that_the_flops_line_beats_is_refused(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Times that fall as nets grow fit a line and no price above zero; such a table is worth nothing."""
    path, space = whole(elsewhere / "w.csv", 20), DIGITS
    genes = random_genes(space, 20, np.random.default_rng(0))
    flops = cost_tables(space)[0](genes)
    header, *lines = path.read_text().splitlines()
    falling = [f"{line.rpartition(',')[0]},{9 - 8 * f / flops.max()}" for line, f in zip(lines, flops, strict=True)]
    path.write_text("\n".join([header, *falling]))
    arguments = ["fit", str(path), "--space", "digits", "--target", "cpu", "--out", "t.json"]
    assert main(arguments) == 1
    assert "is not worth having and was not written" in capsys.readouterr().err
    assert not Path("t.json").exists()
    assert main([*arguments, "--force"]) == 0
    assert "kept because of --force" in capsys.readouterr().err
    assert not LatencyTable.load("t.json").beats_flops_line


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["import", "b.csv", "--target", "cpu", "--space", "ofa-mbv3-w1.0"], "the table does not cover ofa-mbv3-w1.0"),
        (["import", "b.csv", "--target", "cpu", "--space", "digits", "--resolution", "9"], "resolution is 9; choices"),
        (["import", "b.csv", "--target", "cpu", "--space", "digits", "--column", "x"], "--check, which was not given"),
        (["import", "b.csv", "--target", "toaster", "--space", "digits"], "toaster"),
        (["fit", "b.csv", "--target", "cpu", "--space", "digits"], "has no column ks, e, d, r"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    """Exit code 1, the reason, nothing written."""
    blocks(elsewhere / "b.csv")
    assert main(arguments) == 1
    output = capsys.readouterr()
    assert reason in output.err.splitlines()[-1]
    assert output.out == ""
    assert [path.name for path in elsewhere.iterdir()] == ["b.csv"]
