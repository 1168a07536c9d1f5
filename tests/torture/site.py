"""The site that is tortured: ``python -m tests.torture.site KIND URI NAME``, see `tests.stopping_site`.

It has the pages of `tests.simulation.site`, of which `visitors` use some.
"""

import asyncio
import random
import sys

from tests import stopping_site
from tests.simulation.site import PAGES


async def wait() -> None:
    await asyncio.sleep(random.choice((0, 0, 0.002, 0.02)))


if __name__ == "__main__":
    kind, uri, name = sys.argv[1:]
    asyncio.run(stopping_site.main(kind, uri, name, "True", PAGES, wait=wait, waits=True))
