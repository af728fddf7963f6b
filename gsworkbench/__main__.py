import sys

from gsworkbench.cli import main

sys.exit(main())
