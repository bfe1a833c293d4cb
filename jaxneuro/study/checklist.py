"""The items of TRIPOD+AI, and of each what a study of ours knows; what only its authors know is left to them.

Source: Collins et al. 2024, TRIPOD+AI statement, BMJ 385:e078378: numbers and subjects of the items, in our words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from jaxneuro.study.tables import Table

AUTHORS = "For the authors."


class Item(NamedTuple):
    """Hold one item: its number, the part of an article, and its subject."""

    number: str
    part: str
    subject: str


ITEMS = (
    Item("1", "Title", "development or evaluation of a prediction model, whom it is for, the outcome"),
    Item("2", "Abstract", "by TRIPOD+AI for Abstracts"),
    Item("3a", "Introduction", "clinical context, why a model, models that exist"),
    Item("3b", "Introduction", "whom it is for, its place in care, who uses it"),
    Item("3c", "Introduction", "known inequalities between groups of people"),
    Item("4", "Introduction", "objectives: development, evaluation or both"),
    Item("5a", "Methods", "sources of data for development and evaluation, why these, how representative"),
    Item("5b", "Methods", "dates of the data"),
    Item("6a", "Methods", "setting, number and place of centres"),
    Item("6b", "Methods", "who was eligible"),
    Item("6c", "Methods", "treatments, and how they were handled"),
    Item("7", "Methods", "preparation of data and checks of quality, and whether alike between groups"),
    Item("8a", "Methods", "the outcome, its horizon, how and when it was assessed, alike between groups"),
    Item("8b", "Methods", "who assessed an outcome that takes judgement"),
    Item("8c", "Methods", "blinding of that assessment"),
    Item("9a", "Methods", "choice of predictors"),
    Item("9b", "Methods", "definition of predictors, how and when they were measured, blinding"),
    Item("9c", "Methods", "who assessed predictors that take judgement"),
    Item("10", "Methods", "how the sample size came about"),
    Item("11", "Methods", "missing data and why they were left out"),
    Item("12a", "Methods", "how data were used and divided, with regard to the sample size"),
    Item("12b", "Methods", "how predictors entered: form, scaling, transformations"),
    Item("12c", "Methods", "type of model, how it was built, hyper-parameters, internal validation"),
    Item("12d", "Methods", "differences between hospitals or countries, how handled and measured"),
    Item("12e", "Methods", "measures of performance and comparisons of models"),
    Item("12f", "Methods", "updating of the model after evaluation"),
    Item("12g", "Methods", "how predictions were computed in the evaluation"),
    Item("13", "Methods", "imbalance of classes"),
    Item("14", "Methods", "fairness: what was done and why"),
    Item("15", "Methods", "output of the model, thresholds of classes and how they were found"),
    Item("16", "Methods", "differences between development and evaluation"),
    Item("17", "Methods", "ethical approval, consent"),
    Item("18a", "Open science", "funding"),
    Item("18b", "Open science", "conflicts of interest"),
    Item("18c", "Open science", "protocol"),
    Item("18d", "Open science", "registration"),
    Item("18e", "Open science", "availability of data"),
    Item("18f", "Open science", "availability of code"),
    Item("19", "Public involvement", "patients and public in design, conduct, reporting"),
    Item("20a", "Results", "flow of participants, numbers with and without the outcome, follow-up"),
    Item("20b", "Results", "characteristics of participants, by source or setting, with missing data"),
    Item("20c", "Results", "development and evaluation data beside each other"),
    Item("21", "Results", "participants and outcomes in each analysis"),
    Item("22", "Results", "the full model, so that others can predict with it"),
    Item("23a", "Results", "performance with confidence intervals, of subgroups too"),
    Item("23b", "Results", "differences of performance between clusters"),
    Item("24", "Results", "results of updating"),
    Item("25", "Discussion", "interpretation, fairness, with regard to objectives and other studies"),
    Item("26", "Discussion", "limitations, and their bearing on bias and generalisation"),
    Item("27a", "Discussion", "input of poor quality or missing, once in use"),
    Item("27b", "Discussion", "what users have to do and to know"),
    Item("27c", "Discussion", "next steps"),
)  # fmt: skip


def table(known: Mapping[str, str]) -> Table:
    """Return the checklist: what a study knows of each item, and which are for its authors.

    Args:
      known: number of an item to what is known of it.
    """
    rows = tuple(
        (item.number, item.part, item.subject[0].upper() + item.subject[1:], known.get(item.number, AUTHORS))
        for item in ITEMS
    )
    filled = sum(row[3] != AUTHORS for row in rows)
    note = (
        f"{filled} of {len(rows)} items say what this study knows; its authors have to check these, and to write the "
        "rest. Source: Collins et al. 2024, BMJ 385:e078378, in our words."
    )
    return Table("TRIPOD+AI checklist", ("Item", "Part", "Subject", "What this study knows"), rows, (note,))
