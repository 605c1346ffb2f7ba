"""Expressions for training sets."""

import pytest

from scintikit.errors import ConfigError
from scintikit.study import Scenario, Term, parse

SOURCES = ("CA", "SD1", "FM")


def test_terms_of_the_papers_scenarios() -> None:
    assert parse("O + CA+FM", SOURCES) == Scenario("O+CA+FM", ((Term("O"), Term("CA"), Term("FM")),))


def test_numbers_audits_and_stages() -> None:
    assert parse("FM(500)>O+SD1(audited)", SOURCES).stages == (
        (Term("FM", per_class=500),),
        (Term("O"), Term("SD1", audited=True)),
    )


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("O+SD9", "did you mean 'SD1'"),
        ("O+", "is no source"),
        ("O(5)", "always whole"),
        ("FM(0)", "neither a number"),
        ("FM(audit)", "neither a number"),
        ("FM(5)+FM", "names a source twice"),
        ("O>>FM", "is no source"),
        ("", "is no source"),
    ],
)
def test_what_cannot_be_read_is_named(expression: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(expression, SOURCES)
