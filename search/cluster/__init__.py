"""The same study on a Ray cluster: connecting to it, checking its hosts, submitting to it, describing it."""
