"""What a GAN learns from and is judged by.

Tested in tests/study/test_gan_data.py.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from adamomentum.study.data.images import ImageData
from adamomentum.study.digest import digest


@dataclass(frozen=True, eq=False)
class GanData:
    """Images, and the weights of the features that they are compared by.

    Attributes:
        images: all to learn from in ``train``; ``val`` and ``test`` are what samples are compared with.
        weights: file of the feature network, if it does not come with the library.
    """

    images: ImageData
    weights: Path | None = None

    @property
    def name(self) -> str:
        """For display only."""
        return self.images.name

    @cached_property
    def weights_digest(self) -> str:
        """The first 12 hex digits of the SHA-256 of the weights' file; empty if they come with the library."""
        return hashlib.sha256(self.weights.read_bytes()).hexdigest()[:12] if self.weights else ""

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over the images, and the weights if they are the user's: other weights, other distances."""
        if not self.weights:
            return self.images.fingerprint
        return digest([f"{self.images.fingerprint} {self.weights_digest}"])

    def describe(self) -> str:
        """Return one line: name, sizes of the splits, the weights."""
        return self.images.describe() + (f"; feature weights {self.weights_digest}" if self.weights else "")

    def measure(self, features: str) -> str:
        """Return ``features`` with what tells its weights from others of that name."""
        return f"{features} {self.weights_digest}" if self.weights else features
