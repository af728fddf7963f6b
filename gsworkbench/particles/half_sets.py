"""Half sets dealt by what is independent: the specimen, of which one image or several may have one row or several.

Rows of one image (as after symmetry expansion) are one specimen, and so are rows of one unit (a filament, the tilt
images of one particle).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def image_numbers(file_index: NDArray[np.integer], image_index: NDArray[np.integer]) -> NDArray[np.int64]:
    """(n,) a number for each row, the same for rows of one image (file and place in it), counted from 0."""
    order = np.lexsort((image_index, file_index))
    new = (np.diff(file_index[order]) != 0) | (np.diff(image_index[order]) != 0)
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.concatenate([[0], np.cumsum(new)]) if len(order) else 0
    return numbers


def specimens(
    file_index: NDArray[np.integer], image_index: NDArray[np.integer], unit: NDArray[np.integer] | None
) -> NDArray[np.int64]:
    """(n,) the specimen of each row, counted from 0: rows that share an image or a unit are of one specimen."""
    images = image_numbers(file_index, image_index)
    if unit is None:
        return images
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    units = np.unique(unit, return_inverse=True)[1].ravel()
    n = int(images.max()) + 1 + int(units.max()) + 1
    joined = coo_array((np.ones(len(units), np.int8), (images, units + images.max() + 1)), shape=(n, n))
    return connected_components(joined, directed=False)[1][images].astype(np.int64)


def every_nth(specimen: NDArray[np.int64], n: int) -> NDArray[np.bool_]:
    """(m,) the rows of the first specimen and of every n-th one after it, in the order in which they appear."""
    _, first, of_row = np.unique(specimen, return_index=True, return_inverse=True)
    place = np.empty(len(first), np.int64)
    place[np.argsort(first)] = np.arange(len(first))
    return place[of_row.ravel()] % n == 0


def deal(specimen: NDArray[np.int64], seed: int) -> NDArray[np.int8] | None:
    """(n,) half sets 1 and 2 of rows of these specimens, dealt at random and as equal in rows as specimens allow.

    None where there is one specimen. Where each row is a specimen of its own, the halves are equal in size.
    """
    names, of_row, sizes = np.unique(specimen, return_inverse=True, return_counts=True)
    if len(names) < 2:
        return None
    rng = np.random.default_rng(seed)
    if len(names) == len(specimen):
        return rng.permutation(np.arange(len(specimen)) % 2 + 1).astype(np.int8)
    # The large ones first, in random order among those within a factor of two, each to the half that has fewer rows, so
    # that the small ones make up for what differs.
    order = rng.permutation(len(names))
    order = order[np.argsort(-np.floor(np.log2(sizes[order])), kind="stable")]
    half_of, lead = np.empty(len(names), np.int8), 0
    for k in order.tolist():
        half_of[k] = 1 if lead <= 0 else 2
        lead += int(sizes[k]) if half_of[k] == 1 else -int(sizes[k])
    return half_of[of_row.ravel()]
