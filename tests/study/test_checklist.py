"""The checklist has every item of TRIPOD+AI once, and leaves to authors what nobody else knows."""

from jaxneuro.study import checklist

#: Numbers of items, and how many parts each has, as the statement counts them (27 items, 52 with parts).
PARTS = {
    1: 1, 2: 1, 3: 3, 4: 1, 5: 2, 6: 3, 7: 1, 8: 3, 9: 3, 10: 1, 11: 1, 12: 7, 13: 1, 14: 1, 15: 1, 16: 1, 17: 1,
    18: 6, 19: 1, 20: 3, 21: 1, 22: 1, 23: 2, 24: 1, 25: 1, 26: 1, 27: 3,
}  # fmt: skip


def test_every_item_is_there_once():
    expected = [f"{n}{'abcdefg'[i] if parts > 1 else ''}" for n, parts in PARTS.items() for i in range(parts)]
    assert [item.number for item in checklist.ITEMS] == expected
    assert len(expected) == 52


def test_what_is_known_is_filled_in_and_the_rest_is_the_authors():
    found = checklist.table({"12a": "By subject."})
    rows = {row[0]: row for row in found.rows}
    assert rows["12a"][3] == "By subject."
    assert rows["18a"][3] == checklist.AUTHORS
    assert found.notes[0].startswith("1 of 52 items")
