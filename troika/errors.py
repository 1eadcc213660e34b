"""Every error that Troika raises on purpose; each message names what is wrong and what would be right.

TroikaError
├── ParameterError     a value in params.yaml, on the command line or in the run form
├── DatasetError       images, labels or a dataset folder
├── TrainingError      a training that did not come to its end
│   ├── DivergedError      it could not become good any more; the message names the cause
│   └── TrainingPausedError    asked to end by a signal; its state is saved, and it goes on when started again
├── CheckpointError    a checkpoint folder
├── EvaluatorError     the classifier that judges
├── BundleError        a model bundle: missing, changed or foreign files
├── SamplesError       what a generator gives are no images of the dataset's kind
├── GateBrokenError    the gate would promote a generator that is known to be bad
├── NotApprovedError   there is no promote verdict for exactly this bundle
│   └── NotPromotedError   there is a verdict for it, and it is another one
├── StoreError         the model store
├── ReleaseError       the Git pointer
│   └── SupersededError    somebody else has released in the meantime
└── ServingError       Triton and its client
    ├── PortInUseError     an asked-for port is taken
    ├── ServerError        the server cannot be reached or failed
    │   ├── OverloadedError    its queue is full; it says so at once
    │   ├── DeadlineError      it did not answer in time
    │   ├── UnreachableError   no connection could be made, or it was lost
    │   └── UnknownHostError   its name stands for no address
    └── RequestError       the request itself is wrong; repeating it cannot help
"""

from typing import ClassVar

from troika.credentials import without_credentials


class TroikaError(Exception):
    """Base of all errors that are meant to be read by the user; commands print it without a traceback.

    What a URL in its message holds of user, password or query is left out: messages end up in logs and reports.
    """

    def __str__(self) -> str:
        return without_credentials(super().__str__())

    exit_status: ClassVar[int] = 1
    """What a command ends with."""


class ParameterError(TroikaError):
    """A parameter is unknown, missing, of the wrong type or out of range."""


class DatasetError(TroikaError):
    """Images or labels cannot be used, or a dataset folder is not what its `dataset.json` says."""


class TrainingError(TroikaError):
    """A training did not come to its end."""


class DivergedError(TrainingError):
    """A training was ended early, since it cannot become good any more."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause
        """`not_finite`, `discriminator_saturated` or `variety_lost`."""


class TrainingPausedError(TrainingError):
    """A training was asked to end (SIGTERM) and has saved its state; started again, it goes on."""


class CheckpointError(TroikaError):
    """A checkpoint folder is incomplete or not of the expected model."""


class EvaluatorError(TroikaError):
    """An evaluator's file is missing, damaged, or was trained on another dataset."""


class BundleError(TroikaError):
    """A bundle's files are not exactly those of its manifest."""


class SamplesError(TroikaError):
    """What a generator gives are not images of the shape and type of the dataset's."""


class GateBrokenError(TroikaError):
    """The gate would promote a generator that is known to be bad: none of its verdicts means anything."""


class NotApprovedError(TroikaError):
    """There is no `promote` verdict for exactly this bundle."""


class NotPromotedError(NotApprovedError):
    """The verdict on exactly this bundle is not `promote`: a result, not a fault."""


class StoreError(TroikaError):
    """The model store cannot be written or read, or already holds something else under this name."""


class ReleaseError(TroikaError):
    """The Git pointer cannot be read or moved."""


class SupersededError(ReleaseError):
    """Another release has been made since this one was decided; it is not overwritten."""


class ServingError(TroikaError):
    """Something on the way from a released bundle to an image failed."""


class PortInUseError(ServingError):
    """A port that was asked for by number is taken."""


class ServerError(ServingError):
    """The server did not start, cannot be reached, or failed to answer."""


class OverloadedError(ServerError):
    """The server's queue is full, or it is stopping: this request was not begun."""


class DeadlineError(ServerError):
    """The answer did not come in time."""


class UnreachableError(ServerError):
    """No connection could be made, or it was lost before the answer was there."""


class UnknownHostError(ServerError):
    """The server's name stands for no address, or no name server answers."""


class RequestError(ServingError):
    """The server (or the client before it) refused the request because of its content."""


def install_hint(extra: str) -> str:
    """Return how to install an optional part, such as `client`.

    Troika is not published to a package index, where its short name is another project's: it is installed by path.
    """
    return f"`pip install '.[{extra}]'` in a checkout of Troika"
