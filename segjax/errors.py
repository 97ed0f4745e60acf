"""Errors a user can mend. Every message says what was wrong, where, and what to do."""


class SegjaxError(Exception):
    """Base of the errors that the command line prints as plain text instead of a traceback."""

    exit_code = 1


class ConfigError(SegjaxError):
    """A field of the configuration, or a combination of fields, that cannot work."""


class InUseError(ConfigError):
    """A work directory that another run trains in."""


class DataError(SegjaxError):
    """A file, a folder, a mask or a dataset that is missing or not what it should be."""


class TrainingError(SegjaxError):
    """Training cannot go on, because of its own numbers."""


class ExportError(SegjaxError):
    """An exported network that does not predict what it should."""


class Interrupted(SegjaxError):
    """A signal asked the program to stop; everything is saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
