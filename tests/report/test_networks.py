"""What the report says of runs of several families, and of runs that train nothing."""

import pytest

from vtl.report.runs import Run


def run_of(network=None, **config):
    config = {"optim": {"rules": [[".*", 1.0]]}} | config
    results = {"task": "finetune", "weights": {"name": "w"}, "network": network}
    fields = {"name": "run", "path": None, "metrics": [], "scores": {}, "gallery": {}}
    return Run(config=config, results=results, **fields)


@pytest.mark.parametrize(
    ("network", "is_exact"),
    [
        (None, True),
        ({"pooling": "average", "plain_pooling": "average"}, True),
        ({"pooling": "cells", "plain_pooling": "average"}, False),
        ({"pooling": "token", "plain_pooling": "token"}, False),
        ({"pooling": "average", "plain_pooling": "token"}, False),
    ],
)
def test_maps_are_exact_of_means_alone(network, is_exact):
    assert run_of(network).has_exact_maps is is_exact


def test_a_run_without_passes_trains_its_head_alone():
    assert run_of(num_epochs=1.0).regime == "full"
    assert run_of(num_epochs=0.0).regime == "head"


def test_the_network_is_called_by_its_title():
    assert run_of({"title": "ViT-S/14"}).network_title == "ViT-S/14"
    assert run_of({"depth": 50}).network_title == "ResNet-50"
    assert run_of(None, model={"depth": 18}).network_title == "ResNet-18"
    assert run_of().network_title is None
