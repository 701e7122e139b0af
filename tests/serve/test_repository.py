"""The models of a server: loaded, unloaded and replaced by name, on disk and on demand, without losing a request."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deps.ground.errors import BundleError
from deps.serve.manifest import MANIFEST_NAME
from deps.serve.models import Served
from deps.serve.refusals import RefusedError
from deps.serve.repository import Repository
from deps.serve.service import ServeOptions

OPTIONS = ServeOptions(subnet="large", max_batch=4, num_threads=1)


def _in_loop(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 60))


@asynccontextmanager
async def _opened(*bundles: Path, **settings: Any) -> AsyncIterator[Repository]:
    repository = await asyncio.to_thread(Repository.open, list(bundles), **{"options": OPTIONS, **settings})
    try:
        yield repository
    finally:
        await repository.close()


async def _ask(served: Served, images: np.ndarray) -> np.ndarray:
    """Do what the fronts do with a request."""
    with served.asking(time.monotonic()) as asking, served.lease() as loaded:
        computed = await loaded.service.infer(images, arrival=asking.arrived)
        asking.answered(len(images), computed)
        return computed.logits


@pytest.fixture
def one(make_bundle: Callable[..., Path], tmp_path: Path) -> Path:
    """A bundle that a test may alter."""
    return Path(shutil.copytree(make_bundle(), tmp_path / "one"))


def _replace(folder: Path, by: Path) -> None:
    """Put another bundle in a bundle's place, as deps-extract does: whole, by renaming."""
    fresh, old = folder.with_name("fresh"), folder.with_name("old")
    shutil.copytree(by, fresh)
    folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old)


@pytest.fixture(scope="module")
def turned(make_bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with its two subnets' files exchanged: the names stay, the answers differ."""

    folder = Path(shutil.copytree(make_bundle(), tmp_path_factory.mktemp("turned") / "bundle"))
    plain = json.loads((folder / MANIFEST_NAME).read_text())
    large, small = plain["subnets"]
    large["models"], small["models"] = small["models"], large["models"]
    (folder / MANIFEST_NAME).write_text(json.dumps(plain))
    return folder


def test_models_are_found_by_name_and_version(one: Path):
    """Two names a bundle; anything else is a 404 that lists the known."""

    async def story() -> None:
        async with _opened(one) as repository:
            assert [entry["name"] for entry in repository.index()] == ["tiny", "tiny-uint8"]
            assert repository.find("tiny", "1").model is repository.find("tiny-uint8").model
            for name, version in (("other", None), ("tiny", "2")):
                with pytest.raises(RefusedError, match="tiny") as caught:
                    repository.find(name, version)
                assert caught.value.status == 404

    _in_loop(story)


def test_several_bundles_and_a_folder_of_them_are_served(make_bundle, one: Path, tmp_path: Path):
    """One process, many models; one that cannot be loaded is listed with its reason, and the others serve."""
    root = tmp_path / "root"
    shutil.copytree(make_bundle(name="good"), root / "a")
    broken = Path(shutil.copytree(make_bundle(name="broken"), root / "b"))
    (broken / "models" / "large" / "fp32.onnx").write_bytes(b"x")
    shutil.copytree(make_bundle(name="later"), root / "c")

    async def story() -> None:
        async with _opened(one, root=root, load=["good", "broken"]) as repository:
            told = {entry["name"]: entry for entry in repository.index() if not entry["name"].endswith("-uint8")}
            assert {name: entry["state"] for name, entry in told.items()} == {
                "tiny": "READY",
                "good": "READY",
                "broken": "UNAVAILABLE",
                "later": "UNAVAILABLE",
            }
            assert "has 1 bytes" in told["broken"]["reason"]
            assert told["later"]["reason"] == "not loaded"
            assert [entry["name"] for entry in repository.index(only_ready=True)][::2] == ["tiny", "good"]
            shutil.copytree(make_bundle(name="new"), root / "d")
            await repository.load("new")
            assert repository.is_model_ready(repository.find("new"))

    _in_loop(story)


def test_two_bundles_of_one_name_are_refused(make_bundle, one: Path):
    """One of them would never be asked, and nobody would know which."""
    with pytest.raises(BundleError, match="both answer to the name 'tiny'"):
        Repository.open([one, make_bundle()], options=OPTIONS)


def test_bundle_on_the_command_line_must_load(one: Path):
    """Who names a bundle wants it served, or to know why not."""
    (one / "models" / "large" / "fp32.onnx").write_bytes(b"x")
    with pytest.raises(BundleError, match="has 1 bytes"):
        Repository.open([one], options=OPTIONS)


def test_unloaded_model_is_503_until_it_is_loaded_again(one: Path, tiny, images):
    """Explicit control, and its memory is given back only after what was under way."""

    async def story() -> None:
        async with _opened(one) as repository:
            served = repository.find("tiny")
            under_way = [asyncio.create_task(_ask(served, images)) for _ in range(8)]
            await asyncio.sleep(0)
            await repository.unload("tiny")
            assert not repository._retiring
            for answer in under_way:
                np.testing.assert_allclose(await answer, tiny.logits(images), rtol=1e-4, atol=1e-4)
            with pytest.raises(RefusedError, match="not loaded \\(unloaded\\)") as caught:
                await _ask(served, images)
            assert caught.value.status == 503
            await repository.load("tiny")
            np.testing.assert_allclose(await _ask(served, images), tiny.logits(images), rtol=1e-4, atol=1e-4)
            with pytest.raises(RefusedError, match="expected that name"):
                await repository.unload("tiny-uint8")

    _in_loop(story)


def test_replaced_bundle_is_swapped_under_load_without_losing_a_request(
    one: Path, turned: Path, tiny, tiny_small, images
):
    """Every request gets a right answer, of the old bundle or of the new one, and the new one answers in the end."""
    old_NV, new_NV = tiny.logits(images), tiny_small.logits(images)
    answers: list[np.ndarray] = []

    async def story() -> None:
        async with _opened(one) as repository:
            served = repository.find("tiny")
            stop = asyncio.Event()

            async def client(row: int) -> None:
                while not stop.is_set():
                    logits_V = (await _ask(served, images[row : row + 1]))[0]
                    old, new = (np.allclose(logits_V, told[row], rtol=1e-4, atol=1e-4) for told in (old_NV, new_NV))
                    assert old or new
                    answers.append(np.array(new))

            clients = [asyncio.create_task(client(row)) for row in range(len(images))]
            watching = asyncio.create_task(repository.watch(0.01))
            for swap, bundle in enumerate((turned, one.parent / "first", turned), start=1):
                if swap == 2:
                    bundle = first
                await asyncio.to_thread(_replace, one, bundle)
                while served.model.swaps < swap:
                    await asyncio.sleep(0.005)
            seen = len(answers)
            while len(answers) < seen + 50:
                await asyncio.sleep(0.005)
            stop.set()
            watching.cancel()
            await asyncio.gather(*clients)
            told = served.statistics
            assert (sum(told.refusals.values()), told.errors) == (0, 0)
            assert told.success.count == len(answers)
            assert sum(n for counts in served.model.batches().values() for n, _ in counts.values()) > 0
            executed = repository.statistics([served])["model_stats"][0]["batch_stats"]
            rows = sum(entry["batch_size"] * entry["compute_infer"]["count"] for entry in executed)
            assert rows == len(answers)

    first = Path(shutil.copytree(one, one.with_name("first")))
    _in_loop(story)
    assert not answers[0]
    assert all(answers[-len(images) :])


def test_broken_bundle_is_refused_once_and_the_old_one_keeps_serving(
    one: Path, turned: Path, tiny_small, tiny, images, caplog
):
    """A half-copied bundle must not cost service; when the rest of it arrives, it is taken."""

    async def story() -> None:
        async with _opened(one) as repository:
            served = repository.find("tiny")
            model = served.model
            whole = (turned / "models" / "small" / "fp32.onnx").read_bytes()
            shutil.copyfile(turned / "manifest.json", one / "manifest.json")
            (one / "models" / "small" / "fp32.onnx").write_bytes(b"half")
            assert not await repository.refresh(model)
            assert not await repository.refresh(model)
            assert (model.failures, model.swaps) == (1, 0)
            (entry, _) = repository.index()
            assert (entry["state"], "has 4 bytes" in entry["reason"]) == ("READY", True)
            np.testing.assert_allclose(await _ask(served, images), tiny.logits(images), rtol=1e-4, atol=1e-4)
            (one / "models" / "small" / "fp32.onnx").write_bytes(whole)
            assert await repository.refresh(model)
            np.testing.assert_allclose(await _ask(served, images), tiny_small.logits(images), rtol=1e-4, atol=1e-4)
            assert repository.index()[0]["reason"] == ""

    with caplog.at_level("INFO", logger="deps.serve"):
        _in_loop(story)
    (line,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "cannot load tiny" in line.message
    assert "the bundle before it keeps serving" in line.message


def test_bundle_of_another_name_does_not_take_the_place(make_bundle, one: Path):
    """Clients ask by name: a name that vanishes is a mistake, not an update."""

    async def story() -> None:
        async with _opened(one) as repository:
            _replace(one, make_bundle(name="another"))
            with pytest.raises(RefusedError, match="holds the model 'another' now; expected 'tiny'"):
                await repository.load("tiny")
            assert repository.is_model_ready(repository.find("tiny"))

    _in_loop(story)


def test_missing_or_untouched_bundle_is_left_alone(one: Path):
    """Between two renames there is no folder for a moment, and touching nothing must load nothing."""

    async def story() -> None:
        async with _opened(one) as repository:
            model = repository.models["tiny"]
            assert not await repository.refresh(model)
            away = one.with_name("away")
            one.rename(away)
            assert not await repository.refresh(model)
            away.rename(one)
            assert not await repository.refresh(model)
            assert (model.swaps, model.failures) == (0, 0)

    _in_loop(story)
