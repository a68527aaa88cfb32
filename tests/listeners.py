"""Listeners for tests."""

from collections.abc import Callable

from oracle.events import Event, Listener, Notice


def told(kind: type, then: Callable[[], None]) -> Listener:
    """Calls `then` at every event of a kind."""

    def listen(event: Event) -> None:
        if isinstance(event, kind):
            then()

    return listen


def noting(said: list[str]) -> Listener:
    """Keeps the text of every notice."""

    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            said.append(event.text)

    return listen
