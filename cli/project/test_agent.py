"""`pytest` asks the agent as a caller does."""

from agent import answer

from orchestrator import ask


def test_it_repeats_the_question() -> None:
    assert ask(answer, "hello") == "You said: hello. Say in agent.py what I answer."
