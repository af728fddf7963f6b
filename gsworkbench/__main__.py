import sys

from gsworkbench.cli.main import main

sys.exit(main())
