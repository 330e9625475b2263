"""What a person can mend, said in one line."""


class HftlError(Exception):
    """A problem that the user can mend.

    The message is one line that names the thing and the mend. The command line prints it
    without a traceback and exits with 2; library users catch it as an ordinary exception.
    """
