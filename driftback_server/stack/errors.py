"""What can go wrong while a native stack is prepared or started."""


class StackError(Exception):
    """The stack cannot be started; the message says what to change."""


class ComponentMissingError(StackError):
    """A program that the stack needs is neither on PATH nor to be had from the distribution."""


class PortTakenError(StackError):
    """A port that the stack needs is in use."""


class StateInUseError(StackError):
    """Another stack runs on the same state folder."""


class StackDiedError(StackError):
    """A process of the stack ended, or did not become ready in time."""
