"""What is predicted: from the rows of a manifest to target values, with every row left out counted by reason."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxneuro.errors import InputError
from jaxneuro.manifest import MISSING, Scan

KINDS = ("binary", "multiclass", "regression")
#: In place of the classes: every label that the training scans have.
ALL = ("*",)
_UNITS = {"age": "years"}


@dataclass(frozen=True)
class Task:
    """One prediction task.

    Attributes:
      name: short name for reports, such as "ad".
      kind: "binary" (sigmoid, class 1 against class 0), "multiclass" (softmax) or "regression".
      target: manifest column: "diagnosis", "sex", "site", "label" or "age".
      classes: the labels, in class order; `ALL` until `with_classes` has seen the scans; empty for regression.
      ignore: labels that are known and not part of the task, left out in silence (they are still counted).
      only: keep scans whose diagnosis is one of these; empty keeps all (such as ("CN",) for brain age).
    """

    name: str
    kind: str
    target: str
    classes: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"task.kind: found '{self.kind}'; expected one of {list(KINDS)}")
        allowed = ("age",) if self.kind == "regression" else ("diagnosis", "sex", "site", "label")
        if self.target not in allowed:
            raise InputError(f"task.target: found '{self.target}' for {self.kind}; expected one of {list(allowed)}")
        n = len(self.classes)
        if self.kind == "multiclass" and self.classes == ALL:
            return
        if (self.kind == "binary" and n != 2) or (self.kind == "multiclass" and n < 2) or len(set(self.classes)) < n:
            raise InputError(
                f"task.classes: found {list(self.classes)}; expected {'2' if self.kind == 'binary' else '2 or more'} "
                "different labels, such as --config.task.classes=\"('CN','AD')\""
            )
        if self.kind == "regression" and n:
            raise InputError(f"task.classes: found {list(self.classes)}; expected none for regression")

    def with_classes(self, train: Sequence[Scan]) -> Task:
        """Return the task with the labels of the training scans as its classes, where it asks for all."""
        if self.classes != ALL:
            return self
        found = {getattr(s, self.target) for s in train if not self.only or s.diagnosis in self.only}
        return replace(self, classes=tuple(sorted(found - {MISSING, *self.ignore})))

    @property
    def unit(self) -> str | None:
        """Unit of the target in words, or None."""
        return _UNITS.get(self.target)

    def targets(self, scans: Sequence[Scan]) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
        """Return target values, which scans have one, and the others counted by reason.

        Returns:
          values [n] float32 (a class index, or the number itself), NaN where there is none; has [n] bool; reasons.
        """
        values = np.full(len(scans), np.nan, np.float32)
        reasons: Counter[str] = Counter()
        for i, scan in enumerate(scans):
            if self.only and scan.diagnosis not in self.only:
                reasons[f"diagnosis '{scan.diagnosis}' is not in task.only ({', '.join(self.only)})"] += 1
                continue
            label = getattr(scan, self.target)
            if isinstance(label, float):
                if math.isnan(label):
                    reasons[f"{self.target} is missing"] += 1
                else:
                    values[i] = label
            elif label in self.classes:
                values[i] = self.classes.index(label)
            elif label == MISSING:
                reasons[f"{self.target} is missing"] += 1
            elif label in self.ignore:
                reasons[f"{self.target} '{label}' is in task.ignore"] += 1
            else:
                reasons[
                    f"{self.target} '{label}' is neither in task.classes ({', '.join(self.classes)}) nor in "
                    "task.ignore: add it to one of them"
                ] += 1
        return values, ~np.isnan(values), reasons
