"""How egress is written."""

import pytest

from forebay_controller.cluster.egress_text import Block, Egress, EgressError, normalised, parse


def test_single_words() -> None:
    assert parse("internet") == Egress(internet=True)
    assert parse("cluster") == Egress(cluster=True)
    assert parse("none") == Egress()


def test_lists_mix_words_and_addresses_with_and_without_ports() -> None:
    assert parse("cluster, internet,10.1.2.3/24:5432, fd00::/8,fd00::/64:53") == Egress(
        internet=True,
        cluster=True,
        blocks=(Block("10.1.2.0/24", 5432), Block("fd00::/8", None), Block("fd00::/64", 53)),
    )


def test_spaces_make_no_difference() -> None:
    assert normalised("cluster,  10.0.0.0/8 ") == "cluster,10.0.0.0/8"


@pytest.mark.parametrize(
    "text", ["", "all", "none,cluster", "10.0.0.1", "10.0.0.0/8:", "10.0.0.0/8:0", "10.0.0.0/99", "a/8", ",", "::/0:x"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(EgressError):
        parse(text)


def test_a_list_is_bounded() -> None:
    with pytest.raises(EgressError, match="65 items, 64 are allowed"):
        parse(",".join(["10.0.0.0/8"] * 65))
