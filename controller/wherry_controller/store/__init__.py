"""The controller's memory: a database behind plain functions, and a folder of blobs.

`database` opens it, `tables` says what stands in it, `records` what goes in and out. Rows never
leave this package: the functions of `models`, `devices`, `rollouts` and `telemetry` take an open
`Transaction` first and speak in records, so that a service decides what is one write.
"""
