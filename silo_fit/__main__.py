"""The command `silo-fit`, and `python -m silo_fit`: hears Ctrl-C before it imports what takes a moment."""

from oracle.view import stopping


def main() -> None:
    """Run the command."""
    stopping.listen()
    from silo_fit.cli import main as command

    stopping.to_the_end(command)


if __name__ == "__main__":
    main()
