"""Keeps an answer that was overtaken by a newer one from being shown."""

from __future__ import annotations

import threading
from collections import OrderedDict

SESSIONS_KEPT = 256


class Turns:
    """Quick events run side by side, so that an older one can end after a newer one of the same page.

    Each event of a page carries a ticket, "page:number", numbered by the page (javascript/modelsmith.js).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown: OrderedDict[str, int] = OrderedDict()

    def may_show(self, ticket: str) -> bool:
        """Whether nothing newer of the same page was shown; asked once, when the answer is ready.

        A ticket that is none (a page without our script) may always be shown.
        """
        page, _, number = ticket.partition(":")
        if not number.isdecimal():
            return True
        with self._lock:
            if self._shown.get(page, -1) > int(number):
                return False
            self._shown[page] = int(number)
            self._shown.move_to_end(page)
            while len(self._shown) > SESSIONS_KEPT:
                self._shown.popitem(last=False)
        return True
