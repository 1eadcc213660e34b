"""The 1,797 handwritten digits, 8 x 8, that scikit-learn ships (UCI optical recognition, test part)."""

import numpy as np

from troika.datasets.contract import Origin
from troika.datasets.sources.settings import SourceParams
from troika.datasets.sources.source import ImageSource, examined
from troika.errors import ParameterError


def open_digits(params: SourceParams) -> ImageSource:
    """Open the built-in set.

    Raises:
        ParameterError: a path is given.
    """
    if params.path:
        raise ParameterError(
            "path: the built-in digits are read from no file; leave path empty, or set source to auto"
        )
    from sklearn.datasets import load_digits  # noqa: PLC0415 - slow to import

    bunch = load_digits()
    # 17 grey levels, 0..16, spread over 0..255.
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    labels = bunch.target.astype(np.int64)
    return ImageSource(
        origin=Origin(kind="digits"),
        description="scikit-learn load_digits",
        classes=tuple(str(name) for name in bunch.target_names),
        count=len(images),
        shape=images.shape[1:],
        blocks=lambda _: examined([(images, labels)]),
    )
