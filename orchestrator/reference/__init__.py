"""The reference agent: embedded services for a first call without set-up. The extra `demo` installs their packages."""

from collections.abc import Collection
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.settings import Recognition, Voice

_NOT_EVERYWHERE = (
    "it has wheels for Linux with glibc 2.34 or newer, macOS 15 on Apple silicon and Windows, all 64 bits; elsewhere "
    'set ORCH_RECOGNIZER=domain with pip install "orch-voice[sphinx]", which understands the phrases of the content, '
    "or name a speech-to-text service of your own"
)


def what_to_install(ports: Collection[str], recognizer: "Recognition", voice: "Voice") -> str:
    """What the reference services for these ports ("intent", "answer", "tts", "stt") lack, and what to do; "" if none.

    Only the packages of the chosen recogniser and voice are needed.
    """
    needed = {"rapidfuzz": "demo"}
    if "tts" in ports:
        needed |= {"espeakng_loader": "espeak"} if voice == "espeak" else {"hibari": "demo", "onnxruntime": "demo"}
    if "stt" in ports:
        needed |= (
            {"moonshine_voice": "demo", "onnxruntime": "demo"} if recognizer == "open" else {"pocketsphinx": "sphinx"}
        )
    missing = {name: extra for name, extra in needed.items() if find_spec(name) is None}
    if not missing:
        return ""
    extras = ",".join(dict.fromkeys(missing.values()))
    hint = f". moonshine-voice: {_NOT_EVERYWHERE}" if list(missing) == ["moonshine_voice"] else ""
    return (
        f'install the reference agent with pip install "orch-voice[{extras}]" (missing: {", ".join(missing)}), or name '
        f"services of your own (docs/services.md){hint}"
    )
