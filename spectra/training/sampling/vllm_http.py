"""How a vLLM server is spoken to: what goes wrong is said in one line, and a server that is gone is not waited for."""

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from typing import Any

from spectra.errors import EngineError

RESUME = "start the server again: the same spectra train then goes on from its last checkpoint"
_HEALTH_SECONDS = 5.0

# What the mixin stands before is only known when it runs: importing TRL takes seconds.
_Client: Any = object


class PlainSpeaker(_Client):  # type: ignore[misc]  # TRL's client comes after it
    """The HTTP side of a client, to be put before TRL's ``VLLMClient`` among the bases of a class.

    Every fault is an ``EngineError`` of one line.

    Attributes
    ----------
    start
        How to start a server that suits.
    """

    start: str
    _patience: float = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        from requests.adapters import HTTPAdapter

        super().__init__(*args, **kwargs)
        # TRL's own asks again after a fault, for a minute, and loses what the server said of it.
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(max_retries=3))
        # The server closes a connection that rests for longer than a step takes.
        self.session.headers["Connection"] = "close"

    def check_server(self, total_timeout: float = 0.0, retry_interval: float = 1.0) -> None:
        """Wait until the server is up.

        Raises
        ------
        EngineError
            If it is not after ``total_timeout`` seconds.
        """
        self._patience = total_timeout
        end = time.monotonic() + total_timeout
        while (found := self._health()) is not None:
            if time.monotonic() + retry_interval > end:
                fault = f"the vLLM server {found} (waited {total_timeout:g} s, rollout.timeout)"
                raise EngineError(fault, where=self.base_url, hint=f"{self.start}, or set rollout.url")
            time.sleep(retry_interval)

    def _health(self) -> str | None:
        """Return what is wrong with the server, or None."""
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
        fault = f"the vLLM server answers {path} with {answer.status_code}: {_said(answer)}"
        raise EngineError(fault, where=self.base_url, hint=self.start)

    def _while_up(self, request: Callable[[], Any]) -> Any:
        """Wait for an answer, however long it takes, but not for a server that was ended and keeps the connection."""
        answer = _in_background(request)
        while not wait([answer], _HEALTH_SECONDS).done:
            self.check_server(self._patience)
        return answer.result()


def _in_background(request: Callable[[], Any]) -> Future[Any]:
    """Make a request in a thread that may be left behind: the interpreter does not wait for it."""
    answer: Future[Any] = Future()

    def work() -> None:
        try:
            answer.set_result(request())
        except Exception as error:
            answer.set_exception(error)

    Thread(target=work, daemon=True).start()
    return answer


def _said(answer: Any) -> str:
    """Return what the server says of its fault."""
    try:
        said = answer.json()
        return str(said["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return str(answer.text)[:300] or "nothing"
