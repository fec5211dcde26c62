"""The command as tests call it: in this process, or as a real one."""

import sys
from pathlib import Path

from click.testing import CliRunner, Result

from service.command.cli import main


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="egressgw")


def egressgw(*arguments: str, preamble: str = "") -> list[str]:
    """The command line of a real process, with `preamble` run before it.

    Signals mean what they do at a terminal, also where these tests were started in the background of a script.
    """
    script = f"{preamble}\nfrom service.command.cli import main\nmain(prog_name='egressgw')"
    return ["env", "--default-signal=INT,HUP", sys.executable, "-c", script, *arguments]
