"""A load generator: python load.py PORT STREAMS DIGEST KEY

Opens that many streams at once and prints one JSON object: how many answers had exactly the bytes of DIGEST and ended
as their framing says, and what the others were. Standard library only.
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import json
import sys


async def stream(port: int, number: int, key: str) -> tuple[str, bool]:
    """One call. Returns the digest of its body, and whether it ended in good order."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"model": "claude-opus-5-5", "messages": [], "n": number, "stream": True}).encode()
    lines = ["POST /v1/messages HTTP/1.1", "Host: 127.0.0.1", f"x-api-key: {key}", f"Content-Length: {len(body)}"]
    digest = hashlib.sha256()
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 ") or b"chunked" not in head.lower():
            return head.decode("latin-1"), False
        while size := int(await reader.readuntil(b"\r\n"), 16):
            digest.update(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readexactly(2)
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        return repr(error), False
    finally:
        writer.close()
    return digest.hexdigest(), True


async def main(port: int, count: int, digest: str, key: str) -> None:
    ends = await asyncio.gather(*(stream(port, number, key) for number in range(count)))
    others = collections.Counter(what for what, whole in ends if not (whole and what == digest))
    print(json.dumps({"whole": ends.count((digest, True)), "others": others.most_common(5)}))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]))
