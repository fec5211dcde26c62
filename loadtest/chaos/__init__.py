"""What the field does to a node, done on purpose to a lab under traffic, and judged by what was seen on the wire.

A run is a row of rounds. In each one event of the catalogue happens, or two at once, at seeded moments; then it is
undone, and the site has CALM_S seconds to be whole again. A round is a function of (seed, number), so one that found
something is replayed alone. The judge believes captures, the outside server's log, /proc and what each process says of
itself, in that order.

    schedule   which events, when: pure
    event      what an event is and may cost; the modules of `events/` have them by what they touch
    site       the lab with the traffic in it, and what is expected of whom at each moment
    client     a pod's traffic; `outside` the far end that speaks by itself
    judge      findings from frames, calls, processes, status and resources
    run        the rounds
"""
