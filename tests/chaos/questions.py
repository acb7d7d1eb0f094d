"""What is asked and answered: each answer names its question, so that an answer to another one shows."""


def question(number: int, who: str) -> str:
    """No two are alike."""
    return f"question {number} of {who}"


def answer_to(text: str) -> str:
    return f"the answer to [{text}]"


def intent_of(text: str) -> str:
    return f"intent of [{text}]"
