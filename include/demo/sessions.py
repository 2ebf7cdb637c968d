"""The platform's Redis: sessions that end, a few counters and a queue."""

from __future__ import annotations

import random

from lifeboat.redis_source.connection import RedisServer

SESSIONS = 20_000


def load_sessions(server: RedisServer) -> None:
    """Fill two databases: sessions in one, what the workers share in the other."""
    rand = random.Random(20260301)
    with server.client(0) as client:
        pipeline = client.pipeline(transaction=False)
        for number in range(SESSIONS):
            key = f"session:{rand.randbytes(16).hex()}"
            pipeline.hset(key, mapping={"user_id": number % 500, "csrf": rand.randbytes(12).hex(), "language": "en"})
            pipeline.expire(key, rand.randrange(6 * 3600, 14 * 24 * 3600))
        pipeline.execute()
    with server.client(1) as client:
        client.rpush("queue:reminders", *(f"invoice {rand.randrange(100_000)}" for _ in range(200)))
        client.zadd("ranking:overdue", {f"customer {n}": rand.randrange(1, 90) for n in range(300)})
        client.set("counter:invoices", 100_000)
