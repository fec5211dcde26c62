"""`python -m loadtest scale`: what the service costs by how much there is, each number beside its goal, with slopes.

A row drives the product's own parts at several sizes in this process, or looks at whole processes in a lab of its own.
Each module measures one row and has one function for it, `measure_...(options, report)`.
"""
