"""A person's own pictures, and ImageNet: one folder a class, decoded when they are needed.

Relies on torchvision for finding the files and on ``verify.py`` for looking at them before they are used.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from deps.ground.errors import DataError
from deps.train.augmentation import PHOTOS
from deps.train.data import ImageData, Preprocessing, SplitName
from deps.train.datasets.parts import Rows, hold_out
from deps.train.datasets.source import Source
from deps.train.datasets.verify import examined
from deps.train.folder import FolderSplit

# Mean and deviation of ImageNet's pixels, which published weights expect.
IMAGENET = Preprocessing(color="RGB", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256, crop=224)
RAW = replace(IMAGENET, mean=(0.0,) * 3, std=(1.0,) * 3)


class _Found(NamedTuple):
    """The pictures under one folder."""

    folder: Path
    classes: list[str]
    paths: list[Path]
    labels: Rows

    def rows(self, rows: Any) -> _Found:
        return self._replace(paths=[self.paths[row] for row in rows], labels=self.labels[rows])


def imagefolder(source: Source) -> ImageData:
    """Return the pictures in ``root/train/CLASS`` and what else there is.

    ============================  =======================================================================
    beside ``train/`` there is    choices are made with        final numbers come from
    ============================  =======================================================================
    ``val/`` and ``test/``        ``val/``                     ``test/``
    ``val/`` alone                every other picture of it    the rest of it
    ``test/`` alone               a part of ``train/``         ``test/``
    neither                       a part of ``train/``         another part of ``train/``
    ============================  =======================================================================

    ``validation/`` is as good a name as ``val/``. Where there is no ``train/``, the folders of the classes may stand
    in ``root`` itself. Parts of ``train/`` are stratified, and not trained on.

    Raises:
        DataError: a folder is missing, a class has no pictures, the parts have different classes, or a picture cannot
            be opened.
    """
    root = _root(source)
    train = _find(_training_folder(root), source.classes)
    found = {
        name: _find(root / name, source.classes) for name in ("val", "validation", "test") if (root / name).is_dir()
    }
    val, test = found.get("val", found.get("validation")), found.get("test")
    for other in (val, test):
        if other is not None:
            _require_same(train, other)
    if val is not None and test is None:
        if len(val.paths) < 2:
            raise DataError(f"{val.folder} holds one picture; expected several of each class")
        val, test = val.rows(range(0, len(val.paths), 2)), val.rows(range(1, len(val.paths), 2))
    if test is None:
        train, test = _parted(train, source, seed=1)
    if val is None:
        train, val = _parted(train, source, seed=0)
    return _image_data(root.resolve().name, source, train, val, test, published=None)


def imagenet(source: Source) -> ImageData:
    """Return ImageNet-1k from ``root/train/WNID`` and ``root/val/WNID``; numbers come from ``val/`` alone.

    Raises:
        DataError: there are not 1,000 classes; and as for ``imagefolder``.
    """
    return _imagenet("imagenet", 1000, source, "; ImageNet-1k has a thousand; take the recipe imagefolder for others")


def imagenet100(source: Source) -> ImageData:
    """Return a hundred classes of ImageNet: those that ``--classes`` lists, or all where the folders are a hundred.

    Raises:
        DataError: there are not 100 classes; and as for ``imagefolder``.
    """
    return _imagenet("imagenet100", 100, source, "; name a hundred of them in a file, one a line, with --classes FILE")


def _imagenet(name: str, classes: int, source: Source, advice: str) -> ImageData:
    root = _root(source)
    train, test = _find(root / "train", source.classes), _find(root / "val", source.classes)
    if len(train.classes) != classes:
        raise DataError(f"{train.folder} has {len(train.classes)} classes; expected {classes}{advice}")
    _require_same(train, test)
    train, val = _parted(train, source, seed=0)
    return _image_data(name, source, train, val, test, published=IMAGENET)


def _image_data(
    name: str, source: Source, train: _Found, val: _Found, test: _Found, *, published: Preprocessing | None
) -> ImageData:
    # In the order of the files, the first images of a split would all be of one class.
    train = train.rows(np.random.default_rng(0).permutation(len(train.paths)))
    parts: list[tuple[SplitName, _Found]] = [("train", train), ("validation", val), ("test", test)]
    splits = [
        FolderSplit(
            name=part,
            paths=tuple(found.paths),
            labels_N=torch.from_numpy(found.labels),
            preprocessing=RAW,
            workers=source.workers,
        )
        for part, found in parts
    ]
    given = replace(IMAGENET, mean=source.mean, std=source.std) if source.mean else published
    findings = examined(splits, memory=source.memory, story=source.story, needs_statistics=given is None)
    preprocessing = given if given is not None else replace(IMAGENET, mean=findings.mean, std=findings.std)
    splits = [replace(split, preprocessing=preprocessing) for split in splits]
    return ImageData(
        name=name,
        classes=tuple(train.classes),
        train=splits[0],
        validation=splits[1],
        test=splits[2],
        augmentation=PHOTOS,
    )


def _root(source: Source) -> Path:
    if not source.root.is_dir():
        raise DataError(f"{source.root} does not exist; expected a folder of pictures; correct --data")
    return source.root


def _training_folder(root: Path) -> Path:
    if (root / "train").is_dir():
        return root / "train"
    if any((root / name).is_dir() for name in ("val", "validation", "test")):
        raise DataError(f"{root / 'train'} does not exist; expected it beside the other parts")
    return root


def _parted(train: _Found, source: Source, *, seed: int) -> tuple[_Found, _Found]:
    kept, held = hold_out(train.labels, source.validation_images, seed=seed, name=str(train.folder))
    return train.rows(kept), train.rows(held)


def _find(folder: Path, listed: Path | None) -> _Found:
    from torchvision.datasets import ImageFolder

    if not folder.is_dir():
        raise DataError(f"{folder} does not exist; expected a folder with one folder of pictures for each class")
    wanted = _listed_classes(listed)

    class Chosen(ImageFolder):  # type: ignore[misc, unused-ignore]
        def find_classes(self, directory: Any) -> tuple[list[str], dict[str, int]]:
            classes = sorted(entry.name for entry in Path(directory).iterdir() if entry.is_dir())
            if wanted is not None:
                if missing := [name for name in wanted if name not in set(classes)]:
                    raise DataError(
                        f"{folder} has no folder {missing[0]}, which {listed} lists; correct --classes or --data"
                    )
                classes = sorted(wanted)
            if not classes:
                raise DataError(f"{folder} has no folders; expected one folder of pictures for each class")
            return classes, {name: number for number, name in enumerate(classes)}

    try:
        found: Any = Chosen(str(folder))
    except FileNotFoundError as error:
        raise DataError(f"{folder}: {error}; put pictures into each class, or remove the empty folder") from error
    except OSError as error:
        raise DataError(
            f"{folder} cannot be read ({(error.strerror or str(error)).lower()}); mend its rights"
        ) from error
    labels = np.array([label for _, label in found.samples], np.int64)
    return _Found(folder, list(found.classes), [Path(path) for path, _ in found.samples], labels)


def _listed_classes(file: Path | None) -> list[str] | None:
    if file is None:
        return None
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read ({error}); expected one class folder a line") from error
    names = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    if not names or len(set(names)) != len(names):
        raise DataError(f"{file} lists {'no classes' if not names else 'a class twice'}; expected one folder a line")
    return names


def _require_same(train: _Found, other: _Found) -> None:
    if train.classes != other.classes:
        differ = sorted(set(train.classes) ^ set(other.classes))
        raise DataError(
            f"{train.folder} and {other.folder} have different classes ({', '.join(differ[:5])}); expected the same "
            "folders in both"
        )
