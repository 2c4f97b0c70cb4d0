"""The command line: every verb is a thin call of one public function."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
import traceback
from pathlib import Path

from cyclopts import CycloptsError

from grlm_hf.cli import chain, data, doctor, model, report, rl, serve, space  # noqa: F401  they register their verbs
from grlm_hf.cli.app import app, mistake, say
from grlm_hf.cli.settings import add_settings_help, hint
from grlm_hf.files import Incomplete


def main() -> None:
    """Entry point of `grlm`: exit status 0, 2 for an error in the call or the input, 130 after Ctrl-C."""
    if "--help" in sys.argv or "-h" in sys.argv:
        add_settings_help()
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # each stage has one bar of its own
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "30")  # bars of other libraries in a log
    log = logging.getLogger("grlm_hf")
    if not log.handlers:
        log.addHandler(_ToStandardError())
        log.setLevel(logging.INFO)
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        sys.exit(_fail(mistake(error, hint(error))))
    except KeyboardInterrupt as stop:
        from grlm_hf.progress import end_all

        end_all()
        again = "Interrupted. Run the same command again: finished work is kept, and long work resumes from its last saved state."
        sys.exit(_fail(str(stop) or again, 130))
    except Incomplete as rest:
        say(f"grlm: {rest}")
    except (ValueError, ImportError, MemoryError) as error:
        sys.exit(_fail(str(error)))
    except Exception as error:
        if _disk_full(error):
            where = getattr(error, "filename", None) or getattr(error, "strerror", None) or error
            sys.exit(_fail(f"The disk is full ({where}). Earlier output is intact; free some space and run again."))
        if isinstance(error, OSError):
            sys.exit(_fail(str(error)))
        if os.environ.get("GRLM_TRACEBACK"):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        sys.exit(
            _fail(
                f"{type(error).__name__}: {' '.join(str(error).split())[:400]} ({Path(place.filename).name}:{place.lineno}). A file that a "
                "library could not read, or a fault of grlm: GRLM_TRACEBACK=1 before the command shows where."
            )
        )


class _ToStandardError(logging.Handler):
    """What the package logs, as lines on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


def _disk_full(error: Exception) -> bool:
    rust = re.search(r"os error (\d+)", str(error))  # the error of safetensors has the number in its text
    number = int(rust[1]) if rust else getattr(error, "errno", None)
    if "inline_container" in str(error) or "PytorchStreamWriter" in str(error):  # the error of torch.save has no number
        return True
    return number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _fail(message: str, status: int = 2) -> int:
    print(f"grlm: {message}", file=sys.stderr)
    return status
