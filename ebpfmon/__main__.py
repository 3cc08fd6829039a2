"""Run the command line: `python -P -m ebpfmon`.

Without -P, Python looks for modules in the current directory first, as with every `python -m`. Whoever can write there
could then run code as you.
"""

from ebpfmon.cli.main import program

program()
