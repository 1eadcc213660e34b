"""The guide's picture shows who may talk to whom as network.yaml says it now."""

import copy

import network
import picture


def test_the_guide_holds_the_picture_of_today() -> None:
    assert picture.in_guide(picture.GUIDE.read_text(encoding="utf-8")) == picture.chart(network.load())


def test_another_pair_is_another_picture() -> None:
    listed = network.load()
    changed = copy.deepcopy(listed)
    changed["pairs"].append({"in": ["troika-local"], "from": "stranger", "to": "triton", "ports": ["8001/TCP"]})
    drawn = picture.chart(changed)
    assert drawn != picture.chart(listed)
    assert 'stranger -- "8001" --> triton' in drawn
