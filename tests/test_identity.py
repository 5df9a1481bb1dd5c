"""Runs of before are the same runs though their defaults had other names."""

import pytest

from vtl import identity

PARTIAL = [["fc/.*", 1.0], ["layer4_.*", 1.0], [".*", None]]
NAMED = [["fc/.*", 1.0], ["last_stage", 1.0], [".*", None]]


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"layer": "layer4"}, {"layer": ""}),
        ({"pooling": "average"}, {"pooling": ""}),
        ({"optim": {"rules": PARTIAL}}, {"optim": {"rules": NAMED}}),
        ({}, {"shard": "", "data": {"decode": "exact"}}),
    ],
)
def test_what_was_named_otherwise_or_not_at_all_is_the_same(before, now):
    assert identity.changes(before, now) == {}


@pytest.mark.parametrize(
    ("before", "now", "text"),
    [
        ({"layer": "layer3"}, {"layer": ""}, 'layer layer3 -> ""'),
        ({"pooling": "cells"}, {"pooling": ""}, 'pooling cells -> ""'),
        ({"transform": "average"}, {"transform": ""}, 'transform average -> ""'),
        ({}, {"shard": "1/8"}, "shard absent -> 1/8"),
    ],
)
def test_what_changed_is_said(before, now, text):
    assert identity.describe(identity.changes(before, now)) == text
    rules = [["fc/.*", 1.0], ["layer4_.*", 0.5], [".*", None]]
    assert identity.changes({"optim": {"rules": rules}}, {"optim": {"rules": NAMED}})
