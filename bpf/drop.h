/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Why a packet was dropped. Number for number the DropReason of service/model/drop.py (a test compares them). */
#pragma once

enum drop_reason {
    DROP_NONE = 0,
    DROP_NO_GATEWAY = 1,
    DROP_ENDPOINT_PENDING = 2,
    DROP_UNKNOWN_DEVICE = 3,
    DROP_NOT_SELECTED = 4,
    DROP_NO_TRANSPORT = 5,
    DROP_LEASE_EXPIRED_INGRESS = 6,
    DROP_LEASE_EXPIRED_EGRESS = 7,
    DROP_WRONG_NODE = 9,
    DROP_NO_FLOW = 10,
    DROP_PORTS_EXHAUSTED = 11,
    DROP_UNSUPPORTED_PROTOCOL = 12,
    DROP_FRAGMENT = 13,
    DROP_MALFORMED = 14,
    DROP_TTL_EXPIRED = 15,
    DROP_NO_STATE = 16,
    DROP_MAP_FULL = 17,
    DROP_NO_PORTS = 18,
    DROP_WRONG_BLOCK = 19,
    DROP_QUOTA = 20,
    DROP_FLOW_ENDED = 21,
    DROP_FORGED_SOURCE = 22,
    DROP_NO_ROUTE = 23,
    DROP_TOO_BIG = 24,
    DROP_FORGED_TUNNEL = 25,
};
