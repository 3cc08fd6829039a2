"""Run the command line: `python -m ebpfmon`."""

import sys

from ebpfmon.cli.main import main

sys.exit(main())
