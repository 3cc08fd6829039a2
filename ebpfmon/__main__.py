"""`python -m ebpfmon`."""

import sys

from ebpfmon.cli import main

sys.exit(main())
