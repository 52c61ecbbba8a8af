import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from inspect import signature
from types import SimpleNamespace

import pytest

from microgpt_trace.text.frozen import frozen


class Fields:
    """A record."""

    size: int
    weight: float = 2.0
    parts: list[int] = field(default_factory=lambda: [1, 2])
    origin: str = field(default="here", compare=False)
    labels: tuple[str, ...] = field(default=(), hash=False, kw_only=True)
    name: str = field(default="", kw_only=True, repr=False)

    def __post_init__(self):
        if self.size < 0:
            raise ValueError(f"expected 0 or more, found {self.size}")


def classes(**settings):
    """Return the class by `frozen`, and the same class by the judge: `dataclass(frozen=True)`."""
    ours = frozen(**settings)(type("Record", (), dict(vars(Fields))))
    judge = dataclass(frozen=True, repr=False, **settings)(type("Record", (), dict(vars(Fields))))
    return ours, judge


SETTINGS = ({}, {"slots": False}, {"eq": False}, {"slots": False, "kw_only": True})
CALLS = (
    ((3,), {}),
    ((3, 4.0, [5]), {"labels": ("a",)}),
    ((), {"size": 1, "name": "b"}),
    ((), {}),
    ((1,), {"size": 1}),
    ((1,), {"other": 1}),
    ((), {"other": 1}),
    ((1, 2, [], "x"), {}),
    ((-1,), {}),
    ((1, 2, [], "x", ("y",)), {}),
)


def outcome(kind, args, named):
    try:
        made = kind(*args, **named)
    except TypeError:  # the texts differ
        return TypeError
    except ValueError as error:
        return str(error)
    return [getattr(made, each.name) for each in fields(made)]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize(("args", "named"), CALLS, ids=str)
def test_arguments_have_the_effect_that_dataclass_gives_them(settings, args, named):
    ours, judge = classes(**settings)
    assert outcome(ours, args, named) == outcome(judge, args, named)
    assert [*signature(ours).parameters] == [*signature(judge).parameters]


@pytest.mark.parametrize("settings", SETTINGS[:3], ids=str)
def test_records_are_compared_and_hashed_as_dataclass_does(settings):
    for kind in classes(**settings):
        a, b = kind(1, parts=(3,), labels=("x",)), kind(1, parts=(3,), labels=("x",), origin="there")
        others = kind(1, parts=(3,), labels=("y",)), kind(2, parts=(3,))
        assert (a == b) is (hash(a) == hash(b)) is settings.get("eq", True)
        assert all(a != other for other in (*others, SimpleNamespace(**{"size": 1})))
        assert (hash(a) == hash(others[0])) is settings.get("eq", True)  # labels have no part in the hash


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_record_cannot_change_but_can_be_replaced(settings):
    ours, _ = classes(**settings)
    record = ours(size=1)
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'size'"):
        record.size = 2
    with pytest.raises(FrozenInstanceError, match="field 'size'"):
        del record.size
    assert record.size == 1
    assert replace(record, size=5).size == 5
    assert repr(record) == "Record(size=1, weight=2, parts=[1, 2], origin='here', labels=())"


@frozen
class Point:
    """A point, which pickle can find."""

    x: int
    y: int = 0


@frozen
class Place(Point):
    """A point with a name."""

    name: str = "origin"


def test_records_are_copied_and_pickled():
    place = Place(1, 2, "here")
    for made in (copy.copy(place), copy.deepcopy(place), pickle.loads(pickle.dumps(place))):
        assert made == place
        assert (made.x, made.y, made.name) == (1, 2, "here")
    assert Place(1) != Point(1)
