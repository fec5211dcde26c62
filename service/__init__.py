"""The egress NAT gateway. docs/architecture.md says which room decides what, and what runs where."""
