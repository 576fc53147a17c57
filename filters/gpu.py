"""The largest of many inner products on a GPU, where there is one: in float32, which leaves some of them open."""

import functools
import glob
from typing import Any

import numpy as np

#: Products with so many vectors are taken at a time: for a thousand rows 64 MB of the GPU's memory.
_VECTORS = 16_384

#: What Linux has of an NVIDIA GPU, the latter within Windows.
_DEVICES = ("/dev/nvidia[0-9]*", "/dev/dxg")


@functools.cache
def device() -> str:
    """What torch calls the GPU that it can use here; "" where there is none. torch is imported only where one may be.

    CUDA_VISIBLE_DEVICES, set to nothing, hides them all.
    """
    if not any(map(glob.glob, _DEVICES)):
        return ""
    try:
        import torch
    except ImportError:
        return ""
    return "cuda" if torch.cuda.is_available() else ""


@functools.cache
def _torch() -> Any:
    import torch

    torch.set_float32_matmul_precision("highest")  # not the 10 bits of TF32
    return torch


class Largest:
    """Finds the vector that has the largest product with a row in float32, and by how much it leads.

    The vectors are copied to the GPU's memory.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        """`vectors` are float32, shape (vectors, dims)."""
        self.vectors = _torch().from_numpy(vectors).to(device())

    def __call__(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each row the index of the vector, int64, and what the second largest product lacks, float32.

        Args:
            rows: float32, shape (rows, dims), in C order.
        """
        torch = _torch()
        asked = torch.from_numpy(rows).to(self.vectors.device)
        products = torch.full((len(rows), 2), -torch.inf, device=asked.device)
        index = torch.zeros((len(rows), 2), dtype=torch.int64, device=asked.device)
        for first in range(0, len(self.vectors), _VECTORS):
            some = asked @ self.vectors[first : first + _VECTORS].T
            found = some.topk(min(2, some.shape[1]), dim=1)
            products, place = torch.cat([products, found.values], dim=1).topk(2, dim=1)
            index = torch.cat([index, found.indices + first], dim=1).gather(1, place)
        lead = products[:, 0] - products[:, 1]
        return index[:, 0].cpu().numpy(), lead.cpu().numpy()


def most(earlier: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The largest product of each row with an earlier one: float32, shape (rows,); -inf where none is earlier.

    Args:
        earlier: float32, in C order; `rows` themselves, if of these those before a row are meant.
    """
    torch = _torch()
    others = torch.from_numpy(earlier).to(device())
    products = others @ (others if earlier is rows else torch.from_numpy(rows).to(device())).T
    if earlier is rows:
        products.masked_fill_(torch.ones_like(products, dtype=torch.bool).tril_(), -torch.inf)
    return products.amax(dim=0).cpu().numpy()
