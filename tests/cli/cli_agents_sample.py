"""Modules of users who run `orch serve MODULE:NAME`."""

MODULE = {
    "fine_agent": """
import os

from orchestrator import Orchestrator, Settings


async def agent(text: str) -> str:
    return f"You said: {text}. {os.environ.get('MY_KEY')}"


def plain(text: str) -> str:
    return text


class Shop:
    async def answer(self, request) -> str:
        return "a shop"


shop = Shop()


def make():
    return agent


async def make_later():
    return agent


def intent(text: str) -> str:
    return "any"


def speak(text: str) -> bytes:
    return bytes(16_000)


def make_service() -> Orchestrator:
    settings = Settings(port=0, max_sessions=3)
    return Orchestrator(settings, answer=agent, intent=intent, text_to_speech=speak, speech_to_text=lambda pcm: "")


service = make_service()
""",
    "hanging_agent": """
import asyncio
import sys


class Hanging:
    async def answer(self, text: str) -> str:
        return text

    async def __aenter__(self):
        print("opening", file=sys.stderr, flush=True)
        await asyncio.Event().wait()

    async def __aexit__(self, *_):
        pass


agent = Hanging()
""",
    "wrong_syntax": "x = 1\ndef\n",
    "wrong_import": "import no_such_library\n",
    "wrong_name": "\n\nagent = ansewr\n",
    "wrong_things": """
number = 5
def two(one, other):
    return ""

def breaks():
    raise RuntimeError("no key")

def nothing():
    return None
""",
}
