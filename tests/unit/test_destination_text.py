"""Destinations of async events as settings write them."""

import pytest

from forebay_controller.destination_text import Destination, DestinationError, parse, split


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("function:other", Destination("function", "other")),
        ("function:" + "a" * 64, Destination("function", "a" * 64)),
        ("stream:team.failures-1_x", Destination("stream", "team.failures-1_x")),
        ("https://hooks.example.com", Destination("url", "https://hooks.example.com")),
        ("http://[::1]:8080/a?b=c#d", Destination("url", "http://[::1]:8080/a?b=c#d")),
        ("https://a/" + "b" * 2038, Destination("url", "https://a/" + "b" * 2038)),
    ],
)
def test_a_destination_is_read_and_written_again(text: str, found: Destination) -> None:
    assert parse(text) == split(text) == found
    assert found.text == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'' is no destination: function:NAME, stream:NAME, https://HOST/PATH"),
        ("other", "is no destination"),
        ("arn:aws:sqs:us-east-1:000000000000:queue", "is no destination"),
        ("function:", "'' is no function's name"),
        ("function:a.b", "'a.b' is no function's name"),
        ("function:other:$LATEST", "'other:$LATEST' is no function's name"),
        ("function:" + "a" * 65, "is no function's name"),
        ("stream:a b", "'a b' is no stream's name"),
        ("stream:" + "a" * 65, "is no stream's name"),
        ("Function:other", "is no destination"),
        ("ftp://a/b", "is no destination"),
        ("https://", "is no destination"),
        ("https:///path", "is no destination"),
        ("https://user:secret@a/b", "is no destination"),
        ("https://a b/", "is no destination"),
        ("https://a/ä", "is no destination"),
        ("https://a/\n", "is no destination"),
        ("https://a:0/", "is no destination"),
        ("https://a:70000/", "is no destination"),
        ("https://[::1/", "is no destination"),
        ("https://a/" + "b" * 2039, "the URL has more than 2048 characters"),
    ],
)
def test_what_is_no_destination_is_refused_with_the_reason(text: str, words: str) -> None:
    with pytest.raises(DestinationError) as caught:
        parse(text)
    assert words in str(caught.value)
