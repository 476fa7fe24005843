"""What runs inside the container. Standard library only.

The host sends the sources of these modules over the stream when a container starts (so they always
match the host's version); `supervisor` is process 1, `zygote` the process every run is forked from.
"""
