"""A nursery of `child_that` for `test_nursery.py`: what it imported once is `PREPARED`."""

from __future__ import annotations

import os
import sys

from shared import child, nursery
from tests.unit import child_that


def prepare() -> None:
    if os.environ.get("NURSERY_FAILS"):
        sys.exit("a library is missing")
    os.environ["PREPARED_BY"] = str(os.getpid())


if __name__ == "__main__":
    nursery.serve(prepare, lambda: child.main(child_that.Order, child_that.work))
