"""Redis and Valkey: backing up over the replication protocol, proving, restoring. `redis` is the client package."""
