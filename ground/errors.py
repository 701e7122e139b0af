"""Every error a user can cause, in one tree; each message says what happened, what was expected and what to do.

    DepsError
    ├── FileError               a file is missing, damaged, of another schema, or cannot be written
    ├── UnitError               "300X" where a number with a unit was expected
    ├── MissingExtraError       a part of deps that is not installed here
    ├── SpaceError              a search space that cannot exist, or an unknown name
    │   └── ArchError           an architecture outside its space
    ├── CheckpointError         weights that do not belong to the space
    ├── RecipeError             a training setting out of range
    ├── DataError               images or labels that cannot be used
    ├── RunError                a run folder that is busy, unfinished or damaged
    ├── LatencyTableError       a latency table that cannot be measured, believed or used
    ├── BudgetError             a budget that is malformed or that no subnet meets
    ├── ExportError             a model file that does not compute what the subnet computes
    ├── BundleError             a bundle that is incomplete, altered or unsafe
    ├── TargetError             an unknown or malformed target
    ├── EngineError             an engine that cannot be built or loaded here
    ├── AddressError            an address that a server cannot listen on
    └── RequestError            a request to the server that cannot be answered

Relies on nothing. ``assert`` is for what only we can break.
"""


class DepsError(Exception):
    """Base of all errors a user can cause; printed in one line, exit code 1."""


class FileError(DepsError):
    """A file is missing, damaged, of another schema, or cannot be written."""


class UnitError(DepsError):
    """A quantity that cannot be read, such as ``300X``."""


class MissingExtraError(DepsError):
    """A part of deps that is not installed here; the message holds the install line."""


class SpaceError(DepsError):
    """A search space that cannot exist, or an unknown name."""


class ArchError(SpaceError):
    """An architecture outside its space; the message names the axis and its choices."""


class CheckpointError(DepsError):
    """Weights that do not belong to the space; the message names the key."""


class RecipeError(DepsError):
    """A training setting out of range."""


class DataError(DepsError):
    """Images or labels that cannot be used."""


class RunError(DepsError):
    """A run folder that is busy, unfinished or damaged."""


class LatencyTableError(DepsError):
    """A latency table that cannot be measured, believed or used."""


class BudgetError(DepsError):
    """A budget that is malformed or that no subnet meets."""


class ExportError(DepsError):
    """A model file that does not compute what the subnet computes."""


class BundleError(DepsError):
    """A bundle that is incomplete, altered or unsafe."""


class TargetError(DepsError):
    """An unknown or malformed target."""


class EngineError(DepsError):
    """An engine that cannot be built or loaded here."""


class AddressError(DepsError):
    """An address that a server cannot listen on."""


class RequestError(DepsError):
    """A request to the server that cannot be answered."""
