"""``python -m modelsmith``: the command line."""

from __future__ import annotations

import sys

from modelsmith.cli import main

sys.exit(main())
