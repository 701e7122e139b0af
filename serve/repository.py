"""The models of a server: which bundles it may serve, which are loaded, and how one takes another's place.

Relies on one event loop for everything but the opening and closing of services, which happen on other threads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from deps.ground.errors import BundleError, DepsError
from deps.ground.files import read_json
from deps.serve.descriptions import model_config
from deps.serve.manifest import MANIFEST_NAME
from deps.serve.models import Loaded, Model, Served, Stamp, stamp_of
from deps.serve.protocol import MODEL_VERSION
from deps.serve.refusals import RefusedError
from deps.serve.service import ServeOptions, Service
from deps.serve.signature import RAW_SUFFIX

log = logging.getLogger("deps.serve")


class Repository:
    """All models of a server, by name."""

    def __init__(self, models: Iterable[Model], options: ServeOptions, *, root: Path | None = None) -> None:
        """Know some models, none of which needs to be loaded yet.

        Args:
            models: with names of their own.
            options: how each is served.
            root: folder in which further bundles may appear.
        """
        self.models: dict[str, Model] = {}
        self.served: dict[str, Served] = {}
        self._options = options
        self._root = root
        self._is_draining = False
        self._retiring: set[asyncio.Task[None]] = set()
        for model in models:
            self._add(model)

    @classmethod
    def open(
        cls,
        bundles: Sequence[Path] = (),
        *,
        root: Path | None = None,
        load: Sequence[str] | None = None,
        options: ServeOptions | None = None,
    ) -> Repository:
        """Find the bundles and load them.

        Args:
            bundles: folders, every one of which must load.
            root: a folder of bundles; one of them that cannot be loaded is listed with its reason.
            load: names of those in ``root`` that shall be loaded; all when None.
            options: how each is served.

        Raises:
            BundleError: a bundle is incomplete, altered or unsafe; two share a name; or there is none.
            TargetError: the target is unknown here.
            EngineError: nothing here can run a bundle.
        """
        options = options or ServeOptions()
        opened: list[Loaded] = []
        try:
            models = []
            for folder in bundles:
                opened.append(_load(folder, None, options))
                models.append(Model(opened[-1].service.manifest.name, folder, opened[-1], reason=""))
            found = [] if root is None else find_models(root)
            repository = cls([*models, *found], options, root=root)
            unknown = [name for name in load or () if name not in {model.name for model in found}]
            if unknown:
                known = ", ".join(model.name for model in found) or "none"
                raise BundleError(f"there is no model {unknown[0]!r} in {root}; expected one of: {known}; see --load")
            for model in found:
                if load is None or model.name in load:
                    repository._try_to_load(model, opened)
        except BaseException:
            for loaded in opened:
                loaded.service.close()
            raise
        return repository

    def _try_to_load(self, model: Model, opened: list[Loaded]) -> None:
        try:
            model.loaded = _load(model.folder, model.name, self._options)
        except DepsError as error:
            self._failed(model, error)
        else:
            model.reason = ""
            opened.append(model.loaded)

    def _add(self, model: Model) -> None:
        for name, takes_raw in ((model.name, False), (model.name + RAW_SUFFIX, True)):
            if name in self.served:
                other = self.served[name].model.folder
                raise BundleError(
                    f"{other} and {model.folder} both answer to the name {name!r}; expected names of their own; "
                    "serve one of them, or make it again with another name"
                )
            self.served[name] = Served(name, model, takes_raw)
        self.models[model.name] = model

    @property
    def is_ready(self) -> bool:
        """Whether requests should be sent here."""
        return not self._is_draining

    def find(self, name: str, version: str | None = None) -> Served:
        """Return what answers to a name.

        Raises:
            RefusedError: no such model or version; 404.
        """
        served = self.served.get(name)
        if served is None:
            known = ", ".join(repr(name) for name in list(self.served)[:6])
            raise RefusedError(f"there is no model {name!r}; expected {known}; see /v2/repository/index", status=404)
        if version not in (None, "", MODEL_VERSION):
            raise RefusedError(f"model {name!r} has no version {version!r}; expected {MODEL_VERSION!r}", status=404)
        return served

    def is_model_ready(self, served: Served) -> bool:
        """Whether a request for it would be taken."""
        return self.is_ready and served.model.loaded is not None

    def index(self, *, only_ready: bool = False) -> list[dict[str, str]]:
        """Return every name with its state, as the repository extension lists them."""
        entries = []
        for served in self.served.values():
            state, reason = "READY", served.model.reason
            if not self.is_ready:
                state, reason = "UNAVAILABLE", "the server is shutting down"
            elif served.model.loaded is None:
                state = "UNAVAILABLE"
            if state == "READY" or not only_ready:
                entries.append({"name": served.name, "version": MODEL_VERSION, "state": state, "reason": reason})
        return entries

    def config(self, served: Served) -> dict[str, Any]:
        """Return a model's configuration, as NVIDIA's clients read it.

        Raises:
            RefusedError: it is not loaded; 503.
        """
        with served.lease() as loaded:
            service = loaded.service
            facts = {
                **service.by.parameters(),
                "subnets": ", ".join(member.name for member in service.subnets),
                "chosen_because": service.choice.reason,
            }
            return model_config(
                loaded.signatures[served.takes_raw],
                service.choice.backend,
                max_batch=service.default.engine.max_batch,
                facts=facts,
            )

    def statistics(self, served: Iterable[Served]) -> dict[str, Any]:
        """Return the statistics of some names, as the statistics extension writes them."""
        told = []
        for entry in served:
            # Both names of a model share its batches; each tells them whole, for its own requests may be in any.
            batches: dict[int, tuple[int, float]] = {}
            for counts in entry.model.batches().values():
                for images, (ran, seconds) in counts.items():
                    before = batches.get(images, (0, 0.0))
                    batches[images] = (before[0] + ran, before[1] + seconds)
            told.append(entry.statistics.to_dict(entry.name, MODEL_VERSION, batches))
        return {"model_stats": told}

    async def look_again(self) -> None:
        """Find bundles that appeared in the repository's folder since the start; none of them is loaded by this."""
        if self._root is None:
            return
        for model in await asyncio.to_thread(find_models, self._root):
            if model.name not in self.models:
                try:
                    self._add(model)
                except BundleError as error:
                    log.error("%s is left out: %s", model.folder, error, extra={"folder": str(model.folder)})

    async def refresh(self, model: Model) -> bool:
        """Load a model anew if the bundle in its folder is another one than before, and return whether it was.

        A bundle that is refused leaves what is loaded in place, and is tried again when one of its files changes.
        """
        stamp = stamp_of(model.folder / MANIFEST_NAME)
        if model.loaded is None or stamp is None or stamp == model.loaded.stamp:
            return False
        tree = await asyncio.to_thread(_stamps_in, model.folder)
        if tree == model.refused_tree:
            return False
        async with model.changing:
            try:
                await self._replace(model)
            except RefusedError:
                model.refused_tree = tree
                return False
        return True

    async def watch(self, interval_s: float) -> None:
        """Look for replaced bundles until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            for model in list(self.models.values()):
                try:
                    await self.refresh(model)
                except Exception:  # whatever one bundle does, the others must still be watched
                    log.exception("cannot look at %s", model.folder, extra={"model": model.name})

    async def load(self, name: str) -> None:
        """Load a model from its folder as it is now, in place of what is loaded.

        Raises:
            RefusedError: no such model (404); it cannot be loaded (400), and what was loaded stays; or stopping (503).
        """
        if name not in self.served:
            await self.look_again()
        model = self._model(name)
        async with model.changing:
            await self._replace(model)

    async def _replace(self, model: Model) -> None:
        if self._is_draining:
            raise RefusedError("the server is shutting down; expected a running one; try another", status=503)
        try:
            fresh = await asyncio.to_thread(_load, model.folder, model.name, self._options)
        except DepsError as error:
            self._failed(model, error)
            raise RefusedError(f"model {model.name!r} cannot be loaded: {error}") from error
        old, model.loaded, model.reason = model.loaded, fresh, ""
        if old is None:
            log.info("loaded %s", model.name, extra={"model": model.name, "folder": str(model.folder)})
            return
        model.swaps += 1
        log.info("swapped %s", model.name, extra={"model": model.name, "folder": str(model.folder)})
        self._retire(model, old)

    def _failed(self, model: Model, error: DepsError) -> None:
        model.failures += 1
        model.reason = str(error)
        kept = "not loaded" if model.loaded is None else "the bundle before it keeps serving"
        facts = {"model": model.name, "folder": str(model.folder), "error": str(error)}
        log.error("cannot load %s: %s; %s", model.name, error, kept, extra=facts)

    async def unload(self, name: str) -> None:
        """Stop taking requests for a model, answer those under way, and give its memory back.

        Raises:
            RefusedError: no such model (404).
        """
        model = self._model(name)
        async with model.changing:
            old, model.loaded, model.reason = model.loaded, None, "unloaded"
            if old is not None:
                log.info("unloaded %s", model.name, extra={"model": model.name})
                await asyncio.shield(self._retire(model, old))

    def _retire(self, model: Model, old: Loaded) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(model.retire(old))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
        return task

    def _model(self, name: str) -> Model:
        served = self.find(name)
        if served.takes_raw:
            raise RefusedError(
                f"model {name!r} is the same as {served.model.name!r}, for raw pixels; expected that name; "
                f"both are loaded and unloaded together"
            )
        return served.model

    def begin_drain(self) -> None:
        """Say that no more requests should come; those that come all the same are still answered."""
        self._is_draining = True

    async def close(self) -> None:
        """Answer what was accepted, and give everything back."""
        self.begin_drain()
        for model in self.models.values():
            async with model.changing:
                old, model.loaded, model.reason = model.loaded, None, "the server is shutting down"
                if old is not None:
                    self._retire(model, old)
        while self._retiring:
            await asyncio.gather(*self._retiring)


def _name_in(folder: Path) -> str:
    """Return the name that a bundle's manifest gives it, without checking the rest of it.

    Raises:
        BundleError: there is no manifest, or it holds no name.
    """
    try:
        plain = read_json(folder / MANIFEST_NAME)
    except DepsError as error:
        raise BundleError(str(error)) from error
    name = plain.get("name") if isinstance(plain, dict) else None
    if not isinstance(name, str):
        raise BundleError(f"{folder / MANIFEST_NAME} holds no name; expected a bundle; make it with deps-extract")
    return name


def find_models(root: Path) -> list[Model]:
    """Return the bundles that lie in a folder, by the names that their manifests give them.

    Raises:
        BundleError: there is no such folder, or no bundle in it.
    """
    if not root.is_dir():
        raise BundleError(f"{root} is not a folder; expected one that holds bundles; check --repository")
    found = []
    for folder in sorted(root.iterdir()):
        if folder.name.startswith(".") or not (folder / MANIFEST_NAME).exists():
            continue
        try:
            found.append(Model(_name_in(folder), folder))
        except BundleError as error:
            log.error("%s is left out: %s", folder, error, extra={"folder": str(folder), "error": str(error)})
    if not found:
        raise BundleError(
            f"{root} holds no bundle; expected folders with a {MANIFEST_NAME}; make one with deps-extract"
        )
    return found


def _stamps_in(folder: Path) -> frozenset[tuple[str, Stamp | None]]:
    try:
        return frozenset((str(path), stamp_of(path)) for path in folder.rglob("*"))
    except OSError:
        return frozenset()  # taken away while it was looked at


def _load(folder: Path, name: str | None, options: ServeOptions) -> Loaded:
    """Open a bundle's service, ready to answer at once.

    Raises:
        BundleError: incomplete, altered or unsafe, or it bears another name than ``name``.
        TargetError: the target is unknown here.
        EngineError: nothing here can run it.
    """
    stamp = stamp_of(folder / MANIFEST_NAME)
    if name is not None and stamp is not None and (found := _name_in(folder)) != name:
        raise BundleError(
            f"{folder} holds the model {found!r} now; expected {name!r}, the name it is served under; start again"
        )
    return Loaded(Service.open(folder, options), stamp)
