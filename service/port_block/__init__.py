"""Which node may use which ports of a floating IP: blocks of 64, leased by the leader (docs/port-blocks.md)."""
