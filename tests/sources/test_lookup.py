"""Tables by what their columns hold, the visit nearest in time, dates, codes, and one image a session."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxneuro.errors import InputError
from jaxneuro.manifest import MISSING
from jaxneuro.sources import lookup, options, rows
from jaxneuro.sources.rows import Image

ROLES = {"subject": ("ID",), "age": ("AGE", "years"), "sex": ("M/F",), "mark": ()}


def table(path, text, given=None, problems=None):
    path = path / "t.csv"
    path.write_text(text)
    return lookup.Table(path, ROLES, ("subject",), given, [] if problems is None else problems)


def test_columns_are_known_in_any_case_and_by_other_names(tmp_path):
    found = table(tmp_path, "iD,Years,X\ns1,70,b\n", {"mark": "x"})
    assert found.columns == {"subject": "iD", "age": "Years", "mark": "X"}
    assert found.rows == [(2, {"subject": "s1", "age": "70", "mark": "b"})]


@pytest.mark.parametrize(
    ("text", "given", "message"),
    [
        (
            "a,b\n1,2\n",
            None,
            r"found columns \['a', 'b'\]; expected ID for subject; name yours with --columns subject=",
        ),
        ("ID\n1\n", {"age": "alter"}, "expected alter for age"),
        (
            "ID\n1\n",
            {"path": "p"},
            r"--columns: found \['path'\]; expected names among \['subject', 'age', 'sex', 'mark'\]",
        ),
        (",".join(f"c{i}" for i in range(20)) + "\n", None, "and 8 more"),
    ],
)
def test_a_column_that_is_not_there_is_named(tmp_path, text, given, message):
    with pytest.raises(InputError, match=message):
        table(tmp_path, text, given)


def test_a_value_in_two_rows_is_told_and_left_out(tmp_path):
    found = table(tmp_path, "ID,AGE\ns1,70\ns2,71\ns1,72\n,73\nn/a,74\n")
    assert found.by("subject", problems := []) == {"s2": {"subject": "s2", "age": "71"}}
    assert [str(p) for p in problems] == [
        f"{tmp_path / 't.csv'} s1: found 2 rows; expected one row a subject; remove the wrong one; all left out"
    ]


def test_rows_without_an_image_are_one_problem(tmp_path):
    found = table(tmp_path, "ID\ns1\n")
    found.tell_absent(["s1", "s2", "s3"], ["s1"], problems := [])
    found.tell_absent(["s1"], ["s1", "s9"], problems)
    assert [p.found for p in problems] == ["2 rows with no image, such as s2"]


def test_the_table_is_the_one_given_or_the_studys_own(tmp_path):
    with pytest.raises(InputError, match=r"found no table of people; expected A.csv or B.csv in it; .* --table FILE"):
        lookup.table_of(tmp_path, None, ("A.csv", "B.csv"))
    (tmp_path / "B.csv").write_text("")
    assert lookup.table_of(tmp_path, None, ("A.csv", "B.csv")) == tmp_path / "B.csv"
    assert lookup.table_of(tmp_path, tmp_path / "x", ("A.csv", "B.csv")) == tmp_path / "x"


@given(st.lists(st.integers(-50, 50), max_size=8), st.integers(-60, 60), st.integers(0, 40))
def test_the_nearest_visit_is_that_of_a_search_through_all(days, day, within):
    visits = lookup.Visits((d, {"n": str(i)}) for i, d in enumerate(days))
    close = [(abs(d - day), d, i) for i, d in enumerate(days) if abs(d - day) <= within]
    expected = min(close, default=None)
    found = visits.nearest(day, within)
    assert found == (None if expected is None else (expected[1], {"n": str(expected[2])}))


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2006-05-01", (2006, 5, 1)),
        ("2006-05-01_08_20_30.0", (2006, 5, 1)),
        ("5/1/2006", (2006, 5, 1)),
        ("12/31/2006", (2006, 12, 31)),
        ("05/2006", (2006, 5, 1)),
        ("2006-02-30", None),
        ("13/1/2006", None),
        ("1.5.2006", None),
        ("2006-05-011", None),
        ("", None),
    ],
)
def test_dates(text, day):
    assert lookup.date_of(text) == (day and datetime.date(*day))


def test_a_column_with_a_day_before_its_month_is_refused(tmp_path):
    found = table(tmp_path, "ID,AGE\ns1,5/6/2006\ns2,12/31/2006\ns3,2006-05-13\ns4,\ns5,05/2006\n")
    found.refuse_day_first("age")
    found.refuse_day_first("sex")
    found = table(tmp_path, "ID,AGE\ns1,5/6/2006\ns2,13/6/2006\n")
    with pytest.raises(InputError, match=r"t\.csv line 3: found the date 13/6/2006; expected month/day/year in age"):
        found.refuse_day_first("age")


def test_an_age_some_days_on():
    assert lookup.later("70.5", 365.25) == "71.5"
    assert lookup.later("70", -487) == repr(70 - 487 / 365.25)
    assert lookup.later("", 10) == MISSING
    assert lookup.later("old", 10) == "old"


def test_a_code_that_is_not_known_leaves_the_diagnosis_missing():
    problems = []
    assert [lookup.diagnosis_of(c, {"1": "PD", "2": "CN"}, "w", problems) for c in ("2", "", "9")] == [
        "CN",
        MISSING,
        MISSING,
    ]
    assert [(str(p), p.dropped) for p in problems] == [
        ("w: found diagnosis '9'; expected one of 1, 2; kept with diagnosis missing", False)
    ]


def test_of_two_images_of_a_session_the_lower_rank_is_kept_and_names_are_safe(tmp_path):
    images = [
        Image("s2", "1", tmp_path / "c.nii"),
        Image("s1", "1", tmp_path / "a.nii", (1,)),
        Image("s1", "1", tmp_path / "b.nii", (0,)),
        Image("s\n3", "1", tmp_path / "d.nii"),
        Image("s4", "1", tmp_path / "e.nii"),
    ]
    row = {"age": "70", "sex": "Female", "diagnosis": "CN"}
    scans = rows.scans_of(images, lambda i, where: None if i.subject == "s4" else row, tmp_path, problems := [])
    assert [(s.subject, s.path, s.age, s.sex) for s in scans] == [
        ("s1", str(tmp_path / "b.nii"), 70, "F"),
        ("s2", str(tmp_path / "c.nii"), 70, "F"),
    ]
    assert sorted((p.where, p.found, p.hint) for p in problems) == [
        ("a.nii", "a second T1w image of one session", "b.nii was kept"),
        ("d.nii", r"the name 's\n3'", "rename it"),
    ]


def test_one_kind_of_image_is_taken_for_all(tmp_path):
    images = [
        Image("s1", "1", tmp_path / "a", kind="raw"),
        Image("s2", "1", tmp_path / "b", kind="done"),
        Image("s2", "1", tmp_path / "c", kind="raw"),
    ]
    order = ["best", "done", "raw"]
    assert rows.of_kind(images, order, None, problems := []) == [images[0], images[2]]  # that of most sessions
    assert problems == []
    assert rows.of_kind(images[1:], order, None, problems) == [images[1]]  # the first of equals
    assert problems == []
    assert rows.of_kind(images, order, "done", problems) == [images[1]]
    assert [str(p) for p in problems] == [
        "s1 1: found no image 'done', only 'raw'; expected the same kind of image of everyone; --option image=raw "
        "takes that of everyone"
    ]
    assert rows.of_kind(images, order, "raw", problems := []) == [images[0], images[2]]
    assert problems == []
    assert rows.of_kind([], ["best"], None, problems) == []
    with pytest.raises(InputError, match=r"--option image: found 'x'; expected one of \['best'\]"):
        rows.of_kind(images, ["best"], "x", [])


def test_options_are_refused_by_name():
    with pytest.raises(InputError, match=r"--option days: found '-1'; expected a whole number of days"):
        options.days("days", -1)
    with pytest.raises(InputError, match="--option days: found 'many'"):
        options.days("days", "many")
    assert options.days("days", 0) == 0
    with pytest.raises(InputError, match=r"--option sequence: found '\('"):
        options.pattern("sequence", "(")
