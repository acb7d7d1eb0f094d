"""Without the extra `demo`, the service starts with services of the user's, else says what to install."""

import sys
from pathlib import Path

import pytest

from orchestrator import Orchestrator, ServiceError, Settings

PACKAGES = ("hibari", "moonshine_voice", "onnxruntime", "rapidfuzz")


async def answer(text: str) -> str:
    return text


async def speech(text: str) -> bytes:
    return b"\0\0" * 160


async def words(sound: bytes) -> str:
    return ""


@pytest.fixture
def _core_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] in PACKAGES or name.startswith("orchestrator.reference."):
            monkeypatch.delitem(sys.modules, name)
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("_core_install")
async def test_without_the_extra_the_error_names_the_ports_and_the_command(tmp_path: Path) -> None:
    """One sentence: which ports have no service, what to install, what else to do."""
    with pytest.raises(ServiceError) as found:
        await Orchestrator(Settings(port=0, data_dir=tmp_path), answer=answer).__aenter__()
    said = str(found.value)
    assert said.startswith("no service for intent, text-to-speech, speech-to-text: ")
    assert 'pip install "orch-voice[demo]"' in said
    assert "moonshine_voice" in said
    assert "hibari" in said


async def test_a_recogniser_and_a_voice_that_are_named_are_extras_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo brings neither: espeak-ng is GPL-3, and pocketsphinx understands its phrases only."""
    for name in ("pocketsphinx", "espeakng_loader"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ServiceError, match=r'"orch-voice\[espeak,sphinx\]" \(missing: espeakng_loader, pocketsphinx\)'):
        await Orchestrator(Settings(port=0, data_dir=tmp_path, recognizer="domain", voice="espeak")).__aenter__()


async def test_where_the_weights_have_no_wheel_the_error_says_what_else_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an Intel Mac, or with an old glibc: the rest of the demo is installed."""
    monkeypatch.setitem(sys.modules, "moonshine_voice", None)
    with pytest.raises(ServiceError, match=r"glibc 2\.34.*ORCH_RECOGNIZER=domain"):
        await Orchestrator(Settings(port=0, data_dir=tmp_path)).__aenter__()


@pytest.mark.usefixtures("_core_install")
async def test_with_services_of_the_user_the_extra_is_not_needed(tmp_path: Path) -> None:
    """Nothing of the reference agent is imported."""
    settings = Settings(port=0, data_dir=tmp_path)
    ports = {"intent": answer, "answer": answer, "text_to_speech": speech, "speech_to_text": words}
    async with Orchestrator(settings, **ports) as service:
        assert service.url
    assert not [name for name in sys.modules if name.startswith("orchestrator.reference.")]
