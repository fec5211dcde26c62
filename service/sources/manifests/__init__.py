"""A folder of manifests as a source: the same kinds and the same YAML as in Kubernetes, watched for changes.

What appears or changes counts at once; what vanishes counts only after a while, since editors truncate and rename on
their way to a new version. Status goes to files in the folder `status` beside them, Events to the log. A folder that is
lost later is an error, and the last good state stays in force.

The folder is this host's own: the caller sees to it that all members get the same files.
"""
