"""``python -m deps.extract`` is ``deps-extract``, so that torchrun can start it."""

from deps.extract.cli import main

raise SystemExit(main())
