"""Texts of others."""

from nativelink.core.printable import printable


def test_what_a_terminal_would_obey_is_escaped():
    assert printable("a\x1b[2J\n\u202eü") == "a\\x1b[2J\\n\\u202eü"
