"""What users would otherwise run, as scripts for environments of their own.

Each script imports nothing of screener, takes `--networks DIR` and files, and prints one JSON line: the
seconds that its loop took (imports and loading the networks not counted), the files read, and the versions
that it ran with.
"""
