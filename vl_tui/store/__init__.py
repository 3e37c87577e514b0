"""The operator's view of the store: opening it with the person's credentials, and reading and writing what the agents
and controllers keep there. Records are parsed here; whatever can't be is left out and counted, never fatal."""
