"""Targets are data: ours hold the facts of the devices, and a user's own file is read as strictly."""

from __future__ import annotations

from pathlib import Path

import pytest

from deps.ground.errors import TargetError
from deps.serve.targets import BUILTIN, get_target, load_targets, read_targets

MINE = """
[my-board]
description = "the board on my desk"
backends = ["onnxruntime"]
precisions = ["cpu-int8", "fp32"]
build = "none"
max_batch = 2
aliases = ["desk"]
"""


@pytest.fixture(autouse=True)
def _no_targets_of_the_tester(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Whatever targets the tester has must not decide these tests."""
    monkeypatch.delenv("DEPS_TARGETS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_every_promised_target_is_there():
    """The names of DESIGN section 7."""
    promised = "cpu jetson-orin jetson-orin-nano jetson-agx-orin jetson-thor rtx t4 a100 h100 h200"
    assert set(promised.split()) <= set(load_targets())
    assert get_target("jetson") is not None
    assert get_target("jetson") == get_target("jetson-orin")


def test_only_rtx_builds_its_engines_here():
    """TensorRT for RTX alone builds without the GPU; a Jetson's engine must come from the board."""
    assert [target.name for target in load_targets().values() if target.build == "here"] == ["rtx"]
    assert get_target("jetson").build == "device"
    assert get_target("cpu").build == "none"


def test_rtx_names_no_gpu_that_tensorrt_for_rtx_lacks():
    """It has no kernels for Orin (8.7), Hopper (9.0) and Thor (11.0), and 7.5 lacks fp32 Gemm."""
    assert not {"7.5", "8.7", "9.0", "11.0"} & set(get_target("rtx").compute_capabilities)


@pytest.mark.parametrize("target", load_targets(BUILTIN).values(), ids=lambda target: target.name)
def test_every_target_can_fall_back_to_the_processor(target):
    """A device whose TensorRT is broken still answers."""
    assert "onnxruntime" in target.backends
    assert "fp32" in target.precisions
    assert target.profile.max == target.max_batch


def test_unknown_target_lists_the_known():
    """A typing error is answered by the names there are, aliases included."""
    with pytest.raises(TargetError, match=r"no target 'jetsn'; expected one of cpu, jetson-orin \(= jetson\)"):
        get_target("jetsn")


def test_users_file_adds_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By argument, by environment and by the config folder, in this order."""
    (tmp_path / "mine.toml").write_text(MINE)
    assert get_target("my-board", tmp_path / "mine.toml").precisions == ("cpu-int8", "fp32")
    monkeypatch.setenv("DEPS_TARGETS", str(tmp_path / "mine.toml"))
    assert get_target("desk").name == "my-board"
    monkeypatch.delenv("DEPS_TARGETS")
    with pytest.raises(TargetError):
        get_target("desk")
    (tmp_path / "config" / "deps").mkdir(parents=True)
    (tmp_path / "config" / "deps" / "targets.toml").write_text(MINE)
    assert get_target("desk").max_batch == 2


def test_users_table_replaces_ours(tmp_path: Path):
    """Somebody whose Orin has other limits writes the table again."""
    (tmp_path / "mine.toml").write_text(MINE.replace("my-board", "cpu").replace('aliases = ["desk"]', ""))
    assert get_target("cpu", tmp_path / "mine.toml").max_batch == 2
    assert get_target("cpu").max_batch != 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("max_batch = 2", "max_batch = 0"), r"mine.toml \[my-board\]: max_batch is 0"),
        (("max_batch = 2", 'max_batch = "2"'), "max_batch is '2'; expected a whole number"),
        (("max_batch = 2", ""), "max_batch is missing"),
        (("max_batch = 2", "max_batch = 2\nspeed = 9"), "speed is not a known key"),
        (('"cpu-int8"', '"fp8"'), r"precisions\[0\] is 'fp8'"),
        (('build = "none"', 'build = "device"'), "expected a runtime and a place to build"),
        (('["onnxruntime"]', '["tensorrt"]'), "expected a runtime and a place to build"),
        (('["onnxruntime"]', "[]"), "at least one of each"),
        (("[my-board]", "[my-board"), "is not TOML"),
        (("[my-board]", 'name = "x"\n[my-board]'), "name is no table of a target"),
    ],
)
def test_malformed_table_is_refused_by_key(tmp_path: Path, change: tuple[str, str], said: str):
    """A target decides what runs on a device: a mistyped key must not be ignored."""
    (tmp_path / "mine.toml").write_text(MINE.replace(*change))
    with pytest.raises(TargetError, match=said):
        read_targets(tmp_path / "mine.toml")


def test_only_tensorrt_for_rtx_may_build_here(tmp_path: Path):
    """A user's target cannot ask for what full TensorRT cannot do."""
    table = MINE.replace('build = "none"', 'build = "here"\nruntime = "tensorrt"').replace(
        '"onnxruntime"', '"tensorrt"'
    )
    (tmp_path / "mine.toml").write_text(table)
    with pytest.raises(TargetError, match="only TensorRT for RTX builds without the GPU"):
        read_targets(tmp_path / "mine.toml")


def test_named_file_must_exist(tmp_path: Path):
    """A mistyped --targets must not quietly mean no targets of one's own."""
    with pytest.raises(TargetError, match="cannot be read"):
        get_target("cpu", tmp_path / "absent.toml")


def test_a_user_without_a_home_has_no_targets_of_their_own(monkeypatch: pytest.MonkeyPatch):
    """A container's user has neither ``$HOME`` nor a name; the start must not end in a traceback."""
    import pwd

    def nobody(_: int) -> None:
        raise KeyError("uid not found")

    for variable in ("HOME", "XDG_CONFIG_HOME", "DEPS_TARGETS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert load_targets() == read_targets(BUILTIN)
