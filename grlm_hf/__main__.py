"""``python -m grlm_hf``: the command `grlm`, for launchers of Python modules, such as ``accelerate launch -m grlm_hf train ...``."""

from grlm_hf.cli import main

if __name__ == "__main__":
    main()
