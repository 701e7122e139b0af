"""Turn a published once-for-all checkpoint into a run folder, as if it had been trained here.

Relies on ``Supernet.load``, which reads such files; what a run folder is, ``run.py`` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deps.ground.errors import FileError
from deps.ground.files import whole_folder
from deps.supernet.space import SearchSpace
from deps.supernet.supernet import Supernet, is_statistic


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What was imported, and where it lies now."""

    file: str
    out: str
    space: str
    num_classes: int
    has_matrices: bool
    num_tensors: int
    num_parameters: int

    def to_text(self) -> str:
        """Return what a person reads."""
        kernels = "transformed" if self.has_matrices else "cropped"
        return (
            f"{self.file} is a supernet of {self.space}: {self.num_classes} classes, {self.num_tensors} tensors, "
            f"{self.num_parameters:,} parameters, kernels {kernels}\nwritten to {self.out}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {name: getattr(self, name) for name in self.__slots__}


def import_ofa(
    file: Path | str, *, space: SearchSpace | None = None, out: Path | str, overwrite: bool = False
) -> ImportReport:
    """Write the supernet of a published checkpoint as a run folder, whole or not at all.

    Args:
        file: a ``.pth`` file with a state dict, in either of the published namings.
        space: what it is a supernet of; recognised by its shapes when None.
        out: the folder to write.
        overwrite: whether an existing folder is exchanged.

    Raises:
        CheckpointError: the file holds something else; the message names the key.
        FileError: the file is missing or damaged, or ``out`` exists or cannot be written.
    """
    file, out = Path(file), Path(out)
    if file.is_dir():
        raise FileError(f"{file} is a folder; a run is used as it is, and a published checkpoint is one file")
    supernet = Supernet.load(file, space=space)
    with whole_folder(out, replace=overwrite) as folder:
        supernet.save(folder)
    return ImportReport(
        file=str(file),
        out=str(out),
        space=supernet.space.name,
        num_classes=supernet.space.num_classes,
        has_matrices=any(".matrix_" in name for name in supernet.tensors),
        num_tensors=len(supernet.tensors),
        num_parameters=sum(t.numel() for name, t in supernet.tensors.items() if not is_statistic(name)),
    )
