"""``python -m deps.train`` is ``deps-train``, so that torchrun can start it."""

import sys

from deps.train.cli import main

sys.exit(main())
