"""Errors in the form of OpenAI's interface."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

from llmpq_jax.errors import ContextLengthError, LlmpqError, RequestError
from llmpq_jax.runtime.serving_loop import NotServingError, QueueFullError

# Time after which a client that was refused may try again.
RETRY_AFTER_S = 2
# What nginx logs of a client that closed its connection; nobody receives it.
CLIENT_GONE = 499


class ApiError(Exception):
    """A refusal of a request.

    Attributes:
        status: Status of the HTTP response.
        message: What was found and what was expected.
        type: OpenAI's name of the kind of error.
        code: OpenAI's name of the error, if it has one.
        param: Field of the request that is wrong, if it is one.
        headers: Headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Takes the attributes."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def values(self) -> dict[str, object]:
        """Returns the body of the response."""
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    def response(self) -> JSONResponse:
        """Returns the response."""
        return JSONResponse(self.values(), self.status, headers=self.headers)

    @classmethod
    def of(cls, reason: LlmpqError) -> ApiError:
        """Makes the refusal that an error of the package leads to."""
        message = str(reason)
        match reason:
            case ContextLengthError():
                return cls(400, message, code="context_length_exceeded")
            case RequestError():
                field = message.partition(":")[0]
                is_field = field.replace("_", "").replace(".", "").isalnum()
                return cls(400, message, param=field if is_field else None)
            case QueueFullError():
                return _later(
                    429, message, type="rate_limit_error", code="rate_limit_exceeded"
                )
            case NotServingError():
                return unavailable(message)
            case _:
                return cls(500, message, type="server_error")


def unavailable(message: str) -> ApiError:
    """Returns the refusal of a server that does not serve now, but may later."""
    return _later(503, message, type="server_error", code="unavailable")


def _later(status: int, message: str, *, type: str, code: str) -> ApiError:
    """Returns a refusal after which a client may try again."""
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return ApiError(status, message, type=type, code=code, headers=headers)
