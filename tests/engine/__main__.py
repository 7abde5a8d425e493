"""The tests' engine by hand.

eval "$(python -m tests.engine up)"          start it, and tell this shell where it is
python -m tests.engine image python x.tar    write an image that the tests use
python -m tests.engine down                  end it, with all its containers and images
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.engine.daemon import Daemon
from tests.engine.images import IMAGES
from tests.engine.packages import AbsentError

FOLDER = Path(tempfile.gettempdir()) / "speculators-engine"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("up", "down"):
        verbs.add_parser(verb).add_argument("--folder", type=Path, default=FOLDER)
    image = verbs.add_parser("image")
    image.add_argument("name", choices=IMAGES)
    image.add_argument("archive", type=Path)
    options = parser.parse_args()
    if options.verb == "image":
        started = time.monotonic()
        built = IMAGES[options.name](options.archive)
        print(f"{built.reference}\nconfig {built.config}\nmanifest {built.manifest}")
        size = options.archive.stat().st_size
        print(f"{size / 1e6:.0f} MB in {time.monotonic() - started:.1f} s", file=sys.stderr)
        return 0
    daemon = Daemon(options.folder.absolute())
    if options.verb == "down":
        daemon.stop()
        return 0
    try:
        daemon.start(bound=False)
    except AbsentError as error:
        print(error, file=sys.stderr)
        return 4
    print(f"export DOCKER_HOST={daemon.base_url}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
