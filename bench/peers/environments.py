"""The environments of the other frameworks: each its own, since Pipecat wants an older protobuf than orch.

bench/peers/NAME.txt has their packages with exact versions, but no registry: that is a setting of uv.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python_of(name: str) -> Path:
    """Make the environment in .orch/peers if it is missing, with exactly the packages of its list: its Python."""
    uv = shutil.which("uv") or ROOT / ".uv" / "bin" / "uv"
    folder = ROOT / ".orch" / "peers" / name
    packages = Path(__file__).with_name(f"{name}.txt")
    # Elsewhere, since uv applies the constraints of a pyproject.toml above it.
    with tempfile.TemporaryDirectory() as elsewhere:
        if not folder.exists():
            subprocess.run([uv, "venv", "--quiet", "--python", "3.11", folder], cwd=elsewhere, check=True)
        python = folder / "bin" / "python"
        subprocess.run([uv, "pip", "sync", "--quiet", "--python", python, packages], cwd=elsewhere, check=True)
    return python
