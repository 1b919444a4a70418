"""`python -m wherry_agent` is `wherry-agent`."""

import sys

from wherry_agent.cli import main

sys.exit(main())
