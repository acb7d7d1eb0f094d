"""What needs an extra says which."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(("name", "module", "extra"), [("LiveKitTextToSpeech", "livekit", "livekit")])
def test_a_name_without_its_package_says_what_to_install(name: str, module: str, extra: str) -> None:
    """In a sentence, with the command."""
    code = f"import sys; sys.modules[{module!r}] = None; from orchestrator import {name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f'{name} needs a package: pip install "orch-voice[{extra}]"' in done.stderr.splitlines()[-1]
