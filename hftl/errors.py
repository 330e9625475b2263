"""What a person can mend, said in one line."""


class HftlError(Exception):
    """A problem that the user can mend.

    The message is one line that names the thing and the mend. The command line prints it
    without a traceback and exits with 2; library users catch it as an ordinary exception.
    """


def one_line(error: BaseException, limit: int = 300) -> str:
    """An error's message on one line, cut where it is long; its type's name where it has none."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


class NotStoredError(HftlError):
    """Why features of frozen layers are not stored, in a few words; they are computed again in every epoch then."""
