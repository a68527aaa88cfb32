"""The command `oracle`, and `python -m oracle`: hears Ctrl-C before it imports what takes a moment."""

from oracle.view import stopping


def main() -> None:
    """Run the command."""
    stopping.listen()
    from oracle.cli import main as command

    stopping.to_the_end(command)


if __name__ == "__main__":
    main()
