"""`python -m service` is `egressgw`."""

from service.command.cli import main

if __name__ == "__main__":
    main(prog_name="egressgw")
