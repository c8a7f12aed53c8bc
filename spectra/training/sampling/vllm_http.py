"""HTTP client of a vLLM server: one-line errors, and no waiting for a server that has ended."""

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from typing import Any

from spectra.errors import EngineError

RESUME = "restart the server: the same spectra train command then resumes from its last checkpoint"
_HEALTH_SECONDS = 5.0

# The class that the mixin precedes is only known at run time: importing TRL takes seconds.
_Client: Any = object


class HTTPClientMixin(_Client):  # type: ignore[misc]  # TRL's client comes after it
    """HTTP requests of a client; a mixin that precedes TRL's ``VLLMClient`` among the bases of a class.

    Every failure is an ``EngineError`` of one line.

    Attributes
    ----------
    start
        Hint: how to start a suitable server.
    """

    start: str
    _patience: float = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        from requests.adapters import HTTPAdapter

        super().__init__(*args, **kwargs)
        # TRL's adapter retries for a minute after an error, and loses the server's message.
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(max_retries=3))
        # The server closes connections that are idle during a step.
        self.session.headers["Connection"] = "close"

    def check_server(self, total_timeout: float = 0.0, retry_interval: float = 1.0) -> None:
        """Wait until the server is up.

        Raises
        ------
        EngineError
            If it is not up after ``total_timeout`` seconds.
        """
        self._patience = total_timeout
        end = time.monotonic() + total_timeout
        while (found := self._health()) is not None:
            if time.monotonic() + retry_interval > end:
                fault = f"the vLLM server {found} (waited {total_timeout:g} s, rollout.timeout)"
                raise EngineError(fault, where=self.base_url, hint=f"{self.start}, or set rollout.url")
            time.sleep(retry_interval)

    def _health(self) -> str | None:
        """Return the problem with the server, or None."""
        import requests

        try:
            answer = requests.get(f"{self.base_url}/health", timeout=_HEALTH_SECONDS)
        except requests.exceptions.RequestException:
            return "does not answer"
        return None if answer.ok else f"answers {answer.status_code}"

    def _get(self, url: str, **kwargs: Any) -> Any:
        return self._ask("GET", url, **kwargs)

    def _post(self, url: str, **kwargs: Any) -> Any:
        return self._ask("POST", url, **kwargs)

    def _ask(self, verb: str, url: str, **kwargs: Any) -> Any:
        from requests.exceptions import RequestException

        path = url.removeprefix(self.base_url)
        try:
            answer = self._while_up(lambda: self.session.request(verb, url, **kwargs))
            if answer.ok:
                return answer.json()
        except (RequestException, EngineError) as error:
            raise EngineError(
                f"the vLLM server stopped answering at {path}", where=self.base_url, hint=RESUME
            ) from error
        fault = f"the vLLM server answers {path} with {answer.status_code}: {_message(answer)}"
        raise EngineError(fault, where=self.base_url, hint=self.start)

    def _while_up(self, request: Callable[[], Any]) -> Any:
        """Wait for an answer as long as the server is healthy; a dead server may keep the connection open."""
        answer = _in_background(request)
        while not wait([answer], _HEALTH_SECONDS).done:
            self.check_server(self._patience)
        return answer.result()


def _in_background(request: Callable[[], Any]) -> Future[Any]:
    """Make a request in a daemon thread, which the interpreter does not wait for at exit."""
    answer: Future[Any] = Future()

    def work() -> None:
        try:
            answer.set_result(request())
        except Exception as error:
            answer.set_exception(error)

    Thread(target=work, daemon=True).start()
    return answer


def _message(answer: Any) -> str:
    """Return the error message of the server."""
    try:
        return str(answer.json()["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return str(answer.text)[:300] or "no message"
