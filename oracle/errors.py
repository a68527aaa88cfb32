"""Every refusal of this project, drawn as a tree.

Error
├── ExperimentError   a preset, a YAML file or an override is wrong
├── NetworkError      a network cannot be built, or does not fit the images
├── DataError         images or labels are missing, unreadable or not what was said
├── ScheduleError     a schedule cannot be laid over the training
├── MaskError         masks that do not fit, regrow, or cannot be shrunk as asked
├── TableError        a table of intervals cannot be used
├── CurveError        one of SILO's numbers, or a range to look for it in, cannot be used
├── DomainError       a formula of the theory is asked outside its domain
├── FolderError       a run's folder cannot be used: another experiment, not writable, full
├── DivergedError     every candidate of a cycle diverged
├── TrialError        a training crashed: names search, cycle, max_lr and seed
├── ClusterError      Ray cannot be reached, or a node cannot do its part
├── CancelledError    a search was asked to stop
└── BudgetError       the search would take longer than allowed

Those that are the caller's mistake are ValueErrors too. A message names the thing, what was found, what was expected and
the way out; commands print it without a traceback and exit with 2.
"""


class Error(Exception):
    """The root: whatever this project refuses."""


class ExperimentError(Error, ValueError):
    """A preset, a YAML file or an override is wrong."""


class NetworkError(Error, ValueError):
    """A network cannot be built, or does not fit the images."""


class DataError(Error, ValueError):
    """Images or labels are missing, unreadable or not what was said."""


class ScheduleError(Error, ValueError):
    """A schedule cannot be laid over the training."""


class MaskError(Error, ValueError):
    """Masks that do not fit, regrow, or cannot be shrunk as asked."""


class TableError(Error, ValueError):
    """A table of intervals cannot be used."""


class CurveError(Error, ValueError):
    """One of SILO's numbers, or a range to look for it in, cannot be used."""


class DomainError(Error, ValueError):
    """A formula of the theory is asked outside its domain."""


class FolderError(Error, ValueError):
    """A run's folder cannot be used: it holds another experiment, is not writable, or its disk is full."""


class DivergedError(Error):
    """Every candidate of a cycle diverged."""


class TrialError(Error):
    """A training crashed."""


class ClusterError(Error):
    """Ray cannot be reached, or a node cannot do its part."""


class CancelledError(Error):
    """A search was asked to stop; what was finished is kept."""


class BudgetError(Error):
    """The search would take longer than the caller allows."""
