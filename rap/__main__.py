"""`python -m rap` is the command `rap`."""

import sys

from rap.cli import main

sys.exit(main())
