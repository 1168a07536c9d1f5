"""Words for people: what a browser is called, and how long ago something was."""

import re
from datetime import UTC, datetime

__all__ = ["ago", "device"]

# What a User-Agent contains, the more special before what it is also said to be
# (https://developer.mozilla.org/docs/Web/HTTP/Guides/Browser_detection_using_the_user_agent).
BROWSERS = [
    ("Edge", r"\bEdg(e|A|iOS)?/"),
    ("Opera", r"\b(OPR|Opera)/"),
    ("Samsung Internet", r"\bSamsungBrowser/"),
    ("Firefox", r"\b(Firefox|FxiOS)/"),
    ("Chrome", r"\b(Chrome|CriOS|HeadlessChrome)/"),
    ("Safari", r"\bSafari/"),
]
SYSTEMS = [
    ("an iPhone", r"\biPhone\b"),
    ("an iPad", r"\biPad\b"),
    ("Android", r"\bAndroid\b"),
    ("Windows", r"\bWindows\b"),
    ("ChromeOS", r"\bCrOS\b"),
    ("macOS", r"\bMac OS X\b"),
    ("Linux", r"\bLinux\b"),
]

STEPS = [("day", 86_400), ("hour", 3_600), ("minute", 60)]


def device(user_agent: str) -> str:
    """Returns what most people would call this browser; what it says itself when that is not known."""
    browser = _first(BROWSERS, user_agent)
    system = _first(SYSTEMS, user_agent)
    if browser and system:
        return f"{browser} on {system}"
    return browser or user_agent or "An unknown browser"


def ago(moment: datetime) -> str:
    """Returns how long ago *moment* (aware) was, in one number."""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    for unit, length in STEPS:
        number = int(seconds // length)
        if number > 0:
            return f"{number} {unit}{'s' * (number > 1)} ago"
    return "just now"


def _first(names: list[tuple[str, str]], text: str) -> str | None:
    return next((name for name, pattern in names if re.search(pattern, text)), None)
