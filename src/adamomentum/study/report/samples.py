"""What trained models put out, ready to be shown."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adamomentum.study import stages
from adamomentum.study.results import StudyResults

IMAGES_A_ROW = 8
LINE = 128
"""Grey of the lines between images."""


@dataclass
class Samples:
    """The outputs of all optimizers on a task.

    Attributes:
        task: its name.
        pictures: optimizer and its images as a PNG data address.
        sentences: source, reference, and (optimizer, translation) for each.
        prompt: how a text begins.
        texts: optimizer and how it goes on.
        notes: what else is said of them, once each.
    """

    task: str
    pictures: list[tuple[str, str]] = field(default_factory=list)
    sentences: list[tuple[str, str, list[tuple[str, str]]]] = field(default_factory=list)
    prompt: str = ""
    texts: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def take(self, name: str, samples: Mapping[str, Any]) -> None:
        """Take up one optimizer's."""
        if "images" in samples:
            self.pictures.append((name, picture(samples["images"], samples["shape"])))
        for k, pair in enumerate(samples.get("translations", ())):
            if k == len(self.sentences):
                self.sentences.append((pair["source"], pair["reference"], []))
            self.sentences[k][2].append((name, pair["translation"]))
        if "continued" in samples:
            self.prompt = samples.get("prompt", "")
            self.texts.append((name, samples["continued"]))
        for key in ("metric", "metrics"):
            if key in samples and samples[key] not in self.notes:
                self.notes.append(samples[key])


def gather_samples(results: StudyResults) -> list[Samples]:
    """Return the outputs of each optimizer's first final run, by task, tasks without any left out."""
    samples = {task.name: Samples(task.name) for task in results.study.tasks}
    order = list(results.study.optimizers)
    first = [t for t in results.plan.trials if t.sampled]
    for planned in sorted(first, key=lambda t: order.index(t.optimizer)):
        result = results.results.get(planned.spec.trial_id)
        if result is not None and result.samples:
            samples[planned.task].take(stages.label(results.study, planned.optimizer), result.samples)
    return [s for s in samples.values() if s.pictures or s.sentences or s.texts]


def picture(images: Iterable[Sequence[int]], shape: Sequence[int]) -> str:
    """Return small images side by side as a PNG data address.

    Args:
        images: flat, 0..255.
        shape: height, width, channels (1 or 3) of each.
    """
    import numpy as np
    from PIL import Image

    h, w, c = (int(n) for n in shape)
    stack = np.asarray(list(images), dtype=np.uint8).reshape(-1, h, w, c)
    empty = -len(stack) % IMAGES_A_ROW
    stack = np.pad(stack, ((0, empty), (0, 1), (0, 1), (0, 0)), constant_values=LINE)
    rows = len(stack) // IMAGES_A_ROW
    grid = stack.reshape(rows, IMAGES_A_ROW, h + 1, w + 1, c).transpose(0, 2, 1, 3, 4)
    whole = grid.reshape(rows * (h + 1), IMAGES_A_ROW * (w + 1), c)
    buffer = io.BytesIO()
    Image.fromarray(whole[..., 0] if c == 1 else whole).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
