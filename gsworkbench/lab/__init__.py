"""The workbench people sit at: views of runs, live fits, and the pages that show them.

The core never imports it. Of its modules, runs, commands, fits, worker and pictures need nothing beyond the core; page,
volumes and serve need the packages of the extra `lab`, and say so where these are absent.
"""
