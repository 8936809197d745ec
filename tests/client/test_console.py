"""What a build tool printed, without the progress that it drew over."""

from nativelink.client.console import Replay


def test_a_replay_keeps_colours_if_it_is_told() -> None:
    replay = Replay(colours=True)
    assert replay.feed("\x1b[31mred\x1b[0m\x1b]0;title\x07\n") == []
    assert replay.end() == ["\x1b[31mred\x1b[0m"]


def test_a_replay_gives_lines_that_nothing_can_draw_over() -> None:
    replay = Replay(colours=False)
    lines = []
    for number in range(1000):
        lines += replay.feed(f"{number}\n")
    assert len(lines) > 700
    assert lines + replay.end() == [str(number) for number in range(1000)]


def test_a_replay_draws_over_what_was_drawn() -> None:
    replay = Replay(colours=False)
    replay.feed("one\ntwo\nthree\n")
    replay.feed("\r\x1b[1A\x1b[K\x1b[1A\x1b[K2\n")
    replay.feed("progress 1 of 10\rdone\n")
    assert replay.end() == ["one", "2", "done"]
