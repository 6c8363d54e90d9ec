"""What can go wrong, split by whose fault it is. Each message is one sentence for people."""


class RemoteVaeError(RuntimeError):
    """Any failure of this package. It is a `RuntimeError`, as diffusers' `remote_decode` raises."""


class EndpointError(RemoteVaeError, ValueError):
    """The URL, or what goes with it, cannot be used."""


class InputError(RemoteVaeError, ValueError):
    """A tensor, a picture or an option cannot be sent as it is. Nothing was sent."""


class TransportError(RemoteVaeError):
    """The server could not be reached, or its answer did not arrive."""


class ConnectError(TransportError):
    """No connection came about."""


class ConnectionBrokenError(TransportError):
    """The connection broke. The server may have done the work."""


class RequestTimeoutError(TransportError):
    """The answer did not come in time. The server may have done the work."""


class RefusedError(RemoteVaeError):
    """The server said no, in its own words.

    Attributes:
        status: the HTTP status.
        message: the server's sentence.
        retry_after: after how many seconds the server asks to try again; None where it does not say.
        request_id: the id of the request in the server's log; None where it gives none.
    """

    def __init__(self, status: int, message: str, retry_after: float | None = None, request_id: str | None = None) -> None:
        super().__init__(f"the server refused with status {status}: {message}")
        self.status = status
        self.message = message
        self.retry_after = retry_after
        self.request_id = request_id

    def __reduce__(self) -> tuple[type, tuple[int, str, float | None, str | None]]:
        return type(self), (self.status, self.message, self.retry_after, self.request_id)


class BusyError(RefusedError):
    """The server is there, but takes no more work now (429 and 503)."""


class AnswerError(RemoteVaeError):
    """The answer is not what was requested."""


class ClosedError(RemoteVaeError):
    """Something was submitted to a queue that is closed."""


class ServerWarning(UserWarning):
    """What a server finds odd about a request that it answered all the same (`x-warning`)."""
