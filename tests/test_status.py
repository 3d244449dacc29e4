"""Statuses come from status.def; exceptions keep what they were told, also through a pickle."""

import pickle
import re
from pathlib import Path

import pytest

import nodecore.status as status
from nodecore.status import Error, GradientError, InputError, SolveError, Status, TraceError

DEFINITIONS = Path(status.__file__).parent / "_kernels" / "status.def"


def test_every_definition_is_a_member():
    defined = re.findall(r"^STATUS\((\d+), (\w+),", DEFINITIONS.read_text(), re.MULTILINE)
    assert [(int(code), name) for code, name in defined] == [(int(s), s.name) for s in Status]
    assert [int(s) for s in Status] == list(range(len(Status)))


@pytest.mark.parametrize("member", Status)
def test_messages_are_filled_in(member):
    text = member.describe(t=0.25, h=1e-3)
    assert text and "{" not in text
    assert member.ok == (member in (Status.OK, Status.EVENT))


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (InputError, ValueError),
        (TraceError, TypeError),
        (SolveError, RuntimeError),
        (GradientError, RuntimeError),
    ],
)
def test_hierarchy(error, builtin):
    assert issubclass(error, Error) and issubclass(error, builtin)


@pytest.mark.parametrize("error", [SolveError, GradientError])
def test_attributes_survive_a_pickle(error):
    raised = error("sample 3: no", sample=3, t=0.5, status=Status.MAX_STEPS, solution=[1])
    for e in (raised, pickle.loads(pickle.dumps(raised))):
        assert str(e) == "sample 3: no"
        assert (e.sample, e.t, e.status, e.solution) == (3, 0.5, Status.MAX_STEPS, [1])
    assert error("no").sample is None
