"""aggregate: local models → the global model. Nodes answer through train; the model goes to serve and the nodes.

Nothing is imported here: whoever only reads a run's progress does without Flower.
"""
